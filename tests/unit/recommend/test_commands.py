"""`cartlm recommend` and `cartlm cost` as people type them: text, JSON, and mistakes as one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from cartlm.metrics import write_metrics
from tests.fixtures import fixed_params
from tests.unit.recommend import shop

Run = Callable[..., Result]
HOUR = "machine_hour: {eur: 0.36, source: a list, date: 2026-11-30}"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    fixed_params.write(tmp_path)
    shop.write(tmp_path / "metrics")
    return tmp_path


def failed(done: Result, *words: str) -> None:
    assert (done.exit_code, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_the_choice_and_what_runs_it(cartlm: Run) -> None:
    done = cartlm("recommend", "--min-accuracy", "0.8", "--decoding", "free")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("q4_k_m: exact match 0.88 [")
    assert lines[2:4] == ["  cartlm serve q4_k_m --decoding free", "  cartlm export q4_k_m FOLDER"]
    assert re.search(
        r"Too close to call in accuracy: f16 \+2\.0 points \[.*\], p 0\.38; q8_0 .*; q3_k_m −2\.0",
        done.stdout,
    )
    assert "McNemar's exact test of the same rows" in done.stdout
    assert "Left out: merged (not measured on cpu)" in done.stdout.replace("base (not measured on cpu), ", "")


def test_the_default_is_constrained_and_says_what_that_rests_on(cartlm: Run) -> None:
    done = cartlm("recommend", "--min-accuracy", "0.8")
    assert "200 test rows, constrained decoding" in done.stdout
    assert "always free decoding" in done.stdout
    assert "no answers are stored row by row" in done.stdout


def test_the_baseline_is_served_and_not_exported(cartlm: Run) -> None:
    done = cartlm("recommend", "--max-latency-ms-p95", "5")
    assert "  cartlm serve baseline\n" in done.stdout
    assert "export" not in done.stdout


def test_an_ensemble_is_served_and_not_exported(cartlm: Run) -> None:
    """An export has no baseline."""
    done = cartlm("recommend", "--decoding", "ensemble", "--min-accuracy", "0.8")
    assert "  cartlm serve q3_k_m --decoding ensemble\n" in done.stdout
    assert "cartlm export" not in done.stdout
    assert "An export has no baseline" in done.stdout


def test_another_decoding_that_gains_points_within_the_bounds_is_named(cartlm: Run) -> None:
    """The baseline has 150 of 200; q3_k_m's ensemble has 182, but misses the second bound."""
    done = cartlm("recommend", "--min-accuracy", "0.7")
    assert done.stdout.startswith("q3_k_m: exact match 0.86")
    assert "More accurate in another decoding mode" not in done.stdout, (
        "five points of 200 are no difference unpaired"
    )
    more = cartlm("recommend", "--min-accuracy", "0.7", "--max-rss-mib", "65")
    assert "More accurate" not in more.stdout
    knee = cartlm("recommend")
    assert re.search(
        r"More accurate in another decoding mode: ensemble \+16\.0 points \[.*\]; q3_k_m, p95 62 \[58, 66\] ms of free decoding: "
        r"cartlm serve q3_k_m --decoding ensemble\n",
        knee.stdout,
    )
    found = json.loads(cartlm("recommend", "--json").stdout)["more_accurate"]
    assert (found["decoding"], found["variant"], found["latency_ms_p95"]) == ("ensemble", "q3_k_m", 62.0)
    assert found["commands"] == ["cartlm serve q3_k_m --decoding ensemble"]
    assert "More accurate" not in cartlm("recommend", "--max-latency-ms-p95", "49").stdout, (
        "the baseline alone fits"
    )


def test_the_difference_to_f16_is_always_shown(cartlm: Run) -> None:
    """q4_k_m lost four rows and won none, so p = 2 / 2^4, doubled for the two that compete with F16, which does not fit the size."""
    arguments = ("recommend", "--decoding", "free", "--min-accuracy", "0.8", "--max-size-mib", "5")
    assert "Against f16 by the same decoding: q4_k_m −2.0 points [" in (done := cartlm(*arguments).stdout)
    assert "], p 0.25.\n" in done.split("Against f16")[1]
    assert json.loads(cartlm(*arguments, "--json").stdout)["against_f16"]["difference"] == -0.02
    assert "Against f16" not in cartlm(*arguments, "--exclude", "f16").stdout
    assert "Against f16 by the same decoding: baseline −15.0 points" in cartlm("recommend").stdout


