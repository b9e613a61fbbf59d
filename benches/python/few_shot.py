#!/usr/bin/env python3
"""
Time of a few-shot evaluation with and without the prefix cache, in turns, and whether the answers are the same.

    venv/bin/python benches/python/few_shot.py
    venv/bin/python benches/python/few_shot.py --shots 20 --questions 50

Needs the installed package and lm-eval. The questions have four endings; the model has written both. All questions follow the
same examples (`sampler: first_n`, as in MMLU).
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import time

import cinderblock
import lm_eval
from cinderblock.lm_eval import CinderblockLM
from lm_eval.tasks import TaskManager

MODEL = pathlib.Path(__file__).resolve().parents[2] / "models/classics.q4.gguf"
PROMPT = "The rain had stopped, and the village came out to look."
TASK = """
task: endings
dataset_path: json
dataset_kwargs: {data_files: {train: train.jsonl, test: test.jsonl}}
output_type: multiple_choice
test_split: test
fewshot_split: train
fewshot_config: {sampler: first_n}
doc_to_text: "{{text}}"
target_delimiter: ""
doc_to_target: "{{label}}"
doc_to_choice: "{{endings}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def write_task(args, folder):
    model = cinderblock.Model.open(args.model)
    count = args.shots + args.questions
    texts = model.batch([PROMPT] * count, seed=list(range(count)), max_tokens=args.text, ignore_end=True)
    texts = [text.text.strip() for text in texts]
    endings = model.batch(
        [text for text in texts for _ in range(4)], seed=list(range(4 * count)), max_tokens=args.ending, ignore_end=True
    )
    rows = [
        {"text": text, "endings": [ending.text for ending in endings[4 * number :][:4]], "label": number % 4}
        for number, text in enumerate(texts)
    ]
    for name, part in (("train", rows[: args.shots]), ("test", rows[args.shots :])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (folder / "endings.yaml").write_text(TASK)


def evaluate(args, tasks, prefix_cache):
    model = CinderblockLM(str(args.model), align=args.align, prefix_cache=prefix_cache)
    answers = []
    original = model._score

    def timed(pairs):
        pairs = list(pairs)
        started = time.perf_counter()
        scores = original(pairs)
        answers.append((time.perf_counter() - started, [(score.logprob, score.is_greedy) for score in scores]))
        tokens.append(statistics.mean(len(context) for context, _ in pairs))
        return scores

    tokens = []
    model._score = timed
    lm_eval.simple_evaluate(
        model=model, tasks=["endings"], task_manager=tasks, num_fewshot=args.shots, bootstrap_iters=0
    )
    return (*answers[0], tokens[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, default=MODEL)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--text", type=int, default=60, help="tokens of a question")
    parser.add_argument("--ending", type=int, default=8, help="tokens of an ending")
    parser.add_argument("--align", choices=["left", "tail"])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    args.model = args.model.resolve()
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_task(args, folder)
        os.chdir(folder)
        tasks = TaskManager(include_path=name, include_defaults=False)
        ratios = []
        for _ in range(args.rounds):
            without, expected, tokens = evaluate(args, tasks, 0)
            seconds, found, _ = evaluate(args, tasks, 256 << 20)
            assert found == expected
            ratios.append(without / seconds)
            print(f"contexts of {tokens:.0f} tokens: {without:.2f} s, {seconds:.2f} s: {ratios[-1]:.2f}", flush=True)
    print(f"median {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
