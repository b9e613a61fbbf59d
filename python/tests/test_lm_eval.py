"""The real lm-evaluation-harness on local tasks, against the program and a reference implementation in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import cinderblock

from .conftest import CHECKPOINT, MODEL, program

lm_eval = pytest.importorskip("lm_eval", reason="the package lm-eval is not installed")

from lm_eval.tasks import TaskManager  # noqa: E402

from cinderblock.lm_eval import CinderblockLM  # noqa: E402

TASKS = Path(__file__).with_name("tasks")
# Log-likelihoods by task, with each layout of prompts, from the checkpoint in float64.
EXPECTED = json.loads((TASKS / "expected.json").read_text())
# Nats of a whole continuation or page of about 100 tokens: rounding of floats, and of weights to 4 bits.
ERRORS = {"f32": 1e-4, "q4": 2.0}
Results = dict[str, Any]


def evaluate(model: CinderblockLM, *tasks: str, num_fewshot: int | None = None) -> Results:
    """Results of the harness on local tasks, with the answers to all requests."""
    results: Results = lm_eval.simple_evaluate(
        model=model,
        tasks=list(tasks),
        task_manager=TaskManager(include_path=str(TASKS), include_defaults=False),
        num_fewshot=num_fewshot,
        log_samples=True,
        bootstrap_iters=0,
    )
    return results


def answers(results: Results, task: str) -> list[list[Any]]:
    """The answers to the requests of each document, in order."""
    samples = sorted(results["samples"][task], key=lambda sample: int(sample["doc_id"]))
    return [[response[0] for response in sample["resps"]] for sample in samples]


@pytest.fixture(scope="module", autouse=True)
def _in_folder_of_tasks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.chdir(TASKS)
        yield


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint in f32."""
    path = tmp_path_factory.mktemp("models") / "f32.gguf"
    cinderblock.quantize(CHECKPOINT, path, type="f32")
    return path


@pytest.mark.parametrize("align", ["tail", "left"])
@pytest.mark.parametrize("kind", ["f32", "q4"])
def test_tasks_have_the_results_of_the_reference(kind: str, align: Any, exact: Path) -> None:
    path = exact if kind == "f32" else MODEL
    model = CinderblockLM(str(path), align=align, max_length=64, batch_size=8)
    results = evaluate(model, "last_word", "endings", "pages")
    expected, error = EXPECTED[align], ERRORS[kind]
    words = [one for (one,) in answers(results, "last_word")]
    assert [word[0] for word in words] == pytest.approx(
        [logprob for logprob, _ in expected["last_word"]], abs=error
    )
    for document, reference in zip(answers(results, "endings"), expected["endings"]):
        assert [one[0] for one in document] == pytest.approx(reference, abs=error)
    pages = [one for (one,) in answers(results, "pages")]
    assert pages == pytest.approx(expected["pages"], abs=error)
    if kind == "f32":
        assert [word[1] for word in words] == [is_greedy for _, is_greedy in expected["last_word"]]
        accuracy = sum(is_greedy for _, is_greedy in expected["last_word"]) / len(words)
        assert results["results"]["last_word"]["acc,none"] == pytest.approx(accuracy)
        assert results["results"]["endings"]["acc,none"] == 1


def test_log_likelihoods_are_those_of_the_program(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (TASKS / "endings.jsonl").read_text().splitlines()]
    questions = (
        json.dumps({"id": index, "prompt": line["text"], "continuations": line["endings"]}) + "\n"
        for index, line in enumerate(lines)
    )
    (tmp_path / "questions.jsonl").write_text("".join(questions))
    output = tmp_path / "scores.jsonl"
    program("batch", "-m", MODEL, "--score", "-i", tmp_path / "questions.jsonl", "-o", output)
    scores = {answer["id"]: answer["scores"] for answer in map(json.loads, output.read_text().splitlines())}
    results = evaluate(CinderblockLM(str(MODEL)), "endings")
    for index, document in enumerate(answers(results, "endings")):
        for (logprob, is_greedy), score in zip(document, scores[index]):
            assert logprob == pytest.approx(score["logprob"], abs=1e-6)
            assert is_greedy == score["is_greedy"]


def test_generated_text_ends_before_a_stop_string() -> None:
    model = CinderblockLM(str(MODEL), batch_size=4)
    results = evaluate(model, "continue")
    for document, line in zip(
        answers(results, "continue"), (TASKS / "last_word.jsonl").read_text().splitlines()
    ):
        context = json.loads(line)["text"].rsplit(" ", 1)[0]
        alone = model.model.generate(context, max_tokens=24, temperature=0, stop=".")
        assert document == [alone.text]
        assert "." not in document[0]


def test_examples_that_requests_share_change_nothing() -> None:
    found = []
    for prefix_cache in (0, 64 << 20):
        model = CinderblockLM(str(MODEL), batch_size=4, prefix_cache=prefix_cache)
        results = evaluate(model, "endings", "continue", num_fewshot=2)
        found.append([answers(results, name) for name in ("endings", "continue")])
    assert found[0] == found[1]


def test_long_and_empty_contexts_are_scored() -> None:
    model = CinderblockLM(str(MODEL), max_length=32)
    long = "It was late, and nobody came. " * 40
    pairs = [model._encode_pair(context, " word") for context in (long, "", " ")]
    assert [len(context) + len(own) - 1 for context, own in pairs] == [32, len(pairs[1][1]), len(pairs[2][1])]
    assert all(score.logprob < 0 for score in model._score(pairs))
