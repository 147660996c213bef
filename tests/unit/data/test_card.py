"""The data card: every figure from the metrics, rows of each language, nothing that breaks a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cartlm.data import card
from tests.fixtures import fixed_params
from tests.fixtures.toy import toy_rows

METRICS = {
    "train": {"n": 50, "self_similarity": 0.51234, "templates": 1200},
    "train_shares": {"language_english": 0.34},
    "test_shares": {"noise_clean": 0.5},
    "wording": {"model": "gpt|4", "refused_language": 7},
}


def test_the_card_has_figures_and_twelve_rows_a_language() -> None:
    rows = toy_rows(50)
    rows = [replace(row, message=f"a | b\nc {i}") for i, row in enumerate(rows)]
    data = fixed_params.load().data
    text = card.render_card({"train": rows, "test": rows[:5]}, METRICS, data)
    assert "| train | 50 |" in text
    assert "| self_similarity | 0.5123 |" in text
    assert "| templates | 1,200 |" in text
    assert "| refused_language | 7 |" in text
    assert "gpt\\|4" in text
    for language in ("English", "Croatian", "Spanish"):
        section = text.split(f"## {language}, 12 rows at random\n\n")[1].split("\n\n")[0]
        assert len(section.splitlines()) == 14
        assert all(line.count("|") - line.count("\\|") == 4 for line in section.splitlines())
    assert text == card.render_card({"train": rows, "test": rows[:5]}, METRICS, data)


def test_self_similarity() -> None:
    rows = toy_rows(6)
    assert card.self_similarity([rows[0], rows[0]], 7) == pytest.approx(1.0)
    assert card.self_similarity(rows[:1], 7) == 0.0
    apart = [replace(rows[0], message="aaaa"), replace(rows[1], message="bbbb")]
    assert card.self_similarity(apart, 7) == 0.0


@pytest.mark.parametrize("source", ["file", "hub"])
def test_rows_of_somebody_else_are_shown_only_where_a_param_asks(source: str) -> None:
    """git tracks the card: neither a message, a catalog line nor where the file lies stands there."""
    rows = toy_rows(50)
    data = fixed_params.load().data
    assert data.show_rows is False
    mine = data.model_copy(update={"source": source, "path": "/home/alice/shop/rows.jsonl"})
    hidden = card.render_card({"train": rows, "test": rows[:5]}, METRICS, mine)
    assert not [row.id for row in rows if row.message in hidden or row.intent.product in hidden]
    assert "alice" not in hidden
    assert "rows.jsonl" in hidden
    assert "| train | 50 |" in hidden
    shown = card.render_card(
        {"train": rows, "test": rows[:5]}, METRICS, mine.model_copy(update={"show_rows": True})
    )
    assert "12 rows at random" in shown


def test_a_hub_id_stands_in_the_card() -> None:
    data = fixed_params.load(fixed_params.PAPER).data
    assert "jtlicardo/ecommerce-intent-3k" in card.render_card(
        {"train": toy_rows(3), "test": []}, METRICS, data
    )
