"""Near-duplicates: MinHash over character trigrams proposes pairs of texts, their edit ratio decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from datasketch import MinHash, MinHashLSH
from rapidfuzz import fuzz, process

PERMUTATIONS = 128
_EMPTY = MinHash(num_perm=PERMUTATIONS)
MISSED = 0.001
"""The largest probability at which a pair just as like as the threshold may be overlooked."""


def band(threshold: float) -> int:
    """Rows of a band of the index (Mining of Massive Datasets, chapter 3), as many as MISSED allows; 0 if none does.

    Two texts with an edit ratio of `threshold` are at most (1 - threshold) of their letters apart in deletions and
    insertions, of which each spoils at most three trigrams of the one text and two of the other. There are more trigrams
    than letters (`trigrams`), so the Jaccard index is at least (1 - x) / (1 + x), where x = 5 (1 - threshold).
    """
    spoilt = 5 * (1 - threshold)
    jaccard = max(0.0, (1 - spoilt) / (1 + spoilt))
    fitting = (rows for rows in range(8, 0, -1) if (1 - jaccard**rows) ** (PERMUTATIONS // rows) <= MISSED)
    return next(fitting, 0)


def trigrams(text: str) -> list[bytes]:
    """The character trigrams of a text with two marks before and behind it; a repeated one is told by its number."""
    padded, seen, found = f"\x02\x02{text}\x03\x03", Counter[str](), []
    for at in range(len(padded) - 2):
        gram = padded[at : at + 3]
        seen[gram] += 1
        found.append(f"{gram}{seen[gram]}".encode())
    return found


class Index:
    """Texts, and for another text the nearest of them. Below a threshold of about 0.82 all pairs are compared."""

    def __init__(self, texts: Sequence[str], threshold: float) -> None:
        self.texts, self.threshold = texts, threshold
        self._lsh: MinHashLSH | None = None
        if rows := band(threshold):
            self._lsh = MinHashLSH(num_perm=PERMUTATIONS, params=(PERMUTATIONS // rows, rows))
            for number, text in enumerate(texts):
                self._lsh.insert(number, _sketch(text))

    def best(
        self, texts: Sequence[str], without: Sequence[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """For each of `texts` the best similarity (0 to 1; 0 below the threshold) in the index, and its number there.

        `without`: for each a number that does not count, such as its own.
        """
        scores, where = np.zeros(len(texts)), np.zeros(len(texts), dtype=int)
        for at, text in enumerate(texts):
            near = [n for n in self._candidates(text) if without is None or n != without[at]]
            found = process.extractOne(
                text, [self.texts[number] for number in near], scorer=fuzz.ratio,
                score_cutoff=100 * self.threshold,
            )  # fmt: skip
            if found:
                scores[at], where[at] = found[1] / 100, near[found[2]]
        return scores, where

    def _candidates(self, text: str) -> Sequence[int]:
        return sorted(self._lsh.query(_sketch(text))) if self._lsh else range(len(self.texts))


@lru_cache(maxsize=20_000)
def _sketch(text: str) -> MinHash:
    """The same split is looked up in several indexes, and hashing is most of the work."""
    made = _EMPTY.copy()
    made.update_batch(trigrams(text))
    return made
