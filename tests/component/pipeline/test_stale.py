"""`cartlm stale` on a real DVC repository: what counts as stale, and what is merely not in a checkout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cartlm.pipeline import stale
from tests.component.pipeline import small_repo
from tests.component.pipeline.small_repo import Repo

MAIN = """
stages:
  data:
    cmd: mkdir -p data && cp rows.txt data/test.jsonl
    deps: [rows.txt]
    params: [data]
    outs: [data/test.jsonl]
  model:
    cmd: mkdir -p models && cp data/test.jsonl models/m
    deps: [train.py, data/test.jsonl]
    outs: [models/m]
  eval:
    cmd: cp models/m metrics/eval.json
    deps: [evaluate.py, models/m]
    params: [eval.rows]
    outs:
      - metrics/eval.json: {cache: false, persist: true}
  summarize:
    cmd: cp metrics/eval.json metrics/summary.csv
    deps: [metrics/eval.json]
    outs:
      - metrics/summary.csv: {cache: false}
"""
CARD = """
vars: [../params.yaml]
stages:
  bench-gpu:
    wdir: ..
    cmd: mkdir -p metrics/bench && cp models/m metrics/bench/t4
    deps: [bench.py, models/m]
    outs:
      - metrics/bench/t4: {cache: false, persist: true}
"""


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """Both pipelines run and committed: the main one, then the card's, then something else."""
    files = {
        ".gitignore": "/data/\n/models/\n",
        "dvc.yaml": MAIN,
        "gpu/dvc.yaml": CARD,
        "params.yaml": "data: {rows: 3}\neval: {rows: 2, batch: 1}\n",
        "rows.txt": '{"exact_match": 1}\n',
        **dict.fromkeys(("train.py", "evaluate.py", "bench.py"), "print()\n"),
    }
    repo = small_repo.make(tmp_path_factory.mktemp("stale") / "origin", files)
    (repo.path / "metrics").mkdir()
    repo.repro()
    repo.commit("measured")
    repo.repro("gpu/dvc.yaml")
    repo.commit("measured on the card")
    (repo.path / "README.md").write_text("later\n", "utf-8")
    repo.commit("something else")
    return repo


@pytest.fixture
def clone(origin: Repo, tmp_path: Path) -> Repo:
    """What git has, and nothing else."""
    origin.git("clone", "-q", f"file://{origin.path}", str(tmp_path / "clone"))
    assert not (tmp_path / "clone/models").exists()
    return Repo(tmp_path / "clone")


def test_a_fresh_clone_without_data_models_and_cache_is_not_stale(origin: Repo, clone: Repo) -> None:
    done = clone.cartlm("stale")
    assert done.returncode == 0, done.stdout + done.stderr
    commit, date = origin.git("log", "-1", "--format=%h %ad", "--date=short", "HEAD~1").split()
    assert done.stdout.splitlines() == [
        "No stage of dvc.yaml is stale (of 4).",
        "",
        "Other pipeline files, which only their own commands run:",
        f"  gpu/dvc.yaml:bench-gpu: measured at commit {commit} ({date}); nothing changed since",
    ]


Change = Callable[[Repo], object]


def anew(it: Repo, path: str) -> None:
    """As after `dvc repro model` alone: its output has another hash, and what read the old one stays as it was."""
    lock = yaml.safe_load((it.path / "dvc.lock").read_text("utf-8"))
    (out,) = [
        out for stage in lock["stages"].values() for out in stage.get("outs", []) if out["path"] == path
    ]
    out["md5"] = "0" * 32
    (it.path / "dvc.lock").write_text(yaml.safe_dump(lock), "utf-8")


