"""Each row has one outcome; shares and slices count what they say."""

from __future__ import annotations

from typing import Any

import pytest

from cartlm.engines.answer import Answer
from cartlm.evaluation.scoring import OUTCOMES, Score, score, slices, summarize, summarize_slices
from cartlm.task.intent import Intent
from cartlm.task.rows import Row, make

RIGHT = '{"action": "add", "product": "Čaj", "quantity": 2}'


def row(lines: int = 5, language: str = "croatian", **tags: str | bool | int) -> Row:
    catalog = ["Čaj", *[f"Jeans {size}" for size in range(lines - 1)]]
    return make("r", language, catalog, "dodaj 2 čaja", Intent("add", "Čaj", 2), tags)


def answer(text: str, reason: Any = "stop") -> Answer:
    return Answer(text, (5,), reason, 9, 1, 0, 0.1, 0.1)


@pytest.mark.parametrize(
    ("text", "reason", "outcome", "right"),
    [
        (RIGHT, "stop", "exact", "action product quantity"),
        (RIGHT + " ", "stop", "parsed_equal", "action product quantity"),
        (
            '{"quantity":2,"action":"add","product":"\\u010caj"}',
            "stop",
            "parsed_equal",
            "action product quantity",
        ),
        (RIGHT.replace("add", "remove"), "stop", "wrong", "product quantity"),
        (RIGHT.replace("Čaj", "Caj"), "stop", "wrong", "action quantity"),
        (RIGHT.replace("2", "3"), "stop", "wrong", "action product"),
        (RIGHT + "}", "stop", "unparseable", ""),
        (RIGHT.replace("add", "buy"), "stop", "unparseable", ""),
        ("", "stop", "unparseable", ""),
        (RIGHT, "length", "truncated", ""),
        (RIGHT + RIGHT, "length", "truncated", ""),
    ],
)
def test_outcome_and_fields(text: str, reason: str, outcome: str, right: str) -> None:
    found = score(row(), answer(text, reason))
    assert found.outcome == outcome
    assert " ".join(name for name in ("action", "product", "quantity") if getattr(found, name)) == right


def test_shares_of_a_mixed_set() -> None:
    whole = (True, True, True)
    scores = [
        *[Score("exact", *whole)] * 5, Score("parsed_equal", *whole), Score("wrong", True, False, True),
        Score("unparseable"), *[Score("truncated")] * 2,
    ]  # fmt: skip
    found = summarize(scores)
    assert found["n"] == 10
    assert found["exact_match"] == 0.5
    assert found["exact_match_low"] < 0.5 < found["exact_match_high"]
    assert found["parsed_equal"] == 0.6
    assert (found["wrong"], found["unparseable"], found["truncated"]) == (0.1, 0.1, 0.2)
    assert (found["action"], found["product"], found["quantity"]) == (0.7, 0.6, 0.7)
    assert found["parsed_equal"] + found["wrong"] + found["unparseable"] + found[
        "truncated"
    ] == pytest.approx(1)


def test_no_row_counts_twice() -> None:
    for name in OUTCOMES:
        found = summarize([Score(name)])
        parts = ("parsed_equal", "wrong", "unparseable", "truncated")
        assert sum(found[part] for part in parts) == 1


def test_no_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be|n"):
        summarize([])


def test_a_published_row_has_only_the_slices_that_need_no_tags() -> None:
    assert slices(row(language="english")) == ["language_english", "action_add", "catalog_5_8"]


@pytest.mark.parametrize(
    ("lines", "name"),
    [(5, "5_8"), (8, "5_8"), (9, "9_14"), (14, "9_14"), (15, "15_20"), (20, "15_20"), (21, None)],
)
def test_catalog_sizes(lines: int, name: str | None) -> None:
    assert [found for found in slices(row(lines)) if found.startswith("catalog")] == (
        [f"catalog_{name}"] if name else []
    )


def test_tags_become_slices() -> None:
    tags: dict[str, str | bool | int] = {
        "noise": "typo+slang", "name_form": "full", "quantity_form": "pack", "style": "polite", "switch": "none",
        "correction": "none", "novel": True, "twins": False, "template": "en-17", "catalog_lines": 5,
    }  # fmt: skip
    assert set(slices(row(**tags))) == {
        "language_croatian", "action_add", "catalog_5_8", "noise_noisy", "name_form_full", "quantity_form_pack",
        "style_polite", "switch_none", "correction_none", "novel", "not_twins",
    }  # fmt: skip
    assert "clean_full" in slices(row(noise="clean", name_form="full"))
    assert "clean_full" not in slices(row(noise="clean", name_form="short"))


def test_slices_are_shares_with_their_numbers() -> None:
    rows = [row(novel=True), row(novel=True), row(novel=False), row(language="english")]
    section = summarize_slices(rows, [Score("exact"), Score("wrong"), Score("exact"), Score("parsed_equal")])
    assert (section["novel"], section["novel_n"]) == (0.5, 2)
    assert (section["not_novel"], section["not_novel_n"]) == (1.0, 1)
    assert (section["language_croatian"], section["language_english"]) == (pytest.approx(2 / 3), 0)
    assert "action_add" not in section, "all rows are in it"
    assert summarize_slices(rows[:3], [Score("exact")] * 3)["language_croatian_n"] == 3
    assert all(isinstance(value, int | float) for value in section.values())
