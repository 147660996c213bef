"""Metrics files are flat, short and whole; outcomes come back as they were written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cartlm.errors import UserError
from cartlm.metrics import Outcome, answer_hash, read_metrics, read_outcomes, write_metrics, write_outcomes


def test_floats_get_four_significant_digits_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "metrics" / "eval" / "f16.json"
    write_metrics(
        path,
        {
            "n": 12345678,
            "free": {
                "exact_match": 0.987654321,
                "size": 123456.7,
                "tiny": 1.23456e-7,
                "ok": True,
                "name": "čaj",
            },
            "numpy": {"share": np.float32(0.3), "n": np.int64(3)},
        },
    )
    assert read_metrics(path) == {
        "n": 12345678,
        "free": {"exact_match": 0.9877, "size": 123500.0, "tiny": 1.235e-7, "ok": True, "name": "čaj"},
        "numpy": {"share": 0.3, "n": 3},
    }
    assert path.read_bytes().endswith(b"}\n")
    assert "čaj" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "value",
    [[1], None, float("nan"), float("inf"), np.float64("nan"), {"deeper": {"x": 1}}, {"list": []}, b"x"],
)
def test_what_dvc_would_drop_is_refused_by_key_and_nothing_is_written(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "f16.json"
    write_metrics(path, {"n": 1})
    with pytest.raises(ValueError, match="bad"):
        write_metrics(path, {"n": 2, "bad": value})
    assert read_metrics(path) == {"n": 1}
    assert os.listdir(tmp_path) == ["f16.json"]


def test_a_failing_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f16.json"
    write_metrics(path, {"n": 1})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_metrics(path, {"n": 2})
    assert json.loads(path.read_text()) == {"n": 1}
    assert os.listdir(tmp_path) == ["f16.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_broken_metrics_file_is_a_users_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "f16.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"f16\.json is not"):
        read_metrics(path)


def test_outcomes_come_back(tmp_path: Path) -> None:
    path = tmp_path / "outcomes" / "f16.csv"
    given = [Outcome("t-1", "exact", answer_hash("čaj")), Outcome('odd,"id"', "wrong", answer_hash(""))]
    write_outcomes(path, given)
    assert read_outcomes(path) == given
    assert path.read_text().splitlines()[0] == "id,outcome,answer_hash"
    assert answer_hash("") == "e3b0c44298fc"


@pytest.mark.parametrize("content", ["", "id,outcome\n1,exact\n", "id,outcome,answer_hash\n1,exact\n"])
def test_other_columns_are_a_users_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "f16.csv"
    path.write_text(content)
    with pytest.raises(UserError, match="columns id, outcome, answer_hash"):
        read_outcomes(path)
