"""Near-duplicates: the index finds what comparing all pairs finds."""

from __future__ import annotations

import random

import numpy as np
import pytest
from rapidfuzz import fuzz, process

from cartlm import params
from cartlm.data import gates, near_duplicates, rules
from cartlm.data.near_duplicates import Index
from tests import ROOT


def edited(text: str, edits: int, rng: random.Random) -> str:
    """`edits` letters deleted, inserted or replaced, each somewhere else."""
    letters = list(text)
    for at in sorted(rng.sample(range(len(letters)), edits), reverse=True):
        letters[at : at + 1] = rng.choice([[], ["q"], [letters[at], "q"]])
    return "".join(letters)


def all_pairs(left: list[str], right: list[str], threshold: float) -> tuple[np.ndarray, np.ndarray]:
    scores = process.cdist(left, right, scorer=fuzz.ratio, score_cutoff=100 * threshold, dtype=np.float64)
    return scores.max(axis=1) / 100, scores.argmax(axis=1)


@pytest.mark.parametrize("threshold", [0.75, 0.85, 0.9, 0.95])
def test_it_finds_what_all_pairs_find(threshold: float) -> None:
    given = params.load(ROOT / "presets/offline.yaml").data
    rng = random.Random(3)
    texts = [gates.comparable(row) for row in rules.rows("row", 900, 0, given, random.Random(5))]
    known = texts[:600]
    asked = texts[600:] + [edited(text, rng.randrange(6), rng) for text in known]
    wanted, where = all_pairs(asked, known, threshold)
    found, there = Index(known, threshold).best(asked)
    assert (wanted > 0).sum() > 300  # there is something to find, and something to leave
    assert (wanted == 0).sum() > 50
    np.testing.assert_allclose(found, wanted)
    assert there[found > 0].tolist() == where[wanted > 0].tolist()


def test_a_text_is_not_its_own_duplicate() -> None:
    texts = ["add two apples | apple", "remove the milk | milk", "add two apples! | apple"]
    found, where = Index(texts, 0.9).best(texts, range(3))
    assert (found > 0.9).tolist() == [True, False, True]
    assert where.tolist() == [2, 0, 0]


@pytest.mark.parametrize("text", ["", "a", "ab", "čaj", "🍎🍎🍎🍎"])
def test_short_and_odd_texts_find_themselves(text: str) -> None:
    found, where = Index(["something else", text], 0.95).best([text])
    assert (found[0], where[0]) == (1.0, 1)


def test_nothing_to_compare_with_is_nothing_found() -> None:
    found, _ = Index([], 0.95).best(["add two apples"])
    assert found.tolist() == [0.0]


def test_the_band_shrinks_with_the_threshold_and_keeps_the_promise() -> None:
    rows = [near_duplicates.band(threshold) for threshold in (0.5, 0.8, 0.9, 0.95, 0.99, 1.0)]
    assert rows == sorted(rows)
    assert (rows[0], rows[-1]) == (0, 8)


@pytest.mark.parametrize("threshold", [0.82, 0.85, 0.9, 0.95, 0.98])
@pytest.mark.parametrize("letters", ["abcdefghijklmnopqrstuvwxyz ", "ab"])
def test_pairs_as_like_as_the_threshold_share_as_many_trigrams_as_the_band_reckons_with(
    threshold: float, letters: str
) -> None:
    """Deletions and insertions as far from each other as they can be, in texts of many letters and of two."""
    rng, x = random.Random(1), 5 * (1 - threshold)
    for length in (20, 60, 200):
        one = "".join(rng.choice(letters) for _ in range(length))
        edits = int((1 - threshold) * (2 * length) / 2)
        places = {round((at + 0.5) * length / max(1, edits)) for at in range(edits)}
        for other in (
            "".join(letter for at, letter in enumerate(one) if at not in places),
            "".join(("Q" if at in places else "") + letter for at, letter in enumerate(one)),
        ):
            if fuzz.ratio(one, other) < 100 * threshold:
                continue
            left, right = (set(near_duplicates.trigrams(text)) for text in (one, other))
            assert len(left & right) / len(left | right) >= (1 - x) / (1 + x)
