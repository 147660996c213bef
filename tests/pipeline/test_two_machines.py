"""Two machines share one git and one DVC remote: the first trains and pushes, the second pulls and measures."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.pipeline import toy_repo
from tests.pipeline.conftest import Run
from tests.pipeline.toy_repo import Repo

pytestmark = [
    pytest.mark.slow,
    pytest.mark.nightly,
    pytest.mark.timeout(1800),
]


@dataclass(frozen=True)
class Machines:
    """Two checkouts, and what they share."""

    trainer: Repo
    bench: Repo
    hub: Path  # a bare git repository
    remote: Path  # the DVC remote, a folder


def make(repo: Repo, *targets: str) -> str:
    """`make` with the set-up taken as done; its output."""
    if not (repo.path / ".venv").exists():
        (repo.path / ".venv").symlink_to(sys.prefix)
        (repo.path / ".git/info").mkdir(exist_ok=True)
        (repo.path / ".git/info/exclude").write_text(".venv\n", encoding="utf-8")
    done = repo.run("make", "-o", "setup", *targets)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def machines(first: Run, tmp_path_factory: pytest.TempPathFactory) -> Machines:
    """The trainer ran the graph, configured a remote, and pushed; the other cloned what git has."""
    folder = tmp_path_factory.mktemp("machines")
    trainer = toy_repo.copy(first.repo, folder / "trainer")
    trainer.run("git", "init", "-q", "--bare", "-b", "main", str(folder / "hub.git"))
    trainer.run("git", "remote", "add", "origin", str(folder / "hub.git"))
    trainer.dvc("remote", "add", "-d", "shared", str(folder / "remote"))
    trainer.commit("with a remote")
    assert "files went to shared" in make(trainer, "push")
    trainer.run("git", "push", "-q", "origin", "main")
    trainer.run("git", "clone", "-q", str(folder / "hub.git"), str(folder / "bench"))
    return Machines(trainer, Repo(folder / "bench"), folder / "hub.git", folder / "remote")


def stages(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def test_the_second_machine_benches_what_the_first_made_and_trains_nothing(machines: Machines) -> None:
    bench = machines.bench
    assert not (bench.path / "models").exists()
    assert "warning" not in make(bench, "pull")
    assert "all 8 models" in bench.run(sys.executable, "-m", "cartlm.cli", "check-models").stdout
    name = "models/q4_k_m/model.gguf"
    assert (bench.path / name).read_bytes() == (machines.trainer.path / name).read_bytes()
    measured = bench.path / "metrics/bench/cpu/q4_k_m.json"
    before = measured.stat().st_mtime_ns

    recipe = [line for line in make(bench, "-n", "bench").splitlines() if " -m dvc " in line]
    output = "".join(bench.run("bash", "-euc", line).stdout for line in recipe)

    assert stages(output)[0] == "bench-cpu"
    assert set(stages(output)) <= {"bench-cpu", "summarize"}
    assert measured.stat().st_mtime_ns > before
    for folder in ("finetune", "quantize", "gptq", "eval"):  # where those stages keep what they do
        assert not (bench.path / "runs" / folder).exists()
    again = bench.dvc("repro").stdout  # the whole graph: nothing of it is left to do
    assert stages(again) == []
    assert bench.run(sys.executable, "-m", "cartlm.cli", "stale").returncode == 0
    changed = bench.run("git", "status", "--porcelain").stdout.split()[1::2]
    assert changed
    assert all(
        path.startswith(("dvc.lock", "docs/results.md", "metrics/bench/cpu/", "metrics/summary.csv"))
        for path in changed
    )


def test_a_remote_that_is_gone_is_one_line(machines: Machines, tmp_path: Path) -> None:
    machines.trainer.run("git", "clone", "-q", str(machines.hub), str(tmp_path / "third"))
    gone = machines.remote.rename(tmp_path / "elsewhere")
    try:
        third = Repo(tmp_path / "third")
        done = third.run(sys.executable, "-m", "cartlm.cli", "pull", check=False)
        assert done.returncode == 2
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith(
            f"cartlm: error: the folder of the DVC remote shared is not there: {machines.remote};"
        )
        assert not (third.path / "models").exists()
    finally:
        shutil.move(str(gone), machines.remote)
