"""Tolerances come from the older side, and what makes the newer side's checks less strict is noted."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cartlm.compare import load, notes
from cartlm.compare.config import Compare
from cartlm.compare.load import ParamChange, Side


def side(compare: Any) -> Side:
    return Side("abc", {}, params={"params.yaml": {"compare": compare}})


def test_the_standard_has_a_valid_tolerance_for_each_of_params_yaml() -> None:
    assert Compare.model_validate(load.STANDARD).model_dump() == load.STANDARD


@pytest.mark.parametrize(
    "given", [None, {}, [], "wide", {"speed": 2.0}, {"speed": math.nan}, {"speed": "0.4"}, {"speed": True}]
)
def test_without_a_valid_tolerance_the_standard_counts_and_is_noted(given: Any) -> None:
    found, noted = load.tolerances_of(side(given))
    assert found == load.STANDARD
    assert len(noted) == 1
    assert "speed 0.15" in noted[0]


def test_valid_tolerances_are_taken_one_by_one() -> None:
    found, noted = load.tolerances_of(side({**load.STANDARD, "speed": 0.4}))
    assert (found["speed"], noted) == (0.4, [])
    found, noted = load.tolerances_of(side({"speed": 0.4, "size": 0.2}))
    assert (found["speed"], found["size"], found["load"]) == (0.4, 0.2, 0.5)
    assert "speed" not in noted[0]


@pytest.mark.parametrize(
    ("key", "old", "new", "less_strict"),
    [
        ("bench_cpu.rounds", 10, 2, True), ("bench_cpu.rounds", 2, 10, False), ("gpu.max_spread", 0.3, 9.0, True),
        ("parity.min_agreement", 0.995, 0.1, True), ("data.test", 1000, 20, True), ("data.gates.twins", 0.3, 0.0, True),
        ("data.gates.balance", 0.05, 1.0, True), ("compare.loss", 0.1, 1.0, True), ("compare.loss", 1.0, 0.1, False),
        ("bench_cpu.served_rounds", 2, 0, True), ("eval.natural_rows", 400, 0, True), ("bench_cpu.queries", 16, None, True),
        ("finetune.epochs", 2.0, 1.0, False), ("bench_cpu.threads", None, 2, False), ("architecture.queries", 9, 1, True),
    ],
)  # fmt: skip
def test_a_param_that_makes_the_checks_less_strict_is_noted(
    key: str, old: Any, new: Any, less_strict: bool
) -> None:
    noted = notes.less_strict_params([ParamChange("params.yaml", key, old, new)], "new")
    assert [key in line for line in noted] == [True] * less_strict
    assert notes.less_strict_params([ParamChange("base/params.yaml", key, old, new)], "new") == []
