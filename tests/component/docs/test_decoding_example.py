"""The example of the guide to constrained decoding runs as it stands there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cartlm.task.intent import parse_intent
from tests import ROOT
from tests.component.docs.pages import Page
from tests.fixtures.baseline import write_baseline


def test_the_guides_example_runs(
    toy_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "docs/guide/decoding.md"
    (code,) = Page(name, (ROOT / name).read_text(encoding="utf-8")).blocks("python")
    write_baseline(tmp_path / "models/baseline/model.json")
    (tmp_path / "models/q4_k_m").mkdir()
    shutil.copy(toy_gguf, tmp_path / "models/q4_k_m/model.gguf")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, name, "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        answer, probability, passes = line.rsplit(" ", 2)
        assert parse_intent(answer).product in ("Oat Milk 1 l", "Oat Milk 2 l", "Green Tea (20 bags)")
        assert 0 < float(probability) <= 1
        assert int(passes) >= 1
