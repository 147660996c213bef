"""Mentions are found in the tokens of the base model's own tokenizer."""

from __future__ import annotations

import random

from rapidfuzz import fuzz

from base.pretraining import corpus
from base.pretraining.encoding import encode
from tests import ROOT
from tests.fixtures import fixed_params

BASE = ROOT / "base/model"
DATA = fixed_params.load().data


def test_mentions_begin_at_their_first_piece_with_the_real_tokenizer() -> None:
    from transformers import LlamaTokenizer

    documents = [corpus.document(DATA, 1.0, random.Random(index)) for index in range(100)]
    tokenizer = LlamaTokenizer.from_pretrained(BASE)
    count = missed = 0
    for document in documents:
        made = encode(
            document, lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"]), 1, 2
        )
        mentions = [span.text[slice(*span.mention)] for span in document if span.mention != (0, 0)]
        # the first token of an answer recalls the end of its mention only
        whole = {right[-1]: tuple(right) for _, right in sorted(made.recalls, key=lambda one: len(one[1]))}
        places = list(dict.fromkeys(whole[right[-1]] for _, right in made.recalls))
        for mention, place in zip(mentions, places, strict=False):
            text = tokenizer.decode(made.ids[place[0] : place[-1] + 1])
            count += 1
            # a joined word may put the first letter into the piece before
            missed += mention[0] not in text[:3] or fuzz.ratio(mention, text) < 60
    assert count > 300
    assert missed < count / 50
