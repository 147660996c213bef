"""What a process that dies by a signal is told as, with real processes that kill themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cartlm.bench import llama_tools, runner
from cartlm.errors import UserError
from cartlm.system import llama_cpp_build, processes
from tests import ROOT

DEATHS = [
    ("SIGSEGV", "Segmentation fault", "make doctor"),
    ("SIGKILL", "out of memory?", "lower the batch sizes"),
    ("SIGTERM", "Terminated", "run it again"),
]  # all signals: tests/unit/system/test_processes.py
STAGE = """
import os, signal, sys, time
import click
from cartlm import command
from cartlm.errors import UserError

@command.command
@click.argument("how")
def main(how: str) -> None:
    print("begun", os.getpid(), flush=True)
    if how.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, how))
    elif how == "wait":
        time.sleep(600)
    elif how == "refuse":
        raise UserError("no", "yes")
    command.done({"how": how})

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "toy_stage.py").write_text(STAGE)
    return tmp_path


def stage(folder: Path, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "toy_stage.py", how], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


@pytest.mark.parametrize(("name", "words", "next_command"), DEATHS)
def test_a_stage_that_dies_is_told(folder: Path, name: str, words: str, next_command: str) -> None:
    running = stage(folder, name)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 2
    assert said.count("\n") == 1
    assert said.startswith(f"cartlm: error: toy_stage {name}: killed by {name}")
    assert words in said
    assert next_command in said.rpartition("; ")[2]


@pytest.mark.parametrize(("how", "code"), [("well", 0), ("refuse", 2)])
def test_a_stage_that_lives_ends_as_it_did(folder: Path, how: str, code: int) -> None:
    running = stage(folder, how)
    said, errors = running.communicate(timeout=60)
    assert running.returncode == code
    assert errors == ("cartlm: error: no; yes\n" if code else "")
    assert ('{"how": "well"}' in said) is not code


@pytest.mark.parametrize(
    ("sent", "words"), [(signal.SIGTERM, "killed by SIGTERM"), (signal.SIGINT, "interrupted")]
)
def test_what_is_sent_to_a_stage_reaches_it(folder: Path, sent: signal.Signals, words: str) -> None:
    running = stage(folder, "wait")
    assert running.stdout is not None
    worker = int(running.stdout.readline().split()[1])
    running.send_signal(sent)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 2
    assert words in said
    assert gone(worker)


def test_kill_9_leaves_nothing_running(folder: Path) -> None:
    running = stage(folder, "wait")
    assert running.stdout is not None
    worker = int(running.stdout.readline().split()[1])
    running.kill()
    running.wait()
    assert gone(worker)


def gone(pid: int) -> bool:
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_dvc_shows_it(folder: Path) -> None:
    (folder / "dvc.yaml").write_text("stages:\n  toy:\n    cmd: python toy_stage.py SIGSEGV\n")
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True, env=environ)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"], cwd=folder, capture_output=True, text=True, env=environ
    )
    assert done.returncode != 0
    assert "toy_stage SIGSEGV: killed by SIGSEGV: Segmentation fault; make doctor" in done.stderr
    assert "failed to reproduce 'toy'" in done.stderr


def tools(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Stand-ins for llama.cpp's tools."""
    for name, text in scripts.items():
        path = folder / name.replace("_", "-")
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setattr(llama_cpp_build, "tool", lambda name: folder / name)


def told(error: pytest.ExceptionInfo[UserError], name: str, words: str, next_command: str) -> None:
    assert f"killed by {name}" in error.value.message
    assert words in error.value.message
    assert next_command in error.value.hint


@pytest.mark.parametrize(("name", "words", "next_command"), DEATHS)
def test_a_tool_that_dies(tmp_path: Path, name: str, words: str, next_command: str) -> None:
    """By process.run: the converter, llama-quantize, llama-imatrix, the GPTQ worker."""
    command = [sys.executable, "-c", f"import os, signal; os.kill(os.getpid(), signal.{name})"]
    with pytest.raises(UserError) as error:
        processes.run_logged(command, log=tmp_path / "log", writes=tmp_path / "out", hint="check models/f16")
    told(error, name, words, next_command)


@pytest.mark.parametrize(("name", "words", "next_command"), DEATHS[:2])
def test_llama_bench_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str, next_command: str
) -> None:
    tools(tmp_path, monkeypatch, llama_bench=f"#!/bin/sh\necho loading >&2\nkill -{name[3:]} $$\n")
    with pytest.raises(UserError) as error:
        llama_tools.llama_bench(tmp_path / "model.gguf", 8, 2, 1)
    told(error, name, words, next_command)


SERVER = """#!{python}
import http.server, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def do_POST(self):
        os.kill(os.getpid(), signal.{name})
if {early}:
    os.kill(os.getpid(), signal.{name})
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(("name", "words", "next_command"), DEATHS[:2])
def test_llama_server_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str, next_command: str, early: bool
) -> None:
    """Before it answers, and in the middle of what it is asked."""
    tools(tmp_path, monkeypatch, llama_server=SERVER.format(python=sys.executable, name=name, early=early))
    with pytest.raises(UserError) as error, llama_tools.server(tmp_path / "model.gguf", 2, 64, 1) as port:
        llama_tools.load(port, [[1], [2]], 2, 4)
    told(error, name, words, next_command)
    assert "model.gguf" in error.value.message


@pytest.mark.parametrize(("name", "words", "next_command"), DEATHS[:2])
def test_a_measured_worker_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str, next_command: str
) -> None:
    """The worker is a Python that kills itself as soon as it starts."""
    (tmp_path / "sitecustomize.py").write_text(f"import os, signal; os.kill(os.getpid(), signal.{name})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError) as error:
        runner.run_worker({"kind": "queries", "model": "models/q8_0", "device": "cpu"})
    told(error, name, words, next_command)
    assert "measuring models/q8_0" in error.value.message
