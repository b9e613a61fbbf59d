"""Text: the same as the program's, whichever way it is generated."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cinderblock import Model, Step

from .conftest import MODEL, PROMPT, program


def test_text_is_that_of_the_program(model: Model) -> None:
    words = ("run", "-m", MODEL, "-p", PROMPT, "-n", "60", "--seed", "7", "--json")
    answer = json.loads(program(*words))
    completion = model.generate(PROMPT, max_tokens=60, seed=7)
    assert completion.text == answer["text"] == str(completion)
    assert completion.end == "length"
    assert completion.tokens.dtype == np.uint32
    assert len(completion.tokens) == 60


def test_tokens_go_in_as_text_list_or_array(model: Model) -> None:
    ids = model.tokenize(PROMPT)
    assert model.detokenize(ids) == PROMPT
    texts = {
        model.generate(prompt, max_tokens=12).text
        for prompt in (PROMPT, ids, ids.astype(np.int64), ids.tolist(), ids[::1])
    }
    assert len(texts) == 1


def test_a_stream_gives_the_same_text(model: Model) -> None:
    stream = model.stream(PROMPT, max_tokens=40, seed=3)
    assert stream.end is None
    steps = list(stream)
    completion = model.generate(PROMPT, max_tokens=40, seed=3)
    assert "".join(step.text for step in steps) == completion.text
    assert [step.token for step in steps if step.token is not None] == completion.tokens.tolist()
    assert stream.end == "length"
    assert next(stream, None) is None


def test_asynchronous_streams_run_together(model: Model) -> None:
    async def collect(seed: int) -> str:
        return "".join([str(step) async for step in model.stream(PROMPT, max_tokens=20, seed=seed)])

    async def both() -> list[str]:
        return list(await asyncio.gather(collect(1), collect(2)))

    expected = [model.generate(PROMPT, max_tokens=20, seed=seed).text for seed in (1, 2)]
    assert asyncio.run(both()) == expected


def test_a_batch_gives_every_text_that_its_prompt_gets_alone(model: Model) -> None:
    prompts: list[str | NDArray[np.uint32]] = [
        PROMPT,
        "It was late in the autumn",
        model.tokenize("She opened the door"),
        "No",
    ]
    reports: list[tuple[int, int]] = []
    texts = model.batch(
        prompts, max_tokens=30, seed=[5, 6, 7, 8], progress=lambda done, total: reports.append((done, total))
    )
    for prompt, seed, completion in zip(prompts, (5, 6, 7, 8), texts):
        assert completion.text == model.generate(prompt, max_tokens=30, seed=seed).text
    assert reports[0] == (0, 4)
    assert reports[-1] == (4, 4)
    assert model.batch([]) == []


def test_text_ends_before_a_stop_string(model: Model) -> None:
    whole = model.generate(PROMPT, max_tokens=40, temperature=0).text
    stop = whole[20:24]
    completion = model.generate(PROMPT, max_tokens=40, temperature=0, stop=stop)
    assert completion.text == whole[: whole.index(stop)]
    assert completion.end == "stop"


def test_output_obeys_its_constraint(model: Model) -> None:
    text = model.generate("The year was ", regex="1[0-9]{3}", max_tokens=20).text
    assert re.fullmatch("1[0-9]{3}", text)
    schema: dict[str, Any] = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    for given in (schema, json.dumps(schema)):
        completion = model.batch(["An answer: "], json_schema=given, max_tokens=40)[0]
        assert isinstance(json.loads(completion.text)["ok"], bool)


def test_log_probabilities_are_those_of_the_logits(model: Model) -> None:
    session = model.session(temperature=0)
    session.append(PROMPT)
    logits = session.logits().astype(np.float64)
    completion = session.generate(max_tokens=1, logprobs=3)
    expected = logits - np.logaddexp.reduce(logits)
    assert completion.logprobs is not None
    assert completion.logprobs.dtype == np.float32
    best = np.argsort(-expected)[:3]
    assert [token for token, _ in completion.top[0]] == best.tolist()
    np.testing.assert_allclose([logprob for _, logprob in completion.top[0]], expected[best], rtol=1e-5)
    assert completion.tokens[0] == best[0]


def test_a_session_rewinds_and_is_saved(model: Model, tmp_path: Path) -> None:
    session = model.session(seed=11)
    session.append(PROMPT)
    blocks, length = session.blocks, session.length
    logits = session.logits()
    assert logits.shape == (model.vocabulary,)
    session.save(tmp_path / "a.session")
    first = session.generate(max_tokens=25)
    assert session.length == length + 25
    restored = model.load(tmp_path / "a.session")
    np.testing.assert_array_equal(restored.logits(), logits)
    assert restored.generate(max_tokens=25).text == first.text
    assert session.can_rewind(blocks)
    session.rewind(blocks)
    assert session.blocks == blocks
    session.clear()
    assert session.length == 0
    session.append(PROMPT)
    assert [session.next_token() for _ in range(25)] == first.tokens.tolist()
    assert session.recent(25).tolist() == first.tokens.tolist()


def test_a_session_has_the_tokens_that_its_stream_has_given(model: Model) -> None:
    session = model.session(seed=4)
    session.append(PROMPT)
    before = session.length
    stream = session.stream(max_tokens=50)
    given: list[Step] = []
    for step in stream:
        given.append(step)
        if len(given) == 7:
            break
    with pytest.raises(ValueError, match="in use by a stream"):
        _ = session.length
    stream.close()
    assert session.length == before + 7
    assert session.recent(7).tolist() == [step.token for step in given]
    for _ in session.stream(max_tokens=50):
        break
    assert session.length == before + 8


def test_scores_are_those_of_the_program(model: Model, tmp_path: Path) -> None:
    lines = [
        (PROMPT, [" It was", " Nobody", " the the the"]),
        ("Question: Where? \n", ["Here.", " There"]),
    ]
    questions = "".join(
        json.dumps({"id": index, "prompt": prompt, "continuations": continuations}) + "\n"
        for index, (prompt, continuations) in enumerate(lines)
    )
    (tmp_path / "questions.jsonl").write_text(questions)
    output = tmp_path / "scores.jsonl"
    program("batch", "-m", MODEL, "--score", "-i", tmp_path / "questions.jsonl", "-o", output)
    answers = {answer["id"]: answer["scores"] for answer in map(json.loads, output.read_text().splitlines())}
    together = model.score_batch(lines)
    for index, (prompt, continuations) in enumerate(lines):
        for scores in (model.score(prompt, continuations), together[index]):
            for score, expected in zip(scores, answers[index]):
                assert score.logprob == pytest.approx(expected["logprob"], abs=1e-6)
                assert (score.tokens, score.is_greedy) == (expected["tokens"], expected["is_greedy"])


def test_logits_are_those_of_the_program(model: Model, tmp_path: Path) -> None:
    text = PROMPT * 3
    program("logits", "-m", MODEL, "-p", text, "-o", tmp_path / "logits.npy")
    logits = model.logits(text)
    assert logits.dtype == np.float32
    assert logits.flags.c_contiguous
    np.testing.assert_array_equal(logits, np.load(tmp_path / "logits.npy"))
    np.testing.assert_array_equal(logits, model.logits(model.tokenize(text)))


def test_contexts_are_those_of_whole_blocks(model: Model) -> None:
    ids = model.tokenize(PROMPT * 3)[: 8 * model.block_length]
    contexts = model.contexts(ids)
    assert contexts.dtype == np.float32
    assert contexts.flags.c_contiguous
    assert contexts.shape[0] == 8
    assert np.isfinite(contexts).all()
    # A final norm is the last step, and a context depends on nothing that follows.
    assert 0.1 < np.abs(contexts).mean() < 10
    np.testing.assert_array_equal(model.contexts(ids[: 5 * model.block_length]), contexts[:5])
    assert not np.array_equal(contexts[0], contexts[1])
    # A text that is not whole blocks is filled up from the left, with the token 0.
    padded = np.concatenate([np.zeros(1, np.uint32), ids[1:]])
    np.testing.assert_array_equal(model.contexts(ids[1:]), model.contexts(padded))
    np.testing.assert_array_equal(model.contexts(PROMPT), model.contexts(model.tokenize(PROMPT)))


@pytest.mark.parametrize("align", ["tail", "left"])
def test_prompts_that_begin_alike_give_the_same_with_a_prefix_cache(model: Model, align: Any) -> None:
    prompts = [f"{PROMPT * 6} And then {'so ' * number}it was {number}" for number in range(12)]
    questions = [(prompt, [" years ago.", " the"]) for prompt in prompts]

    def results(**options: Any) -> list[Any]:
        scores = model.score_batch(questions, align=align, **options)
        texts = model.batch(prompts, align=align, max_tokens=9, seed=list(range(12)), **options)
        found: list[Any] = [(score.logprob, score.is_greedy) for pair in scores for score in pair]
        return found + [text.tokens.tolist() for text in texts]

    expected = results()
    for prefix_cache in (1, 1 << 20, 1 << 28):
        for sequences in (2, 32):
            assert results(prefix_cache=prefix_cache, sequences=sequences) == expected


def test_the_program_is_installed(model: Model) -> None:
    assert program("--version").startswith("cinderblock ")
    assert json.loads(program("tokenize", "-m", MODEL, "-p", PROMPT, "--json"))
