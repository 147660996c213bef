"""The trie holds the legal answers, tokenized as in training, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cartlm.decoding.trie import LegalAnswers
from cartlm.errors import UserError
from cartlm.task.intent import NO_ORDER, Intent
from cartlm.task.prompt import PromptBuilder
from tests.fixtures.baseline import generated
from tests.fixtures.decoding import HARD, base_builder, byte_level_builder, check_trie, paths

TOKENIZERS: dict[str, Callable[[], PromptBuilder]] = {
    "SentencePiece": base_builder,
    "GPT-2": lambda: byte_level_builder("gpt2"),
    "Llama 3": lambda: byte_level_builder("llama3"),
    "no pre-tokenizer": lambda: byte_level_builder("none"),
}


@pytest.fixture(params=TOKENIZERS)
def builder(request: pytest.FixtureRequest) -> PromptBuilder:
    return TOKENIZERS[request.param]()


def merging(pattern: str) -> PromptBuilder:
    """A tokenizer of single characters that makes one token of what `pattern` matches."""
    known: dict[str, int] = {}

    def tokenize(text: str) -> list[int]:
        pieces = re.findall(f"{pattern}|.", text, re.DOTALL)
        return [known.setdefault(piece, 3 + len(known)) for piece in pieces]

    return PromptBuilder(tokenize, 1, 2, "\n")


def test_hard_names_have_their_answers_and_no_others(builder: PromptBuilder) -> None:
    check_trie(LegalAnswers(builder, 130), HARD)


def test_no_order_is_an_answer_where_that_is_asked_for(builder: PromptBuilder) -> None:
    legal, plain = LegalAnswers(builder, 30, none=True), LegalAnswers(builder, 30)
    ids = builder.completion_ids(NO_ORDER.canonical())
    assert check_trie(legal, HARD[:6]).intent(ids) == NO_ORDER
    assert check_trie(legal, ["M"]).longest >= len(ids)  # whatever is shorter
    with pytest.raises(KeyError):
        plain.trie(HARD[:6]).intent(ids)
    assert [each.allows(NO_ORDER, HARD) for each in (legal, plain)] == [True, False]
    assert [legal.allows(Intent("add", "Milk", n), HARD) for n in (0, 1, 30, 31)] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("name", ["SentencePiece", "GPT-2", "Llama 3"])
def test_every_generated_row_is_an_answer_of_its_catalog(name: str) -> None:
    builder = TOKENIZERS[name]()
    legal = LegalAnswers(builder)
    rows = generated("decoding", 300)
    assert {row.language for row in rows} == {"english", "croatian", "spanish"}
    for row in rows:
        assert legal.trie(row.catalog).intent(builder.completion_ids(row.completion)) == row.intent


@pytest.mark.parametrize("name", ["SentencePiece", "GPT-2", "Llama 3"])
def test_all_quantities_of_a_generated_catalog(name: str) -> None:
    check_trie(LegalAnswers(TOKENIZERS[name]()), generated("decoding", 300)[7].catalog[:4])


@cache
def few() -> list[LegalAnswers]:
    return [LegalAnswers(make(), 12, none) for make in TOKENIZERS.values() for none in (False, True)]


@settings(max_examples=30)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), min_size=1, max_size=5
    )
)
def test_any_names(catalog: list[str]) -> None:
    for legal in few():  # with and without "no order"
        check_trie(legal, list(dict.fromkeys(catalog)))


def test_a_name_that_merges_with_the_quantity_is_tokenized_in_full() -> None:
    builder = merging(r'Z", "quantity": \d')
    legal = LegalAnswers(builder, 30)
    assert legal._middle("plain", 0) is not None
    assert legal._middle("ends in Z", 0) is None
    trie = check_trie(legal, ["plain", "ends in Z", "Z", "ends in Zz", "other"])
    # and leaves the branches that others share as they were
    check_trie(legal, ["plain", "other"])
    assert len(list(paths(trie.root))) == 5 * 2 * 30


def test_a_name_that_merges_with_the_action_is_tokenized_in_full() -> None:
    legal = LegalAnswers(merging(r'(?:add|remove)", "product": "Z'), 30)
    assert legal._middle("Zoo", 0) is None
    check_trie(legal, ["Zoo", "zoo", "Z"])


def test_a_tokenizer_that_shows_no_cut_is_tokenized_in_full() -> None:
    legal = LegalAnswers(merging(".*"), 20)
    assert legal._cuts is None
    check_trie(legal, ["one", "two"])


@pytest.mark.parametrize("most", [1, 2, 9, 10])
def test_few_quantities(builder: PromptBuilder, most: int) -> None:
    check_trie(LegalAnswers(builder, most), HARD[:12])


def test_lines_are_tokenized_once_each() -> None:
    """Two thousand lines have four million answers."""
    calls = 0
    base = base_builder()

    def tokenize(text: str) -> list[int]:
        nonlocal calls
        calls += 1
        return base.tokenize(text)

    legal = LegalAnswers(PromptBuilder(tokenize, 1, 2, "\n"))
    assert calls == 1002
    lines = [f"Product {number} ({number * 7} ml)" for number in range(2000)]
    trie = legal.trie(lines)
    assert calls == 1002 + 2000
    for number in range(0, 2000, 97):
        ids = base.completion_ids(
            f'{{"action": "remove", "product": "{lines[number]}", "quantity": {number // 2 + 1}}}'
        )
        assert trie.intent(ids).product == lines[number]


def test_a_line_that_is_named_twice_is_one() -> None:
    check_trie(LegalAnswers(base_builder(), 3), ["Milk", "Milk"])


def test_incomplete_and_illegal_ids_are_refused() -> None:
    legal = LegalAnswers(base_builder())
    trie, ids = legal.trie(["Milk", "Tea"]), legal.ids("add", "Milk", 3)
    assert trie.intent(ids).quantity == 3
    for wrong in (ids[:-1], (*ids, 2), legal.ids("add", "Milk", 1001), legal.ids("add", "Bread", 1), ()):
        with pytest.raises(KeyError):
            trie.intent(wrong)


def test_catalogs_without_answers_are_refused() -> None:
    legal = LegalAnswers(base_builder(), 3)
    with pytest.raises(UserError, match="no lines"):
        legal.trie([])
    with pytest.raises(UserError, match="an empty line"):
        legal.trie(["Milk", ""])
    with pytest.raises(ValueError, match="max_quantity is 0"):
        LegalAnswers(base_builder(), 0)
