"""The shell scripts of the workflows, run in git repositories made here."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests import ROOT
from tests.unit.docker.test_locks import LOCKS, pins

SCRIPTS = ROOT / ".github/scripts"


def git(folder: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=t", "-c", "user.email=t@t.test", "-c", "init.defaultBranch=main")
    done = subprocess.run(
        ["git", *settings, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout


class Branch:
    """A repository with a branch; `measured` is a clone of its first commit, `other` somebody else's clone."""

    def __init__(self, folder: Path) -> None:
        self.origin, self.measured, self.other = (folder / name for name in ("origin", "measured", "other"))
        git(folder, "init", "--quiet", "--bare", str(self.origin))
        git(folder, "clone", "--quiet", str(self.origin), str(self.other))
        self.commit(
            {"metrics/a.json": "1\n", "README.md": "table 1\n", "dvc.lock": "x: 1\n", "code.py": "1\n"}
        )
        git(folder, "clone", "--quiet", str(self.origin), str(self.measured))
        git(self.measured, "checkout", "--quiet", "--detach")
        self.patch = folder / "results.patch"

    def commit(self, files: dict[str, str]) -> None:
        self.write(self.other, files)
        git(self.other, "add", "--all")
        git(self.other, "commit", "--quiet", "--message", "more")
        git(self.other, "push", "--quiet", "origin", "HEAD:main")

    @staticmethod
    def write(folder: Path, files: dict[str, str]) -> None:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)

    def push(
        self, files: dict[str, str], branch: str = "main", *options: str
    ) -> subprocess.CompletedProcess[str]:
        """Run push_results.sh as bench.yml does: the patch is made on the measuring machine, the commit elsewhere."""
        self.write(self.measured, files)
        git(self.measured, "add", "--all")
        self.patch.write_text(git(self.measured, "diff", "--cached", "--binary"))
        git(self.measured, "reset", "--quiet", "--hard")
        script = [str(SCRIPTS / "push_results.sh"), branch, str(self.patch), "Measure", *options]
        return subprocess.run(script, cwd=self.measured, capture_output=True, text=True)

    def log(self) -> list[str]:
        return git(self.origin, "log", "--format=%an: %s", "main").splitlines()

    def show(self, path: str) -> str:
        return git(self.origin, "show", f"main:{path}")


@pytest.fixture
def branch(tmp_path: Path) -> Branch:
    return Branch(tmp_path)


RESULTS = {
    "metrics/a.json": "2\n",
    "metrics/bench/new.json": "3\n",
    "README.md": "table 2\n",
    "gpu/dvc.lock": "y\n",
}


