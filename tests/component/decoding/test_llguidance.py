"""The masks of another library, llguidance, on the same answers as a JSON schema: an independent check of our tries."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

import llguidance
import numpy as np
import pytest

from cartlm.decoding.trie import LegalAnswers, Node
from cartlm.engines import llama_cpp
from cartlm.engines.llama_cpp import LlamaCpp
from cartlm.system import llama_cpp_build
from cartlm.task.intent import ACTIONS, KEYS
from tests.fixtures.base_gguf import base_gguf
from tests.fixtures.decoding import HARD, every_answer
from tests.fixtures.toy import LINES

__all__ = ["base_gguf"]
SPELLING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
MOST = 12


@pytest.fixture(scope="module", params=["SentencePiece", "Llama 3"])
def engine(request: pytest.FixtureRequest) -> Iterator[LlamaCpp]:
    """The vocabularies of the embedded base model and of Llama 3."""
    own = request.param == "SentencePiece"
    path = request.getfixturevalue("base_gguf") if own else llama_cpp_build.llama3_vocabulary()
    with llama_cpp.load_vocabulary(path) as loaded:
        yield loaded


class Vocabulary:
    """What llguidance asks of a tokenizer."""

    def __init__(self, engine: LlamaCpp) -> None:
        self.tokenize, self.eos_token_id, self.bos_token_id = engine.tokenize, engine.eos_id, engine.bos_id
        self.tokens = [engine._piece(token) for token in range(engine.vocabulary)]
        self.special_token_ids = [token for token, piece in enumerate(self.tokens) if not piece]

    def __call__(self, text: bytes) -> list[int]:
        return self.tokenize(text.decode("utf-8"))


def matcher_of(vocabulary: Vocabulary, catalog: Sequence[str]) -> Any:
    properties = {
        "action": {"enum": list(ACTIONS)}, "product": {"enum": list(catalog)},
        "quantity": {"type": "integer", "minimum": 1, "maximum": MOST},
    }  # fmt: skip
    schema = {"type": "object", "properties": properties, "required": KEYS, "additionalProperties": False}
    grammar = llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=SPELLING)
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(vocabulary), slices=[])
    matcher = llguidance.LLMatcher(tokenizer, grammar)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def begins(items: Sequence[Any], start: Any) -> bool:
    """Whether one of the sorted `items` begins with `start`."""
    at = bisect_left(items, start)
    return at < len(items) and items[at][: len(start)] == start


# a control character has several escapes in llguidance's JSON (\t and \u0009), and one in ours
@pytest.mark.parametrize("catalog", [[line for line in HARD if "\t" not in line], LINES], ids=["hard", "toy"])
def test_children_are_the_canonical_tokens_of_the_mask(engine: LlamaCpp, catalog: Sequence[str]) -> None:
    """At every node; what else a mask allows spells a legal answer in tokens that training never gave it."""
    vocabulary = Vocabulary(engine)
    legal, matcher = LegalAnswers(engine.prompt_builder("\n"), MOST), matcher_of(vocabulary, catalog)
    answers = every_answer(legal, catalog)
    ids, texts = sorted(answers), sorted(intent.canonical().encode() for intent in answers.values())
    eos, nodes, others = engine.eos_id, 0, 0

    def walk(node: Node, path: tuple[int, ...], text: bytes) -> None:
        nonlocal nodes, others
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        mask = set(np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist())
        assert node.children.keys() == {token for token in mask if begins(ids, (*path, token))}, text
        assert (eos in mask) == (eos in node.children), text
        for token in mask - {eos}:
            assert begins(texts, text + vocabulary.tokens[token]), (text, token)
        nodes, others = nodes + 1, others + len(mask - node.children.keys())
        for token, child in node.children.items():
            if child.children:
                assert matcher.consume_token(token), matcher.get_error()
                walk(child, (*path, token), text + vocabulary.tokens[token])
                assert matcher.rollback(1)

    walk(legal.trie(catalog).root, (), b"")
    assert nodes > 500
    assert others > 50
