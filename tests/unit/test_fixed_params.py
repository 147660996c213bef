"""What a user sets in params.yaml reaches no test but those of that file and of what is made from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cartlm import yaml_files
from tests import ROOT
from tests.fixtures import fixed_params

READERS = {
    "tests/fixtures/fixed_params.py", "tests/unit/test_params.py", "tests/unit/test_presets.py",
    "tests/unit/docker/test_supply_chain.py", "tests/unit/recommend/test_committed.py",
    "tests/component/report/test_repository.py", "tests/component/docs/test_predict_examples.py",
}  # fmt: skip


def test_no_other_test_reads_the_user_s_params() -> None:
    reads = "ROOT / " + '"params.yaml"'
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("*.py")
        if reads in path.read_text(encoding="utf-8")
    }
    assert {name for name in found if not name.startswith("tests/benchmarks/")} == READERS


def test_nothing_that_a_user_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = fixed_params.values()
    mine["prompt"]["max_tokens"] = 99
    mine["data"]["noise"]["typo"] = 0.1
    mine["base"]["package"] = {"parts": [], "sha256": "0"}
    mine["cost"]["api"] = {"gpt": {"source": "a list"}}
    for section in ("gguf", "gptq", "remote"):
        mine[section] = {"mine": {"type": "Q4_0"}}
    (tmp_path / "params.yaml").write_text(yaml_files.dump(mine), encoding="utf-8")
    monkeypatch.setattr(fixed_params, "ROOT", tmp_path)
    assert yaml_files.parse(fixed_params.text.__wrapped__()) == fixed_params.values()
