"""docker/entrypoint.py as real processes on a real DVC repository: it clears the lock that a killed container left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import ROOT

ENTRYPOINT = ROOT / "docker/entrypoint.py"


DVC = f"{sys.prefix}/bin/dvc repro"  # as DVC of an image writes it, where the image's environment is this one
NATIVE = "/home/somebody/.venv/bin/dvc repro"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose one stage copies a file; not to be changed."""
    folder = tmp_path_factory.mktemp("fresh")
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True)
    (folder / "dvc.yaml").write_text(
        "stages:\n  copy:\n    cmd: cp in out\n    deps: [in]\n    outs: [out]\n"
    )
    (folder / "in").write_text("text")
    return folder


@pytest.fixture
def repo(fresh: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fresh, tmp_path / "repo"))


def leave_lock(repo: Path, command: str = DVC) -> Path:
    """The lock of a dvc killed in a stage; its process id belongs to a process that runs: this one."""
    entry = {"pid": os.getpid(), "cmd": command}
    path = repo / ".dvc/tmp/rwlock"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"write": {str(repo / "out"): entry}, "read": {str(repo / "in"): [entry]}}))
    return path


def held(path: Path) -> bool:
    return '"pid"' in path.read_text()


def enter(repo: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ENTRYPOINT, *command], cwd=repo, capture_output=True, text=True, timeout=120
    )


@contextmanager
def container(repo: Path) -> Iterator[None]:
    """Another container, running meanwhile."""
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


def test_the_lock_of_a_killed_container_is_cleared(repo: Path) -> None:
    leave_lock(repo)
    dvc = [sys.executable, "-m", "dvc", "repro"]
    alone = subprocess.run(dvc, cwd=repo, capture_output=True, text=True)
    assert alone.returncode != 0, "DVC recognises such a lock itself now: the entrypoint is not needed"
    assert "is busy" in alone.stderr + alone.stdout
    done = enter(repo, *dvc)
    assert done.returncode == 0, done.stderr
    assert (repo / "out").read_text() == "text"
    assert "rwlock, which a killed container left" in done.stderr


def test_dvc_of_an_image_is_known_by_its_command(repo: Path) -> None:
    """The prefix is what DVC writes while a stage runs."""
    (repo / "dvc.yaml").write_text(
        "stages:\n  copy:\n    cmd: cp .dvc/tmp/rwlock out\n    deps: [in]\n    outs: [out]\n"
    )
    for dvc in ([sys.executable, "-m", "dvc"], [f"{Path(sys.executable).parent}/dvc"]):
        subprocess.run([*dvc, "repro", "-f"], cwd=repo, check=True, capture_output=True)
        entries = json.loads((repo / "out").read_text())
        commands = {entry["cmd"] for entry in entries["write"].values()}
        assert commands
        assert all(command.startswith(f"{sys.prefix}/") for command in commands)


def test_not_while_another_container_is_here(repo: Path) -> None:
    with container(repo):
        left = leave_lock(repo)
        assert enter(repo, "true").returncode == 0
        assert held(left)
    assert enter(repo, "true").returncode == 0
    assert not held(left)


def test_a_lock_from_outside_of_containers_is_never_touched(repo: Path) -> None:
    left = leave_lock(repo, NATIVE)
    before = left.read_text()
    assert enter(repo, "true").stderr == ""
    assert left.read_text() == before


def test_a_live_run_outside_goes_on(repo: Path) -> None:
    """A container starts while a stage of the host runs, which holds no lock but DVC's entry."""
    slow = (
        "stages:\n  copy:\n    cmd: touch started && sleep 3 && cp in out\n    deps: [in]\n    outs: [out]\n"
    )
    (repo / "dvc.yaml").write_text(slow)
    script = f"import sys; sys.argv[0] = '{NATIVE.split()[0]}'; from dvc.cli import main; sys.exit(main(['repro']))"
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=repo, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as host:
        while not (repo / "started").exists():
            assert host.poll() is None
            time.sleep(0.02)
        assert held(repo / ".dvc/tmp/rwlock")
        assert enter(repo, "true").returncode == 0
        output = host.communicate()[0]
    assert host.returncode == 0, output
    assert (repo / "out").read_text() == "text"


def test_a_file_of_another_user_is_no_hindrance(repo: Path) -> None:
    """Only for reading, as where another user's container made it."""
    left = leave_lock(repo)
    (repo / ".dvc/tmp/cartlm-containers").touch(0o444)
    assert "cannot be read" not in enter(repo, "true").stderr
    assert not held(left)


def test_a_lock_that_dvc_emptied_is_left_alone(repo: Path) -> None:
    path = leave_lock(repo)
    path.write_text('{"read": {}, "write": {}}')
    assert enter(repo, "true").stderr == ""
    assert path.read_text() == '{"read": {}, "write": {}}'


def test_exit_code_and_signals_are_the_command_s(repo: Path) -> None:
    assert enter(repo, "sh", "-c", "exit 7").returncode == 7
    assert enter(repo, "sh", "-c", "kill -9 $$").returncode == -9


def test_outside_of_a_repository_the_command_just_runs(tmp_path: Path) -> None:
    assert enter(tmp_path, "echo", "here").stdout == "here\n"
    assert not list(tmp_path.iterdir())


def test_a_read_only_mount_of_one_s_own_is_enough_to_look(repo: Path) -> None:
    mounted = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && cd "$0" && exec "$@"'

    def look(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", mounted, repo, *command], capture_output=True, text=True
        )

    if look("true").returncode != 0:
        pytest.skip("mounts need root and its capabilities")
    assert look("touch", "out").returncode != 0
    done = look(sys.executable, str(ENTRYPOINT), "cat", "in")
    assert (done.returncode, done.stdout, done.stderr) == (0, "text", "")


def test_a_command_that_is_not_there(repo: Path) -> None:
    done = enter(repo, "no-such-command")
    assert done.returncode == 127
    assert done.stderr.startswith("cartlm: error: no-such-command does not start: No such file")
    assert done.stderr.count("\n") == 1
