"""Studies of two commits: judged like the main graph, in sections of their own; one that is gone counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cartlm.compare import judge, report
from cartlm.compare.comparison import Comparison, as_json
from cartlm.compare.load import Side
from cartlm.metrics import Outcome

TOLERANCES = {
    "accuracy": 0.005, "speed": 0.1, "latency": 0.1, "load": 0.5, "memory": 0.05, "energy": 0.1, "size": 0.01, "loss": 0.1,
}  # fmt: skip
EVAL = "metrics/eval/q8_0.json"


def side(name: str, exact: int, **more: Any) -> Side:
    """A side of 100 rows."""
    outcomes = [Outcome(f"test-{i}", "exact" if i < exact else "wrong", "") for i in range(100)]
    return Side(
        name,
        {EVAL: {"free.n": 100, "free.exact_match": exact / 100}},
        {"q8_0": outcomes},
        {"q8_0": "r1"},
        **more,
    )


def compare(old: dict[str, Side], new: dict[str, Side], presets: tuple[str, ...] = ("small",)) -> Comparison:
    before, after = (
        side("old", 90, studies=old, presets=presets),
        side("new", 90, studies=new, presets=presets),
    )
    comparison = judge.compare_sides(before, after, TOLERANCES)
    studies, lost, notes = judge.compare_studies(before, after, TOLERANCES)
    return replace(comparison, studies=studies, lost_studies=lost, notes=[*comparison.notes, *notes])


def test_a_study_that_did_not_change_is_not_listed() -> None:
    found = compare({"small": side("old", 80)}, {"small": side("new", 80)})
    assert found.studies == {}
    assert not found.regression
    assert "small" not in report.format_report(found)


def test_a_study_that_became_worse_has_its_section_and_fails() -> None:
    found = compare({"small": side("old", 80)}, {"small": side("new", 40)})
    assert found.having("worse") == []
    assert found.regression
    (worse,) = found.studies["small"].having("worse")
    assert (worse.variant, worse.metric, worse.old, worse.new) == ("q8_0", "free.exact_match", 0.8, 0.4)
    text = report.format_report(found)
    assert "study small: 1 worse (accuracy q8_0)" in text.splitlines()[0]
    assert "| accuracy q8\\_0 | free.exact\\_match |" in text.partition("## Study small")[2].replace(
        "q8_0", "q8\\_0"
    ).replace("exact_match", "exact\\_match")
    assert "### Study small" in report.format_comment(found)
    values = as_json(found)["studies"]["small"]
    assert (values["worse"], values["lost"]) == (1, 0)


def test_a_study_that_became_better_or_has_other_params_is_listed_and_passes() -> None:
    params = {"params.yaml": {"finetune": {"epochs": 2.0}}}
    found = compare({"small": side("old", 40)}, {"small": side("new", 80, params=params)})
    assert not found.regression
    assert len(found.studies["small"].having("better")) == 1
    assert "finetune.epochs was None, is 2.0" in report.format_report(found)


def test_new_and_removed_studies() -> None:
    found = compare({}, {"small": side("new", 80)})
    assert (found.regression, found.studies) == (False, {})
    assert found.notes == ["studies only now in results/: small."]
    found = compare({"small": side("old", 80)}, {})
    assert found.regression
    assert found.lost_studies == ["small"]
    assert "study small is gone" in report.headline(found)
    found = compare({"small": side("old", 80)}, {}, presets=())
    assert not found.regression, "its preset is gone too"
    assert found.notes == ["studies no longer in results/: small."]
