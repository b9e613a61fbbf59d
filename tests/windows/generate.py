#!/usr/bin/env python3
"""Writes what tests/program/rolling.rs expects: logits under a sliding window with sinks, as the NumPy reference gives them.

    tests/windows/generate.py ORACLE.py

Each case's tokens are read twice, so that the text is far longer than any window. `CASE-wW-sS.npy` holds some of the
logits of every token after the first block (of a vanilla model: token), [rows, COLUMNS]: in row r, column c is that of token
(7 r + 33 c) mod vocabulary. Needs numpy and pyyaml.
"""
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

CASES = ["main", "megabyte", "uptrain", "block8", "vanilla", "neox_sequential"]
WINDOWS = [(1, 0), (3, 0), (3, 2), (4, 5), (17, 4)]
COLUMNS = 8

specification = importlib.util.spec_from_file_location("oracle", sys.argv[1])
oracle = importlib.util.module_from_spec(specification)
specification.loader.exec_module(oracle)
tests = Path(__file__).resolve().parent.parent
for case in CASES:
    folder = tests / "cases" / case
    tokens = 2 * json.loads((folder / "golden.json").read_text())["tokens"]
    for window, sinks in WINDOWS:
        logits = oracle.load(folder, window, sinks).logits(tokens)
        rows = np.arange(len(logits))[:, None]
        chosen = logits[rows, (7 * rows + 33 * np.arange(COLUMNS)) % logits.shape[1]]
        np.save(tests / "windows" / f"{case}-w{window}-s{sinks}.npy", chosen.astype("<f4"))
