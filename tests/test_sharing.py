"""`cartlm pull` and `cartlm push` in a small DVC repository, against remotes that lack something or everything."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PIPELINE = """
stages:
  data: {cmd: mkdir -p data/rows && echo 1 > data/rows/train && echo 2 > data/rows/test, outs: [data/rows]}
  model: {cmd: cat data/rows/train data/rows/train > data/model, deps: [data/rows], outs: [data/model]}
  paid: {cmd: touch data/paid, deps: [data/model], outs: [data/paid: {persist: true}]}
"""


@dataclass(frozen=True)
class Repo:
    path: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=self.path, capture_output=True, text=True)

    def git(self, *arguments: str) -> None:
        done = self.run("git", "-c", "user.name=t", "-c", "user.email=t@example.invalid", *arguments)
        assert done.returncode == 0, done.stderr

    def dvc(self, *arguments: str) -> None:
        done = self.run(sys.executable, "-m", "dvc", *arguments)
        assert done.returncode == 0, done.stderr

    def cartlm(self, command: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "cartlm.cli", command)

    def forget(self) -> None:
        """As a fresh clone: no data, no cache."""
        shutil.rmtree(self.path / "data", ignore_errors=True)
        shutil.rmtree(self.path / ".dvc/cache", ignore_errors=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repo = Repo(tmp_path_factory.mktemp("sharing") / "made")
    repo.path.mkdir()
    repo.git("init", "-q", "-b", "main")
    repo.dvc("init", "-q")
    (repo.path / ".gitignore").write_text("/data/\n", "utf-8")
    (repo.path / "dvc.yaml").write_text(PIPELINE, "utf-8")
    (repo.path / "gpu").mkdir()
    never_run = "stages:\n  g: {wdir: .., cmd: touch data/g, outs: [data/g]}\n"
    (repo.path / "gpu/dvc.yaml").write_text(never_run, "utf-8")
    repo.dvc("repro", "-q")
    repo.dvc("remote", "add", "-q", "-d", "shared", "../remote")
    repo.git("add", "-A")
    repo.git("commit", "-q", "-m", "made")
    return repo.path


@pytest.fixture
def repo(made: Path, tmp_path: Path) -> Repo:
    """The machine that made it all; the remote beside it is not there yet."""
    shutil.copytree(made, tmp_path / "repo", symlinks=True)
    return Repo(tmp_path / "repo")


def failed(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("cartlm: error: ")
    for word in words:
        assert word in line


def test_what_is_pushed_comes_back(repo: Repo) -> None:
    went = repo.cartlm("push")
    assert (went.returncode, went.stderr) == (0, "")
    assert went.stdout.startswith("5 files went to shared")
    repo.forget()
    came = repo.cartlm("pull")
    assert (came.returncode, came.stderr) == (0, "")
    assert came.stdout == "4 files came from shared; 3 of 3 outputs are here\n"
    assert (repo.path / "data/rows/train").read_text() == "1\n"
    assert repo.cartlm("pull").stdout == "0 files came from shared; 3 of 3 outputs are here\n"


def test_what_the_remote_lacks_is_named_and_the_rest_comes(repo: Repo) -> None:
    """`dvc pull` would leave out all of it."""
    repo.cartlm("push")
    repo.forget()
    shutil.rmtree(next((repo.path.parent / "remote/files/md5").glob("26")))  # data/rows/test
    came = repo.cartlm("pull")
    assert came.returncode == 0, came.stderr
    assert came.stderr == "warning: the DVC remote shared lacks data/rows; make repro makes them\n"
    assert came.stdout.endswith("2 of 3 outputs are here\n")
    assert (repo.path / "data/model").read_text() == "1\n1\n"


def test_a_remote_that_is_gone_or_empty(repo: Repo) -> None:
    repo.forget()
    failed(
        repo.cartlm("pull"),
        "the folder of the DVC remote shared is not there: ",
        "dvc remote modify --local shared",
    )
    (repo.path.parent / "remote").mkdir()
    failed(repo.cartlm("pull"), "remote shared cannot be reached, or has none of the 3 outputs", "make push")
    repo.dvc("remote", "modify", "shared", "url", "http://127.0.0.1:9/nobody")
    failed(repo.cartlm("pull"), "remote shared cannot be reached, or has none of the 3 outputs")


def test_a_push_names_what_is_not_here(repo: Repo) -> None:
    (repo.path / "data/model").unlink()
    cached = [path for path in (repo.path / ".dvc/cache/files/md5").rglob("*") if path.is_file()]
    for path in cached:
        if path.read_bytes() == b"1\n1\n":
            path.chmod(0o644)
            path.unlink()
    went = repo.cartlm("push")
    assert went.returncode == 0
    assert went.stderr == "warning: not here, so not pushed: data/model\n"
    repo.forget()
    failed(
        repo.cartlm("push"), "nothing of what dvc.lock lists is in DVC's cache here; make repro, or make pull"
    )


@pytest.mark.parametrize("command", ["pull", "push"])
def test_no_remote_and_one_whose_package_is_missing(repo: Repo, command: str) -> None:
    repo.dvc("remote", "modify", "shared", "url", "gs://nobody/here")
    if importlib.util.find_spec("dvc_gs") is None:
        failed(repo.cartlm(command), "requires 'dvc-gs' to be installed; pip install dvc-gs")
    repo.dvc("remote", "remove", "shared")
    failed(repo.cartlm(command), "no DVC remote is configured; dvc remote add -d NAME URL")


def test_nothing_was_made(repo: Repo) -> None:
    (repo.path / "dvc.lock").unlink()
    (repo.path.parent / "remote").mkdir()
    failed(repo.cartlm("pull"), "dvc.lock lists no output of the main graph")
    failed(repo.cartlm("push"), "nothing of what dvc.lock lists")
