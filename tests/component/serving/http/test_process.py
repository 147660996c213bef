"""`cartlm serve` as a process: what it prints, and what signals leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner

from cartlm import cli
from cartlm.system import processes
from tests import ROOT
from tests.component.serving.conftest import failed
from tests.fixtures.baseline import write_baseline
from tests.fixtures.http_service import wait_for

KEY = "key-of-a-test"
SLOWLY = """
import time
from cartlm import cli
from cartlm.baseline.engine import Baseline
answer = Baseline.answer
def slow(*given):
    time.sleep(0.05)
    return answer(*given)
Baseline.answer = slow
cli.main()
"""
"""The command line, whose baseline takes 50 ms for a message."""
BODY = {"message": "add two tea", "catalog": ["Tea", "Oat Milk 1 l"]}
IN_FLIGHT = 24


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
            [sys.executable, "-c", SLOWLY, "serve", "models/baseline/model.json", "--port", "0", *options],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=file, text=True,
            preexec_fn=processes.die_with_parent,
        )  # fmt: skip
    assert popen.stdout
    line = popen.stdout.readline()
    assert " answers with baseline" in line, log.read_text()
    return Process(popen, line.split()[0], log)


def ask_many(process: Process, pool: ThreadPoolExecutor) -> Sequence[Future[httpx2.Response]]:
    """Requests, one a connection, when all but the one that is read wait in the queue."""

    def ask() -> httpx2.Response:
        with process.client() as client:
            return client.post("/v1/intents", json=BODY)

    asked = [pool.submit(ask) for _ in range(IN_FLIGHT)]
    wait_for(lambda: process.waiting() + sum(each.done() for each in asked) >= IN_FLIGHT - 1)
    assert process.waiting() > 2
    return asked


@pytest.mark.slow
def test_a_kill_loses_no_catalog_and_a_termination_no_request(tmp_path: Path) -> None:
    write_baseline(tmp_path / "models/baseline/model.json")
    first = start(tmp_path)
    with ThreadPoolExecutor(IN_FLIGHT) as pool, first.client() as client:
        lines = ["Tea", "Čarape (par)"]
        assert client.put("/v1/catalogs/shop", json={"lines": lines}).status_code == 201
        asked = ask_many(first, pool)
        first.popen.send_signal(signal.SIGKILL)
        outcomes = [each.exception() or each.result().status_code for each in asked]
    # each is answered or its client is told
    assert {outcome for outcome in outcomes if not isinstance(outcome, httpx2.TransportError)} <= {200}
    assert any(isinstance(outcome, httpx2.TransportError) for outcome in outcomes)
    assert first.popen.wait(20) == -signal.SIGKILL

    second = start(tmp_path)
    with ThreadPoolExecutor(IN_FLIGHT) as pool, second.client() as client:
        assert client.get("/v1/catalogs/shop").json()["lines"] == lines
        asked = ask_many(second, pool)
        second.popen.send_signal(signal.SIGTERM)
        answers = [each.result() for each in asked]
    assert [each.status_code for each in answers] == [200] * IN_FLIGHT
    assert {json.dumps(each.json()["intent"]) for each in answers} == {
        '{"action": "add", "product": "Tea", "quantity": 2}'
    }
    assert second.popen.wait(60) == 0
    events = [json.loads(line)["event"] for line in second.log.read_text().splitlines()]
    assert (events[0], events[-1]) == ("ready", "stopped")
    assert KEY not in second.log.read_text()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{second.url}/healthz", trust_env=False)


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
