"""`cartlm predict --ray` with a server of the S3 API: the answers of local files, and no key in what is printed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from pyarrow import parquet

from cartlm.serving import folder, partitions
from tests.component.serving.conftest import Predict, failed
from tests.component.serving.test_cluster import good, jsonl, on_ray  # noqa: F401 - a fixture
from tests.fixtures.baseline import write_baseline
from tests.fixtures.ray_runs import ANSWER, answers, parts
from tests.fixtures.s3 import SECRET, Store, s3_server
from tests.fixtures.servers import free_port


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with s3_server() as found:
        yield found


@pytest.fixture
def store(server: Store, repo: Path, request: pytest.FixtureRequest) -> Store:
    """Files in in/ of the bucket and of this folder: Parquet, JSON Lines below it, one row without a message, one broken."""
    rows = good(24)
    rows[5]["message"] = ""
    (repo / "in").mkdir()
    parquet.write_table(pa.Table.from_pylist(rows[:13]), repo / "in/a.parquet", row_group_size=5)
    jsonl(repo / "in/deep/b.jsonl", [*rows[13:], "not JSON"])
    server.upload(repo / "in", "in")
    jsonl(repo / "few/c.jsonl", good(3))
    server.upload(repo / "few", "few")
    return server


def known(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in ANSWER} for row in rows]


def test_a_killed_run_in_a_store_goes_on_to_the_answers_of_local_files(
    store: Store, repo: Path, on_ray: Predict, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    wrote, write = list[str](), folder.Folder.write

    def counted(self: folder.Folder, name: str, data: bytes) -> None:
        if len(wrote) == 5:
            raise KeyboardInterrupt
        wrote.append(name)
        write(self, name, data)

    options = ("--input", store.url("in"), "--output", store.url("out"))
    with monkeypatch.context() as patch:
        patch.setattr(folder.Folder, "write", counted)
        failed(on_ray(*options), "interrupted")
        first, wrote[:] = [*wrote], []
        assert store.names("out") == {*first}
        done = on_ray(*options)
    assert done.exit_code == 0, done.output
    assert "23 answers and 2 rows without one in s3://shop/out; " in done.stdout
    assert SECRET not in done.output
    assert not {*wrote} & {*first}, "made twice"
    assert store.names("out") == {*first, *wrote}

    assert on_ray("--input", "in", "--output", "local").exit_code == 0
    assert known(store.rows("out")) == answers(*parts(repo / "local"))
    for path in (repo / "local").glob("*.rejected.jsonl"):
        assert store.read(f"out/{path.name}") == path.read_bytes()
    here, there = (
        json.loads(data) for data in ((repo / "local/manifest.json").read_bytes(), store.read("out/manifest.json"))
    )  # fmt: skip
    assert here == there
    done = on_ray("--input", "in", "--output", store.url("out"))
    assert "23 answers" in done.stdout, "a local copy is the same input"


def test_anew_replaces_a_run_in_a_store_and_nothing_else_there(store: Store, on_ray: Predict) -> None:  # noqa: F811
    output = ("--output", store.url("again"))
    assert on_ray("--input", store.url("in"), *output).exit_code == 0
    store.write("again/notes.txt", b"mine")
    refused = on_ray("--input", store.url("few"), *output)
    failed(refused, "s3://shop/again was made with another input", "--anew")
    assert SECRET not in refused.output
    done = on_ray("--input", store.url("few"), *output, "--anew")
    assert "3 answers and 0 rows" in done.stdout, done.output
    assert store.names("again") == {"notes.txt", "manifest.json", "part-000000.parquet"}


def test_a_wrong_url_bucket_or_key_is_one_line_without_the_key(store: Store, on_ray: Predict) -> None:  # noqa: F811
    def refused(source: str, output: str, *words: str) -> None:
        done = on_ray("--input", source, "--output", output)
        failed(done, *words)
        for key in (SECRET, SECRET.replace("/", "%2F"), "endpoint_override="):
            assert key not in done.output

    there, new = store.url("in"), store.url("new")
    refused(store.url("in", "other"), new, "s3://other/in is not there")
    refused(
        there, store.url("new", "other"), "s3://other/new/manifest.json cannot be written", "check bucket"
    )
    refused(store.url("nothing"), new, "s3://shop/nothing is not there")
    refused(there, there, "s3://shop/in is both")
    refused(there.replace("%2F", "/"), new, "s3://shop/in cannot be opened", "%2F")
    refused(f"{there}&profile=mine", new, "s3://shop/in cannot be opened", "'profile'")
    with store.refusing():
        refused(there, new, "s3://shop/in cannot be read", "ACCESS_DENIED", "check bucket")
        refused("in", new, "s3://shop/new cannot be read", "INVALID_ACCESS_KEY_ID", "check bucket")
    store.write("csv/rows.csv", b"message\n")
    refused(store.url("csv"), new, "s3://shop/csv has no file of")
    assert not store.names("new")


@pytest.mark.slow
def test_an_endpoint_that_is_dead_is_one_line(on_ray: Predict, repo: Path) -> None:  # noqa: F811
    jsonl(repo / "rows.jsonl", good())
    url = f"s3://k:{SECRET.replace('/', '%2F')}@shop/x?endpoint_override=http://127.0.0.1:{free_port()}"
    done = on_ray("--input", "rows.jsonl", "--output", url)
    failed(done, "s3://shop/x cannot be read", "NETWORK_CONNECTION", "check bucket")
    assert "k:" not in done.output


def test_a_url_without_ray_is_refused(predict: Predict) -> None:
    options = ("--input", "rows.jsonl", "--output", "s3://k:secret@shop/x")
    failed(predict(*options, "--variant", "f16"), "s3://shop/x is a URL", "add --ray")


@pytest.mark.parametrize(
    ("url", "printed"),
    [
        ("s3://k:a/b@shop/in/a@b?region=x", "s3://shop/in/a@b"),
        ("s3://shop/a:b@c/", "s3://shop/a:b@c/"),
        ("s3://k:a?b@shop/in", "s3://shop/in"),
        ("abfs://container@account.dfs.core.windows.net/in?sas_token=x", "abfs://container@account.dfs.core.windows.net/in"),
        ("abfs://:key@account/in", "abfs://account/in"),
        ("hdfs://host:9000/a@b", "hdfs://host:9000/a@b"),
        ("/what?/a:b@c", "/what?/a:b@c"),
    ],
)  # fmt: skip
def test_a_url_is_printed_without_its_keys(url: str, printed: str) -> None:
    assert partitions.shown(url) == printed


@pytest.mark.slow
def test_a_killed_driver_on_ray_with_keys_of_the_environment(
    store: Store, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_baseline(repo / "models/baseline/model.json")
    keys = {"ACCESS_KEY_ID": "AKIA1", "SECRET_ACCESS_KEY": SECRET, "ENDPOINT_URL": f"http://{store.endpoint}"}
    for name, value in keys.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    command = [
        sys.executable, "-m", "cartlm.cli", "predict", "--ray", "--workers", "1", "--variant", "baseline",
        "--partition", "1", "--input", "s3://shop/in", "--output", "s3://shop/ray",
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=repo, stderr=subprocess.DEVNULL) as running:
        until = time.monotonic() + 300
        while len(store.names("ray")) < 4:
            assert running.poll() is None, "it ended early"
            assert time.monotonic() < until
            time.sleep(0.02)
        children = psutil.Process(running.pid).children(recursive=True)
        running.send_signal(signal.SIGKILL)
    psutil.wait_procs(children, timeout=60)
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "23 answers and 2 rows without one in s3://shop/ray;" in done.stdout
    rows = known(store.rows("ray"))
    assert [row["id"] for row in rows] == [f"a{at}" for at in range(24) if at != 5]
