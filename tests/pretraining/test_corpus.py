"""The pretraining text keeps its promises: nothing held out, the target JSON only where a header asks for it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from cartlm import params
from cartlm.data import lexicon, messages, rules
from cartlm.intent import Intent
from cartlm.intent import read as read_intent
from cartlm.pretraining import corpus, formats

DATA = params.load(Path(__file__).parents[2] / "params.yaml").data


@pytest.fixture(scope="module")
def documents() -> list[corpus.Document]:
    return [corpus.document(DATA, index / 3000, random.Random(index)) for index in range(3000)]


def _is_target(answer: str) -> bool:
    try:
        read_intent(answer.strip())
    except ValueError:
        return False
    return True


def test_the_target_occurs_only_behind_its_header_and_in_at_most_a_tenth(
    documents: list[corpus.Document],
) -> None:
    with_target = 0
    for spans in documents:
        answers = [span.text for span in spans if span.ends]
        if any(map(_is_target, answers)):
            with_target += 1
            assert spans[0].text == formats.TARGET_HEADER
    assert 0.02 < with_target / len(documents) <= 0.10


def test_about_half_of_the_documents_with_answers_have_a_header(documents: list[corpus.Document]) -> None:
    asking = [spans for spans in documents if any("\n\nUser:\n" in span.text for span in spans)]
    share = sum(spans[0].text.startswith("Format: ") for spans in asking) / len(asking)
    assert 0.5 < share < 0.7


def test_no_held_out_product_and_no_held_out_frame_occurs(documents: list[corpus.Document]) -> None:
    held = {
        product.name.lower() for language in lexicon.LANGUAGES for product in rules.products(language, True)
    }
    for spans in documents:
        for line in "".join(span.text for span in spans).split("\n"):
            assert line.split(" (")[0].lower() not in held
    frames = [
        text
        for language in lexicon.LANGUAGES
        for action in ("add", "remove")
        for kind in ("terse", "full")
        for _, text in messages.cores(language, action, kind, True)
        if len(text) > 24 and "<" not in text and "[" not in text
    ]
    text = "\n".join(span.text for spans in documents for span in spans).lower()
    found = [frame for frame in frames if frame.split("{")[0].strip() and frame.split("{")[0].lower() in text]
    assert len(frames) >= 5
    assert not [frame for frame in found if len(frame.split("{")[0]) > 12], found


def test_every_format_reads_back_and_names_itself() -> None:
    rng = random.Random(3)
    intent = Intent("remove", "Té (2g)", 7)
    kinds = set()
    for _ in range(300):
        chosen = formats.sample(rng)
        kinds.add(chosen.kind)
        assert not chosen.is_target
        answer = chosen.render(intent)
        assert "Té (2g)" in answer
        header = chosen.header()
        assert header.startswith("Format: ")
        assert header.count("\n") == 1
        if chosen.kind in ("json", "compact"):
            assert json.loads(answer).keys() == json.loads(header.removeprefix("Format: ")).keys()
    assert kinds == {"json", "compact", "pairs", "lines", "bare"}
    assert formats.TARGET.render(intent) == intent.canonical()


def test_answers_are_supervised_up_to_their_eos_and_tokenized_apart() -> None:
    spans = [
        corpus.Span("Catalog:\nA", 0.05),
        corpus.Span("\n\nUser:\na", 0.2),
        corpus.Span("\nA", 1.0, ends=True),
    ]
    ids, weights = corpus.encode(spans, lambda text: [ord(letter) for letter in text], 1, 2)
    assert ids == [1, *map(ord, "Catalog:\nA\n\nUser:\na\nA"), 2]
    assert weights == [0.0] + [0.05] * 10 + [0.2] * 9 + [0.0, 1.0, 1.0]


def test_invented_products_have_every_form() -> None:
    for seed in range(200):
        language = lexicon.LANGUAGES[seed % 3]
        product = corpus.invented_product(language, random.Random(seed))
        lengths = {len(form.split(" ")) for form in product.forms.values()}
        assert len(lengths) == 1
        assert product.head < lengths.pop()


def test_the_token_that_decides_the_action_weighs_more() -> None:
    span = corpus.Span("\n{add x}", 1.0, ends=True, rival="\n{remove x}")
    _, weights = corpus.encode(
        [corpus.Span("q", 0.2), span], lambda text: [ord(letter) for letter in text], 1, 2
    )
    # BOS, q, the newline, then "{add x}" whose second letter decides, then EOS
    assert weights == [0.0, 0.2, 0.0, 1.0, corpus.DECISION, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
