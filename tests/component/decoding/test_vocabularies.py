"""Tries of real vocabularies: Llama 3's byte-level BPE, whose tokens hold up to three digits, by llama.cpp."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from cartlm.decoding.prefix_cache import catalog_ids
from cartlm.decoding.trie import LegalAnswers
from cartlm.engines import llama_cpp
from cartlm.engines.llama_cpp import LlamaCpp
from cartlm.system import llama_cpp_build
from cartlm.task.prompt import render_prompt
from tests.fixtures.baseline import generated
from tests.fixtures.decoding import HARD, HOSTILE, check_trie


@pytest.fixture(scope="module")
def llama3() -> Iterator[LlamaCpp]:
    path = llama_cpp_build.llama3_vocabulary()
    with llama_cpp.load_vocabulary(path) as loaded:
        yield loaded


def test_hard_names(llama3: LlamaCpp) -> None:
    check_trie(LegalAnswers(llama3.prompt_builder("\n"), 120), HARD)


def test_every_generated_row_is_an_answer_of_its_catalog(llama3: LlamaCpp) -> None:
    builder = llama3.prompt_builder("\n")
    legal = LegalAnswers(builder)
    for row in generated("decoding vocabularies", 300):
        assert legal.trie(row.catalog).intent(builder.completion_ids(row.completion)) == row.intent


def test_prompts_over_a_catalog_begin_with_its_ids(llama3: LlamaCpp) -> None:
    builder = llama3.prompt_builder("\n")
    for row in generated("decoding vocabularies", 300)[:40]:
        shared = catalog_ids(builder, row.catalog)
        for message in (row.message, *HOSTILE):
            assert tuple(builder.prompt_ids(render_prompt(row.catalog, message))[: len(shared)]) == shared


def test_four_million_answers_take_about_a_second(llama3: LlamaCpp) -> None:
    started = time.process_time()
    legal = LegalAnswers(llama3.prompt_builder("\n"))
    trie = legal.trie([f"Product {number} ({number * 7} ml)" for number in range(2000)])
    assert time.process_time() - started < 3  # 0.2 on an idle core
    assert trie.intent(legal.ids("remove", "Product 1999 (13993 ml)", 1000)).quantity == 1000
