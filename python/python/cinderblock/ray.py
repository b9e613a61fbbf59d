"""
Text of many prompts on many machines, with Ray.

    python -m cinderblock.ray prompts.jsonl answers.jsonl --model model.gguf -n 64

Input and output are those of `cinderblock batch`, and so are all other options; either may be a Parquet file, too.
Started again, it asks only what the output does not answer. `answers` does the same for a Ray Dataset.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow
import pyarrow.parquet
import ray
import ray.data

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# Rows of a task: enough that a batch is full nearly always, few enough that little is lost with a machine.
ROWS = 256
Batch = dict[str, Any]


class Engine:
    """
    A process of `cinderblock batch`, which opens the model once and answers rows of JSON lines.

    Ray makes one for each actor and calls it with batches that have the column `line`; it answers with `answer`.
    """

    def __init__(self, model: str | ray.ObjectRef, options: Sequence[str]) -> None:
        """Start the process with a model, or with one that is fetched from Ray's object store."""
        path = model if isinstance(model, str) else _fetched(model)
        self.errors = tempfile.TemporaryFile("w+")
        command = [sys.executable, "-m", "cinderblock", "batch", "-m", path, *options]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, encoding="utf-8"
        )

    def __call__(self, batch: Batch) -> Batch:
        """Answer a batch; the order of the answers is that in which they end."""
        lines = list(batch["line"])
        assert self.process.stdin
        assert self.process.stdout
        writer = threading.Thread(target=self._write, args=(self.process.stdin, lines))
        writer.start()
        answers = list(itertools.islice(self.process.stdout, len(lines)))
        writer.join()
        if len(answers) < len(lines):
            self.process.wait()
            self.errors.seek(0)
            message = self.errors.read().strip().splitlines()
            raise RuntimeError(message[-1] if message else f"exit code {self.process.returncode}")
        return {"answer": np.array([answer.rstrip("\n") for answer in answers], dtype=object)}

    @staticmethod
    def _write(stdin: IO[str], lines: Iterable[str]) -> None:
        # A process that has ended is reported by its reader.
        with contextlib.suppress(BrokenPipeError):
            stdin.writelines(line + "\n" for line in lines)
            stdin.flush()


def _fetched(model: ray.ObjectRef) -> str:
    """The path of a model file from the object store, which is written once a machine."""
    content = ray.get(model)
    name = hashlib.sha256(content).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"cinderblock-{name}.gguf"
    if not path.exists():
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        os.replace(file.name, path)
    return str(path)


def _line(row: dict[str, Any]) -> dict[str, str]:
    fields = {name: value for name, value in row.items() if value is not None}
    return {"line": json.dumps(fields, default=lambda value: value.tolist(), ensure_ascii=False)}


def answers(
    dataset: ray.data.Dataset,
    model: str | os.PathLike[str],
    options: Sequence[str] = (),
    *,
    actors: int | None = None,
    cpus: float | None = None,
    copy_model: bool = False,
    rows: int = ROWS,
) -> ray.data.Dataset:
    """
    Answer every row of a dataset, whose columns are the fields of a line of `cinderblock batch`.

    The result has one column, `answer`: a line of its output. `options` are words of its command line. By default,
    one actor runs on each machine, and reads the model at the same path everywhere; `copy_model` sends the file there
    instead. An actor reserves half of a machine, so that it finds room on another one when its own is lost.
    """
    lines = dataset if dataset.columns() == ["line"] else dataset.map(_line)
    machines = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    machines = [count for count in machines if count] or [1]
    source = ray.put(Path(model).read_bytes()) if copy_model else os.path.abspath(model)
    return lines.map_batches(
        Engine,
        fn_constructor_args=(source, list(options)),
        batch_size=rows,
        # Ray spreads them over the machines.
        compute=ray.data.ActorPoolStrategy(size=actors or len(machines)),
        num_cpus=min(machines) / 2 if cpus is None else cpus,
    )


def _lock(file: IO[str]) -> None:
    """Take the lock of `cinderblock batch`, until the file is closed, or raise an error of the operating system."""
    if sys.platform == "win32":
        # Nobody else can read a byte that is locked there: one that no output has. `batch` locks all that there may be.
        os.lseek(file.fileno(), (1 << 31) - 2, os.SEEK_SET)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        os.lseek(file.fileno(), 0, os.SEEK_END)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _open_locked(path: Path) -> IO[str]:
    """Open a file to which only this process writes."""
    while True:
        file = path.open("a+", encoding="utf-8", newline="\n")
        try:
            _lock(file)
        except (BlockingIOError, PermissionError):
            file.close()
            raise SystemExit(
                f"error: {path}: output: found a file that another process writes, expected one of its own"
            ) from None
        if sys.platform == "win32":
            return file
        # Another process may have put a new file in its place before it gave up the lock.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


