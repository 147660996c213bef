"""What a comparison judges by, and that no number of metrics/ is passed over without a reason."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest

from cartlm import params
from cartlm.bench import aggregate
from cartlm.compare import judge, rules, tolerances
from cartlm.compare.load import ParamChange, Side
from tests import ROOT

FILES = sorted((ROOT / "metrics").rglob("*.json"))
CARD = {
    "gpu": [*aggregate.MEDIANS, "latency_ms_p50", "latency_ms_p99", "size_mib", "n", "spread", "stopped"],
    "batch_8": ["n", "queries_per_s", "decode_tokens_per_s", "energy_j_per_query", "energy_j_per_token"],
    "energy": ["energy_j_per_query", "energy_j_per_token", "energy_j_per_correct", "idle_w"],
    "accuracy": ["exact_match", "exact_match_low", "n_accuracy", "batch_size"],
    "kernel_marlin": [
        "decode_tokens_per_s",
        "batch_8_decode_tokens_per_s",
        "energy_j_per_query",
        "exact_match",
    ],
}


def flat(values: dict[str, Any], front: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{front}{key}.")
        else:
            yield f"{front}{key}", value


def numbers() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """File, key of a number, and all values of the file: what git has, and what a card and a server would write."""
    card = {section: dict.fromkeys(names, 0.5) for section, names in CARD.items()}
    server = {
        "free": {"n": 9, "exact_match": 0.5},
        "remote": {"latency_ms_p50": 9.0, "cost_usd": 1.0, "requests": 9},
    }
    more = {"metrics/bench/t4/int8.json": card, "metrics/remote/gpt.json": server}
    for file, values in [
        *((path.relative_to(ROOT).as_posix(), json.loads(path.read_text("utf-8"))) for path in FILES),
        *more.items(),
    ]:
        every = dict(flat(values))
        for key, value in every.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield file, key, every


def informational(key: str) -> bool:
    return any(re.fullmatch(pattern, key) for pattern, _ in rules.INFORMATIONAL)


def test_a_planted_loss_in_any_number_is_found_or_has_a_reason_not_to_be() -> None:
    passed_over, found = [], set()
    for file, key, values in numbers():
        target, _ = rules.place(file)
        better = {judged: way for judged, _, way in rules.judged(values, {}, target)} if target else {}
        if key not in better:
            if not informational(key):
                passed_over.append(f"{file}: {key}")
            continue
        assert not informational(key), f"{key} is judged"
        shares = rules.unsound({key: 2.0}, target) is not None
        old = {
            name: value
            for name, value in values.items()
            if not name.endswith(("_low", "_high", ".n", "rows"))
        }
        old = {name: value for name, value in old.items() if name != "n"} | {"machine.hash": "one"}
        worst = (0.0, 1.0) if better[key] == "higher" else (1.0, 0.0)
        good, bad = (
            (worst[1], worst[0]) if shares else ((9.0, 1.0) if better[key] == "higher" else (1.0, 9.0))
        )
        sides = [Side(name, {file: old | {key: value}}) for name, value in (("old", good), ("new", bad))]
        changes = judge.compare(*sides, tolerances.STANDARD).changes
        assert [each.verdict for each in changes if each.old != each.new] == ["worse"], f"{file}: {key}"
        found.add(file.split("/")[1])
    assert passed_over == []
    assert found == {"bench", "eval", "gptq", "quantize", "remote", "merge.json", "parity.json"}


def test_the_standard_is_the_offline_preset() -> None:
    assert params.load(ROOT / "presets/offline.yaml").compare.model_dump() == tolerances.STANDARD


@pytest.mark.parametrize(
    "given", [None, {}, [], "wide", {"speed": 2.0}, {"speed": math.nan}, {"speed": "0.4"}, {"speed": True}]
)
def test_no_sound_tolerance_is_the_standard_and_told(given: Any) -> None:
    found, said = tolerances.tolerances({"compare": given}, "abc")
    assert found == tolerances.STANDARD
    assert len(said) == 1
    assert "speed 0.15" in said[0]


def test_sound_tolerances_are_taken_one_by_one() -> None:
    found, said = tolerances.tolerances({"compare": {**tolerances.STANDARD, "speed": 0.4}}, "abc")
    assert (found["speed"], said) == (0.4, [])
    found, said = tolerances.tolerances({"compare": {"speed": 0.4, "size": 0.2}}, "abc")
    assert (found["speed"], found["size"], found["load"]) == (0.4, 0.2, 0.5)
    assert "speed" not in said[0]


@pytest.mark.parametrize(
    ("key", "old", "new", "looser"),
    [
        ("bench_cpu.rounds", 10, 2, True), ("bench_cpu.rounds", 2, 10, False), ("gpu.max_spread", 0.3, 9.0, True),
        ("parity.min_agreement", 0.995, 0.1, True), ("data.test", 1000, 20, True), ("data.gates.twins", 0.3, 0.0, True),
        ("data.gates.balance", 0.05, 1.0, True), ("compare.loss", 0.1, 1.0, True), ("compare.loss", 1.0, 0.1, False),
        ("bench_cpu.served_rounds", 2, 0, True), ("eval.natural_rows", 400, 0, True), ("bench_cpu.queries", 16, None, True),
        ("finetune.epochs", 2.0, 1.0, False), ("bench_cpu.threads", None, 2, False), ("architecture.queries", 9, 1, True),
    ],
)  # fmt: skip
def test_a_param_that_lets_one_look_less_closely_is_named(key: str, old: Any, new: Any, looser: bool) -> None:
    said = tolerances.loosened([ParamChange("params.yaml", key, old, new)], "new")
    assert [key in line for line in said] == [True] * looser
    assert tolerances.loosened([ParamChange("base/params.yaml", key, old, new)], "new") == []


def test_energy_estimated_from_other_watts_does_not_compare() -> None:
    file = "metrics/bench/cpu/q8_0.json"

    def side(watts: str) -> Side:
        about = {"energy.energy_kind": "estimated", "energy.energy_source": watts, "machine.hash": "m"}
        return Side("", {file: about | {"energy.energy_j_per_query": float(watts.split()[0])}})

    (change,) = judge.compare(side("9 W"), side("3 W"), tolerances.STANDARD).changes
    assert change.verdict == "not comparable"


def test_a_loss_on_other_rows_does_not_compare() -> None:
    from cartlm.pipeline.dvc_lock import Stage

    def side(loss: float, md5: str) -> Side:
        file = "metrics/gptq/int8.json"
        stage = Stage({file: 1}, {"data/calibration.jsonl": md5}, {})
        return Side("", {file: {"quantize.loss_mean": loss}}, stages={"quantize-gptq@int8": stage})

    for md5, verdict in (("a", "worse"), ("b", "not comparable")):
        (change,) = judge.compare(side(1e-7, "a"), side(9e-7, md5), tolerances.STANDARD).changes
        assert change.verdict == verdict
