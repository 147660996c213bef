"""Answers agree when a user sees the same: the text and how it ended."""

from __future__ import annotations

from typing import Any

import pytest

from cartlm.engines.answer import Answer, Divergence, agreement


def answer(text: str, reason: Any = "stop", token: int = 5) -> Answer:
    return Answer(text, (token,), reason, 9, 1, 0, 0.1, 0.1)


def test_texts_and_endings_are_compared_tokens_are_not() -> None:
    first = [answer("a"), answer("b"), answer("c"), answer("d")]
    second = [answer("a", token=6), answer("else"), answer("c", "length"), answer("d")]
    found = agreement(first, second)
    assert found.n == 4
    assert found.share == pytest.approx(0.5)
    assert found.divergences == [Divergence(1, "b", "else"), Divergence(2, "c", "c")]
    assert agreement(first, first).share == 1
