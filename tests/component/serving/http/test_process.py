"""`cartlm serve` as a process: what it prints, and what signals leave behind."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from socket import AF_INET
from threading import Thread
from typing import Any

import httpx2
import psutil
import pytest
from click.testing import CliRunner

from cartlm import cli
from cartlm.serving.http.limits import MAX_BODY, MAX_HEADERS, MAX_PATH
from cartlm.system import processes
from tests import ROOT
from tests.component.serving.conftest import failed
from tests.fixtures.baseline import write_baseline
from tests.fixtures.http_service import running, served, wait_for

KEY = "key-of-a-test"
HELD = """
import os, time
from cartlm import cli
from cartlm.baseline.engine import Baseline
answer = Baseline.answer
def held(*given):
    while os.path.exists("hold"):
        time.sleep(0.01)
    return answer(*given)
Baseline.answer = held
cli.main()
"""
"""The command line, whose baseline reads nothing while there is a file `hold`."""
BODY = {"message": "add two tea", "catalog": ["Tea", "Oat Milk 1 l"]}
IN_FLIGHT, MORE = 24, 3


@dataclass
class Process:
    popen: subprocess.Popen[str]
    url: str
    log: Path

    def client(self) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {KEY}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def waiting(self) -> float:
        with self.client() as client:
            lines = client.get("/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith("cartlm_queue_length{"))


def start(folder: Path, *options: str) -> Process:
    log = folder / "log"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CARTLM_API_KEY": KEY}
    with log.open("w") as file:
        popen = subprocess.Popen(
            [sys.executable, "-c", HELD, "serve", "models/baseline/model.json", "--port", "0", *options],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=file, text=True,
            preexec_fn=processes.die_with_parent,
        )  # fmt: skip
    assert popen.stdout
    line = popen.stdout.readline()
    assert " answers with baseline" in line, log.read_text()
    return Process(popen, line.split()[0], log)


def ask_many(process: Process, pool: ThreadPoolExecutor, more: int = 0) -> Sequence[Future[httpx2.Response]]:
    """Requests, one a connection, when all and so many `more` but the one that is read wait in the queue."""
    (process.log.parent / "hold").touch()

    def ask() -> httpx2.Response:
        with process.client() as client:
            return client.post("/v1/intents", json=BODY)

    asked = [pool.submit(ask) for _ in range(IN_FLIGHT)]
    wait_for(lambda: process.waiting() == IN_FLIGHT + more - 1)
    return asked


def write_many(process: Process, written: dict[str, int]) -> None:
    """Catalogs again and again until the service is gone; `written` has the last number of each that it said it wrote."""
    with process.client() as client, contextlib.suppress(httpx2.TransportError):
        for number in itertools.count():
            id = f"shop-{number % 50}"
            client.put(f"/v1/catalogs/{id}", json={"lines": [str(number)]}).raise_for_status()
            written[id] = number


def ask_on(process: Process) -> set[str]:
    """The ids of the requests that were answered, one after the other until the service is gone."""
    answered: set[str] = set()
    with process.client() as client, contextlib.suppress(httpx2.TransportError):
        while True:
            answered.add(client.post("/v1/intents", json=BODY).raise_for_status().headers["X-Request-Id"])
    return answered


def ask_unread(process: Process) -> HTTPConnection:
    """A connection with a request that was sent, whether the service reads it or not."""
    connection = HTTPConnection(process.url.removeprefix("http://"), timeout=60)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/intents", json.dumps(BODY), headers)
    return connection


@pytest.mark.slow
def test_a_kill_loses_no_catalog_and_a_termination_no_request(tmp_path: Path) -> None:
    write_baseline(tmp_path / "models/baseline/model.json")
    first = start(tmp_path)
    with ThreadPoolExecutor(IN_FLIGHT) as pool, first.client() as client:
        lines = ["Tea", "Čarape (par)"]
        assert client.put("/v1/catalogs/shop", json={"lines": lines}).status_code == 201
        written: dict[str, int] = {}
        writing = Thread(target=write_many, args=(first, written), daemon=True)
        writing.start()
        asked = ask_many(first, pool)
        wait_for(lambda: len(written) == 50)
        first.popen.send_signal(signal.SIGKILL)
        outcomes = [each.exception() or each.result().status_code for each in asked]
    assert all(isinstance(outcome, httpx2.TransportError) for outcome in outcomes)  # each client is told
    (tmp_path / "hold").unlink()
    writing.join()
    assert first.popen.wait(20) == -signal.SIGKILL

    second = start(tmp_path)
    with ThreadPoolExecutor(IN_FLIGHT + MORE) as pool, second.client() as client:
        assert client.get("/v1/catalogs/shop").json()["lines"] == lines
        for id, number in written.items():  # one more may have been written, and its answer lost
            assert int(client.get(f"/v1/catalogs/{id}").json()["lines"][0]) in (number, number + 50)
        more = [pool.submit(ask_on, second) for _ in range(MORE)]
        asked = ask_many(second, pool, MORE)
        second.popen.send_signal(signal.SIGSTOP)
        unread = [ask_unread(second) for _ in range(MORE)]
        second.popen.send_signal(signal.SIGTERM)
        time.sleep(0.3)  # as on a machine with more to do: uvicorn looks for the signal ten times a second
        second.popen.send_signal(signal.SIGCONT)
        wait_for(
            lambda: "Waiting for" in second.log.read_text()
        )  # uvicorn: no connection is accepted any more
        (tmp_path / "hold").unlink()
        answers = [each.result() for each in asked]
        late = [each.getresponse() for each in unread]
        received = (
            {each.headers["X-Request-Id"] for each in late}
            | set().union(*(each.result() for each in more))
            | {each.headers["X-Request-Id"] for each in answers}
        )
    assert [each.status_code for each in answers] == [200] * IN_FLIGHT
    assert [each.status for each in late] == [200] * MORE
    assert {json.dumps(each.json()["intent"]) for each in answers} == {
        '{"action": "add", "product": "Tea", "quantity": 2}'
    }
    assert second.popen.wait(60) == 0
    events = [json.loads(line) for line in second.log.read_text().splitlines()]
    assert (events[0]["event"], events[-1]["event"]) == ("ready", "stopped")
    read = [each for each in events if each.get("route") == "/v1/intents"]
    assert {each["status"] for each in read} == {200}
    assert {each["request_id"] for each in read} == received
    assert KEY not in second.log.read_text()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{second.url}/healthz", trust_env=False)


@pytest.mark.slow
def test_the_process_limits_path_headers_and_body(tmp_path: Path) -> None:
    """A little too much is answered, far too much is at least cut off, and the next request is answered."""
    write_baseline(tmp_path / "models/baseline/model.json")
    process = start(tmp_path)

    def parts(size: int) -> Iterator[bytes]:
        yield from (b" " * 2**16 for _ in range(size // 2**16))
        yield b" "

    with process.client() as client:
        room = MAX_PATH - len("/v1/models/")
        asked: list[tuple[int, str, str, dict[str, Any]]] = [
            (404, "GET", "/v1/models/" + "x" * room, {}),
            (414, "GET", "/v1/models/" + "x" * (room + 1), {}),
            (414, "GET", "/v1/catalogs?after=" + "x" * MAX_PATH, {}),
            (200, "GET", "/v1/models", {"headers": {"X-Large": "x" * (MAX_HEADERS - 1000)}}),
            (431, "GET", "/v1/models", {"headers": {"X-Large": "x" * MAX_HEADERS}}),
            (431, "GET", "/v1/models", {"headers": {"X-Large": "x" * 8 * MAX_HEADERS}}),
            (422, "POST", "/v1/intents", {"content": b" " * MAX_BODY}),
            (413, "POST", "/v1/intents", {"content": b" " * (MAX_BODY + 1)}),
            (413, "POST", "/v1/intents", {"content": parts(MAX_BODY)}),
            (413, "PUT", "/v1/catalogs/a", {"content": parts(2 * MAX_BODY)}),
        ]
        for status, method, path, options in asked:
            try:
                found = client.request(method, path, **options).status_code
            except httpx2.TransportError:  # it closed before all was sent
                found = 0
            # a head that uvicorn cannot hold is no request to it
            allowed = {status, 400, 0} if status == 431 else {status}
            assert found in allowed, (method, path[:30], options.keys())
        assert client.get("/healthz").status_code == 200
    process.popen.terminate()
    assert process.popen.wait(60) == 0


def test_without_a_key_no_other_address_is_answered(tmp_path: Path) -> None:
    """Over a connection of this machine's address in a network."""
    found = [
        each.address for many in psutil.net_if_addrs().values() for each in many if each.family == AF_INET
    ]
    outside = [address for address in found if not address.startswith("127.")]
    if not outside:
        pytest.skip("this machine has no address but 127.0.0.1")
    with served(tmp_path) as made, running(made.app, outside[0]) as url:
        for path in ("/v1/models", "/healthz", "/metrics", "/"):
            refused = httpx2.get(url + path, trust_env=False, headers={"Host": "localhost"})
            assert refused.status_code == 403
            assert "only this machine may ask" in refused.text


