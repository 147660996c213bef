"""The service on Ray Serve: two replicas answer as one process does, from the config file of the docs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from cartlm.errors import UserError
from cartlm.serving.http import ray_app
from cartlm.serving.reader import load
from tests import ROOT
from tests.fixtures.servers import free_port
from tests.fixtures.toy import toy_rows

SERVE_RUN = [sys.executable, "-c", "from ray.serve.scripts import cli; cli()", "run"]


def ask(port: int, path: str, body: dict[str, Any] | None = None, key: str = "right") -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
def test_replicas_answer_as_one_process_does(repo: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "docs/assets/ray-serve.yaml").read_text())
    (application,) = config["applications"]
    application["runtime_env"]["env_vars"]["CARTLM_API_KEY"] = "right"
    application["args"] |= {"here": str(repo), "variants": ["f16"], "catalogs": str(tmp_path / "catalogs.db")}
    application["deployments"][0]["autoscaling_config"]["min_replicas"] = 2
    config["http_options"]["port"] = port = free_port()
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config))
    environment = {
        **os.environ,
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [*SERVE_RUN, str(tmp_path / "serve.yaml")]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen(command, env=environment, **quiet)
    try:
        _wait(port, running)
        rows = toy_rows()
        with load(repo / "models/f16") as reader:
            wanted = [reader.predict(row.catalog, row.message).intent for row in rows]
        for row, intent in zip(rows, wanted, strict=True):
            status, found = ask(port, "/v1/intents", {"catalog": row.catalog, "message": row.message})
            assert (status, found["intent"]["product"]) == (200, intent.product)
            assert (found["intent"]["action"], found["intent"]["quantity"]) == (
                intent.action,
                intent.quantity,
            )
        assert ask(port, "/v1/models", key="wrong")[0] == 401
    finally:  # Ray's own end takes minutes on a busy machine
        processes = [*psutil.Process(running.pid).children(recursive=True), psutil.Process(running.pid)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        running.wait()


def _wait(port: int, running: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError, ValueError):  # Ray's proxy answers before the application does
            if ask(port, "/healthz")[0] == 200:
                return
        assert running.poll() is None, "it ended early"
        time.sleep(0.5)
    raise AssertionError("it does not answer")


@pytest.mark.parametrize("wrong", [{"variants": []}, {"threads": 0}, {"speed": 1}])
def test_wrong_options_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        ray_app.app({"variants": ["f16"], "catalogs": "catalogs.db", **wrong})


def test_a_replica_needs_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CARTLM_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="needs a key"):
        ray_app.make(ray_app.Options(variants=["f16"], catalogs=tmp_path / "catalogs.db"))


def test_the_key_of_the_docs_is_refused_before_a_replica_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = yaml.safe_load((ROOT / "docs/assets/ray-serve.yaml").read_text())
    (application,) = config["applications"]
    monkeypatch.setenv("CARTLM_API_KEY", application["runtime_env"]["env_vars"]["CARTLM_API_KEY"])
    with pytest.raises(UserError, match="everyone knows"):
        ray_app.app(application["args"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="everyone knows"):
        ray_app.make(ray_app.Options(variants=["f16"], catalogs=tmp_path / "catalogs.db"))