class Journal:
    """The output: whole lines, each written once. One process writes it at a time."""

    def __init__(self, path: Path) -> None:
        """Open a file and keep what an earlier run has answered, but for errors that may be temporary."""
        self.ids: set[str] = set()
        self.key: str | None = None
        self.file = _open_locked(path)
        self.file.seek(0)
        found = list(self.file)
        kept = [line for line in found if self._keep(path, line)]
        if kept != found:
            partial = path.with_name(f".{path.name}.partial")
            with partial.open("w", encoding="utf-8", newline="\n") as whole:
                whole.writelines(kept)
            old = self.file
            if sys.platform == "win32":
                # An open file cannot be replaced there.
                old.close()
            os.replace(partial, path)
            self.file = _open_locked(path)
            old.close()
        self.skipped = len(kept)
        self.failed = sum("error" in json.loads(line) for line in kept)
        self.answered = 0

    def _keep(self, path: Path, line: str) -> bool:
        try:
            answer = json.loads(line)
            key, name = answer["request"].rsplit("-", 1)[0], json.dumps(answer["id"])
        except (ValueError, TypeError, KeyError):
            if not line.endswith("\n"):
                return False
            raise SystemExit(
                f"error: {path}: found a line that is no answer, expected answers alone"
            ) from None
        self.key = self.key or key
        if answer.get("retry") or not line.endswith("\n"):
            return False
        self.ids.add(name)
        return True

    def write(self, line: str, numbers: dict[str, int]) -> None:
        """Write an answer, unless there is one with its id. An error gets the number of its line in the input."""
        answer = json.loads(line)
        key, name = answer["request"].rsplit("-", 1)[0], json.dumps(answer["id"])
        if key != (self.key or key):
            raise SystemExit("error: the output has answers of another model or other options")
        if name in self.ids:
            return
        if "error" in answer and name in numbers:
            found, answer["line"] = answer["line"], numbers[name]
            answer["error"] = f"line {answer['line']}: " + answer["error"].removeprefix(f"line {found}: ")
            line = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
        self.key = key
        self.ids.add(name)
        self.file.write(line + "\n")
        self.answered += "error" not in answer
        self.failed += "error" in answer


def _questions(path: Path) -> Iterator[tuple[str, int, str]]:
    """The lines of a file, each with its id and its number."""
    seen: set[str] = set()
    if path.suffix == ".parquet":
        parts = pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=ROWS)
        lines: Iterable[str] = (_line(row)["line"] for part in parts for row in part.to_pylist())
    else:
        lines = path.open(encoding="utf-8-sig")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)["id"]
        except (ValueError, TypeError, KeyError):
            found = None
        if not isinstance(found, (str, int)) or isinstance(found, bool):
            raise SystemExit(f'error: {path}: line {number}: expected a JSON object with an "id"')
        name = json.dumps(found)
        if name in seen:
            raise SystemExit(f"error: {path}: line {number}: id {name}: found it again, expected it once")
        seen.add(name)
        yield name, number, line.strip()


def _write_parquet(journal: Path, output: Path) -> None:
    """Write answers as columns; those that are not plain values are JSON."""
    with journal.open(encoding="utf-8", newline="\n") as lines:
        rows = [json.loads(line) for line in lines]
    names = dict.fromkeys(name for row in rows for name in row)
    columns: dict[str, list[Any]] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        plain = len(kinds) < 2 and not kinds & {dict, list}
        as_ids = name == "tokens"
        columns[name] = values if plain or as_ids else [None if v is None else json.dumps(v) for v in values]
    partial = output.with_name(f".{output.name}.partial")
    pyarrow.parquet.write_table(pyarrow.table(columns), partial)
    os.replace(partial, output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cinderblock.ray",
        description="Answer the lines of INPUT on all machines of a Ray cluster, as `cinderblock batch` does on one.",
        epilog="All other options are those of `cinderblock batch`.",
        allow_abbrev=False,
    )
    parser.add_argument("input", metavar="INPUT", type=Path, help="JSON lines, or a Parquet file")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="JSON lines, or a Parquet file")
    parser.add_argument("--model", "-m", required=True, metavar="FILE", type=Path)
    parser.add_argument(
        "--address", help="of the cluster; by default a running one, or a new one on this machine"
    )
    parser.add_argument(
        "--actors", type=int, metavar="N", help="in the whole cluster [default: one a machine]"
    )
    parser.add_argument(
        "--cpus",
        type=float,
        metavar="N",
        help="processors to reserve for an actor [default: half of a machine]",
    )
    parser.add_argument(
        "--copy-model", action="store_true", help="send the model to the machines, which then need no copy"
    )
    parser.add_argument(
        "--rows", type=int, metavar="N", default=ROWS, help="rows of a task [default: %(default)s]"
    )
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Run the command, and give its exit code: 1 if a line has an error."""
    given, options = _parser().parse_known_args(words)
    parquet = given.output.suffix == ".parquet"
    path = given.output.with_name(f".{given.output.name}.jsonl") if parquet else given.output
    questions = list(_questions(given.input))
    numbers = {name: number for name, number, _ in questions}
    journal = Journal(path)
    open_lines = [line for name, _, line in questions if name not in journal.ids]
    started = time.monotonic()
    if open_lines:
        ray.init(address=given.address, ignore_reinit_error=True)
        blocks = -(-len(open_lines) // given.rows)
        dataset = ray.data.from_items([{"line": line} for line in open_lines], override_num_blocks=blocks)
        done = answers(
            dataset,
            given.model,
            options,
            actors=given.actors,
            cpus=given.cpus,
            copy_model=given.copy_model,
            rows=given.rows,
        )
        for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
            for line in batch["answer"].to_pylist():
                journal.write(line, numbers)
            journal.file.flush()
    if parquet:
        _write_parquet(path, given.output)
    journal.file.close()
    seconds = time.monotonic() - started
    print(
        f"answered {journal.answered}, failed {journal.failed}, skipped {journal.skipped} in {seconds:.1f} s",
        file=sys.stderr,
    )
    return 1 if journal.failed else 0


if __name__ == "__main__":
    sys.exit(main())
