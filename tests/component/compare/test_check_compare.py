"""The script behind `make check-compare` judges kept measurements; here they are copies of the committed one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests import ROOT
from tests.benchmarks import check_compare


def test_copies_are_no_change_and_both_planted_changes_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_compare, "KEPT", tmp_path)
    for number in range(3):
        shutil.copytree(ROOT / "metrics/bench/cpu", tmp_path / str(number))
    done = CliRunner().invoke(check_compare.main, ["--judge"])
    assert done.exit_code == 0, done.output
    assert "no change in 2 of 2" in done.output
    assert done.output.count("is found in the last") == 2
