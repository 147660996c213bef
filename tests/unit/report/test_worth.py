"""On which messages a model is worth it: what the sentences say follows from the two files alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from cartlm.evaluation.statistics import wilson
from cartlm.metrics import read_metrics, write_metrics
from cartlm.report import paper, results, worth

N = 1000


def write(metrics: Path, variant: str, test: float, natural: float | None, **slices: float) -> None:
    """An evaluation of N rows in all and 100 in each slice."""
    low, high = wilson(round(test * N), N)
    free = {"n": N, "exact_match": test, "exact_match_low": low, "exact_match_high": high}
    of_slices = {
        key: value for name, share in slices.items() for key, value in ((name, share), (f"{name}_n", 100))
    }
    sections = {"free": free, "free_slices": of_slices}
    if natural is not None:
        sections["natural"] = {"n": 300, "exact_match": natural}
    write_metrics(metrics / f"eval/{variant}.json", sections)


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    write(
        tmp_path,
        "f16",
        0.92,
        0.63,
        correction_product=0.84,
        noise_clean=0.95,
        novel=0.85,
        language_english=0.89,
    )
    write(
        tmp_path,
        "baseline",
        0.8,
        0.9,
        correction_product=0.4,
        noise_clean=0.93,
        novel=0.6,
        language_english=0.7,
    )
    return tmp_path


def test_the_kinds_where_the_reader_leads_are_named_too(tmp_path: Path) -> None:
    write(tmp_path, "f16", 0.81, 0.83, phrasing_classic=0.92, style_bare=0.6, lines_menu=0.66)
    write(tmp_path, "baseline", 0.81, 0.95, phrasing_classic=0.7, style_bare=0.9, lines_menu=0.7)
    text = worth.sentences(tmp_path)
    assert "The model helps most on messages in classic wording (92 % against 70 %)." in text
    assert "better on messages that are just a product name (90 % against 60 %)." in text
    assert "menu" not in text, "their intervals overlap"


def test_the_largest_leads_come_first_and_what_is_no_lead_is_not_named(metrics: Path) -> None:
    text = worth.sentences(metrics)
    assert "1,000 generated test messages" in text
    product, novel, english = (
        text.index(words) for words in ("(84 % against 40 %)", "(85 % against 60 %)", "(89 % against 70 %)")
    )
    assert product < novel < english
    assert "95 %" not in text, "93 and 95 of 100 rows differ by chance"


@pytest.mark.parametrize(
    ("f16", "baseline", "says"),
    [
        (0.63, 0.9, "the baseline wins: 90 % against 63 %"),
        (0.9, 0.63, "the model wins: 90 % against 63 %"),
        (0.9, 0.89, "the intervals of model and baseline overlap: 90 % against 89 %"),
    ],
)
def test_what_is_said_of_natural_messages_follows_the_intervals(
    metrics: Path, f16: float, baseline: float, says: str
) -> None:
    write(metrics, "f16", 0.92, f16)
    write(metrics, "baseline", 0.8, baseline)
    assert worth.sentences(metrics).endswith(f", {says}.")


def test_without_one_of_both_nothing_is_said(metrics: Path) -> None:
    (metrics / "eval/baseline.json").unlink()
    assert worth.sentences(metrics) == ""
    assert worth.section(metrics, "##") == []
    assert worth.TITLE not in results.document(metrics, ["f16"])


def test_other_rows_are_not_compared(metrics: Path) -> None:
    write_metrics(metrics / "eval/baseline.json", {"free": {"n": 24, "exact_match": 0.5}})
    assert worth.sentences(metrics) == ""


@pytest.mark.parametrize("gains", [True, False])
def test_too_is_said_after_another_gain_alone(metrics: Path, gains: bool) -> None:
    write(metrics, "f16", 0.92, 0.9, novel=0.9)
    write(metrics, "baseline", 0.8, 0.6, novel=0.6 if gains else 0.9)
    assert (", too:" in worth.sentences(metrics)) == gains


def test_no_natural_messages_is_no_sentence_on_them(metrics: Path) -> None:
    write(metrics, "f16", 0.92, None)
    assert "typed" not in worth.sentences(metrics)


def test_the_documents_have_the_table_and_the_sentences(metrics: Path) -> None:
    text = results.document(metrics, ["baseline", "f16"])
    part = text.partition(worth.TITLE)[2].partition("## Speed")[0]
    assert worth.sentences(metrics) in part
    lines = {line.split(" | ")[0].strip("| "): line for line in part.splitlines() if line.startswith("| ")}
    assert next(iter(lines)) == "messages"
    assert lines[worth.TEST].split(" | ")[1] == "1,000"
    assert "0.60 [0.50, 0.69]" in lines["messages about products and in phrases never seen in training"]
    assert worth.sentences(metrics) in paper.document(metrics, paper.Measured("base/model", paper.GENERATED))


def test_the_ensemble_of_both_has_a_sentence(metrics: Path) -> None:
    assert "Together" not in worth.sentences(metrics)
    evaluation = read_metrics(metrics / "eval/f16.json")
    evaluation |= {"ensemble": {"exact_match": 0.945}, "natural_ensemble": {"exact_match": 0.962}}
    write_metrics(metrics / "eval/f16.json", evaluation)
    text = worth.sentences(metrics)
    assert text.endswith(
        "Together, as an ensemble, they answer 94 % of the test messages and 96 % of the messages typed by people."
    )


def test_a_percentage_is_rounded_as_the_share_in_the_table(tmp_path: Path) -> None:
    write(tmp_path, "f16", 0.805, None)
    write(tmp_path, "baseline", 0.811, None)
    assert "answers 81 % exactly" in worth.sentences(tmp_path)