def test_results_are_one_commit_on_the_branch(branch: Branch) -> None:
    done = branch.push(RESULTS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "pushed"
    assert branch.log() == ["github-actions[bot]: Measure", "t: more"]
    assert {name: branch.show(name) for name in RESULTS} == RESULTS


def test_nothing_changed_is_no_commit(branch: Branch) -> None:
    done = branch.push({})
    assert (done.returncode, done.stdout) == (0, "nothing changed\n")
    assert branch.log() == ["t: more"]


def test_a_branch_that_moved_is_rebased_on(branch: Branch) -> None:
    branch.commit({"code.py": "2\n"})
    done = branch.push(RESULTS)
    assert done.stdout.splitlines()[-1] == "pushed", done.stderr
    assert branch.log() == ["github-actions[bot]: Measure", "t: more", "t: more"]
    assert (branch.show("code.py"), branch.show("README.md")) == ("2\n", "table 2\n")


def test_other_results_on_the_branch_are_not_overwritten(branch: Branch) -> None:
    branch.commit({"README.md": "table 3\n"})
    done = branch.push(RESULTS)
    assert done.returncode == 2
    assert "main got other results meanwhile; start the benchmark again" in done.stderr
    assert branch.show("README.md") == "table 3\n"


@pytest.mark.parametrize("path", ["code.py", ".github/workflows/ci.yml", "docker/cpu.txt"])
def test_what_is_no_result_is_not_committed(branch: Branch, path: str) -> None:
    done = branch.push({**RESULTS, path: "evil\n"})
    assert done.returncode == 2
    assert f"these are no results: {path}" in done.stderr
    assert branch.log() == ["t: more"]


def test_a_nightly_branch_is_replaced_by_the_newest_results(branch: Branch) -> None:
    git(branch.other, "push", "--quiet", "origin", "HEAD:bench/cpu")
    first = branch.push({"metrics/a.json": "2\n"}, "bench/cpu", "--replace")
    git(branch.measured, "checkout", "--quiet", "--detach", "origin/main")  # the next night's checkout
    second = branch.push({"metrics/a.json": "3\n"}, "bench/cpu", "--replace")
    assert [each.stdout.splitlines()[-1] for each in (first, second)] == ["pushed", "pushed"]
    log = git(branch.origin, "log", "--format=%s", "bench/cpu").splitlines()
    assert log == ["Measure", "more"]
    assert git(branch.origin, "show", "bench/cpu:metrics/a.json") == "3\n"
    assert branch.log() == ["t: more"]
    for options in (["main", "--force"], ["main", "--replace"]):
        assert branch.push(RESULTS, *options).returncode == 2
    assert branch.log() == ["t: more"]


def test_what_is_no_name_of_a_branch_is_refused(branch: Branch) -> None:
    done = branch.push(RESULTS, branch="-f ../x")
    assert done.returncode == 2
    assert branch.log() == ["t: more"]


STUB = """#!/usr/bin/env bash
[ "$2 $3" = "cartlm.cli compare" ] && {{ echo "$*"; head -c "${{PADDING:-0}}" /dev/zero | tr '\\0' x; exit {code}; }}
[ "$2 $3 $4" = "cartlm.cli report --output" ] && {{ mkdir -p "$(dirname "$5")"; echo page >"$5"; exit {plots}; }}
[ "$2 $3 $4" = "cartlm.cli report --markdown" ] && {{ echo "Ship it"; exit 0; }}
[ "$2" = dvc ] && {{ mkdir -p "$6"; echo page >"$6/index.html"; exit {plots}; }}
"""


@pytest.mark.parametrize(("code", "plots"), [(0, 0), (1, 0), (2, 0), (1, 1)])
def test_a_report_keeps_the_verdict_and_is_whole(tmp_path: Path, code: int, plots: int) -> None:
    """Of what the branch did since it left the base, not of what the base did since."""
    branch = Branch(tmp_path)
    left = git(branch.measured, "rev-parse", "HEAD").strip()
    branch.commit({"code.py": "2\n"})
    git(branch.measured, "commit", "--quiet", "--allow-empty", "--message", "work")
    git(branch.measured, "fetch", "--quiet")
    head = git(branch.measured, "rev-parse", "HEAD").strip()
    python = tmp_path / "python"
    python.write_text(STUB.format(code=code, plots=plots))
    python.chmod(0o755)
    command = [str(SCRIPTS / "report.sh"), "origin/main", head, "report"]
    environ = {**os.environ, "PYTHON": str(python)}
    done = subprocess.run(command, cwd=branch.measured, env=environ, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    report = branch.measured / "report"
    assert f"compare --comment {left} {head}" in (report / "comment/comment.md").read_text()
    assert (report / "plots/index.html").exists() == (code < 2)
    assert ("Ship it" in (report / "comment/comment.md").read_text()) == (code < 2 and plots == 0)


@pytest.mark.parametrize(("padding", "fits"), [(60_000, True), (64_900, False)])
def test_a_report_stays_within_the_size_of_a_comment(tmp_path: Path, padding: int, fits: bool) -> None:
    branch = Branch(tmp_path)
    python = tmp_path / "python"
    python.write_text(STUB.format(code=0, plots=0))
    python.chmod(0o755)
    environ = {**os.environ, "PYTHON": str(python), "PADDING": str(padding)}
    command = [str(SCRIPTS / "report.sh"), "HEAD", "HEAD", "report"]
    done = subprocess.run(command, cwd=branch.measured, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (branch.measured / "report/comment/comment.md").read_text()
    assert len(text) >= padding
    assert ("Ship it" in text) == fits
    assert len(text) <= 65_000


def test_what_is_audited_is_every_pinned_version_and_llama_cpp_python() -> None:
    locks = [str(ROOT / f"docker/{name}.txt") for name in LOCKS]
    done = subprocess.run([str(SCRIPTS / "pins.sh"), *locks], capture_output=True, text=True)
    built = re.search(r"^VERSION=(\S+)$", (ROOT / "docker/llama_cpp.sh").read_text(), flags=re.M)
    assert built
    pinned = [f"{name}=={version}" for lock in LOCKS for name, version in pins(lock).items()]
    assert sorted(done.stdout.split()) == sorted({*pinned, f"llama-cpp-python=={built[1]}"})
