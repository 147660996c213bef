"""`cartlm predict --ray` on a Ray of this machine: the answers of one process, whatever dies on the way."""

from __future__ import annotations

import csv
import importlib
import json
import os
import pickle
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from cartlm.errors import UserError
from cartlm.serving import cluster, folder, partition_rows, partitions
from cartlm.serving.cluster import Worker
from cartlm.serving.file_run import answers_key
from tests.component.serving.conftest import Predict, failed
from tests.fixtures.baseline import write_baseline
from tests.fixtures.ray_runs import answers, kill_worker_and_driver, parts
from tests.fixtures.servers import free_port
from tests.fixtures.shared import full_disk
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


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_driver_lose_and_repeat_nothing(
    repo: Path, asked: Path, predict: Predict
) -> None:
    log = repo / "log.txt"
    kill_worker_and_driver(command("--workers", "1"), repo, repo / "out", log, (2, 8))
    lines = [line for line in re.split(r"[\r\n]+", log.read_text()) if line]
    assert lines, "the progress"
    assert all(line.startswith("predict: ") for line in lines), lines
    made = {part: part.stat().st_mtime_ns for part in (repo / "out").glob("part-*.parquet")}
    assert 8 <= len(made) < ROWS // 4
    (repo / "out/.tmp-cut-part-000020.parquet").write_bytes(b"half")
    done = subprocess.run(command(), cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{ROWS - 1} answers and 1 row " in done.stdout
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
    assert answers(*parts(repo / "out")) == answers(repo / "alone.parquet")
    (rejected,) = rejects(repo / "out")
    assert (rejected["id"], "text" in rejected["reason"]) == (35, True)
    again = subprocess.run(command(), cwd=repo, capture_output=True, text=True)
    assert f"{ROWS - 1} answers" in again.stdout
    assert "messages/s" not in again.stdout, "nothing is left to ask"


@pytest.mark.slow
def test_what_fails_in_a_worker_is_one_line(repo: Path, asked: Path) -> None:
    data = bytearray(asked.read_bytes())
    data[8:40] = b"\x07" * 32
    asked.write_bytes(data)
    done = subprocess.run(command(), cwd=repo, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    *others, last = done.stderr.splitlines()
    assert "rows.parquet cannot be read" in last
    assert last.startswith("cartlm: error: ")
    assert last.endswith("--anew")
    assert all(line.startswith("predict: ") for other in others for line in other.split("\r") if line), others


class Dying:
    """A worker that one partition kills each time."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        if json.loads(batch["partition"][0])["number"]:
            os._exit(1)
        return {"answered": [1], "rejected": [0], "failed": [""]}


@pytest.mark.slow
def test_a_part_that_kills_every_worker_or_that_none_can_import_ends_the_run(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "RETRIES", 1)
    job = cluster.ClusterJob("rows.jsonl", "out", "f16")
    parts = [partitions.Partition(at, "rows.jsonl", at + 1, 1, at + 1, 1) for at in range(2)]
    with cluster._ray(job):
        with pytest.raises(UserError, match="workers died 2 times on one part"):
            cluster._answer(Dying, (), parts, 1)
        (repo / "only_here.py").write_text("class Worker:\n    pass\n")
        monkeypatch.syspath_prepend(repo)
        with pytest.raises(UserError, match=r"No module named 'only_here'.*install the same cartlm on every"):
            cluster._answer(importlib.import_module("only_here").Worker, (), parts, 1)


@pytest.fixture
def on_ray(repo: Path, predict: Predict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Predict:
    """`cartlm predict --ray`, its one worker in this process instead of Ray."""
    write_baseline(repo / "models/baseline/model.json")

    @contextmanager
    def connected(job: cluster.ClusterJob) -> Iterator[int]:
        yield 1

    def answer(worker: Any, arguments: Any, left: list[partitions.Partition], size: int) -> dict[str, float]:
        actor = worker(*pickle.loads(pickle.dumps(arguments)))
        with monkeypatch.context() as elsewhere:  # a worker's own folder
            elsewhere.chdir(tmp_path)
            return asked_of(actor, left)

    def asked_of(actor: Any, left: list[partitions.Partition]) -> dict[str, float]:
        for part in left:
            if failed := actor({"partition": [json.dumps(asdict(part))]})["failed"][0]:
                raise UserError(failed)
        return {}

    monkeypatch.setattr(cluster, "_ray", connected)
    monkeypatch.setattr(cluster, "_answer", answer)

    def run(*arguments: str | Path) -> Any:
        return predict("--ray", "--variant", "baseline", "--partition", "4", *arguments)

    return run


def good(count: int = 10) -> list[dict[str, Any]]:
    return [
        {"id": f"a{at}", "message": row.message, "catalog": row.catalog}
        for at, row in enumerate(toy_rows(count))
    ]


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def column(folder: Path, name: str) -> list[Any]:
    return [
        value
        for part in sorted(folder.glob("part-*.parquet"))
        for value in parquet.read_table(part)[name].to_pylist()
    ]


def rejects(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("*.rejected.jsonl")) for line in path.open()]


def test_partitions_hold_every_row_once(repo: Path, asked: Path) -> None:
    rows = parquet.read_table(asked).to_pylist()
    (repo / "two").mkdir()
    with (repo / "two/b.jsonl").open("w") as file:
        file.write("\n".join([*(json.dumps(row) for row in rows), "", " ", "[1]", json.dumps(rows[0])]))
    parquet.write_table(pa.Table.from_pylist(rows), repo / "two/a.parquet", row_group_size=13)
    names = ("text", "id", "catalog")
    for size in (1, 5, 13, ROWS, 1000):
        source = partitions.list_files(f"file://{repo}/two", str(repo / "out"))
        contents = [partitions.survey(source, name, {*names}, size) for name in source.names]
        parts = partitions.plan(contents, size)
        reader = partition_rows.PartitionReader(source, names)
        found = [record for part in parts for record in reader.records(part)]
        texts = [record["text"] for _, record in found[: 2 * ROWS] if isinstance(record, dict)]
        assert texts == [row["text"] for row in rows] * 2
        assert [(line, type(record)) for line, record in found[2 * ROWS :]] == [
            (ROWS + 3, str),
            (ROWS + 4, dict),
        ]
        assert [line for line, _ in found[: 2 * ROWS]] == [*range(1, ROWS + 1)] * 2
        assert [part.number for part in parts] == list(range(len(parts)))
        assert [part.start for part in parts] == [
            1 + sum(part.rows for part in parts[:at]) for at in range(len(parts))
        ]


def test_a_worker_decodes_a_row_group_once_however_many_partitions_it_has(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition of its own costs the rows before it in its group, and none behind it but those of its last batch."""
    rows, size, decoded, whole = 20_000, 150, list[int](), parquet.ParquetFile.iter_batches

    def counting(*arguments: Any, **options: Any) -> Iterator[Any]:
        for batch in whole(*arguments, **options):
            decoded.append(batch.num_rows)
            yield batch

    def parts(group: int) -> list[partitions.Partition]:
        parquet.write_table(table, repo / "in/rows.parquet", row_group_size=group)
        return partitions.plan([partitions.survey(source, "rows.parquet", {"id"}, size)], size)

    def cost(*asked: partitions.Partition, workers: int = 1) -> int:
        """How many rows were decoded, by workers that take turns."""
        decoded.clear()
        readers = [partition_rows.PartitionReader(source, ("id",)) for _ in range(workers)]
        for at, part in enumerate(asked):
            found = [*readers[at % workers].records(part)]
            wanted = range(part.first, part.first + part.rows)
            assert found == [(line, {"id": line}) for line in wanted]
        return sum(decoded)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", counting)
    table = pa.table({"id": range(1, rows + 1), "other": ["x"] * rows})
    (repo / "in").mkdir()
    jsonl(repo / "in/rows.parquet", [])
    source = partitions.list_files(str(repo / "in"), str(repo / "out"))
    every = parts(rows)
    assert cost(*every) == rows
    assert rows < cost(*every, workers=3) <= 3 * rows
    assert cost(every[20]) == 4000
    assert cost(every[20], every[2], every[3]) == 5000, "one that is tried again begins anew"
    every = parts(300)
    assert cost(*every) == rows
    assert cost(every[0], every[100]) == 2000, "no group between two of its partitions"


@pytest.mark.parametrize("group", [2000, 20_000])
def test_a_worker_holds_only_the_batch_that_it_has_reached(repo: Path, group: int) -> None:
    """While a partition is answered, which takes minutes; of files with one row group, and with many."""
    texts = [os.urandom(400).hex() for _ in range(20_000)]
    parquet.write_table(pa.table({"text": texts}), repo / "rows.parquet", row_group_size=group)
    source = partitions.list_files(str(repo / "rows.parquet"), str(repo / "out"))
    (part, *_) = partitions.plan([partitions.survey(source, "rows.parquet", {"text"}, 500)], 500)
    before, reader = pa.total_allocated_bytes(), partition_rows.PartitionReader(source, ("text",))
    assert len([*reader.records(part)]) == 500
    assert pa.total_allocated_bytes() - before < 6e6, "of 16 MB"


def test_a_bad_row_is_rejected_as_by_one_process_and_the_others_are_answered(
    repo: Path, on_ray: Predict, predict: Predict
) -> None:
    row, rows = good()[0], good(5)
    bad: list[Any] = [
        row | {"message": "te\ud83d"},
        row | {"id": "\ud83d"},
        row | {"message": "x\x00"},
        '{"message": ',
        '{"message": "tea", "message": "tee"}',
        "[" * 5000,
        "5",
        " ",
        row | {"id": [1]},
        row | {"catalog": ["Tea", "Tea"]},
    ]
    jsonl(repo / "rows.jsonl", [*rows, *bad, row])
    with (repo / "rows.jsonl").open("ab") as file:
        file.write(b'{"id": "h", "message": "caf\xe9"}\n')
    done = on_ray("--input", "rows.jsonl", "--output", "out")
    assert done.exit_code == 0, done.output
    assert "6 answers and 10 rows without one" in done.stdout
    assert column(repo / "out", "id") == [*(each["id"] for each in rows), "a0"]
    found = rejects(repo / "out")
    assert [(each["file"], each["line"]) for each in found] == [
        ("rows.jsonl", line) for line in (*range(6, 13), 14, 15, 17)
    ]
    plain = predict("--variant", "baseline", "--input", "rows.jsonl", "--output", "alone.parquet")
    assert plain.exit_code == 0, plain.output
    alone = [json.loads(line) for line in (repo / "alone.parquet.rejected.jsonl").open()]
    places = [{name: each[name] for name in ("line", "id", "reason")} for each in found]
    assert places == alone
    assert answers(*parts(repo / "out")) == answers(repo / "alone.parquet")
    words = (
        "half of a",
        "half of a",
        "U+0000",
        "not JSON",
        "twice",
        "nested",
        "not a JSON object",
        "[1]",
        "twice",
        "UTF-8",
    )
    for each, word in zip(found, words, strict=True):
        assert word in each["reason"]


def test_bad_values_of_parquet_are_rejected_and_numbers_that_no_int64_holds_are_text(
    repo: Path, on_ray: Predict
) -> None:
    texts = [each["message"].encode() for each in good(6)]
    texts[2] = b"\xff\xfe"
    table = pa.table(
        {
            "ID": pa.array([1, 2, 3, 4, None, 2**64 - 1], pa.uint64()),
            "message": pa.array(texts).view(pa.string()),
            "catalog": [each["catalog"] for each in good(6)],
            "other": pa.array([b"\xff"] * 6).view(pa.string()),
        }
    )
    parquet.write_table(table, repo / "rows.parquet")
    done = on_ray("--input", "rows.parquet", "--output", "out")
    assert done.exit_code == 0, done.output
    assert column(repo / "out", "id") == ["1", "2", "4", str(2**64 - 1)]
    assert [(each["line"], each["reason"][:5]) for each in rejects(repo / "out")] == [
        (3, "not U"),
        (5, "nothi"),
    ]
    parquet.write_table(table.set_column(0, "id", pa.array(range(6), pa.uint32())), repo / "small.parquet")
    assert on_ray("--input", "small.parquet", "--output", "small").exit_code == 0
    assert column(repo / "small", "id") == [0, 1, 3, 4, 5]


def test_a_broken_page_is_one_line_that_names_the_file(repo: Path, on_ray: Predict) -> None:
    path = repo / "in/rows.parquet"
    path.parent.mkdir()
    parquet.write_table(pa.Table.from_pylist(good(40)), path, compression="gzip", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[60:300] = b"\x07" * 240
    path.write_bytes(data)
    failed(
        on_ray("--input", "in", "--output", "out"),
        "in/rows.parquet cannot be read",
        "fix or remove the file",
    )


def test_files_count_their_rows_together_and_differ_in_no_column(repo: Path, on_ray: Predict) -> None:
    rows = [{"message": each["message"], "catalog": each["catalog"]} for each in good(6)]
    jsonl(repo / "in/a.jsonl", [json.dumps({"note": "the first row is no order"}), *rows])
    jsonl(repo / "in/b.jsonl", [])
    jsonl(repo / "in/c/d.NDJSON", ["\ufeff" + json.dumps(rows[0]), *rows[1:3], "", *rows[3:]])
    jsonl(repo / "in/.hidden.jsonl", rows)
    done = on_ray("--input", "in", "--output", "in/out")
    assert done.exit_code == 0, done.output
    assert column(repo / "in/out", "id") == [*range(2, 14)]
    assert [(each["file"], each["line"], each["id"]) for each in rejects(repo / "in/out")] == [
        ("a.jsonl", 1, 1)
    ]
    again = on_ray("--input", "in", "--output", "in/out")
    assert "12 answers" in again.stdout, again.output  # what it wrote is not read
    jsonl(repo / "in/out/mine.jsonl", rows)  # and nothing else there
    assert "12 answers" in on_ray("--input", "in", "--output", "in/out").stdout
    (repo / "in/out/mine.jsonl").unlink()
    assert "12 answers" in on_ray("--input", "in", "--output", "second").stdout
    failed(on_ray("--input", "in", "--output", "in"), "both --output and --input")

    parquet.write_table(
        pa.Table.from_pylist([{"ID": at, **row} for at, row in enumerate(rows)]), repo / "in/e.parquet"
    )
    failed(on_ray("--input", "in", "--output", "third"), "a.jsonl has no column 'id', and e.parquet has one")
    (repo / "mixed").mkdir()
    (repo / "in/e.parquet").rename(repo / "mixed/e.parquet")
    parquet.write_table(
        pa.Table.from_pylist([{"id": at, **row} for at, row in enumerate(rows)]), repo / "mixed/f.parquet"
    )
    assert on_ray("--input", "mixed", "--output", "fourth").exit_code == 0
    assert column(repo / "fourth", "id") == [*range(6)] * 2
    assert not (repo / "third").exists()


def test_a_file_is_read_once_whatever_links_to_it_and_a_dead_link_is_refused(repo: Path) -> None:
    (repo / "in/deep.jsonl").mkdir(parents=True)
    for name in ("one.jsonl", "deep.jsonl/two.jsonl"):
        jsonl(repo / "in" / name, good(2))
    for link, target in (
        ("again", "."),
        ("also", "."),
        ("deep.jsonl/up", ".."),
        ("a.jsonl", "one.jsonl"),
        ("named.jsonl", ".hidden.jsonl"),
        ("z.jsonl", "rows.txt"),
    ):
        (repo / "in" / link).symlink_to(target)
    for name in ("elsewhere/three.jsonl", "in/.hidden.jsonl", "in/rows.txt"):
        jsonl(repo / name, good(1))
    (repo / "in/linked").symlink_to(repo / "elsewhere")
    (repo / "in/notes.txt").symlink_to("nowhere")

    def names() -> list[str]:
        return list(partitions.list_files(str(repo / "in"), str(repo / "out")).names)

    assert names() == ["deep.jsonl/two.jsonl", "linked/three.jsonl", "named.jsonl", "one.jsonl", "z.jsonl"]
    for target in ("nowhere", "dead.jsonl"):
        (repo / "in/dead.jsonl").symlink_to(target)
        with pytest.raises(UserError, match=r"in/dead\.jsonl is no file.*; remove it"):
            names()
        (repo / "in/dead.jsonl").unlink()
    os.mkfifo(repo / "in/pipe.jsonl")
    with pytest.raises(UserError, match=r"in/pipe\.jsonl is no file"):
        names()


@pytest.mark.parametrize(
    ("name", "delimiter"), [("it's $HOME.csv", ","), ("Excel.CSV", ";"), ("rows.tsv", "\t")]
)
def test_the_command_that_converts_csv_does(repo: Path, name: str, delimiter: str) -> None:
    rows = [{"id": str(at), "message": f"{at} x, y; z", "catalog": "Tea\nOat Milk"} for at in range(3)]
    with (repo / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]], delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(UserError) as found:
        partitions.list_files(str(repo / name), str(repo / "out"))
    command = found.value.hint[found.value.hint.index("python -c") :].replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True)
    made = parquet.read_table((repo / name).with_suffix(".parquet")).to_pylist()
    assert [{**row, "id": str(row["id"])} for row in made] == rows


def test_no_command_converts_what_is_no_local_csv(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import fs

    for name in ("rows.jsonl.gz", "rows.csv"):
        (repo / name).write_text("message\n")
    store = fs.SubTreeFileSystem(str(repo), fs.LocalFileSystem())
    with pytest.raises(UserError) as found:
        partitions.list_files(str(repo / "rows.jsonl.gz"), str(repo / "out"))
    assert "python" not in found.value.hint
    monkeypatch.setattr(partitions, "open_url", lambda url: (store, url.removeprefix("s3://")))
    with pytest.raises(UserError) as found:
        partitions.list_files("s3://rows.csv", "s3://out")
    assert "python" not in found.value.hint


def test_a_begun_run_goes_on_by_the_contents_of_its_input(
    repo: Path, on_ray: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = jsonl(repo / "in/rows.jsonl", good())
    assert on_ray("--input", "in", "--output", "out").exit_code == 0
    (repo / "out/part-000001.parquet").unlink()
    before = {part: part.stat().st_mtime_ns for part in (repo / "out").glob("part-*")}
    os.utime(path, (1, 1))
    (repo / "in").rename(repo / "moved")
    (repo / "elsewhere").mkdir()
    monkeypatch.chdir(repo / "elsewhere")  # relative paths are made absolute for workers
    done = on_ray(
        "--input", "../moved", "--output", "../out", "--variant", repo / "models/baseline/model.json"
    )
    assert "10 answers" in done.stdout, done.output
    assert all(part.stat().st_mtime_ns == time_ns for part, time_ns in before.items())
    (repo / "moved/rows.jsonl").write_bytes(
        (repo / "moved/rows.jsonl").read_bytes().replace(b"please", b"plaese")
    )
    jsonl(repo / "moved/rows.jsonl", [*good()[1:], good()[0]])
    failed(on_ray("--input", "../moved", "--output", "../out"), "another input", "--anew")


def test_another_partition_is_named_as_the_option_is(repo: Path, on_ray: Predict) -> None:
    jsonl(repo / "rows.jsonl", good())
    run = ("--input", "rows.jsonl", "--output", "out")
    assert on_ray(*run).exit_code == 0
    failed(on_ray(*run, "--partition", "3"), "out was made with another partition;", "--anew")


def test_a_baseline_that_came_or_went_makes_another_run(repo: Path, on_ray: Predict) -> None:
    jsonl(repo / "rows.jsonl", good())
    baseline, run = repo / "models/baseline/model.json", ("--input", "rows.jsonl", "--variant", "f16")
    assert on_ray(*run, "--output", "with").exit_code == 0
    (repo / "with/part-000001.parquet").unlink()
    baseline.unlink()
    failed(on_ray(*run, "--output", "with"), "with was made with another learned, baseline", "--anew")
    assert on_ray(*run, "--output", "without").exit_code == 0
    write_baseline(baseline)
    failed(on_ray(*run, "--output", "without"), "without was made with another learned, baseline", "--anew")


@pytest.mark.parametrize("there", [True, False])
def test_a_worker_with_another_baseline_than_the_driver_is_named(
    repo: Path, on_ray: Predict, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    jsonl(repo / "rows.jsonl", good())
    baseline = repo / "models/baseline/model.json"

    class Elsewhere(cluster.Worker):
        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            write_baseline(baseline) if there else baseline.unlink(missing_ok=True)
            return super().__call__(batch)

    if there:
        baseline.unlink()
    monkeypatch.setattr(cluster, "Worker", Elsewhere)
    done = on_ray("--input", "rows.jsonl", "--output", "out", "--variant", "f16")
    failed(done, "has another learned, baseline of", "give every machine the same cartlm, model, baseline")
    assert not parts(repo / "out")


def test_a_package_that_a_worker_lacks_is_named(
    repo: Path, on_ray: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    jsonl(repo / "rows.jsonl", good())
    for error in (ModuleNotFoundError("No module named 'llama_cpp'"), PackageNotFoundError("llama_cpp")):

        def lacks(*_: Any, error: ImportError = error, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(cluster, "load", lacks)
        done = on_ray("--input", "rows.jsonl", "--output", "out")
        failed(done, socket.gethostname(), "llama_cpp", "install the same cartlm on every machine")


def test_anew_removes_only_what_a_run_wrote_and_a_kill_leaves_a_whole_run(
    repo: Path, on_ray: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    jsonl(repo / "rows.jsonl", [*good(), good()[0] | {"message": ""}])
    assert on_ray("--input", "rows.jsonl", "--output", "out").exit_code == 0
    mine = {"notes.txt", "part-of-mine.parquet", "part-000000.csv", "part-000777.parquet"}
    for name in mine:
        (repo / "out" / name).write_text("mine")
    jsonl(repo / "fewer.jsonl", good(5))
    failed(on_ray("--input", "fewer.jsonl", "--output", "out"), "another input", "--anew")

    def killed(self: folder.Folder, name: str, data: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(folder.Folder, "write", killed)
        failed(on_ray("--input", "fewer.jsonl", "--output", "out", "--anew"), "interrupted")
    done = on_ray("--input", "rows.jsonl", "--output", "out")  # the first run again
    assert "10 answers and 1 row " in done.stdout, done.output
    assert "5 answers and 0 rows" in on_ray("--input", "fewer.jsonl", "--output", "out", "--anew").stdout
    assert {path.name for path in (repo / "out").iterdir()} == {
        *mine, "manifest.json", ".lock", "part-000000.parquet", "part-000001.parquet",
    }  # fmt: skip


def test_a_run_without_a_part_is_replaced_beside_files_that_no_run_wrote(repo: Path, on_ray: Predict) -> None:
    jsonl(repo / "rows.jsonl", good())
    assert on_ray("--input", "rows.jsonl", "--output", "out").exit_code == 0
    for part in parts(repo / "out"):
        part.unlink()
    (repo / "out/part-000777.parquet").write_text("mine")
    jsonl(repo / "fewer.jsonl", good(5))
    assert on_ray("--input", "fewer.jsonl", "--output", "out").exit_code == 0
    assert (repo / "out/part-000777.parquet").read_text() == "mine"


def orphan(job: cluster.ClusterJob, manifest: dict[str, Any]) -> dict[str, Any]:
    """What a worker of the run with this manifest, whose driver is dead, makes of its second part."""
    part, key = manifest["partitions"][1], manifest["key"]
    source = partitions.list_files(job.input, job.output)
    columns = {name: name for name in ("id", "message", "catalog")}
    return Worker(job, source, key, columns, False)({"partition": [json.dumps(part)]})


def test_a_worker_of_a_dead_run_does_not_write_into_the_next_one(
    repo: Path, on_ray: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    jsonl(repo / "rows.jsonl", good())
    run = ("--input", "rows.jsonl", "--output", "out", "--variant", "f16")
    model = str(repo / "models/f16/model.gguf")
    job = cluster.ClusterJob(str(repo / "rows.jsonl"), str(repo / "out"), model, 4, decoding="free")
    free = answers_key(model, "free", None, None)
    assert on_ray(*run, "--decoding", "free").exit_code == 0
    manifest = repo / "out/manifest.json"
    first = json.loads(manifest.read_text())
    assert first["key"].items() >= free.items()
    assert on_ray(*run, "--anew").exit_code == 0
    made = {path: path.read_bytes() for path in (repo / "out").iterdir()}
    (late,) = orphan(job, first)["failed"]
    assert "out is another run's by now" in late
    assert {path: path.read_bytes() for path in (repo / "out").iterdir()} == made

    # it may have asked just before the next run began
    with monkeypatch.context() as patch:
        patch.setattr(folder.Folder, "check_run", lambda *_: None)
        assert orphan(job, first)["failed"] == [""]
    (repo / "out/part-000001.rejected.jsonl").write_text("{}\n")
    part = repo / "out/part-000001.parquet"
    assert part.read_bytes() != made[part]
    done = on_ray(*run)
    assert done.exit_code == 0, done.output
    assert "10 answers and 0 rows" in done.stdout
    assert "messages/s" in done.stdout
    assert not rejects(repo / "out")
    assert None not in column(repo / "out", "confidence"), "no free answer"

    class Overtaken(cluster.Worker):
        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            found = super().__call__(batch)
            with monkeypatch.context() as patch:
                patch.setattr(folder.Folder, "check_run", lambda *_: None)
                orphan(job, first)
            return found

    monkeypatch.setattr(cluster, "Worker", Overtaken)
    part.unlink()
    failed(on_ray(*run), "part-000001.parquet", "another run", "same command again")


def test_a_second_run_is_refused_and_deletes_nothing_of_the_first(repo: Path, on_ray: Predict) -> None:
    jsonl(repo / "rows.jsonl", good())
    running = folder.Folder(str(repo / "out"))
    with running.locked():
        temporary = repo / "out/.tmp-of-the-first-part-000000.parquet"
        temporary.write_bytes(b"half")
        failed(on_ray("--input", "rows.jsonl", "--output", "out"), "another process is writing", "out")
        assert temporary.exists()
    jsonl(repo / "fewer.jsonl", good(5))
    assert on_ray("--input", "rows.jsonl", "--output", "out").exit_code == 0
    assert not temporary.exists()
    temporary.write_bytes(b"half")
    failed(on_ray("--input", "fewer.jsonl", "--output", "out"), "another input")
    assert temporary.exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "5", "null", '{"key": {}}', '{"key": 5, "partitions": []}', '{"key": {}, "partitions": [5]}',
             '{"key": {}, "partitions": [{"number": 1}]}', '{"key": {}, "partitions": 7}', "\udcff"],
)  # fmt: skip
def test_a_manifest_of_another_program_is_named(repo: Path, on_ray: Predict, text: str) -> None:
    jsonl(repo / "rows.jsonl", good())
    (repo / "out").mkdir()
    (repo / "out" / partitions.MANIFEST).write_text(text, "utf-8", "surrogateescape")
    for more in ((), ("--anew",)):
        failed(
            on_ray("--input", "rows.jsonl", "--output", "out", *more),
            "out/manifest.json",
            "name another output",
        )
    assert len(list((repo / "out").iterdir())) == 1


def test_a_refused_command_does_not_block_the_corrected_one(repo: Path, on_ray: Predict) -> None:
    jsonl(repo / "rows.jsonl", good())
    options = ("--input", "rows.jsonl", "--output", "out", "--variant", "f16")
    failed(on_ray(*options, "--decoding", "ensemble"), "no margin")
    done = on_ray(*options)
    assert done.exit_code == 0, done.output
    assert "out: confidence is the model's own probability" in done.stderr
    assert json.loads((repo / "out/manifest.json").read_text())["calibrated"] is False


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(repo: Path, on_ray: Predict) -> None:
    jsonl(repo / "rows.jsonl", good(60))
    for size, there in ((100, 0), (2000, 1)):
        with full_disk(size):
            done = on_ray("--input", "rows.jsonl", "--output", "out", "--partition", "60")
        failed(done, "out/", "cannot be written: File too large", "free some space", "same command")
        assert len(list((repo / "out").glob("manifest.json"))) == there
        assert not list((repo / "out").glob(".tmp-*"))
    done = on_ray("--input", "rows.jsonl", "--output", "out", "--partition", "60")
    assert "60 answers" in done.stdout, done.output


def test_ray_that_does_not_answer_or_start_is_one_line(
    repo: Path, predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    jsonl(repo / "rows.jsonl", good())
    write_baseline(repo / "models/baseline/model.json")
    options = ("--variant", "baseline", "--input", "rows.jsonl", "--output", "out")
    failed(
        predict("--ray", f"127.0.0.1:{free_port()}", *options),
        "no Ray cluster answers at 127.0.0.1",
        "refused",
    )
    failed(predict("--ray", "somewhere", *options), "somewhere", "HOST:PORT")
    monkeypatch.setattr(cluster, "CONNECT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        failed(predict("--ray", address, *options), "no Ray cluster answers at", "within 1 s")
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "long/" * 30)
    failed(predict("--ray", *options), "Ray does not start here", "without --ray")
    assert not (repo / "out/manifest.json").exists()


def test_options_that_ray_does_not_read_or_that_need_it_are_refused(repo: Path, predict: Predict) -> None:
    options = ("--input", "rows.jsonl", "--output", "out.jsonl")
    failed(predict(*options, "--workers", "2"), "--workers goes with --ray")
    failed(predict(*options, "--partition", "2"), "--partition goes with --ray")
    failed(predict("--ray", *options, "--details"), "--details goes with a message")
    failed(predict("milk", "--catalog", "c.txt", "--workers", "2"), "--workers goes with --ray")


def test_what_cannot_be_read_or_written_is_one_line(repo: Path, asked: Path, predict: Predict) -> None:
    def on_ray(*arguments: str) -> Any:
        return predict("--ray", "--variant", "f16", *arguments)

    good = ("--input", "rows.parquet", "--columns", "message=text")
    failed(on_ray("--input", "rows.parquet", "--output", "out"), "no column 'message'", "--columns")
    failed(on_ray("--input", "gone.parquet", "--output", "out"), "gone.parquet is not there")
    failed(on_ray("--input", "ftp://host/rows.parquet", "--output", "out"), "ftp://host", "cannot be opened")
    for url in (
        "",
        "gs://",
        "s3://",
        "s3://BIG letters/x",
        "file://host/x",
        "gs://b/x?retry_limit_seconds=1",
    ):
        failed(on_ray(*good, "--output", url), url.partition("?")[0], "cannot be")
        failed(on_ray("--input", url, "--output", "out"), url.partition("?")[0], "cannot be")
    (repo / "rows.csv").write_text("message,catalog\ntea,Tea\n")
    failed(on_ray("--input", "rows.csv", "--output", "out"), "rows.csv", "python -c", "rows.parquet")
    for name, text, word in (
        ("empty", "", "holds no rows"),
        ("array", "[\n{}\n]", "array"),
        ("zip", "PK\x03\x04", "zip"),
    ):
        (repo / f"{name}.jsonl").write_text(text)
        failed(on_ray("--input", f"{name}.jsonl", "--output", "out"), f"{name}.jsonl", word)
    failed(on_ray("milk"), "--input and --output")
    (repo / "taken").mkdir()
    (repo / "taken/notes.txt").touch()
    failed(on_ray(*good, "--output", "taken"), "something else", "another output")
    (repo / "out").mkdir()
    other = {
        "key": {"input": "other"},
        "partitions": [asdict(partitions.Partition(0, "a.jsonl", 1, 1, 1, 1))],
    }
    (repo / "out" / partitions.MANIFEST).write_text(json.dumps(other))
    (repo / "out/part-000000.parquet").touch()
    failed(on_ray(*good, "--output", "out"), "another input", "--anew")
    (repo / "rows.parquet").write_bytes(b"PAR1 not really")
    failed(on_ray(*good, "--output", "new"), "rows.parquet")
    assert not (repo / "new").exists()
