#!/usr/bin/env python3
"""
Write expected.json: log-likelihoods of the tasks beside it, as the NumPy reference computes them.

    python/tests/tasks/generate.py ORACLE.py

A list for each layout of prompts and each task: [logprob, is_greedy] of last words, logprobs of the endings of each
question, and of whole pages, in windows of LENGTH tokens. Needs numpy, pyyaml and tokenizers.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

LENGTH = 64
END = 0
FOLDER = Path(__file__).resolve().parent
CHECKPOINT = FOLDER.parents[2] / "models" / "classics"


def load(path: str) -> Any:
    """The reference, with the weights of the demo model."""
    specification = importlib.util.spec_from_file_location("oracle", path)
    assert specification
    assert specification.loader
    oracle = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(oracle)
    return oracle.load(CHECKPOINT)


def score(model: Any, align: str, context: list[int], own: list[int]) -> tuple[float, bool]:
    """The log-likelihood of tokens after a context, and whether each is the likeliest one."""
    # Without padding, a first block that is not whole is filled all the same.
    padding = -len(context) % model.block if align == "left" or len(context) < model.block else 0
    ids = [0] * padding + context + own
    first = len(ids) - len(own)
    whole = len(ids) // model.block * model.block
    contexts = model.contexts(np.reshape(ids[:whole], (-1, model.block)), padding)
    logprob, greedy = 0.0, True
    for start in range(first // model.block * model.block, len(ids), model.block):
        block = ids[start : start + model.block]
        logits = model.token_logits(contexts[start // model.block - 1], block[:-1])
        logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        for place, token in enumerate(block):
            if start + place >= first:
                logprob += logprobs[place, token]
                greedy = greedy and bool(logprobs[place].argmax() == token)
    return round(float(logprob), 6), greedy


def main() -> None:
    """Compute all, and write the file with a question a line."""
    model = load(sys.argv[1])
    tokenizer = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text).ids
        return ids

    def pair(context: str, continuation: str) -> tuple[list[int], list[int]]:
        before = encode(context)
        own = encode(context + continuation)[len(before) :]
        return before[-(LENGTH - len(own) + 1) :], own

    def windows(text: str) -> list[tuple[list[int], list[int]]]:
        ids = encode(text)
        ends = [min(begin + LENGTH, len(ids)) for begin in range(0, len(ids), LENGTH)]
        begins = range(0, len(ids), LENGTH)
        behind = [END, *ids]
        return [(behind[max(0, e - LENGTH) : b + 1], ids[b:e]) for b, e in zip(begins, ends)]

    words, questions, pages = (
        [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]
        for name in ("last_word", "endings", "pages")
    )
    answers: dict[str, dict[str, list[Any]]] = {}
    for align in ("tail", "left"):
        splits = (row["text"].rsplit(" ", 1) for row in words)
        answers[align] = {
            "last_word": [score(model, align, *pair(before, f" {word}")) for before, word in splits],
            "endings": [
                [score(model, align, *pair(row["text"], ending))[0] for ending in row["endings"]]
                for row in questions
            ],
            "pages": [
                round(sum(score(model, align, *window)[0] for window in windows(row["text"])), 6)
                for row in pages
            ],
        }
    rows = json.dumps(answers, indent=2)
    # The numbers of one question are on one line.
    inner = (",\n        ", ", "), ("[\n        ", "["), ("\n      ]", "]")
    for found, replacement in inner:
        rows = rows.replace(found, replacement)
    (FOLDER / "expected.json").write_text(rows + "\n")


if __name__ == "__main__":
    main()
