#!/usr/bin/env python3
"""Writes what tests/program/parity.rs expects: the context of every block, as the NumPy reference gives it.

    tests/contexts/generate.py ORACLE.py

`CASE.npy` is [blocks, hidden] for the case's tokens, the first block padded on the left; a block of a vanilla model is one
token. Needs numpy and pyyaml.
"""
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

specification = importlib.util.spec_from_file_location("oracle", sys.argv[1])
oracle = importlib.util.module_from_spec(specification)
specification.loader.exec_module(oracle)
tests = Path(__file__).resolve().parent.parent
for folder in sorted((tests / "cases").iterdir()):
    tokens = json.loads((folder / "golden.json").read_text())["tokens"]
    model = oracle.load(folder)
    if hasattr(model, "contexts"):
        contexts = model.contexts(*model.split(tokens))
    else:
        contexts = model.stack(model.embeddings[tokens], None, 0)
    np.save(tests / "contexts" / f"{folder.name}.npy", contexts.astype("<f4"))
