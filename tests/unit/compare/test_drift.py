"""What a slow machine does to all variants alike is no change of the commit; what one variant does beyond it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cartlm.compare import drift, judge
from cartlm.compare.load import Side
from cartlm.pipeline import dvc_lock
from cartlm.pipeline.dvc_lock import Stage
from tests import ROOT
from tests.component.compare.test_judge import TOLERANCES

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
    found = {
        "machine.hash": "m1",
        "machine.build": "native",
        "engine.version": "1",
        "engine.threads": 2,
        "cpu.n": 10,
    }
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
    found = judge.compare(old, new, TOLERANCES).changes
    return {
        (each.variant, each.metric): each.verdict for each in found if each.verdict in ("worse", "better")
    }


@pytest.mark.parametrize("factor", [0.6, 1.7])
def test_what_all_variants_share_is_no_change_and_is_told(factor: float) -> None:
    found = judge.compare(side(), side(factor), TOLERANCES)
    assert {each.verdict for each in found.changes} == {"no change"}
    speed = next(each for each in found.changes if each.metric == "decode_tokens_per_s")
    assert speed.change == pytest.approx(factor - 1)  # as measured
    percent = "−40.0" if factor < 1 else "+70.0"
    assert speed.why.endswith(f" beside 6 other variants of which nothing changed ({percent} %)")
    assert len(found.notes) == 1
    assert found.notes[0].startswith("cpu: timings are judged beside those of variants of which nothing")
    assert f"decode_tokens_per_s {percent} % (7 no change for it)" in found.notes[0]
    assert "peak_rss_mib" not in found.notes[0]
    first = json.loads(json.dumps(judge.as_json(found)))["changes"][0]
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


def test_a_slow_down_that_is_a_gain_beside_the_others_is_neither() -> None:
    found = judge.compare(side(), side(0.5, q4_k_m=values(0.8)), TOLERANCES).changes
    own = next(each for each in found if (each.variant, each.metric) == ("q4_k_m", "decode_tokens_per_s"))
    assert (own.verdict, own.withdrawn) == ("no change", True)
    assert own.why.startswith("but better beside 6 other variants")


def test_energy_is_judged_beside_the_others_too() -> None:
    def of(joules: float) -> Side:
        given = side()
        for each in given.metrics.values():
            each |= {"energy.energy_j_per_query": joules, "energy.energy_kind": "measured", "energy.n": 10}
        return given

    assert changed(of(1.0), of(2.0)) == {}


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
        stage(cmd="nice -n 19 python -m stages.bench_cpu"),
        None,
    ],
)
def test_where_something_shared_changed_it_may_have_done_it(new: Stage | None) -> None:
    assert len(changed(side(), side(0.6, new))) == 3 * len(NAMES)  # speed, latency and load
    assert len(changed(side(1.0, new), side(0.6))) == 3 * len(NAMES)


@pytest.mark.parametrize("which", ["old", "new"])
def test_a_lock_older_than_the_code_beside_it_proves_nothing(which: str) -> None:
    sides = {"old": side(), "new": side(0.6)}
    sides[which] = replace(sides[which], outdated={"bench-cpu": ["cartlm/bench/plan.py"]})
    assert changed(sides["old"], sides["new"])


@pytest.mark.parametrize(
    "other", [{"engine__threads": 1}, {"engine__version": "2"}, {"machine__build": "portable"}]
)
def test_another_engine_is_no_control(other: dict[str, Any]) -> None:
    new = side(0.6, **{name: values(0.6, **other) for name in NAMES})
    assert len(changed(side(), new)) == 3 * len(NAMES)


def test_other_libraries_are_no_control_but_another_kernel_of_the_system_is_the_machine() -> None:
    def sides(**details: str) -> tuple[Side, Side]:
        old, new = side(), side(0.6)
        for given, more in ((old, {}), (new, details)):
            found = {"details.torch": "2.13.0", "details.kernel": "Linux 6.1", **more}
            given.metrics[f"{FOLDER}/machine.json"] = found
        return old, new

    assert len(changed(*sides(**{"details.torch": "2.14.0"}))) == 3 * len(NAMES)
    assert not changed(*sides(**{"details.kernel": "Linux 6.2"}))


def test_the_reason_is_the_one_beside_the_others() -> None:
    """−10.5 % is beyond the tolerance of 10 %; beside −1.5 % it is not."""
    found = judge.compare(side(), side(0.985, q4_k_m=values(0.895)), TOLERANCES)
    own = next(
        each for each in found.changes if (each.variant, each.metric) == ("q4_k_m", "decode_tokens_per_s")
    )
    assert (own.verdict, own.withdrawn) == ("no change", True)
    assert own.why == "within the tolerance of 0.1 beside 6 other variants of which nothing changed (−1.5 %)"
    assert "decode_tokens_per_s −1.5 % (1 no change for it)" in found.notes[0]


def test_a_shift_within_the_tolerance_that_decides_nothing_is_not_told() -> None:
    assert judge.compare(side(), side(0.96), TOLERANCES).notes == []


def test_another_machine_stays_not_comparable() -> None:
    new = side(0.6, **{name: values(0.6, machine__hash="m2") for name in NAMES})
    found = judge.compare(side(), new, TOLERANCES)
    assert {each.verdict for each in found.changes} == {"not comparable"}
    assert not any("judged beside" in note for note in found.notes)


def made(**of_one: str) -> dict[str, Stage]:
    """The stages that make the models, each with a file in metrics/quantize, as the main graph has them."""
    found = {}
    for name in NAMES:
        model = of_one.get(name, "")
        outs = {f"models/{name}": f"{name} {model}", f"metrics/quantize/{name}.json": f"{name} {model}"}
        found[f"make-{name}"] = Stage({}, {}, {}, outs)
    return found


def bench(makers: dict[str, Stage], **changes: Any) -> Stage:
    """The benchmark, run after them."""
    files = {path: md5 for each in makers.values() for path, md5 in each.made.items()}
    folder = {
        "models/f16": files["models/f16"],
        "metrics/quantize": dvc_lock.folder_hash("metrics/quantize", files),
    }
    return stage(hashes={**BENCH.hashes, **folder}, **changes)


def graph(makers: dict[str, Stage], stage_run: Stage, factor: float = 1.0, **of_one: dict[str, Any]) -> Side:
    return replace(side(factor, None, **of_one), stages={**makers, "bench-cpu": stage_run})


Q4 = {
    **BENCH.params["params.yaml"],
    "gguf": {**BENCH.params["params.yaml"]["gguf"], "q4_k_m": {"type": "Q4_K_S"}},
}


@pytest.mark.parametrize("model", ["another", ""])
def test_variants_that_the_commit_leaves_alone_are_the_control_of_the_one_it_changes(model: str) -> None:
    """q4_k_m is quantized in another way: its params, and what names the hashes of all, are others."""
    old = graph(made(), bench(made()))
    makers = made(q4_k_m=model)
    run = bench(makers, params={"params.yaml": Q4})
    assert changed(old, graph(makers, run, 0.6)) == {}
    slower = graph(makers, run, 0.6, q4_k_m=values(0.4))
    assert {name for name, _ in changed(old, slower)} == {"q4_k_m"}
    assert ("q4_k_m", "decode_tokens_per_s") in changed(old, slower)
    controls = drift.measured(old, slower).targets["cpu"]["decode_tokens_per_s"]
    assert controls.keys() == set(NAMES) - {"q4_k_m"}


def test_models_made_after_they_were_measured_prove_nothing() -> None:
    """The old numbers are of models before these: by their stages alone they are the same on both sides."""
    anew = made(**dict.fromkeys(NAMES, "anew"))
    for early in (
        bench(made()),
        replace(bench(anew), hashes={**bench(anew).hashes, "models/f16": "earlier"}),
    ):
        old, new = graph(anew, early), graph(anew, bench(anew), 0.6)
        assert len(changed(old, new)) == 3 * len(NAMES)
        assert len(changed(new, replace(old, metrics=side().metrics))) == 2 * len(NAMES)  # load within 50 %


def test_models_made_anew_are_no_control() -> None:
    """After a fine-tuning every model is another one."""
    anew = made(**dict.fromkeys(NAMES, "anew"))
    assert len(changed(graph(made(), bench(made())), graph(anew, bench(anew), 0.6))) == 3 * len(NAMES)


def test_two_makers_of_one_model_or_folder_are_no_control() -> None:
    """A renamed stage that dvc.lock still has would speak for the new one."""
    makers = made(q4_k_m="another")
    run = bench(makers, params={"params.yaml": Q4})
    twice = {f"old-{name}": made()[f"make-{name}"] for name in NAMES}
    assert len(changed(graph(made(), bench(made())), graph({**twice, **makers}, run, 0.6))) == 3 * len(NAMES)
    new = side(0.6)
    new.stages["bench-new"] = stage(hashes={**BENCH.hashes, "stages/bench_cpu.py": "other"})
    assert len(changed(side(), new)) == 3 * len(NAMES)


def real(**changed_inputs: str) -> dict[str, Stage]:
    """The stages of the committed lock files."""
    stages = dvc_lock.read_stages(
        lambda path: (ROOT / path).read_bytes() if (ROOT / path).exists() else None, "here"
    )
    for name, run in stages.items():
        hashes = {path: changed_inputs.get(path, md5) for path, md5 in run.hashes.items()}
        stages[name] = replace(run, hashes=hashes)
    return stages


def test_a_folder_has_the_hash_that_dvc_gives_it() -> None:
    stages = real()
    files = {path: md5 for each in stages.values() for path, md5 in each.made.items()}
    folder = "metrics/quantize"
    assert dvc_lock.folder_hash(folder, files) == stages["bench-cpu"].hashes[folder]
    assert drift.as_made(stages["bench-cpu"], Side("", {}, stages=stages))


@pytest.mark.parametrize(
    ("folder", "model", "controls"),
    [
        ("metrics/bench/cpu", "", True),
        ("metrics/bench/cpu-llama-3.2-1b", "", True),
        # One folder holds all models of an architecture; those of the main graph have the same names.
        ("metrics/bench/cpu-llama-3.2-1b", "models/architecture/llama-3.2-1b", False),
    ],
)
def test_the_lock_files_of_this_repository(folder: str, model: str, controls: bool) -> None:
    def measured(factor: float, stages: dict[str, Stage]) -> Side:
        files = sorted((ROOT / folder).glob("*.json"))
        names = [path.stem for path in files if path.stem != "machine"]
        return Side("", {f"{folder}/{name}.json": values(factor) for name in names}, stages=stages)

    found = changed(measured(1.0, real()), measured(0.6, real(**{model: "other"})))
    assert bool(found) is not controls


def test_kernels_of_a_card_are_judged_beside_all_that_ran_on_it() -> None:
    """Of a kernel there may be two or three variants, and transformers' have none; a slow minute covers them all."""
    folder = "metrics/bench/t4"
    run = Stage({folder: 1}, {"stages/bench_gpu.py": "c"}, {})

    def card(factor: float, kernel: float) -> Side:
        def section(name: str, speed: float) -> dict[str, float]:
            key = f"{name}.decode_tokens_per_s"
            return {key: speed, f"{key}_low": speed * 0.98, f"{key}_high": speed * 1.02}

        files = {
            f"{folder}/{name}.json": {"machine.hash": "t4", **section("gpu", 100 * factor)}
            for name in ("float16", "nf4", "int8")
        }
        own = {
            **section("gpu", 100 * factor),
            **section("kernel_marlin", 90 * kernel),
            **section("kernel_triton", 50 * factor),
        }
        files[f"{folder}/int4-g128.json"] = {"machine.hash": "t4", **own}
        return Side("", files, stages={"gpu/dvc.yaml:bench-gpu": run})

    assert changed(card(1, 1), card(0.6, 0.6)) == {}
    slower = {("int4-g128", "kernel_marlin.decode_tokens_per_s"): "worse"}
    assert changed(card(1, 1), card(0.6, 0.4)) == slower
    assert changed(card(1, 1), card(1.0, 0.7)) == slower


def test_two_others_are_too_few() -> None:
    def few(names: tuple[str, ...], given: Side) -> Side:
        return replace(
            given, metrics={f"{FOLDER}/{name}.json": given.metrics[f"{FOLDER}/{name}.json"] for name in names}
        )

    found = judge.compare(few(NAMES[:3], side()), few(NAMES[:3], side(0.6)), TOLERANCES)
    assert {each.verdict for each in found.changes} == {"worse", "no change"}
    assert found.notes == []  # three controls, but none has three others
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
