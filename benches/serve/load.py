#!/usr/bin/env python3
"""Load on `cinderblock serve`, on this machine alone: many clients, of which some leave, read slowly, or send half a request.

    python3 benches/serve/load.py --seconds 300 --clients 200
    python3 benches/serve/load.py --throughput
    python3 benches/serve/load.py --constraints

Every finished answer is compared with what `run` gives. Standard library only.
"""

import argparse
import contextlib
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
import urllib.request

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


class Peer(Server):
    """llama.cpp's server, on the same port, with as many slots as streams."""

    def __init__(self, program, model, streams, context):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [program, "-m", model, "--port", self.port, "-np", streams, "-c", context, "-t", os.cpu_count(), "--no-warmup"]
        self.process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                urllib.request.urlopen(self.url + "/health").read()
                return
            except OSError:
                assert self.process.poll() is None, f"{command} ended"
                time.sleep(0.2)


def ids(length, number):
    """A prompt that shares no beginning with others."""
    return [(7 * index * index + 131 * number + 5) % 3900 + 100 for index in range(length)]


def post(server, body):
    """The response to a completion, to be read."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    return response


def ask(server, prompt, tokens, seed):
    """Streams one answer. Returns the time to its first event, and its events."""
    body = {"prompt": prompt, "seed": seed, "max_tokens": tokens, "stream": True}
    body |= {"cache_prompt": False, "ignore_eos": True} if isinstance(server, Peer) else {"ignore_end": True}
    started = time.monotonic()
    response = post(server, body)
    response.readline()
    first = time.monotonic() - started
    return first, response.read()


def rate(server, streams, tokens, turn):
    """Tokens a second of streams that run together."""
    prompts = [ids(16, streams * turn + number) for number in range(streams)]
    started = time.monotonic()
    threads = [threading.Thread(target=ask, args=(server, prompt, tokens, 7)) for prompt in prompts]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return streams * tokens / (time.monotonic() - started)


def first_tokens(server, options, turn):
    """Tokens of a long prompt a second, by the time to the first token."""
    return options.prompt / ask(server, ids(options.prompt, 1000 + turn), 1, 7)[0]


def batch(options, model, folder, turn):
    """Tokens a second of `batch` with the streams of `rate`."""
    lines = pathlib.Path(folder, f"{turn}.jsonl")
    prompts = (ids(16, options.streams * turn + number) for number in range(options.streams))
    lines.write_text("".join(json.dumps({"id": number, "tokens": prompt, "seed": 7}) + "\n" for number, prompt in enumerate(prompts)))
    command = [PROGRAM, "batch", "-i", str(lines), "-o", os.devnull, "-n", str(options.tokens), "--ignore-end"]
    command += ["--batch", str(options.streams), "--json", *model]
    summary = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return json.loads(summary)["tok_s"]


def prefill(options, model):
    """Tokens of a long prompt a second in `bench`."""
    command = [PROGRAM, "bench", "--prefill", str(options.prompt), "--context=", "--speculate", "0", "--repeats", "1", "--json", *model]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)[0]["tok_s"]


def throughput(options):
    """Streams through the server against `batch`, a long prompt against `bench`, and both against a peer, in turns."""
    model = ["-m", options.model] if options.model else []
    rates = {}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(Server("--batch", str(options.streams), "--prefix-cache", "0", *model))
        turns = {
            "serve": lambda turn: rate(server, options.streams, options.tokens, turn),
            "batch": lambda turn: batch(options, model, folder, turn),
            "serve first token": lambda turn: first_tokens(server, options, turn),
            "bench prefill": lambda _: prefill(options, model),
        }
        if options.peer:
            context = options.streams * (options.tokens + 64) + options.prompt
            peer = stack.enter_context(Peer(options.peer, options.peer_model, options.streams, context))
            long = stack.enter_context(Peer(options.peer, options.peer_model, 1, options.prompt + 64))
            turns["peer"] = lambda turn: rate(peer, options.streams, options.tokens, turn)
            turns["peer first token"] = lambda turn: first_tokens(long, options, turn)
        for turn in range(options.rounds):
            for name, measure in turns.items():
                rates.setdefault(name, []).append(measure(turn))
    median = {name: sorted(values)[len(values) // 2] for name, values in rates.items()}
    pairs = [("serve", "batch"), ("serve first token", "bench prefill"), ("serve", "peer"), ("serve first token", "peer first token")]
    print(json.dumps({
        "streams": options.streams,
        "tok_s": {name: [round(value, 1) for value in values] for name, values in rates.items()},
        "ratio": {f"{a} : {b}": round(median[a] / median[b], 3) for a, b in pairs if b in median},
    }))


# What takes grammars most time: many states, many alternatives, many readings of one text, and recursion.
FORMS = {
    "none": None,
    "states": {"type": "regex", "regex": "(a|b|c| )*a(a|b|c| ){40}"},
    "repeats": {"type": "regex", "regex": "(.|\n){0,2000}"},
    "alternatives": {"type": "regex", "regex": "|".join(f"word{number}.*x{number}" for number in range(800))},
    "readings": {"type": "grammar", "grammar": "start: a\na: a a | /[a-z ]/ | /[a-z ]+/\n"},
    "values": {"type": "json_schema", "json_schema": {"schema": {"type": "array", "items": {"enum": [f"value {number}" for number in range(2000)]}}}},
    "recursion": {
        "type": "json_schema",
        "json_schema": {"schema": {"$defs": {"n": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#/$defs/n"}}]}}, "$ref": "#/$defs/n"}},
    },
}


def longest_gap(server, response_format):
    """Milliseconds that a stream waits for an event at most, beside a request with a constraint."""
    gaps = []

    def stream():
        body = {"prompt": "The old house", "max_tokens": 1500, "stream": True, "ignore_end": True, "seed": 1}
        times = [time.monotonic() for line in post(server, body) if line.startswith(b"data")]
        gaps.extend(after - before for before, after in zip(times, times[1:]))

    thread = threading.Thread(target=stream)
    thread.start()
    time.sleep(0.05)
    body = {"prompt": "The rain", "max_tokens": 100, "seed": 2, "response_format": response_format}
    post(server, body).read()
    thread.join()
    return round(1000 * max(gaps), 1)


def constraints(options):
    """The longest gap of a stream beside each kind of constraint, in turns."""
    gaps = {}
    for _ in range(options.rounds):
        for name, form in FORMS.items():
            with Server() as server:
                gaps.setdefault(name, []).append(longest_gap(server, form))
    print(json.dumps({"longest_gap_ms": gaps}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--idle", type=int, default=5)
    parser.add_argument("--throughput", action="store_true")
    parser.add_argument("--constraints", action="store_true", help="the longest gap of a stream beside constrained requests")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model")
    parser.add_argument("--peer", help="llama.cpp's llama-server, for --throughput")
    parser.add_argument("--peer-model", help="its model")
    parser.add_argument("server", nargs="*", help="options of the server, after --")
    options = parser.parse_args()
    run_mode = throughput if options.throughput else constraints if options.constraints else load
    run_mode(options)


main()
