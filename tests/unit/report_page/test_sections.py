"""Each section says what the metrics say: the shop's figures can be checked by hand (tests/unit/recommend/shop.py)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cartlm.errors import UserError
from cartlm.metrics import read_metrics, write_metrics
from cartlm.recommend import choice, measured
from cartlm.report_page import accuracy, claims, failures, making, page, recommendation, speed, tradeoff
from cartlm.report_page.parts import Section, Sources, View
from tests.unit.report_page import toy_page


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return toy_page.write(tmp_path)


def chosen(views: object, **choice: str) -> View:
    (view,) = [each for each in views if choice.items() <= each.choice.items()]  # type: ignore[attr-defined]
    return view


def test_the_recommendation_names_the_file_its_loss_and_how_sure_that_is(sources: Sources) -> None:
    (advice,) = recommendation.every(sources.metrics, sources.variants)
    # of what a test cannot tell from q8_0, q3_k_m is as fast as q4_k_m, and smaller
    assert advice.ship == "q3_k_m"
    for figure in ("q3_k_m", "constrained", "0.86 [0.81, 0.90]", "−4.0 points [−10.5, +2.4]"):
        assert figure in advice.sentence
    assert advice.commands[0] == "cartlm serve q3_k_m --decoding constrained"
    fits, sure, without, *_ = advice.more
    assert "every file fits: f16 needs most, 80.0 MiB" in fits
    assert "between 10.5 points worse and 2.4 points better than F16" in sure
    assert "baseline is measurably less accurate on 200 test rows (−11.0 points [−18.6, −3.2])" in without


def test_a_paired_test_says_what_is_measurably_lost(sources: Sources) -> None:
    found = measured.read(sources.metrics, sources.variants, "cpu", "free", "test")
    advice = recommendation.advice(found)
    # four rows lost of 200, none won: p = 2 / 2^4, times Holm's number of variants that are compared with f16
    assert advice.ship == "q4_k_m"
    assert "nothing measurable lost against F16 (−2.0 points [−4.8, +0.4], p 0.25)" in advice.sentence
    gap = choice.against_f16(found, next(each for each in found.candidates if each.name == "q2_k"))
    assert recommendation.lost_words(gap, "q2_k").startswith("measurably fewer than F16 (−30.0 points")


def test_a_more_accurate_decoding_is_named(sources: Sources) -> None:
    found = measured.read(sources.metrics, sources.variants, "cpu", "free", "test")
    assert not [line for line in recommendation.advice(found).more if line.startswith("More accurate")]
    right = [each._replace(outcome="exact") for each in found.outcomes["f16"]]
    files = measured.without(found, ["baseline"])
    ensemble = replace(files, decoding="ensemble", outcomes=dict.fromkeys(found.outcomes, right))
    (line,) = [line for line in recommendation.advice(found, ways=[ensemble]).more if line.startswith("More accurate")]  # fmt: skip
    assert "+12.0 points" in line
    assert line.endswith("cartlm serve q2_k --decoding ensemble")


def test_views_of_one_variant_begin_with_the_recommended_one() -> None:
    views = [View({"variant": name}, (), ()) for name in ("f16", "q8_0")]
    found = page.preferring("q8_0", Section("x", "X", "", "", "", views))
    assert [view.choice["variant"] for view in found.views] == ["q8_0", "f16"]


def test_a_card_has_a_recommendation_of_its_own(sources: Sources) -> None:
    for path in (sources.metrics / "bench/cpu").glob("*.json"):
        values = read_metrics(path)
        write_metrics(sources.metrics / "bench/t4" / path.name, {"machine": {"name": "T4", "hash": "t"}, "gpu": values["cpu"] | {"vram_run_used_mib": 900.0}})  # fmt: skip
    assert [(each.target, each.machine, each.ship) for each in recommendation.every(sources.metrics, sources.variants)] == [
        ("cpu", "a toy CPU x2", "q3_k_m"), ("t4", "T4", "q3_k_m"),
    ]  # fmt: skip
    assert tradeoff.section(sources).switches["target"] == ["cpu", "t4"]
    assert chosen(tradeoff.section(sources).views, target="t4", decoding="free", rows="test rows", show="model files", against="VRAM, MiB")  # fmt: skip


def test_random_weights_have_a_speed_and_no_accuracy(sources: Sources) -> None:
    cpu = {"latency_ms_p95": 900.0, "peak_rss_mib": 1300.0, "size_mib": 770.0}
    for name, more in (("q4_k_m", {}), ("q8_0", {"latency_ms_p95": 1200.0, "peak_rss_mib": 800.0})):
        write_metrics(sources.metrics / f"bench/cpu-llama/{name}.json", {"machine": {"name": "x", "hash": "x"}, "cpu": cpu | more})  # fmt: skip
    found = recommendation.every(sources.metrics, sources.variants)[-1]
    assert (found.target, found.ship) == ("cpu-llama", "")
    assert "q4_k_m is the fastest file" in found.sentence
    assert "these do not fit: q4_k_m." in found.sentence


def test_a_file_above_a_gib_does_not_fit(sources: Sources) -> None:
    path = sources.metrics / "bench/cpu/f16.json"
    values = read_metrics(path)
    write_metrics(path, {**values, "cpu": {**values["cpu"], "peak_rss_mib": 1500.0}})
    (advice,) = recommendation.every(sources.metrics, sources.variants)
    assert "these do not fit: f16" in advice.more[0]


def test_the_front_has_what_no_other_beats(sources: Sources) -> None:
    views = tradeoff.section(sources).views
    view = chosen(
        views, target="cpu", decoding="free", rows="test rows", show="model files", against="p95 latency, ms"
    )
    assert view.table
    front = [row[0].text for row in view.table.rows if row[-1].text]
    assert front == ["q2_k", "q4_k_m", "q8_0"]  # q8_0 is as accurate as f16, and faster
    assert view.picture.count("<a ") == 5
    assert view.table.rows[0][1].text == "0.60 [0.53, 0.67]"
    wider = chosen(
        views, target="cpu", decoding="free", rows="test rows", show="baseline too", against="p95 latency, ms"
    )
    assert wider.picture.count("<a ") == 6


def test_a_switch_has_only_what_was_measured(sources: Sources) -> None:
    switches = tradeoff.section(sources).switches
    assert "model" not in switches
    assert switches["decoding"] == ["constrained", "free", "ensemble"]
    assert "energy, J per query" in switches["against"]
    assert "VRAM, MiB" not in switches["against"]


def test_language_by_noise_is_counted_from_the_rows(sources: Sources) -> None:
    view = chosen(accuracy.heat_section(sources).views, decoding="free")
    assert view.table
    assert view.table.headings[-2:] == ["English, clean, 100 rows", "English, noisy, 100 rows"]
    f16 = next(row for row in view.table.rows if row[0].text == "f16")
    assert [cell.by for cell in f16[-2:]] == [
        0.9,
        0.9,
    ]  # the last 20 of 200 rows are wrong, half of them clean
    data = sources.root / "data/test.jsonl"
    data.write_text(data.read_text().replace("typo", "slang"))  # the same ids, no longer what dvc.lock has
    view = chosen(accuracy.heat_section(sources).views, decoding="free")
    assert view.table
    assert view.table.headings[-1] == "clean, 100 rows"


def test_failed_rows_are_those_whose_answers_have_the_committed_hash(sources: Sources) -> None:
    (view,) = failures.section(sources).views
    assert view.choice == {"variant": "f16"}
    assert "50 of 200 answers are wrong" in view.note
    assert "<mark>Green</mark> Tea (20 bags)" in view.picture
    assert "<mark>Black</mark> Tea (20 bags)" in view.picture
    assert "<script" not in view.picture
    raw = sources.root / "runs/eval/f16.jsonl"
    raw.write_text(raw.read_text().replace("Black", "White"))  # answers of another model
    section = failures.section(sources)
    assert section.views == []
    assert "make repro" in section.empty


def test_private_rows_are_shown_only_where_asked(tmp_path: Path) -> None:
    section = failures.section(toy_page.write(tmp_path, show_rows=False))
    assert section.views == []
    assert "--show-rows" in section.empty


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        ("add", "remove", "<mark>add</mark>"),
        ("a b c", "a x c", "a <mark>b</mark> c"),
        ("a b", "a b", "a b"),
        ("<b>", "<i>", "<mark>&lt;b&gt;</mark>"),
    ],
)
def test_what_differs_is_marked(one: str, other: str, shown: str) -> None:
    assert failures.marked(one, other) == shown


def test_an_answer_that_is_no_intent_is_shown_whole() -> None:
    row = {
        "id": "a",
        "language": "english",
        "catalog": [],
        "message": "m",
        "completion": json.dumps(toy_page.RIGHT),
    }
    assert "<mark>&lt;b&gt;</mark>" in failures.example(row, "<b>")


def test_reliability_and_training_have_their_marks(sources: Sources) -> None:
    first = accuracy.reliability_section(sources).views[0]
    assert first.picture.count("<circle") == 2
    (curve,) = making.training_section(sources).views
    assert curve.picture.count("<polyline") == 2
    (sources.metrics / "finetune.csv").write_text("step,loss\n1,much\n")
    with pytest.raises(UserError, match=r"finetune\.csv does not have numbers"):
        making.training_section(sources)


def test_prefill_and_decode_are_tokens_over_speed() -> None:
    measured = {"prompt_tokens_per_query": 100, "decoded_tokens_per_query": 20, "prefill_tokens_per_s": 1000, "decode_tokens_per_s": 100}  # fmt: skip
    assert speed.split(measured) == (100.0, 200.0)
    assert speed.split({**measured, "decode_tokens_per_s": 0}) is None


def test_energy_is_shown_where_it_was_measured(sources: Sources) -> None:
    (view,) = speed.energy_section(sources).views
    assert view.table
    assert "measured: a toy meter" in [cell.text for cell in view.table.rows[0]]
    for path in (sources.metrics / "bench/cpu").glob("*.json"):
        write_metrics(path, {key: value for key, value in read_metrics(path).items() if key != "energy"})
    write_metrics(sources.metrics / "bench/cpu/machine.json", {"details": {"energy_cpu_absent": "no RAPL"}})
    (view,) = speed.energy_section(sources).views
    assert view.note == "Not measured on cpu: no RAPL."


def test_every_claim_of_the_paper_has_a_verdict(sources: Sources) -> None:
    (view,) = claims.section(sources).views
    assert view.table
    assert len(view.table.rows) == 23
    assert {row[-1].text for row in view.table.rows} <= set(claims.MARKS.values())
