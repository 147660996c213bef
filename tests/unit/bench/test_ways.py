"""The sessions of make bench-decoding, and what its figures mean."""

from __future__ import annotations

import pytest

from cartlm.bench import ways
from cartlm.bench.ways import Took
from tests.fixtures.toy import toy_rows

ROWS = toy_rows(90)


def test_a_session_is_about_its_own_catalog() -> None:
    made = ways.sessions(ROWS, 4, 3, seed=1)
    assert len(made) == 4
    used = [row.id for session in made for row in session.rows]
    assert len(set(used)) == len(used) == 12
    for session in made:
        assert sorted(session.catalog) == sorted(row.intent.product for row in session.rows)
        assert len(set(session.catalog)) == 3
        assert len({row.language for row in session.rows}) == 1
    assert ways.sessions(ROWS, 4, 3, seed=1) == made != ways.sessions(ROWS, 4, 3, seed=2)


def test_too_few_rows_make_fewer_sessions() -> None:
    assert ways.sessions(ROWS[:4], 4, 30, seed=1) == []


def test_cold_is_the_first_query_of_a_session() -> None:
    took = {
        "jump_forward": [
            [Took(2.0, 5, True), Took(0.1, 4, True), Took(0.1, 1, True)],
            [Took(4.0, 5, True), Took(0.3, 1, False), Took(0.3, 1, True)],
        ],
        **{rival: [[Took(4.0), Took(1.0), Took(1.0)]] * 2 for rival in ways.RIVALS},
    }
    found = ways.sections(took, seed=1)["jump_forward"]
    assert found["cold_ms_p50"] == pytest.approx(3000)
    assert found["warm_ms_p50"] == pytest.approx(200)
    assert found["cold_to_free"] == pytest.approx(6 / 8)
    assert found["warm_to_free"] == pytest.approx(0.8 / 4)
    assert found["warm_to_free_low"] <= found["warm_to_free"] <= found["warm_to_free_high"]
    assert (found["passes"], found["one_pass"], found["other_answers"]) == (7 / 4, 3 / 4, 1)
    assert "cold_to_free" not in ways.sections(took, seed=1)["free"]


def test_the_schema_allows_the_catalog_only() -> None:
    properties = ways.schema(["Tea", 'Mug "L"'])["properties"]
    assert [*properties] == ["action", "product", "quantity"]
    assert properties["product"]["enum"] == ["Tea", 'Mug "L"']
