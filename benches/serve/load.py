#!/usr/bin/env python3
"""Load on `cinderblock serve`, on this machine alone: many clients, of which some leave, read slowly, or send half a request.

    python3 benches/serve/load.py --seconds 300 --clients 200
    python3 benches/serve/load.py --throughput

Every finished answer is compared with what `run` gives. Standard library only.
"""

import argparse
import http.client
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tests/serve"))
from server import PROGRAM, Server, run  # noqa: E402

WORDS = "the old house stood upon a hill and nobody knew who had built it or why they had gone".split()
CASES = 24


def case(number):
    random_words = random.Random(number)
    length = random_words.choice([2, 5, 12, 40, 150])
    prompt = "The " + " ".join(random_words.choice(WORDS) for _ in range(length))
    return {"prompt": prompt, "seed": number, "max_tokens": random_words.choice([4, 16, 40, 90])}


class Load:
    def __init__(self, server, until, expected):
        self.server, self.until, self.expected = server, until, expected
        self.lock = threading.Lock()
        self.counts = {"equal": 0, "wrong": 0, "cancelled": 0, "rejected": 0, "cut": 0, "hostile": 0, "failed": 0}
        self.stall = 0.0

    def count(self, name):
        with self.lock:
            self.counts[name] += 1

    def client(self, number):
        choice = random.Random(number)
        while time.monotonic() < self.until:
            kind = choice.random()
            try:
                if kind < 0.08:
                    self.hostile(choice)
                else:
                    self.ask(choice, leaves=kind < 0.2, slow=0.2 <= kind < 0.25)
            except (OSError, http.client.HTTPException):
                self.count("cut")
                time.sleep(0.05)

    def ask(self, choice, leaves, slow):
        number = choice.randrange(CASES)
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=120)
        body = json.dumps({**case(number), "stream": True})
        connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        response = connection.getresponse()
        if response.status == 429:
            assert response.headers["retry-after"]
            response.read()
            connection.close()
            self.count("rejected")
            time.sleep(choice.uniform(0.2, 1.0))
            return
        text, ended, tokens, last = "", False, 0, time.monotonic()
        for line in response:
            if not line.startswith(b"data: {"):
                ended = ended or line.startswith(b"data: [DONE]")
                continue
            event = json.loads(line[6:])
            if "error" in event:
                self.count("cut")
                return
            text += event["choices"][0]["text"]
            now = time.monotonic()
            if tokens and not slow:
                self.stall = max(self.stall, now - last)
            last, tokens = now, tokens + 1
            if leaves and tokens > 3:
                connection.sock.close()
                self.count("cancelled")
                return
            if slow:
                time.sleep(0.05)
        connection.close()
        self.count("equal" if ended and text == self.expected[number] else "wrong" if ended else "cut")

    def hostile(self, choice):
        """Half a request, a byte at a time, or a connection that says nothing."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=30) as sock:
            for byte in b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: "[: choice.randrange(50)]:
                sock.send(bytes([byte]))
                time.sleep(0.02)
        self.count("hostile")


def resident(process):
    with open(f"/proc/{process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1000


def processor_time(process):
    fields = open(f"/proc/{process.pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(options):
    expected = {number: run(**{("tokens" if name == "max_tokens" else name): value for name, value in case(number).items()})["text"] for number in range(CASES)}
    with Server("--memory", "2GB", *options.server) as server:
        time.sleep(1)
        before = processor_time(server.process)
        time.sleep(options.idle)
        idle = (processor_time(server.process) - before) / options.idle
        started = time.monotonic()
        work = Load(server, started + options.seconds, expected)
        threads = [threading.Thread(target=work.client, args=(number,), daemon=True) for number in range(options.clients)]
        for thread in threads:
            thread.start()
        memory = []
        while time.monotonic() < work.until - 2:
            time.sleep(1)
            memory.append(resident(server.process))
        metrics = server.metrics()
        server.process.send_signal(signal.SIGTERM)
        status = server.process.wait(60)
        for thread in threads:
            thread.join(60)
        part = max(1, len(memory) // 5)
        early, late = max(memory[part : 2 * part]), max(memory[-part:])
        report = {
            **work.counts,
            "clients": options.clients,
            "seconds": options.seconds,
            "longest_stall_s": round(work.stall, 3),
            "idle_cpu": round(idle, 4),
            "memory_mb": [round(early, 1), round(late, 1)],
            "memory_growth": round(late / early - 1, 4),
            "tokens_per_second": round(metrics["generated_tokens_total"] / options.seconds, 1),
            "prefix_hits": int(metrics["prefix_cache_hits_total"]),
            "slow_readers": int(metrics["slow_readers_total"]),
            "exit": status,
        }
        print(json.dumps(report))
        assert report["wrong"] == 0 and report["equal"] > 0 and status == 0, report


def throughput(options):
    """Streams through the server against `batch`, in turns."""
    streams, tokens = options.streams, options.tokens
    prompts = [f"The old house number {number} stood upon a hill and" for number in range(streams)]
    model = ["-m", options.model] if options.model else []
    folder = tempfile.TemporaryDirectory()
    lines = pathlib.Path(folder.name, "in.jsonl")
    lines.write_text("".join(json.dumps({"id": number, "prompt": prompt}) + "\n" for number, prompt in enumerate(prompts)))
    rates = {"serve": [], "batch": []}
    with Server("--batch", str(streams), "--prefix-cache", "0", *model) as server:
        for _ in range(options.rounds):
            done = []

            def ask(number):
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
                body = {"prompt": prompts[number], "seed": number, "max_tokens": tokens, "ignore_end": True, "stream": True}
                connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
                done.append(len(connection.getresponse().read()))

            started = time.monotonic()
            threads = [threading.Thread(target=ask, args=(number,)) for number in range(streams)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            rates["serve"].append(streams * tokens / (time.monotonic() - started))
            command = [PROGRAM, "batch", "-i", str(lines), "-n", str(tokens), "--ignore-end", "--batch", str(streams), "--json", *model]
            summary = subprocess.run(command, capture_output=True, text=True, check=True).stderr
            rates["batch"].append(json.loads(summary)["tok_s"])
        # Time to the first token of a long prompt: the best of a few, each with a beginning of its own.
        times = []
        for number in range(5):
            ids = [(7 * index + 13 * number + 5) % 500 + 100 for index in range(options.prompt)]
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
            started = time.monotonic()
            body = json.dumps({"prompt": ids, "max_tokens": 1, "stream": True})
            connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
            response = connection.getresponse()
            assert response.status == 200, response.read()
            response.readline()
            times.append(time.monotonic() - started)
            response.read()
    median = {name: sorted(values)[len(values) // 2] for name, values in rates.items()}
    print(json.dumps({
        "streams": streams,
        "serve_tok_s": round(median["serve"], 1),
        "batch_tok_s": round(median["batch"], 1),
        "ratio": round(median["serve"] / median["batch"], 3),
        "first_token_s": round(sorted(times)[len(times) // 2], 3),
        "prefill_tok_s": round(options.prompt / sorted(times)[len(times) // 2]),
    }))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--idle", type=int, default=5)
    parser.add_argument("--throughput", action="store_true")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model")
    parser.add_argument("server", nargs="*", help="options of the server, after --")
    options = parser.parse_args()
    throughput(options) if options.throughput else load(options)


main()
