"""One prefill gives the free answer and the one within the catalog; and what the metrics say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cartlm.decoding.constrained import Constrained
from cartlm.engines.answer import Answer, Legal
from cartlm.evaluation import constrained
from cartlm.evaluation.answers import open_engine, rows_hash
from cartlm.evaluation.reading import open_cache, open_reading
from cartlm.task import rows as row_files
from cartlm.task.intent import Intent
from cartlm.task.rows import Row
from tests.fixtures.baseline import write_baseline
from tests.fixtures.toy import TRAINED, toy_rows

KINDS = pytest.mark.parametrize(("kind", "model"), [("llama.cpp", "toy_gguf"), ("transformers", "toy_model")])


@KINDS
def test_the_answers_are_those_of_the_engine_and_of_constrained_decoding_alone(
    kind: str, model: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path: Path = request.getfixturevalue(model)
    rows, baseline = toy_rows(), tmp_path / "model.json"
    write_baseline(baseline)
    with open_engine(kind, path, 1) as engine, open_cache(kind, engine) as cache:
        builder = engine.prompt_builder("\n")
        free = [engine.answer(builder.prompt_ids(row.prompt), 64) for row in rows]
        alone = Constrained(cache, builder, 30)
        wanted = [alone.answer(row.catalog, row.message) for row in rows]
    for proposes in (None, baseline):
        with open_reading(kind, path, "\n", 30, proposes, 1) as reading:
            reading.expect(rows)
            for row, one, reply in zip(rows, free, wanted, strict=True):
                ids = reading.builder.prompt_ids(row.prompt)
                for draft in ([], reading.builder.completion_ids(row.completion)[:-1]):
                    found = reading.verify_draft(ids, 64, draft)
                    assert (found.token_ids, found.text, found.finish_reason) == (
                        one.token_ids, one.text, one.finish_reason,
                    )  # fmt: skip
                    legal = found.legal
                    assert legal is not None
                    assert (legal.text, legal.token_ids) == (
                        reply.intent.canonical(),
                        reply.decoded.token_ids,
                    )
                    assert legal.probability == pytest.approx(reply.decoded.probability, abs=0.01)
                    assert (legal.proposal is None) == (proposes is None)
                    if legal.proposal == legal.text:
                        assert legal.gap == 0
                        assert legal.proposal_probability == pytest.approx(legal.probability)
                    elif legal.proposal is not None:
                        assert legal.gap > 0
                        assert legal.proposal_probability < legal.probability
    assert sum(one.text != reply.intent.canonical() for one, reply in zip(free, wanted, strict=True)) > 0


def test_what_the_bound_leaves_out_is_no_legal_answer(toy_gguf: Path) -> None:
    row = next(row for row in toy_rows()[:TRAINED] if row.intent.quantity > 1)
    for bound, same in ((row.intent.quantity, True), (row.intent.quantity - 1, False)):
        with open_reading("llama.cpp", toy_gguf, "\n", bound, None, 1) as reading:
            reading.expect([row])
            found = reading.answer(reading.builder.prompt_ids(row.prompt), 64)
        assert found.text == row.completion
        assert found.legal is not None
        assert (found.legal.text == row.completion) == same


def test_no_order_is_weighed_against_the_other_answers_where_it_is_legal(toy_gguf: Path) -> None:
    rows, sure = toy_rows(), []
    for none in (False, True):
        with open_reading("llama.cpp", toy_gguf, "\n", 30, None, 1, none) as reading:
            reading.expect(rows)
            answers = [reading.answer(reading.builder.prompt_ids(row.prompt), 64) for row in rows]
        sure.append([answer.legal.probability for answer in answers if answer.legal is not None])
    assert len(sure[0]) == len(rows)
    assert all(with_none < without for without, with_none in zip(*sure, strict=True))


def test_what_is_too_long_has_its_free_answer_alone(toy_gguf: Path) -> None:
    row = toy_rows()[0]
    catalog = [*row.catalog, "a very long name " * 400]
    long = row_files.make("long", "english", catalog, row.message, row.intent, {})
    with open_reading("llama.cpp", toy_gguf, "\n", 30, None, 1) as reading:
        reading.expect([row, long])
        one, other = (reading.answer(reading.builder.prompt_ids(each.prompt), 4) for each in (row, long))
    assert one.legal is not None
    assert other.legal is None
    assert constrained.constrained(other) == other
    # nor does an evaluation break where no validation row fits
    found, _ = constrained.sections(
        {"free": [row], "validation": [long]}, {"free": [one], "validation": [other]}
    )
    assert "constrained_calibration" not in found
    assert found["constrained"]["n"] == 1


def make_answer(row: Row, model: Intent, proposal: Intent | None, gap: float, sure: float = 0.9) -> Answer:
    text = model.canonical()
    legal = Legal(text, (1, 2), sure, proposal and proposal.canonical(), sure / 4, gap)
    return Answer(text, (1, 2), "stop", 5, 2, 0, 0.0, 0.0, legal)


def wrong(row: Row) -> Intent:
    return replace(row.intent, quantity=row.intent.quantity + 1)


def made(rows: Sequence[Row]) -> list[Answer]:
    """By turns: both right; the model wrong, hardly preferring its answer; the baseline wrong, and the model sure of that."""
    kinds = [(True, True, 0.0, 0.95), (False, True, 2.0, 0.6), (True, False, 7.0, 0.99)]
    answers = []
    for number, row in enumerate(rows):
        ours, theirs, gap, sure = kinds[number % 3]
        intents = [row.intent if right else wrong(row) for right in (ours, theirs)]
        answers.append(make_answer(row, intents[0], intents[1], gap, sure))
    return answers


def test_the_margin_is_chosen_on_validation_rows_and_the_ensemble_takes_what_is_within() -> None:
    rows = toy_rows(60)
    answers = made(rows)
    assert constrained.best_margin(rows, answers) == 2.0
    found, _ = constrained.sections(
        {"free": rows, "validation": rows, "natural": rows[:6]},
        {"free": answers, "validation": answers, "natural": answers[:6]},
    )
    assert found["ensemble_calibration"]["margin"] == 2.0
    assert found["constrained"]["exact_match"] == pytest.approx(2 / 3)
    assert found["ensemble"]["exact_match"] == found["natural_ensemble"]["exact_match"] == 1
    assert found["ensemble"]["changed"] == pytest.approx(1 / 3)
    assert found["constrained"]["changed"] == 0
    assert found["natural_ensemble"]["rows"] == rows_hash(rows[:6])
    assert found["ensemble_slices"]["language_english"] == 1
    # the model is surer where it is right, so the surest half is
    section = found["constrained"]
    assert section["accuracy_at_90"] >= section["exact_match"]
    assert 0 <= section["calibration_error"] < 0.2
    assert found["constrained_calibration"]["n"] == 60
    bins = {key: value for key, value in found["constrained_reliability"].items() if key.endswith("_n")}
    assert sum(bins.values()) == 60


def test_the_margin_comes_from_the_validation_rows_alone() -> None:
    """Those of the test would choose a larger one."""
    rows = toy_rows(60)
    right, other = made(rows), made(rows)
    for number, row in enumerate(rows):
        if number % 3 == 2:  # there the baseline is right, and the model by far prefers another answer
            other[number] = make_answer(row, wrong(row), row.intent, 7.0, 0.99)
    assert constrained.best_margin(rows, other) == 7.0
    found, _ = constrained.sections({"free": rows, "validation": rows}, {"free": other, "validation": right})
    assert found["ensemble_calibration"]["margin"] == 2.0
    assert found["ensemble"]["exact_match"] == pytest.approx(2 / 3)


def test_no_row_is_judged_by_what_was_fitted_on_it() -> None:
    """A source without a test split has validation rows as test rows; each half is judged by what the other half gave."""
    rows = toy_rows(60)
    answers = made(rows)
    for number in range(1, 60, 2):  # in every second row a gap of 7 would be worth a margin of 7
        answers[number] = make_answer(rows[number], wrong(rows[number]), rows[number].intent, 7.0, 0.6)
    sets = {"free": rows, "validation": rows}
    found, _ = constrained.sections(sets, {"free": answers, "validation": answers})
    halves = [constrained.fit("ensemble", rows[half::2], answers[half::2]).margin for half in (0, 1)]
    assert halves == [2.0, 7.0]
    taken = [constrained.ensemble(answer, halves[1 - number % 2]) for number, answer in enumerate(answers)]
    right = sum(answer.exact(row.completion) for row, answer in zip(rows, taken, strict=True))
    assert found["ensemble"]["exact_match"] == right / 60
    assert found["ensemble"]["exact_match"] < found["ensemble_calibration"]["right"]


def test_a_row_that_occurs_twice_is_in_one_half() -> None:
    once = toy_rows(40)
    rows = [*once, *once[1:], once[0]]
    fits = constrained.Fits("ensemble", rows, made(rows))
    assert {fits.of(row).n for row in rows} == {40}


def test_the_gain_is_paired_with_the_answers_before() -> None:
    rows = toy_rows(60)
    found, _ = constrained.sections(
        {"free": rows, "validation": rows[:30]}, {"free": made(rows), "validation": made(rows[:30])}
    )
    assert found["constrained"]["gain"] == 0
    ensemble = found["ensemble"]
    assert ensemble["gain"] == pytest.approx(ensemble["exact_match"] - found["constrained"]["exact_match"])
    assert 0 < ensemble["gain_low"] < ensemble["gain"] < ensemble["gain_high"]
    assert ensemble["gain_p"] < 0.001


def test_without_a_baseline_there_is_no_ensemble_and_without_errors_no_confidence() -> None:
    rows = toy_rows()
    answers = [make_answer(row, row.intent, None, 0.0) for row in rows]
    found, _ = constrained.sections(
        {"free": rows, "validation": rows}, {"free": answers, "validation": answers}
    )
    assert found.keys() == {"constrained", "constrained_slices", "constrained_calibration"}
    assert found["constrained_calibration"] == {"n": 24, "right": 1.0}
    assert "calibration_error" not in found["constrained"]


def test_rows_that_are_too_long_keep_their_free_answers_and_are_counted() -> None:
    rows = toy_rows(60)
    answers: list[Any] = made(rows)
    answers[0] = replace(answers[0], legal=None, text="}", finish_reason="length")
    sets = {"free": rows, "validation": rows}
    found, _ = constrained.sections(sets, {"free": answers, "validation": answers})
    for way in ("constrained", "ensemble"):
        assert found[way]["refused"] == found[way]["truncated"] == pytest.approx(1 / 60)
        assert found[f"{way}_calibration"]["n"] == 59