def test_a_variant_may_be_left_out(cartlm: Run) -> None:
    done = cartlm("recommend", "--exclude", "baseline", "--exclude", "q8_0")
    assert "Knee: q3_k_m" in done.stdout
    assert "baseline (excluded), q8_0 (excluded)." in done.stdout
    assert "More accurate" not in done.stdout
    failed(
        cartlm("recommend", "--exclude", "q4"),
        "--exclude q4: there is no such variant",
        "baseline, f16, q8_0",
    )
    every = [part for name in shop.VARIANTS for part in ("--exclude", name)]
    failed(cartlm("recommend", *every), "--exclude leaves nothing to recommend on cpu")


def test_the_target_is_one_machine(cartlm: Run, repo: Path) -> None:
    assert "The target cpu is this one machine; make bench measures yours." in cartlm("recommend").stdout
    details = {"threads": 2, "cores_logical": 4}
    write_metrics(repo / "metrics/bench/cpu/machine.json", {"machine": shop.MACHINE, "details": details})
    assert "this one machine, 2 threads on 4 logical cores; make" in cartlm("recommend").stdout


def test_without_bounds_the_front_and_the_knee(cartlm: Run) -> None:
    done = cartlm("recommend")
    assert done.exit_code == 0, done.stderr
    assert "Knee: baseline, the variant of the front nearest" in done.stdout
    assert "f16 (by q8_0)" in done.stdout


@pytest.mark.parametrize("bounds", [[], ["--min-accuracy", "0.8", "--max-size-mib", "5"]])
def test_json_has_the_same(cartlm: Run, bounds: list[str]) -> None:
    done = cartlm("recommend", "--decoding", "free", "--json", *bounds)
    found = json.loads(done.stdout, parse_constant=pytest.fail)
    if bounds:
        assert (found["winner"], found["bounds"]) == ("q4_k_m", {"exact_match": 0.8, "size_mib": 5.0})
        assert found["too_close_to_call"] == ["q8_0", "q3_k_m"]
        assert found["differences"]["q8_0"]["paired"] is True
        assert {each["variant"]: each["misses"] for each in found["variants"]}["f16"] == ["size_mib"]
    else:
        assert (found["front"], found["knee"]) == (["q8_0", "q4_k_m", "q3_k_m", "baseline"], "baseline")
    assert found["commands"]


def test_nothing_fits(cartlm: Run) -> None:
    failed(
        cartlm("recommend", "--max-size-mib", "0.1"), "no variant fits; the nearest is baseline: size 0.5 MiB"
    )
    failed(cartlm("recommend", "--max-size-mib", "0.1", "--json"), "it fits --max-size-mib 0.5")


@pytest.mark.parametrize("value", ["nan", "-5", "0", "inf", "fast", "1e999"])
@pytest.mark.parametrize(
    "option", ["--min-accuracy", "--max-latency-ms-p95", "--max-rss-mib", "--max-size-mib"]
)
def test_a_bound_that_is_no_number_above_0(cartlm: Run, option: str, value: str) -> None:
    failed(cartlm("recommend", option, value), option, f"{value} is not a number above 0")


def test_accuracy_is_a_share(cartlm: Run) -> None:
    failed(cartlm("recommend", "--min-accuracy", "80"), "80 is not a number above 0, at most 1")


def test_what_is_not_there(cartlm: Run, repo: Path) -> None:
    failed(cartlm("recommend", "--target", "t4"), "no target 't4' was measured; there are: cpu")
    shutil.rmtree(repo / "metrics")
    failed(cartlm("recommend"), "there are: none", "make repro")
    (repo / "params.yaml").unlink()
    failed(cartlm("recommend"), "no params.yaml of cartlm")


def test_cost_needs_prices(cartlm: Run, repo: Path) -> None:
    failed(cartlm("cost"), "params.yaml has no price under cost", "cost.machine_hour")
    path = repo / "params.yaml"
    path.write_text(path.read_text().replace("machine_hour: null", HOUR))
    done = cartlm("cost", "--messages-a-month", "1000000")
    assert done.exit_code == 0, done.stderr
    assert "A machine's hour: 0.36 EUR (a list, 2026-11-30)." in done.stdout
    assert "No break-even without cost.api in params.yaml." in done.stdout
    found = json.loads(cartlm("cost", "--json").stdout, parse_constant=pytest.fail)
    assert found["variants"]["q2_k"]["eur_per_million_messages"] == 5.0
    failed(cartlm("cost", "--messages-a-month", "0"), "--messages-a-month")
    path.write_text(path.read_text().replace(", date: 2026-11-30", ""))
    failed(cartlm("cost"), "cost.machine_hour.date: missing key")
