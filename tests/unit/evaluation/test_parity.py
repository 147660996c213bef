"""The same ids on both sides, else the first row is named; agreement counts texts and how they ended."""

from __future__ import annotations

from typing import Any

import pytest

from cartlm.engines.answer import Answer, agreement, check_parity
from cartlm.errors import UserError
from cartlm.evaluation.scoring import parity_section
from cartlm.task.prompt import PromptBuilder, shared_ids
from tests.fixtures.toy import toy_rows

ROWS = toy_rows(6)


def tokenize(text: str) -> list[int]:
    return [byte + 3 for byte in text.encode()]


def builder(bos: int = 1, eos: int = 2, spoil: str = "", becomes: int = 9) -> PromptBuilder:
    """A byte tokenizer that reads texts with `spoil` differently."""

    def other(text: str) -> list[int]:
        return [*tokenize(text), becomes] if spoil and spoil in text else tokenize(text)

    return PromptBuilder(other, bos, eos, "\n")


def answer(text: str, reason: Any = "stop") -> Answer:
    return Answer(text, (5,), reason, 9, 1, 0, 0.1, 0.1)


def test_alike_tokenizers_give_the_builders_ids() -> None:
    found = shared_ids(ROWS, builder(), builder())
    assert found == [builder().prompt_ids(row.prompt) for row in ROWS]
    assert all(ids[0] == 1 and ids.count(1) == 1 for ids in found)


@pytest.mark.parametrize("part", ["prompt", "completion"])
def test_the_first_row_that_differs_is_named(part: str) -> None:
    spoil = "quita" if part == "prompt" else '"Coconut Water (330ml can)", "quantity": 3'
    with pytest.raises(UserError, match="row toy-0002: model and GGUF tokenize it differently"):
        shared_ids(ROWS, builder(), builder(spoil=spoil))


@pytest.mark.parametrize("other", [builder(bos=0), builder(eos=0)])
def test_other_special_tokens_are_refused(other: PromptBuilder) -> None:
    with pytest.raises(UserError, match="the model has bos, eos 1, 2, its GGUF"):
        shared_ids(ROWS, builder(), other)


def test_a_second_bos_is_refused() -> None:
    doubled = builder(spoil="quita", becomes=1)
    with pytest.raises(UserError, match=r"special token|2 BOS"):
        shared_ids(ROWS, doubled, doubled)


def test_parity_is_a_share_with_an_interval_and_a_gate() -> None:
    result = agreement(
        [answer("a"), answer("b"), answer("c")], [answer("a"), answer("else"), answer("c", "length")]
    )
    section = parity_section(result)
    assert (section["n"], section["agreement"]) == (3, pytest.approx(1 / 3))
    assert section["agreement_low"] < 1 / 3 < section["agreement_high"]
    check_parity(section, 0.3)
    with pytest.raises(UserError, match=r"0\.3333 of 3 rows alike, less than parity\.min_agreement=0\.5"):
        check_parity(section, 0.5)
