"""Answers survive JSON, pieces become text byte for byte, batches are cut in one way."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartlm.engines.answer import Answer, join_pieces, length_sorted_batches


def test_an_answer_survives_json() -> None:
    given_answer = Answer('{"čaj\u2028"}', (5, 6), "length", 3, 2, 0, 0.25, 0.5)
    assert Answer.from_json(json.loads(json.dumps(asdict(given_answer)))) == given_answer
    with pytest.raises(TypeError):
        Answer.from_json({**asdict(given_answer), "unknown": 1})


@given(st.text(st.characters(exclude_categories=["Cs"])), st.data())
def test_a_letter_may_be_spread_over_pieces(whole: str, data: st.DataObject) -> None:
    encoded = whole.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(encoded)), max_size=5)))
    pieces = [encoded[a:b] for a, b in zip([0, *cuts], [*cuts, len(encoded)], strict=True)]
    assert join_pieces(pieces) == whole


def test_bytes_that_are_no_letter_are_shown_as_such() -> None:
    assert join_pieces([b" a", b"\xc4", b"b "]) == " a\N{REPLACEMENT CHARACTER}b "


@given(st.lists(st.integers(1, 9)), st.integers(1, 4))
def test_batches_hold_each_prompt_once_longest_first(lengths: list[int], size: int) -> None:
    prompts = [[0] * length for length in lengths]
    cut = length_sorted_batches(prompts, size)
    order = [index for batch in cut for index in batch]
    assert sorted(order) == list(range(len(prompts)))
    assert [lengths[index] for index in order] == sorted(lengths, reverse=True)
    assert all(len(batch) == size for batch in cut[:-1])
    assert cut == length_sorted_batches(prompts, size)
