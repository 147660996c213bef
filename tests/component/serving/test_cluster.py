"""`cartlm predict --ray` on a Ray of this machine: the answers of one process, whatever dies on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from pyarrow import parquet

from cartlm.serving import cluster, partitions
from tests.component.serving.conftest import Predict, failed
from tests.fixtures.toy import toy_rows

ROWS = 96


@pytest.fixture
def asked(repo: Path) -> Path:
    """A Parquet file of rows, the sixth of which has no message, in row groups that are no partitions."""
    rows = [
        {"id": 7 * at, "text": row.message, "catalog": row.catalog} for at, row in enumerate(toy_rows(ROWS))
    ]
    rows[5]["text"] = ""
    parquet.write_table(pa.Table.from_pylist(rows), repo / "rows.parquet", row_group_size=13)
    return repo / "rows.parquet"


def answers(folder: Path) -> list[dict[str, Any]]:
    parts = [parquet.read_table(part).to_pylist() for part in sorted(folder.glob("part-*.parquet"))]
    return [
        {name: row[name] for name in ("id", "action", "product", "quantity")}
        for part in parts
        for row in part
    ]


def command(*more: str) -> list[str]:
    options = ("--columns", "message=text", "--variant", "f16", "--partition", "4", *more)
    return [
        sys.executable,
        "-m",
        "cartlm.cli",
        "predict",
        "--ray",
        "--input",
        "rows.parquet",
        "--output",
        "out",
        *options,
    ]


def wait_for(folder: Path, count: int, running: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 300
    while len(list(folder.glob("part-*.parquet"))) < count:
        assert running.poll() is None, "it ended early"
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_driver_lose_and_repeat_nothing(
    repo: Path, asked: Path, predict: Predict
) -> None:
    with subprocess.Popen(command("--workers", "1"), cwd=repo, stderr=subprocess.DEVNULL) as running:
        wait_for(repo / "out", 2, running)
        workers = [
            child
            for child in psutil.Process(running.pid).children(recursive=True)
            if any("MapWorker" in part for part in child.cmdline())
        ]
        assert len(workers) == 1
        workers[0].kill()
        wait_for(repo / "out", 8, running)
        running.send_signal(signal.SIGKILL)
    made = {part: part.stat().st_mtime_ns for part in (repo / "out").glob("part-*.parquet")}
    assert 8 <= len(made) < ROWS // 4
    (repo / "out/.tmp-cut-part-000020.parquet").write_bytes(b"half")
    done = subprocess.run(command(), cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{ROWS - 1} answers and 1 rows" in done.stdout
    assert all(part.stat().st_mtime_ns == time_ns for part, time_ns in made.items())
    assert not list((repo / "out").glob(".tmp-*"))

    # the same as one process, to the row
    alone = predict(
        "--input",
        "rows.parquet",
        "--output",
        "alone.parquet",
        "--columns",
        "message=text",
        "--variant",
        "f16",
    )
    assert alone.exit_code == 0, alone.output
    assert answers(repo / "out") == [
        {name: row[name] for name in ("id", "action", "product", "quantity")}
        for row in parquet.read_table(repo / "alone.parquet").to_pylist()
    ]
    (rejected,) = [
        json.loads(line) for path in (repo / "out").glob("*.rejected.jsonl") for line in path.open()
    ]
    assert (rejected["id"], "text" in rejected["reason"]) == (35, True)
    again = subprocess.run(command(), cwd=repo, capture_output=True, text=True)
    assert f"{ROWS - 1} answers" in again.stdout
    assert "messages/s" not in again.stdout, "nothing is left to ask"


def test_partitions_hold_every_row_once(repo: Path, asked: Path) -> None:
    rows = parquet.read_table(asked).to_pylist()
    (repo / "two").mkdir()
    with (repo / "two/b.jsonl").open("w") as file:
        file.write("\n".join([*(json.dumps(row) for row in rows), "", "[1]"]))
    parquet.write_table(pa.Table.from_pylist(rows), repo / "two/a.parquet", row_group_size=13)
    for size in (1, 5, 13, ROWS, 1000):
        filesystem, files = partitions.list_files(f"file://{repo}/two")
        parts = partitions.plan(filesystem, [file.path for file in files], size)
        found = [record for part in parts for _, record in partitions.records(filesystem, part)]
        assert [record["text"] for record in found[: 2 * ROWS] if isinstance(record, dict)] == [
            row["text"] for row in rows
        ] * 2
        assert [type(record) for record in found[2 * ROWS :]] == [str, str]
        assert [part.number for part in parts] == list(range(len(parts)))


def test_what_cannot_be_read_or_written_is_one_line(repo: Path, asked: Path, predict: Predict) -> None:
    def on_ray(*arguments: str) -> Any:
        return predict("--ray", "--variant", "f16", *arguments)

    good = ("--input", "rows.parquet", "--columns", "message=text")
    failed(on_ray("--input", "rows.parquet", "--output", "out"), "no column 'message'", "--columns")
    failed(on_ray("--input", "gone.parquet", "--output", "out"), "gone.parquet", "no file")
    failed(on_ray("--input", "ftp://host/rows.parquet", "--output", "out"), "ftp://host", "cannot be opened")
    failed(on_ray("milk"), "--input and --output")
    (repo / "taken").mkdir()
    (repo / "taken/notes.txt").touch()
    failed(on_ray(*good, "--output", "taken"), "something else", "another output")
    (repo / "out").mkdir()
    (repo / "out" / cluster.MANIFEST).write_text(json.dumps({"key": {"input": "other"}, "partitions": []}))
    failed(on_ray(*good, "--output", "out"), "another input", "--anew")
    (repo / "rows.parquet").write_bytes(b"PAR1 not really")
    failed(on_ray(*good, "--output", "new"), "rows.parquet")
    assert not (repo / "new").exists()
