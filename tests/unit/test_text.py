"""Words for people."""

from __future__ import annotations

import pytest

from cartlm.text import counted, help_to_read


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("<think>two of them</think>{}", "reasoning"),
        ("```json\n{}\n```", "the hint"),
        ("Sure! {}", "the hint"),
    ],
)
def test_answers_that_cannot_be_parsed_are_shown(text: str, hint: str) -> None:
    line = help_to_read([text] * 6, 10, "the hint")
    assert line.startswith("6 of 10 answers")
    assert text[:8].strip() in line
    assert "\n" not in line
    assert hint in line
    assert help_to_read([text] * 5, 10, "the hint") == ""


def test_one_thing_has_no_plural() -> None:
    assert [counted(n, "row") for n in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