def test_mistakes_are_one_line_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CARTLM_API_KEY", raising=False)

    def serve(*options: str) -> object:
        return CliRunner().invoke(cli.main, ["serve", *options])

    def fails(options: Sequence[str], *words: str) -> None:
        failed(serve(*options), *words)  # type: ignore[arg-type]

    fails(["x.gguf", "--host", "0.0.0.0"], "without a key", "CARTLM_API_KEY", "--key-file")
    fails(["x.gguf", "--port", "70000"], "--port")
    fails(["x.gguf", "--key-file", "none"], "none is missing")
    fails([], "no params.yaml")
    (tmp_path / "notes.db").write_text("no database " * 999)
    fails(["x.gguf", "--port", "0", "--catalogs", "notes.db"], "notes.db", "--catalogs")
    fails(["x.gguf", "--port", "0"], "x.gguf is missing")


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    """In a process without uvicorn, before anything else is looked at."""
    code = "import sys; sys.modules['uvicorn'] = None; from cartlm import cli; cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "x.gguf"], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "uvicorn" in done.stderr
    assert "pip install -e '.[serve]'" in done.stderr


def test_the_command_line_imports_no_server_until_it_serves() -> None:
    code = "import sys, cartlm.cli; print({'fastapi', 'uvicorn', 'starlette', 'prometheus_client'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
