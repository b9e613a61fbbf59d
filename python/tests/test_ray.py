"""Real Ray on two nodes of this machine: every prompt is answered once, with the bits of the program."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import MODEL, PROMPT, program

ray = pytest.importorskip("ray", reason="the package ray is not installed")
pytest.importorskip("ray.data", reason="the package ray[data] is not installed")

import psutil  # noqa: E402
import pyarrow.parquet  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from cinderblock.ray import Journal, answers, main  # noqa: E402

PROMPTS = int(os.environ.get("CINDERBLOCK_RAY_PROMPTS", "240"))


def start(nodes: Any) -> None:
    """Starts two nodes. Their workers are not to wait for whatever else runs here."""
    os.environ.setdefault("RAY_worker_niceness", "0")
    for _ in range(2):
        nodes.add_node(num_cpus=2, object_store_memory=200 << 20, include_dashboard=False)
    ray.init(address=nodes.address, log_to_driver=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes. Ray gives a node 30 seconds to start, which a busy machine may not have: it is tried again."""
    for attempt in range(3):
        nodes = Cluster()
        try:
            start(nodes)
            break
        except Exception as error:
            ray.shutdown()
            nodes.shutdown()
            if "timed out during startup" not in str(error):
                raise
            if attempt == 2:
                pytest.skip(f"Ray did not start: {error}")
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts, one of which has a wrong option."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [{"id": index, "prompt": f"{PROMPT} {index}", "part": index % 7} for index in range(PROMPTS)]
    rows[5]["top_p"] = -1
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path) -> list[str]:
    """Answers by id."""
    return sorted(path.read_text().splitlines(), key=lambda line: int(json.loads(line)["id"]))


@pytest.fixture(scope="module")
def alone(prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The answers of the program."""
    output = tmp_path_factory.mktemp("alone") / "answers.jsonl"
    with pytest.raises(Exception, match="exit status 1"):
        program("batch", "-m", MODEL, "-i", prompts, "-o", output, "-n", "48", "--seed", "3")
    return lines(output)


def test_lost_workers_and_nodes_change_nothing(
    cluster: Any, prompts: Path, alone: list[str], tmp_path: Path
) -> None:
    model, output = tmp_path / "model.gguf", tmp_path / "answers.jsonl"
    shutil.copy(MODEL, model)
    killed: list[str] = []

    def disturb() -> None:
        def answered(count: int) -> None:
            while not output.exists() or output.read_bytes().count(b"\n") < count:
                time.sleep(0.02)

        answered(PROMPTS // 10)
        for process in psutil.process_iter():
            try:
                if str(model) in process.cmdline() and "batch" in process.cmdline() and process.parent():
                    os.kill(process.parent().pid, signal.SIGKILL)
                    killed.append("worker")
                    break
            except psutil.Error:
                pass
        answered(PROMPTS // 3)
        cluster.remove_node(cluster.list_all_nodes()[1], allow_graceful=False)
        killed.append("node")

    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    words = [str(prompts), str(output), "--model", str(model), "--rows", "16", "-n", "48", "--seed", "3"]
    assert main([*words, "--actors", "2"]) == 1
    thread.join(60)
    assert killed == ["worker", "node"]
    assert lines(output) == alone


def test_only_open_lines_are_asked_again(
    cluster: Any,
    prompts: Path,
    alone: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "answers.jsonl"
    words = ["-m", str(MODEL), "-n", "48", "--seed", "3"]
    half = tmp_path / "half.jsonl"
    half.write_text("".join(prompts.read_text().splitlines(keepends=True)[: PROMPTS // 2]))
    main([str(half), str(output), *words])
    with output.open("a") as file:
        file.write('{"request":"torn')
    capfd.readouterr()
    assert main([str(prompts), str(output), *words, "--copy-model"]) == 1
    assert f"skipped {PROMPTS // 2}" in capfd.readouterr().err
    assert lines(output) == alone
    # The program goes on where Ray stopped, and finds nothing to do.
    with pytest.raises(Exception, match="exit status 1"):
        program("batch", "-m", MODEL, "-i", prompts, "-o", output, *words[2:])
    assert lines(output) == alone
    # One answer is left, and the options are others.
    output.write_text(output.read_text().splitlines(keepends=True)[0])
    with pytest.raises(SystemExit, match="another model or other options"):
        main([str(prompts), str(output), "-m", str(MODEL), "-n", "4"])


def test_one_process_writes_an_output(prompts: Path, tmp_path: Path) -> None:
    output, refused = tmp_path / "answers.jsonl", "found a file that another process writes"
    words = [str(prompts), str(output), "-m", str(MODEL)]
    batch = [str(Path(sys.executable).with_name("cinderblock")), "batch", "-m", str(MODEL), "-o", str(output)]
    journal = Journal(output)
    with pytest.raises(SystemExit, match=refused):
        main(words)
    outcome = subprocess.run([*batch, "-i", str(prompts)], capture_output=True, text=True)
    assert outcome.returncode == 1
    assert refused in outcome.stderr
    journal.file.close()
    # And the other way round.
    with subprocess.Popen([*batch, "-n", "4"], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin
        process.stdin.write(b'{"id": 1, "prompt": "It was late", "part": "\\u2028"}\n')
        process.stdin.flush()
        while not output.read_bytes():
            time.sleep(0.02)
        before = output.read_bytes()
        with pytest.raises(SystemExit, match=refused):
            main(words)
        process.stdin.close()
        assert process.wait(60) == 0
    assert output.read_bytes() == before
    # What a kill has left is taken out, and the lock is that of the file in its place.
    output.write_bytes(before + b'{"request":"torn')
    journal = Journal(output)
    assert output.read_bytes() == before
    with pytest.raises(SystemExit, match=refused):
        Journal(output)
    journal.file.close()
    journal = Journal(output)
    assert journal.skipped == 1
    journal.file.close()


def test_datasets_and_parquet_files_are_answered(cluster: Any, tmp_path: Path) -> None:
    rows = [{"id": str(index), "prompt": PROMPT, "max_tokens": 5 + index} for index in range(6)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        dataset = answers(ray.data.from_items(rows), MODEL, ["--temp", "0"], actors=1)
    found = {answer["id"]: answer for answer in (json.loads(row["answer"]) for row in dataset.take_all())}
    assert {name: len(answer["tokens"]) for name, answer in found.items()} == {
        str(index): 5 + index for index in range(6)
    }
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "prompts.parquet")
    output = tmp_path / "answers.parquet"
    assert main([str(tmp_path / "prompts.parquet"), str(output), "-m", str(MODEL), "--temp", "0"]) == 0
    columns = pyarrow.parquet.read_table(output).to_pylist()
    assert {row["id"]: (row["text"], row["tokens"]) for row in columns} == {
        name: (answer["text"], answer["tokens"]) for name, answer in found.items()
    }


def test_scores_are_those_of_the_program(cluster: Any, tmp_path: Path) -> None:
    rows = [{"id": index, "prompt": PROMPT, "continuations": [" It", f" {index}"]} for index in range(20)]
    questions, output, expected = (tmp_path / name for name in ("questions.jsonl", "a.jsonl", "b.jsonl"))
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([str(questions), str(output), "-m", str(MODEL), "--score"]) == 0
    program("batch", "-m", MODEL, "--score", "-i", questions, "-o", expected)
    assert lines(output) == lines(expected)
