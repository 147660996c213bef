"""The baseline as a source of drafts."""

from __future__ import annotations

from pathlib import Path

import pytest

from cartlm.decoding import drafts
from cartlm.task.intent import Intent
from tests.fixtures.baseline import write_baseline


def test_the_baseline_reads_messages(tmp_path: Path) -> None:
    write_baseline(tmp_path / "model.json")
    draft = drafts.baseline(tmp_path / "model.json")
    assert draft(["Milk", "Green Tea"], "remove 3 green tea") == Intent("remove", "Green Tea", 3)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        drafts.baseline(tmp_path / "model.json")
