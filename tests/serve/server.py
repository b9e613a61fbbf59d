"""A server on a free port, for the tests and the benchmark of `serve`."""

import os
import signal
import subprocess
import time
import urllib.request

PROGRAM = os.environ.get("CINDERBLOCK", "target/release/cinderblock")


class Server:
    def __init__(self, *arguments, port=0):
        command = [PROGRAM, "serve", "--port", str(port), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://"), self.url
        self.port = int(self.url.rsplit(":", 1)[1])

    def metrics(self):
        text = urllib.request.urlopen(self.url + "/metrics").read().decode()
        lines = (line.split() for line in text.splitlines() if not line.startswith("#"))
        return {name.removeprefix("cinderblock_"): float(value) for name, value in lines}

    def wait_for(self, name, value, limit=30):
        started = time.monotonic()
        while self.metrics()[name] != value:
            assert time.monotonic() - started < limit, f"{name}: {self.metrics()[name]}, expected {value}"
            time.sleep(0.05)

    def stop(self, how=signal.SIGTERM, limit=40):
        self.process.send_signal(how)
        return self.process.wait(limit)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def run(prompt, seed, tokens, *more):
    """The text of `run`."""
    import json

    command = [PROGRAM, "run", "-p", prompt, "--seed", str(seed), "-n", str(tokens), "--json", *more]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
