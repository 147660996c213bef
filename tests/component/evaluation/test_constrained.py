"""Constrained answers from free ones are those of constrained decoding alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cartlm.decoding.config import Decoding
from cartlm.engines.answer import Answer
from cartlm.evaluation.answers import open_engine, rows_hash
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
            again, _ = constrainer.decode_again(rows, free)
            wanted, _ = constrainer.decode_again(rows, [NOTHING] * len(rows))
    assert [*wanted] == [*range(len(rows))]
    assert 0 < len(again) <= len(rows) - TRAINED
    for index, answer in wanted.items():
        found = again.get(index, free[index])
        assert (found.text, found.token_ids) == (answer.text, answer.token_ids)


def test_what_the_bound_leaves_out_is_decoded_again(toy_gguf: Path) -> None:
    row = next(row for row in toy_rows()[:TRAINED] if row.intent.quantity > 1)
    with open_engine("llama.cpp", toy_gguf, 1) as engine:
        builder = engine.prompt_builder("\n")
        free = engine.answer(builder.prompt_ids(row.prompt), 64)
        assert free.text == row.completion
        for bound, times in ((row.intent.quantity, 0), (row.intent.quantity - 1, 1)):
            with open_constrainer("llama.cpp", engine, builder, Decoding(max_quantity=bound)) as constrainer:
                again, _ = constrainer.decode_again([row], [free])
            assert len(again) == times
            assert all(answer.text != free.text for answer in again.values())


def test_what_is_too_long_keeps_its_free_answer(
    toy_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = toy_rows()[0]
    long = replace(row, catalog=[*row.catalog, "a very long name " * 400])
    with open_engine("llama.cpp", toy_gguf, 1) as engine:
        builder = engine.prompt_builder("\n")
        with open_constrainer("llama.cpp", engine, builder, Decoding(max_quantity=30)) as constrainer:
            found = constrainer.sections(
                {"natural": ([row, long], [NOTHING, NOTHING])}, tmp_path / "raw.jsonl"
            )
    section = found["natural_constrained"]
    assert (section["decoded_again"], section["refused"], section["truncated"]) == (0.5, 0.5, 0.5)
    assert section["exact_match"] == 0.5
    assert section["rows"] == rows_hash([row, long])
    assert [json.loads(line)["id"] for line in (tmp_path / "raw.jsonl").read_text().splitlines()] == [row.id]
    assert f"row {long.id}" in capsys.readouterr().err
