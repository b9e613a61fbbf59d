"""Errors, memory, threads, signals, and quantization."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import cinderblock
from cinderblock import Model

from .conftest import CHECKPOINT, MODEL, PROMPT, program


def test_errors_are_classes_with_one_line(model: Model, tmp_path: Path) -> None:
    missing = tmp_path / "missing.gguf"
    with pytest.raises(cinderblock.IoError) as io:
        Model.open(missing)
    assert isinstance(io.value, OSError)
    assert (io.value.kind, io.value.path) == ("io", os.fspath(missing))
    assert str(io.value) == f"{missing}: {io.value.detail}"
    (tmp_path / "wrong.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(cinderblock.FormatError):
        Model.open(tmp_path / "wrong.gguf")
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: model.generate(PROMPT, temperature=-1), "temperature: found -1"),
        (lambda: model.generate([model.vocabulary]), "token id: found"),
        (lambda: model.generate([-1]), "token id: expected"),
        (lambda: model.logits([1]), "expected at least two blocks"),
        (lambda: model.contexts([]), "text: found 0 tokens"),
        (lambda: model.contexts([model.vocabulary]), "token id: found"),
        (lambda: model.session(cache_type="f31"), "cache type: found"),  # type: ignore[arg-type]
        (lambda: model.batch(["a", "b"], seed=[1]), "seed: found 1, expected one or 2"),
        (lambda: model.generate(PROMPT, regex="("), "regex: "),
        (lambda: model.batch(["a"], sequences=0), "sequences"),
    ]
    for call, line in calls:
        with pytest.raises(cinderblock.ArgumentError) as error:
            call()
        assert isinstance(error.value, ValueError)
        assert error.value.kind == "argument"
        assert line in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match="max_token"):
        model.generate(PROMPT, max_token=3)  # type: ignore[call-arg]
    with pytest.raises(cinderblock.ArgumentError):
        model.detokenize("text")  # type: ignore[arg-type]


def test_memory_is_known_before(model: Model) -> None:
    one, eight = model.estimate(), model.estimate(sequences=8)
    assert one.weights == model.file_bytes == MODEL.stat().st_size
    assert one.total == one.weights + one.cache + one.scratch
    assert eight.cache == 8 * one.cache
    assert model.estimate(cache_type="q8").cache < one.cache


def test_many_threads_share_a_model_and_a_session(model: Model) -> None:
    expected = [model.generate(PROMPT, max_tokens=12, seed=seed).text for seed in range(8)]
    session = model.session()
    session.append(PROMPT)
    before = session.length

    def work(seed: int) -> str:
        for _ in range(3):
            session.next_token()
        return model.generate(PROMPT, max_tokens=12, seed=seed).text

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == expected
    assert session.length == before + 24


def test_other_threads_run_meanwhile(model: Model) -> None:
    ticks = 0
    stop = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not stop.is_set():
            ticks += 1
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    started = time.monotonic()
    model.session().append(np.ones(40_000, np.uint32))
    elapsed = time.monotonic() - started
    stop.set()
    thread.join()
    # A call that held the interpreter would leave one or two.
    assert ticks > 10 * elapsed


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal there")
@pytest.mark.parametrize("work", ["append", "stream", "generate", "batch", "contexts"])
def test_control_c_ends_work_in_the_middle(model: Model, work: str) -> None:
    session = model.session()
    prompt = np.ones(2_000_000, np.uint32)
    calls: dict[str, Callable[[], object]] = {
        "append": lambda: session.append(prompt),
        "stream": lambda: next(model.stream(prompt)),
        "generate": lambda: model.generate(PROMPT, max_tokens=10_000_000, ignore_end=True),
        "batch": lambda: model.batch([PROMPT] * 4, max_tokens=10_000_000, ignore_end=True, cache_blocks=64),
        "contexts": lambda: model.contexts(prompt[:100_000]),
    }
    # A process in the background ignores the signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    started = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        calls[work]()
    assert time.monotonic() - started < 20
    if work == "append":
        assert session.blocks > 0
    session.append(PROMPT)
    assert session.generate(max_tokens=4).end == "length"


def test_a_session_is_interrupted_from_another_thread(model: Model) -> None:
    session = model.session()
    timer = threading.Timer(0.2, session.interrupt)
    timer.start()
    with pytest.raises(cinderblock.Interrupted) as error:
        session.append(np.ones(2_000_000, np.uint32))
    assert error.value.kind == "interrupted"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_sessions_leave_no_memory(model: Model) -> None:
    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def sessions(count: int) -> None:
        for _ in range(count):
            session = model.session(cache_blocks=32)
            session.append([5, 6, 7, 8])
            session.logits()
            next(session.stream(max_tokens=2))

    sessions(100)
    before = resident()
    sessions(1000)
    assert resident() - before < 8 << 20


def test_quantizing_gives_the_file_of_the_program(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    summary = cinderblock.quantize(
        CHECKPOINT,
        tmp_path / "a.gguf",
        type="q8",
        tensor_types={"*.head.weight": "q4"},
        progress=lambda stage, done, total: calls.append((stage, done, total)),
    )
    program(
        "quantize", CHECKPOINT, "-o", tmp_path / "b.gguf", "--type", "q8", "--tensor-type", "*.head.weight=q4"
    )
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert summary["bytes"] == (tmp_path / "a.gguf").stat().st_size
    assert {stage for stage, _, _ in calls} == {"quantizing"}
    assert calls[-1][1] == calls[-1][2] > 0
    assert Model.open(tmp_path / "a.gguf").generate(PROMPT, max_tokens=4).end == "length"


def test_a_callback_that_raises_ends_quantizing(tmp_path: Path) -> None:
    def fail(stage: str, done: int, total: int) -> None:
        raise LookupError(stage)

    with pytest.raises(LookupError, match="quantizing"):
        cinderblock.quantize(CHECKPOINT, tmp_path / "a.gguf", progress=fail)
    # The next one is not stopped.
    assert cinderblock.quantize(CHECKPOINT, tmp_path / "b.gguf")["bytes"] > 0
    with pytest.raises(cinderblock.ArgumentError):
        cinderblock.quantize(CHECKPOINT, tmp_path / "c.gguf", type="q5")  # type: ignore[arg-type]


def test_the_module_is_silent(tmp_path: Path) -> None:
    script = f"import cinderblock; cinderblock.quantize({str(CHECKPOINT)!r}, {str(tmp_path / 'a.gguf')!r})"
    outcome = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (outcome.stdout, outcome.stderr) == ("", "")
