#!/usr/bin/env python3
"""
Speed of many prompts from Python and of one Ray actor, against the command line, in turns.

    venv/bin/python benches/python/speed.py
    venv/bin/python benches/python/speed.py --ray --prompts 1024 --rounds 1

Needs the installed package. The actor's rate is that after its first answers: Ray and the program have started by then.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import cinderblock

MODEL = pathlib.Path(__file__).resolve().parents[2] / "models/classics.q4.gguf"
PROMPT = "The rain had stopped, and the village came out to look."


def command_line(args, questions):
    command = [sys.executable, "-m", "cinderblock", "batch", "-m", args.model, "-i", questions, "-o", "-", "--json"]
    options = ["-n", args.tokens, "--ignore-end"]
    done = subprocess.run([*map(str, command + options)], capture_output=True, text=True, check=True)
    return json.loads(done.stderr.strip().splitlines()[-1])["tok_s"]


def python(args, model, prompts):
    started = time.perf_counter()
    answers = model.batch(prompts, max_tokens=args.tokens, ignore_end=True, seed=list(range(len(prompts))))
    return sum(len(answer.tokens) for answer in answers) / (time.perf_counter() - started)


def ray_actor(args, lines):
    import ray

    from cinderblock.ray import answers

    ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
    dataset = ray.data.from_items([{"line": line} for line in lines], override_num_blocks=-(-len(lines) // args.rows))
    options = ["-n", str(args.tokens), "--ignore-end"]
    tokens, started = 0, None
    for part in answers(dataset, args.model, options, actors=1, rows=args.rows).iter_batches(batch_size=None):
        if started is None:
            started = time.perf_counter()
        else:
            tokens += sum(len(json.loads(answer)["tokens"]) for answer in part["answer"])
    return tokens / (time.perf_counter() - started)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, default=MODEL)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ray", action="store_true", help="one actor of Ray instead of Model.batch")
    parser.add_argument("--rows", type=int, default=256, help="rows of a task of Ray")
    args = parser.parse_args()
    prompts = [f"{PROMPT} {number}" for number in range(args.prompts)]
    lines = [json.dumps({"id": n, "prompt": prompt, "seed": n}) for n, prompt in enumerate(prompts)]
    with tempfile.TemporaryDirectory() as folder:
        questions = pathlib.Path(folder, "prompts.jsonl")
        questions.write_text("\n".join(lines) + "\n")
        model = None if args.ray else cinderblock.Model.open(args.model)
        name = "one Ray actor" if args.ray else "Python"
        ratios = []
        for _ in range(args.rounds):
            here = command_line(args, questions)
            there = ray_actor(args, lines) if args.ray else python(args, model, prompts)
            ratios.append(there / here)
            print(f"command line {here:.0f}, {name} {there:.0f} tok/s: {ratios[-1]:.3f}", flush=True)
    print(f"median {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
