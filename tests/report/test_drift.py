"""What a slow machine does to all variants alike is no change of the commit; what one variant does beyond it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cartlm.report import compare, drift
from cartlm.report.commits import Side
from cartlm.report.locks import Stage
from tests.report.test_compare import TOLERANCES

NAMES = ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k")
FOLDER = "metrics/bench/cpu"
BENCH = Stage(
    {FOLDER: 1},
    {"stages/bench_cpu.py": "c", "docker/cpu.txt": "p", "data/test.jsonl": "d", "models/f16": "f", "metrics/quantize": "q"},
    {"params.yaml": {"bench_cpu": {"rounds": 5}, "gguf": {name: {"type": name.upper()} for name in NAMES[1:]}}},
)  # fmt: skip


def values(factor: float = 1.0, **more: Any) -> dict[str, Any]:
    """A benchmark file of a machine that is `factor` as fast; all intervals are 2 % to either side."""
    middles = {
        "cpu.decode_tokens_per_s": 100 * factor,
        "cpu.ttft_ms_p95": 10 / factor,
        "cpu.load_s": 1 / factor,
        "cpu.peak_rss_mib": 60.0,
    }
    found = {"machine.hash": "m1", "machine.build": "native", "engine.version": "1", "engine.threads": 2}
    for key, value in middles.items():
        found |= {key: value, f"{key}_low": value * 0.98, f"{key}_high": value * 1.02}
    return found | {key.replace("__", "."): value for key, value in more.items()}


def side(factor: float = 1.0, stage: Stage | None = BENCH, **of_one: dict[str, Any]) -> Side:
    """All variants on such a machine, but for those given."""
    files = {f"{FOLDER}/{name}.json": of_one.get(name, values(factor)) for name in NAMES}
    stages = {"bench-cpu": stage} if stage else {}
    stages |= {f"make-{name}": Stage({}, {}, {}, {f"models/{name}": f"hash of {name}"}) for name in NAMES}
    return Side("side", files, stages=stages)


def changed(old: Side, new: Side) -> dict[tuple[str, str], str]:
    found = compare.compare(old, new, TOLERANCES).changes
    return {
        (each.variant, each.metric): each.verdict for each in found if each.verdict in ("worse", "better")
    }


@pytest.mark.parametrize("factor", [0.6, 1.7])
def test_what_all_variants_share_is_no_change_and_is_told(factor: float) -> None:
    found = compare.compare(side(), side(factor), TOLERANCES)
    assert {each.verdict for each in found.changes} == {"no change"}
    speed = next(each for each in found.changes if each.metric == "decode_tokens_per_s")
    assert speed.change == pytest.approx(factor - 1)  # as measured
    assert speed.why.startswith("no further than 6 other variants of which nothing changed (")
    assert len(found.notes) == 1
    assert found.notes[0].startswith("cpu: the machine was faster or slower than before: ")
    percent = "−40.0" if factor < 1 else "+70.0"
    assert f"decode_tokens_per_s {percent} %, 7 not counted as a change" in found.notes[0]
    assert "peak_rss_mib" not in found.notes[0]
    first = json.loads(json.dumps(compare.as_json(found)))["changes"][0]
    assert first["shared"] == pytest.approx(factor - 1)


@pytest.mark.parametrize("machine", [0.6, 0.8, 1.0])
def test_a_variant_that_goes_further_than_the_machine_is_a_change(machine: float) -> None:
    new = side(machine, q4_k_m=values(machine * 0.7))
    assert changed(side(), new) == {
        ("q4_k_m", "decode_tokens_per_s"): "worse",
        ("q4_k_m", "ttft_ms_p95"): "worse",
    }


def test_a_change_that_only_the_machine_makes_up_for_is_not_invented() -> None:
    """By its own numbers the variant is where it was; that alone decides what is looked at."""
    assert changed(side(), side(1.4, q4_k_m=values(1.0))) == {}


def test_what_goes_the_other_way_than_the_machine_is_a_change() -> None:
    found = changed(side(), side(0.8, q4_k_m=values(1.4)))
    assert found["q4_k_m", "decode_tokens_per_s"] == "better"


def stage(**changes: Any) -> Stage:
    return replace(BENCH, **changes)


def with_params(section: str, value: Any) -> Stage:
    return stage(params={"params.yaml": {**BENCH.params["params.yaml"], section: value}})


@pytest.mark.parametrize(
    "new",
    [
        stage(hashes={**BENCH.hashes, "stages/bench_cpu.py": "other"}),
        stage(hashes={**BENCH.hashes, "docker/cpu.txt": "other"}),
        stage(hashes={**BENCH.hashes, "data/test.jsonl": "other"}),
        stage(hashes={**BENCH.hashes, "cartlm/new.py": "new"}),
        with_params("bench_cpu", {"rounds": 6}),
        with_params("eval.max_new_tokens", 3),
        stage(outs={"metrics/bench/other": 1}),
        None,
    ],
)
def test_where_something_shared_changed_it_may_have_done_it(new: Stage | None) -> None:
    assert len(changed(side(), side(0.6, new))) == 3 * len(NAMES)  # speed, latency and load
    assert len(changed(side(1.0, new), side(0.6))) == 3 * len(NAMES)


@pytest.mark.parametrize("which", ["old", "new"])
def test_a_lock_older_than_the_code_beside_it_proves_nothing(which: str) -> None:
    sides = {"old": side(), "new": side(0.6)}
    sides[which] = replace(sides[which], outdated={"bench-cpu": ["cartlm/measure/bench.py"]})
    assert changed(sides["old"], sides["new"])


@pytest.mark.parametrize(
    "other", [{"engine__threads": 1}, {"engine__version": "2"}, {"machine__build": "portable"}]
)
def test_another_engine_is_no_control(other: dict[str, Any]) -> None:
    new = side(0.6, **{name: values(0.6, **other) for name in NAMES})
    assert len(changed(side(), new)) == 3 * len(NAMES)


def test_another_machine_stays_not_comparable() -> None:
    new = side(0.6, **{name: values(0.6, machine__hash="m2") for name in NAMES})
    found = compare.compare(side(), new, TOLERANCES)
    assert {each.verdict for each in found.changes} == {"not comparable"}
    assert not any("faster or slower" in note for note in found.notes)


@pytest.mark.parametrize("model", ["another", "hash of q4_k_m"])
def test_variants_that_the_commit_leaves_alone_are_the_control_of_the_one_it_changes(model: str) -> None:
    """q4_k_m is quantized in another way: its params and the folder that names all hashes are others."""
    params = {**BENCH.params["params.yaml"]["gguf"], "q4_k_m": {"type": "Q4_K_S"}}
    other = replace(with_params("gguf", params), hashes={**BENCH.hashes, "metrics/quantize": "other"})

    def sides(machine: float, variant: float) -> tuple[Side, Side]:
        new = side(machine, other, q4_k_m=values(variant))
        new.stages["make-q4_k_m"] = Stage({}, {}, {}, {"models/q4_k_m": model})
        return side(), new

    assert changed(*sides(0.6, 0.6)) == {}
    assert {name for name, _ in changed(*sides(0.6, 0.4))} == {"q4_k_m"}
    assert ("q4_k_m", "decode_tokens_per_s") in changed(*sides(0.6, 0.4))
    controls = drift.measured(*sides(0.6, 0.6)).targets["cpu"]["cpu.decode_tokens_per_s"]
    assert controls.keys() == set(NAMES) - {"q4_k_m"}


def test_models_made_anew_are_no_control() -> None:
    """After a fine-tuning every model is another one."""
    new = side(0.6, stage(hashes={**BENCH.hashes, "models/f16": "other", "metrics/quantize": "other"}))
    new.stages.update({f"make-{name}": Stage({}, {}, {}, {f"models/{name}": "other"}) for name in NAMES})
    assert len(changed(side(), new)) == 3 * len(NAMES)


def test_two_others_are_too_few() -> None:
    def few(names: tuple[str, ...], given: Side) -> Side:
        return replace(
            given, metrics={f"{FOLDER}/{name}.json": given.metrics[f"{FOLDER}/{name}.json"] for name in names}
        )

    assert changed(few(NAMES[:3], side()), few(NAMES[:3], side(0.6)))
    assert not changed(few(NAMES[:4], side()), few(NAMES[:4], side(0.6)))


def test_memory_that_all_variants_share_is_still_a_change() -> None:
    more = {"cpu__peak_rss_mib": 90.0, "cpu__peak_rss_mib_low": 89.0, "cpu__peak_rss_mib_high": 91.0}
    new = side(1.0, **{name: values(**more) for name in NAMES})
    assert {metric for _, metric in changed(side(), new)} == {"peak_rss_mib"}


LOCKED: list[Callable[[], Any]] = [dict, lambda: {"params.yaml": {}}, lambda: {"params.yaml": {"gguf": {}}}]


@pytest.mark.parametrize("params", LOCKED)
def test_locks_without_params_are_read_too(params: Callable[[], Any]) -> None:
    assert changed(side(), side(0.6, stage(params=params())))
    both = stage(params=params())
    assert not changed(side(1.0, both), side(0.6, both))
