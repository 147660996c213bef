"""The results block: generated from metrics/, in place, and nothing outside the markers changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cartlm.errors import UserError
from cartlm.metrics import write_metrics
from cartlm.report import readme

TEXT = f"# Title\n\nbefore\n\n{readme.BEGIN}\n{readme.END}\n\nafter: 0.5\n"


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    free = {
        "n": 1000,
        "exact_match": 0.2,
        "exact_match_low": 0.18,
        "exact_match_high": 0.22,
        "unparseable": 0.4,
    }
    write_metrics(
        tmp_path / "metrics/eval/base.json", {"free": free, "header": {"n": 1000, "exact_match": 0.7}}
    )
    write_metrics(tmp_path / "metrics/eval/q8_0.json", {"free": free, "natural": {**free, "n": 364}})
    write_metrics(tmp_path / "metrics/parity.json", {"agreement": 0.998, "n": 1000})
    write_metrics(tmp_path / "metrics/bench/cpu/q8_0.json", {"machine": {"name": "a toy CPU x2"}})
    return tmp_path / "metrics"


def test_update_rewrites_the_block_only(metrics: Path, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(TEXT, encoding="utf-8")
    assert readme.update(path, metrics, ["base", "q8_0"])
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# Title\n\nbefore\n\n{readme.BEGIN}\n")
    assert text.endswith(f"{readme.END}\n\nafter: 0.5\n")
    assert "| q8_0 |" in text
    assert "0.200 [0.180, 0.220]" in text
    assert "1,000 test rows" in text
    assert "0.700" in text
    assert "99.8 % of 1,000 rows" in text
    assert "a toy CPU x2." in text
    assert "Natural: 364 messages that people typed" in text
    assert "in English and almost all of them `add`" in text


def test_a_second_update_changes_nothing(metrics: Path, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(TEXT, encoding="utf-8")
    readme.update(path, metrics, ["base", "q8_0"])
    before = path.stat().st_mtime_ns
    assert not readme.update(path, metrics, ["base", "q8_0"])
    assert path.stat().st_mtime_ns == before


def test_nothing_measured_gives_a_table_of_names(tmp_path: Path) -> None:
    block = readme.block(tmp_path, ["base"])
    assert block.splitlines()[-1].startswith("| base |")
    assert not any(digit in block.splitlines()[-1] for digit in "0123456789")


@pytest.mark.parametrize("text", ["no markers", readme.BEGIN, f"{readme.END} {readme.BEGIN}"])
def test_missing_markers_are_a_users_mistake(text: str) -> None:
    with pytest.raises(UserError, match=r"README\.md lacks"):
        readme.parts(text)
