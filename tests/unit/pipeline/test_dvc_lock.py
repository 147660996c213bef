"""What is read from dvc.lock files: test rows, outdated numbers, other code. The graph's own locks are real ones."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import pytest
import yaml

from cartlm.errors import UserError
from cartlm.pipeline import dvc_lock
from cartlm.pipeline.repository import Tree
from tests import ROOT


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


class Files(dict[str, str]):
    """Files of a commit by path, as a Tree has them."""

    commit = name = "abc"
    below = ""
    place, yaml = Tree.place, Tree.yaml

    def read(self, path: str) -> bytes | None:
        return self[path].encode() if path in self else None

    def md5(self, path: str) -> str | None:
        return md5(self[path]) if path in self else None


def toy(code: str = "print()", queries: int = 24, **entry: Any) -> Files:
    """A repository of one measuring stage, run as it is."""
    stage = {
        "deps": [
            {"path": "stages/bench_cpu.py", "md5": md5(code)},
            {"path": "models/f16", "md5": "0" * 32 + ".dir"},
            {"path": "data/test.jsonl", "md5": md5("rows")},
        ],
        "params": {"params.yaml": {"bench_cpu": {"queries": queries}, "prompt.separator": "\n"}},
        "outs": [{"path": "metrics/bench/cpu", "md5": "1" * 32 + ".dir"}],
        **entry,
    }
    params = {"bench_cpu": {"queries": queries}, "prompt": {"separator": "\n"}}
    return Files(
        {
            "stages/bench_cpu.py": code,
            "params.yaml": yaml.safe_dump(params),
            "dvc.lock": yaml.safe_dump({"stages": {"bench-cpu": stage}}),
        }
    )


def stages(files: Files) -> dict[str, dvc_lock.Stage]:
    return dvc_lock.read_stages(cast(Tree, files))


def changed(files: Files) -> dict[str, list[str]]:
    return dvc_lock.outdated_stages(stages(files), cast(Tree, files))


def test_numbers_as_old_as_what_made_them() -> None:
    assert changed(toy()) == {}


def test_numbers_older_than_code_params_or_both() -> None:
    files = toy()
    files["stages/bench_cpu.py"] += "\n"
    assert changed(files) == {"bench-cpu": ["stages/bench_cpu.py"]}
    files["params.yaml"] = files["params.yaml"].replace("24", "25")
    assert changed(files) == {"bench-cpu": ["stages/bench_cpu.py", "bench_cpu"]}
    files["params.yaml"] = ""
    assert changed(files) == {"bench-cpu": ["stages/bench_cpu.py", "bench_cpu", "prompt.separator"]}
    del files["stages/bench_cpu.py"]
    assert changed(files)["bench-cpu"][0] == "stages/bench_cpu.py"


def test_data_and_models_are_not_looked_at() -> None:
    """They are not in git: nothing can be said of them."""
    files = toy()
    files["data/test.jsonl"] = "others"
    assert changed(files) == {}


def test_measured_by_other_code() -> None:
    old, new = (stages(toy(code)) for code in ("print()", "print(1)"))
    assert dvc_lock.changed_code(old, old) == {}
    assert dvc_lock.changed_code(old, new) == {"bench-cpu": ["stages/bench_cpu.py"]}
    trained = [{"path": "models/f16", "md5": "2" * 32}]
    old, new = (stages(toy(code, outs=trained)) for code in ("print()", "print(1)"))
    assert dvc_lock.changed_code(old, new) == {}  # it measures nothing


def test_a_lock_that_is_none() -> None:
    with pytest.raises(UserError, match=r"dvc.lock of abc is not YAML"):
        stages(Files({"dvc.lock": "stages: ["}))
    for broken in (
        "- a list",
        "stages: []\n---\n",
        "stages: {a: }",
        "stages: {a: {outs: [{}]}}",
        "stages: [a]",
    ):
        with pytest.raises(
            UserError, match=r"dvc.lock of abc (is no lock file of DVC|is not YAML|has no sections)"
        ):
            stages(Files({"dvc.lock": broken}))
    for empty in ("stages:", "stages: {a: {outs: , deps: , params: }}"):
        assert changed(Files({"dvc.lock": empty})) == {}
    assert stages(Files()) == {}


def test_the_locks_of_this_repository() -> None:
    """Whatever was run last."""
    run = dvc_lock.read_stages(Tree(ROOT))
    names = set[str]()
    for path in dvc_lock.LOCKS:
        if (ROOT / path).exists():
            begin = "" if path == "dvc.lock" else path.replace(".lock", ".yaml:")
            names |= {begin + name for name in yaml.safe_load((ROOT / path).read_text("utf-8"))["stages"]}
    assert run.keys() == names
    evaluated = {name.partition("@")[2]: stage for name, stage in run.items() if name.startswith("eval")}
    rows = dvc_lock.row_hashes(run)
    assert evaluated.keys() <= rows.keys()
    assert all(stage.hashes[dvc_lock.TEST_ROWS] == rows[name] for name, stage in evaluated.items())