CHANGES: dict[str, tuple[Change, dict[str, list[str]]]] = {
    "a param": (lambda it: it.edit("params.yaml", "rows: 2", "rows: 9"), {"eval": ["param eval.rows"]}),
    "a param that is gone": (
        lambda it: it.edit("params.yaml", "rows: 2, ", ""),
        {"eval": ["param eval.rows (deleted)"]},
    ),
    "a param of no stage": (lambda it: it.edit("params.yaml", "batch: 1", "batch: 9"), {}),
    "code": (lambda it: it.edit("train.py", "print()", "print(1)"), {"model": ["train.py"]}),
    "code that is gone": (lambda it: (it.path / "train.py").unlink(), {"model": ["train.py (deleted)"]}),
    "code that git no longer has": (lambda it: it.git("rm", "-q", "train.py"), {"model": ["train.py (deleted)"]}),
    "a command": (lambda it: it.edit("dvc.yaml", "cp rows.txt", "cp -f rows.txt"), {"data": ["the command"]}),
    "a metric": (
        lambda it: it.edit("metrics/eval.json", "1", "0"),
        {"eval": ["metrics/eval.json (not as in dvc.lock)"], "summarize": ["metrics/eval.json"]},
    ),
    "a metric that is gone": (
        lambda it: it.git("rm", "-q", "metrics/summary.csv"),
        {"summarize": ["metrics/summary.csv (deleted)"]},
    ),
    "a new stage": (
        lambda it: it.edit("dvc.yaml", "  summarize:", "  new: {cmd: 'true', deps: [models/m]}\n  summarize:"),
        {"new": ["never run"]},
    ),
    "a model made anew, which nothing was run on": (
        lambda it: anew(it, "models/m"),
        {"eval": ["models/m (made anew by model)"]},
    ),
    "a model by hand": (
        lambda it: ((it.path / "models").mkdir(), (it.path / "models/m").write_text("other")),
        {"eval": ["models/m"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_what_changed_is_named_and_nothing_else(clone: Repo, what: str) -> None:
    change, expected = CHANGES[what]
    change(clone)
    found = stale.find_stale(clone.path)
    assert found.stale == expected
    assert found.next == ("dvc repro" if found.stale else None)


def test_stale_stages_end_with_1_their_reasons_and_the_next_command(clone: Repo) -> None:
    clone.edit("params.yaml", "rows: 2", "rows: 9")
    clone.edit("train.py", "print()", "print(1)")
    done = clone.cartlm("stale")
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[:4] == [
        "2 of 4 stages of dvc.yaml are stale, for what changed since the run:",
        "  model: train.py",
        "  eval: param eval.rows",
        "  next: dvc repro",
    ]
    values: dict[str, Any] = json.loads(clone.cartlm("stale", "--json").stdout)
    assert values["stale"] == {"model": ["train.py"], "eval": ["param eval.rows"]}
    assert (values["next"], values["stages"]) == ("dvc repro", 4)


def test_a_changed_card_pipeline_is_told_and_never_fails(origin: Repo, clone: Repo) -> None:
    commit = origin.git("rev-parse", "--short", "HEAD~1")
    clone.edit("bench.py", "print()", "print(1)")
    done = clone.cartlm("stale", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["elsewhere"]["gpu/dvc.yaml:bench-gpu"]
    assert (told["commit"], told["changed"], told["at_least"]) == (commit, ["bench.py"], False)


def test_a_card_that_was_not_measured_and_one_not_committed(clone: Repo) -> None:
    (clone.path / "gpu/dvc.lock").unlink()
    assert "gpu/dvc.yaml:bench-gpu: not measured yet" in stale.format_report(stale.find_stale(clone.path))
    clone.git("checkout", "-q", "gpu/dvc.lock")
    clone.edit("metrics/bench/t4", "1", "2")
    said = stale.format_report(stale.find_stale(clone.path))
    assert "gpu/dvc.yaml:bench-gpu: measured here, not committed; changed since: metrics/bench/t4" in said


def test_a_shallow_clone_does_not_date_what_it_cannot_see(origin: Repo, tmp_path: Path) -> None:
    origin.git("clone", "-q", "--depth", "1", f"file://{origin.path}", str(tmp_path / "shallow"))
    found = stale.find_stale(tmp_path / "shallow")
    assert found.stale == {}
    assert found.elsewhere["gpu/dvc.yaml:bench-gpu"].at_least
    assert "or before (a shallow clone: git fetch --unshallow)" in stale.format_report(found)


def test_a_missing_lock_is_brought_back_rather_than_all_run_again(clone: Repo) -> None:
    (clone.path / "dvc.lock").unlink()
    done = clone.cartlm("stale")
    assert done.returncode == 1, done.stderr
    assert "data, model, eval, summarize: never run\n  next: git checkout HEAD -- dvc.lock\n" in done.stdout
    clone.commit("without a lock")
    assert stale.find_stale(clone.path).next == "dvc repro"


def test_a_broken_lock_or_pipeline_is_one_line(clone: Repo) -> None:
    for name in ("dvc.lock", "dvc.yaml"):
        (clone.path / name).write_text("stages: [", "utf-8")
        done = clone.cartlm("stale")
        assert done.returncode == 2, done.stdout
        assert done.stderr.startswith("cartlm: error: dvc ")
        assert name in done.stderr
        assert len(done.stderr.splitlines()) == 1
        clone.git("checkout", "-q", name)


def test_outside_of_a_repository(tmp_path: Path) -> None:
    done = Repo(tmp_path).cartlm("stale")
    assert done.returncode == 2
    assert "is no git repository" in done.stderr
