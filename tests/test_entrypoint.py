"""docker/entrypoint.py as real processes on a real DVC repository: what a killed container leaves, who holds it off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cartlm import stage

ENTRYPOINT = Path(__file__).resolve().parents[1] / "docker/entrypoint.py"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository whose one stage copies a file."""
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  copy:\n    cmd: cp in out\n    deps: [in]\n    outs: [out]\n"
    )
    (tmp_path / "in").write_text("text")
    return tmp_path


def leave(repo: Path) -> Path:
    """What dvc leaves when it is killed in a stage; the number is that of a process which runs: this one."""
    write = {str(repo / "out"): {"pid": os.getpid(), "cmd": "dvc repro"}}
    path = repo / ".dvc/tmp/rwlock"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"read": {}, "write": write}))
    return path


def enter(repo: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ENTRYPOINT, *command], cwd=repo, capture_output=True, text=True, timeout=120
    )


@contextmanager
def container(repo: Path) -> Iterator[None]:
    """Another one that runs meanwhile."""
    script = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, ENTRYPOINT, sys.executable, "-c", script],
        cwd=repo, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        yield
        process.stdin.close()


def test_what_a_killed_container_left_is_cleared(repo: Path) -> None:
    leave(repo)
    dvc = [sys.executable, "-m", "dvc", "repro"]
    alone = subprocess.run(dvc, cwd=repo, capture_output=True, text=True)
    assert alone.returncode != 0, "DVC itself tells that process apart now: the entrypoint has nothing to do"
    assert "is busy" in alone.stderr + alone.stdout
    done = enter(repo, *dvc)
    assert done.returncode == 0, done.stderr
    assert (repo / "out").read_text() == "text"
    assert "removed" in done.stderr
    assert done.stderr.count("\n") == 1


def test_not_while_another_container_is_here(repo: Path) -> None:
    with container(repo):
        left = leave(repo)
        assert enter(repo, "true").returncode == 0
        assert left.exists()
    assert enter(repo, "true").returncode == 0
    assert not left.exists()


def test_not_while_a_stage_runs_outside(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = leave(repo)
    monkeypatch.chdir(repo)
    with stage.alone("finetune"):
        done = enter(repo, "true")
        assert left.exists()
        assert "runs/locks/finetune is held" in done.stderr
    enter(repo, "true")
    assert not left.exists()


def test_not_while_dvc_works_outside(repo: Path) -> None:
    left = leave(repo)
    code = "from dvc.repo import Repo; repo = Repo(); repo.lock.lock(); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=repo, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        assert "dvc" in (done := enter(repo, "true")).stderr, done.stderr
        assert left.exists()
        process.stdin.write(b"\n")
        process.stdin.close()
    enter(repo, "true")
    assert not left.exists()


def test_a_lock_that_dvc_emptied_says_nothing(repo: Path) -> None:
    path = leave(repo)
    path.write_text('{"read": {}, "write": {}}')
    assert enter(repo, "true").stderr == ""
    assert path.exists()


def test_exit_code_and_signals_are_the_command_s(repo: Path) -> None:
    assert enter(repo, "sh", "-c", "exit 7").returncode == 7
    assert enter(repo, "sh", "-c", "kill -9 $$").returncode == -9


def test_outside_of_a_repository_the_command_just_runs(tmp_path: Path) -> None:
    assert enter(tmp_path, "echo", "here").stdout == "here\n"
    assert not list(tmp_path.iterdir())


def test_a_command_that_is_not_there(repo: Path) -> None:
    done = enter(repo, "no-such-command")
    assert done.returncode == 127
    assert done.stderr.startswith("cartlm: error: no-such-command does not start: No such file")
    assert done.stderr.count("\n") == 1
