"""Constrained answers from free ones are those of constrained decoding alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from cartlm.decoding.config import Decoding
from cartlm.engines.answer import Answer
from cartlm.evaluation.answers import open_engine
from cartlm.evaluation.constrained import open_constrainer
from tests.fixtures.toy import TRAINED, toy_rows

NOTHING = Answer("", (), "length", 0, 0, 0, 0.0, 0.0)


@pytest.mark.parametrize(("kind", "model"), [("llama.cpp", "toy_gguf"), ("transformers", "toy_model")])
def test_a_legal_free_answer_is_the_constrained_one(
    kind: str, model: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(model)
    rows = toy_rows()
    with open_engine(kind, path, 2) as engine:
        builder = engine.prompt_builder("\n")
        free = [engine.answer(builder.prompt_ids(row.prompt), 64) for row in rows]
        with open_constrainer(kind, engine, builder, Decoding(max_quantity=30)) as constrainer:
            found, again = constrainer.answers(rows, free)
            wanted, all_again = constrainer.answers(rows, [NOTHING] * len(rows))
    assert all_again == len(rows)
    assert 0 < again <= len(rows) - TRAINED
    assert [(one.text, one.token_ids) for one in found] == [(one.text, one.token_ids) for one in wanted]


def test_what_the_bound_leaves_out_is_decoded_again(toy_gguf: Path) -> None:
    row = next(row for row in toy_rows()[:TRAINED] if row.intent.quantity > 1)
    with open_engine("llama.cpp", toy_gguf, 1) as engine:
        builder = engine.prompt_builder("\n")
        free = engine.answer(builder.prompt_ids(row.prompt), 64)
        assert free.text == row.completion
        for bound, times in ((row.intent.quantity, 0), (row.intent.quantity - 1, 1)):
            with open_constrainer("llama.cpp", engine, builder, Decoding(max_quantity=bound)) as constrainer:
                (found,), again = constrainer.answers([row], [free])
            assert again == times
            assert (found.text == free.text) == (not times)
