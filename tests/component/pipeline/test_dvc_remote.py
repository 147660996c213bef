"""`cartlm pull` and `cartlm push` in a small DVC repository, against remotes that lack something or everything."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from cartlm import cli

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

    def cartlm(self, *command: str) -> subprocess.CompletedProcess[str]:
        """In this process."""
        with contextlib.chdir(self.path):
            done = CliRunner().invoke(cli.main, command)
        return subprocess.CompletedProcess(command, done.exit_code, done.stdout, done.stderr)

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


def second_version(repo: Repo) -> None:
    """Another commit's dvc.lock, whose models were not pushed; data/ and the cache are the first one's."""
    repo.cartlm("push")
    lock = (repo.path / "dvc.lock").read_text("utf-8")
    model, paid = (hashlib.md5(text).hexdigest() for text in (b"1\n1\n", b""))
    assert model in lock
    assert paid in lock
    (repo.path / "dvc.lock").write_text(lock.replace(model, "a" * 32).replace(paid, "b" * 32), "utf-8")


def test_what_cannot_be_replaced_stays(repo: Repo) -> None:
    """`dvc checkout --allow-missing` removes it: paid answers, too."""
    second_version(repo)
    shutil.rmtree(repo.path / "data/rows")  # something that does come
    came = repo.cartlm("pull")
    assert came.returncode == 0, came.stderr
    assert (
        came.stderr == "warning: the DVC remote shared lacks data/model, data/paid; make repro makes them\n"
    )
    assert (repo.path / "data/model").read_text() == "1\n1\n"
    assert (repo.path / "data/paid").exists()
    assert (repo.path / "data/rows/train").exists()


def test_what_was_changed_here_stays_and_is_named(repo: Repo) -> None:
    """Its content is in no cache, so nothing could bring it back."""
    repo.cartlm("push")
    (repo.path / "data/model").write_text("mine\n")
    came = repo.cartlm("pull")
    assert came.returncode == 0, came.stderr
    (line,) = came.stderr.splitlines()
    assert line.startswith("warning: kept data/model")
    assert line.endswith("dvc checkout --force data/model")
    assert (repo.path / "data/model").read_text() == "mine\n"


def test_a_container_makes_no_folder_to_push_to(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARTLM_IMAGE", "cpu")
    failed(repo.cartlm("push"), "the folder of the DVC remote shared is not there: ")
    assert not (repo.path.parent / "remote").exists()
    (repo.path.parent / "remote").mkdir()
    assert repo.cartlm("push").returncode == 0


def test_a_stage_is_told_that_its_inputs_are_others(repo: Repo) -> None:
    """Models of another branch, which git ignores, and so keeps at a checkout."""

    def check(stage: str = "paid") -> subprocess.CompletedProcess[str]:
        return repo.cartlm("check-inputs", stage)

    assert (check().returncode, check().stderr) == (0, "")
    (repo.path / "data/model").write_text("other\n")
    failed(
        check(),
        "data/model is not as in dvc.lock",
        "dvc checkout --force data/model",
        "make repro",
    )
    assert check("model").returncode == 0  # reads only the rows
    (repo.path / "data/model").unlink()
    failed(check(), "data/model is not as in dvc.lock")
    failed(check("nobody"), "nobody", "dvc status -v")


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


@pytest.mark.parametrize("cut", [False, True], ids=["refused", "cut short"])
def test_what_the_remote_has_and_does_not_give_is_no_lack(repo: Repo, cut: bool) -> None:
    """A server that has the model, and then does not give it: DVC only logs that, and takes the file for missing."""
    remote = repo.path.parent / "remote"
    remote.mkdir()
    assert repo.cartlm("push").returncode == 0
    stored = hashlib.md5(b"1\n1\n", usedforsecurity=False).hexdigest()[2:]
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            # the first one asks whether it is there
            if not self.path.endswith(stored) or asked.count(self.path) == 1:
                super().do_GET()
            elif not cut:
                self.send_error(403)
            else:
                self.send_response(200)
                self.send_header("Content-Length", "4")
                self.end_headers()
                self.wfile.write(b"1\n")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(remote)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    repo.dvc("remote", "modify", "shared", "url", f"http://127.0.0.1:{server.server_port}")
    repo.forget()
    failed(
        repo.cartlm("pull"),
        "dvc pull failed: ",
        "" if cut else "403, message='Forbidden', url='http://127.0.0.1",
        "dvc pull -v",
    )
    server.shutdown()
    assert (repo.path / "data/rows/train").read_text() == "1\n", "what came before it"
    assert (repo.path / "data/paid").exists(), "and what came after"
    assert not (repo.path / "data/model").exists()


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
