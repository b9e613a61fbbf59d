#!/usr/bin/env python3
"""Soak test of `batch`: thousands of lines, good and hostile, with kills, torn files, full disks and closed pipes.

Every good line must be answered once, to the bit as alone, and every hostile one by an error. Needs root for the
small file system; its mount is gone with the namespace:

    unshare -m python3 benches/soak.py target/release/cinderblock [LINES] [SEED]
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAM = os.path.abspath(sys.argv[1])
LINES = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
SEED = int(sys.argv[3]) if len(sys.argv) > 3 else 1
VOCABULARY = 260


def good(rng, number):
    line = {
        "id": rng.choice([f"n{number}", number]),
        "tokens": [rng.randrange(VOCABULARY) for _ in range(rng.randrange(1, 40))],
        "max_tokens": rng.randrange(1, 12),
    }
    if rng.random() < 0.3:
        line["temp"] = rng.choice([0, 0.5, 1.3])
    if rng.random() < 0.3:
        line["seed"] = rng.randrange(2**64)
    if rng.random() < 0.2:
        line["logprobs"] = rng.randrange(4)
    if rng.random() < 0.2:
        line["logit_bias"] = {str(rng.randrange(VOCABULARY)): rng.choice([-3.5, "-inf", 2])}
    if rng.random() < 0.2:
        line["label"] = rng.choice([None, "a", [1, {"b": 2}], "\u2028\U0001f600"])
    return line


def hostile(rng, number):
    """A line that no run can answer, as bytes."""
    bad = {"id": f"h{number}", "tokens": [1, 2]}
    wrong = [
        {"max_tokens": -1}, {"max_tokens": 2**64}, {"max_tokens": 1.5}, {"max_token": 3}, {"tokens": []},
        {"tokens": [VOCABULARY]}, {"tokens": [2**32]}, {"tokens": [-1]}, {"tokens": "1,2"}, {"tokens": [1] * 3000},
        {"prompt": "text"}, {"temp": -1}, {"temp": "hot"}, {"top_p": 7}, {"logit_bias": [[1]]},
        {"logit_bias": {str(VOCABULARY): 1}}, {"seed": -1}, {"stop": 3}, {"id": None}, {"id": [1]}, {"id": 1.5},
        {"temp": 1, "temperature": 1}, {"continuations": ["x"]},
    ]
    if rng.random() < 0.7:
        bad.update(rng.choice(wrong))
        return json.dumps(bad).encode()
    return rng.choice([
        b"{", b"}", b"null", b"[]", b"\xff\xfe", b"\x00\x00\x00", b'{"id": "h", "tokens"', b"[" * 1000, b'"' * 99,
        b'{"id": "\xed\xa0\x80"}', b'{"id": 1e999}', json.dumps({"id": "n0 again", "x": "y" * 100_000}).encode(),
    ])


def command(model, more):
    return [PROGRAM, "batch", "-m", model, "-i", "in", *more]


class Soak:
    def __init__(self, folder):
        self.rng = random.Random(SEED)
        self.folder = folder
        self.model = os.path.join(folder, "model.gguf")
        case = os.path.join(ROOT, "tests/cases/main")
        subprocess.run([PROGRAM, "quantize", case, "-o", self.model], check=True, stdout=subprocess.DEVNULL)
        os.mkdir(os.path.join(folder, "disk"))
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", "disk"], cwd=folder, check=True)
        self.out = os.path.join(folder, "disk/out")
        self.counts = {}
        self.expected = {}
        self.errors = 0
        with open(os.path.join(folder, "in"), "wb") as file, open(os.path.join(folder, "good"), "w") as alone:
            for number in range(LINES):
                if self.rng.random() < 0.1:
                    file.write(hostile(self.rng, number) + b"\n")
                    self.errors += 1
                else:
                    line = json.dumps(good(self.rng, number))
                    file.write(line.encode() + b"\n")
                    alone.write(line + "\n")

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def alone(self):
        """The answers of every good line with nothing beside it."""
        arguments = [PROGRAM, "batch", "-m", self.model, "-i", "good", "--batch", "1", "--threads", "1"]
        done = subprocess.run(arguments, cwd=self.folder, capture_output=True)
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            answer = json.loads(line)
            self.expected[json.dumps(answer["id"])] = answer
        # And a few by another verb.
        asked = [json.loads(line) for line in open(os.path.join(self.folder, "good"))]
        plain = [line for line in asked if not {"temp", "logit_bias", "logprobs"} & set(line) and "seed" in line]
        for line in plain[:20]:
            tokens = ",".join(map(str, line["tokens"]))
            arguments = [PROGRAM, "run", "-m", self.model, "--tokens", tokens, "-n", str(line["max_tokens"])]
            arguments += ["--seed", str(line["seed"]), "--json"]
            run = json.loads(subprocess.run(arguments, capture_output=True, check=True).stdout)
            answer = self.expected[json.dumps(line["id"])]
            assert answer["tokens"] == run["tokens"], (line, answer, run)

    def start(self, more, **streams):
        arguments = command(self.model, ["--batch", str(self.rng.choice([2, 17, 64])), *more])
        streams.setdefault("stdout", subprocess.DEVNULL)
        return subprocess.Popen(arguments, cwd=self.folder, stderr=subprocess.PIPE, **streams)

    def resize(self, size):
        subprocess.run(["mount", "-o", f"remount,size={size}", "disk"], cwd=self.folder, check=True)

    def ended(self, process, seconds=120):
        error = process.communicate(timeout=seconds)[1].decode()
        assert "panicked" not in error and "defect" not in error, error
        return error

    def kill(self):
        process = self.start(["-o", self.out])
        time.sleep(self.rng.uniform(0.005, 0.25))
        process.send_signal(self.rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        self.ended(process)
        self.count("kills")

    def tear(self):
        if os.path.exists(self.out) and os.path.getsize(self.out) > 1000:
            os.truncate(self.out, os.path.getsize(self.out) - self.rng.randrange(1, 40))
            self.count("torn files")

    def fill(self):
        used = os.path.getsize(self.out) if os.path.exists(self.out) else 0
        self.resize((used // 4096 + self.rng.randrange(1, 30)) * 4096)
        process = self.start(["-o", self.out])
        error = self.ended(process)
        self.resize("64m")
        if "no space left on device" in error:
            assert process.returncode == 1
            self.count("full disks")

    def close(self):
        process = self.start([], stdout=subprocess.PIPE)
        for _ in range(self.rng.randrange(1, 200)):
            assert json.loads(process.stdout.readline())
        process.stdout.close()
        process.stdout = None
        self.ended(process)
        assert process.returncode == 0, process.returncode
        self.count("closed pipes")

    def limit(self):
        used = os.path.getsize(self.out) if os.path.exists(self.out) else 0
        blocks = used // 1024 + self.rng.randrange(1, 60)
        arguments = command(self.model, ["-o", self.out])
        limited = ["bash", "-c", f'ulimit -f {blocks}; exec "$@"', "-", *arguments]
        process = subprocess.Popen(limited, cwd=self.folder, stderr=subprocess.PIPE)
        if "too large" in self.ended(process):
            self.count("file size limits")

    def check(self):
        seen, errors = {}, 0
        for line in open(self.out, "rb"):
            answer = json.loads(line)
            if "error" in answer:
                errors += 1
                continue
            key = json.dumps(answer["id"])
            assert key not in seen, f"{key} is answered twice"
            seen[key] = answer
        assert seen.keys() == self.expected.keys(), f"{len(seen)} of {len(self.expected)} good lines are answered"
        for key, answer in seen.items():
            assert answer == self.expected[key], (answer, self.expected[key])
        assert errors == self.errors, f"{errors} errors of {self.errors}"
        assert os.listdir(os.path.join(self.folder, "disk")) == ["out"]

    def run(self):
        self.alone()
        troubles = [self.kill, self.kill, self.kill, self.tear, self.fill, self.close, self.limit]
        rounds = 0
        while True:
            rounds += 1
            self.rng.choice(troubles)()
            lines = sum(1 for _ in open(self.out, "rb")) if os.path.exists(self.out) else 0
            if lines >= LINES - 50 or rounds >= 600:
                break
        process = self.start(["-o", self.out])
        error = self.ended(process, 1200)
        assert process.returncode == 1 and f"{self.errors} of {LINES} lines failed" in error, error
        self.check()
        before = open(self.out, "rb").read()
        assert self.start(["-o", self.out]).wait() == 1
        assert open(self.out, "rb").read() == before
        troubles = ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))
        print(f"{len(self.expected)} good and {self.errors} hostile lines in {rounds} rounds: {troubles}")


with tempfile.TemporaryDirectory() as folder:
    soak = Soak(folder)
    try:
        soak.run()
    finally:
        subprocess.run(["umount", os.path.join(folder, "disk")], check=False)
