"""Fits the reader: words and numbers are counted, weights learned on the training rows; the validation rows choose settings.

All weights are logistic regression (scikit-learn). Lines and numbers are ranked: the regression separates the difference
between the right candidate and each wrong one from its negative.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cartlm.baseline import actions
from cartlm.baseline.matching import Candidate, Features, Matcher, best_of, mean, score
from cartlm.baseline.quantities import LONGEST, Number, Numbers, best_number, numbers, phrases
from cartlm.baseline.reader import Weights, read
from cartlm.baseline.text import ALIKE, fold, similarity, split_words
from cartlm.task.intent import Intent
from cartlm.task.rows import Row

# a frame's word is in so many rows, and like the product in at most this share
FRAME_ROWS, FRAME_SHARE = 5, 0.3
COMMON_ROWS = 10
PHRASE_SHARE, WHOLE_SHARE = 0.6, 0.2  # of the unexplained and of all rows with a number word, at least
CHANCES = (1e-3, 1e-4, 1e-6)  # of a phrase to be with one quantity so often without meaning it
STRENGTHS = (0.3, 1.0, 3.0)  # C of the regressions, the inverse of their regularization
FEWEST = 2  # training rows that have a feature
DIGITS = 4  # after the point of a weight


@dataclass
class Example:
    """A row while the reader is fitted: each step reads what the ones before it found."""

    catalog: Sequence[str]
    wanted: Intent
    matcher: Matcher
    candidates: list[Candidate]
    place: int = 0
    spoken: list[Number] = field(default_factory=list)
    action: Features = field(default_factory=dict)

    @property
    def chosen(self) -> Candidate:
        return self.candidates[self.place]

    @property
    def remove(self) -> bool:
        return self.wanted.action == "remove"


@dataclass(frozen=True)
class Fitted:
    """The weights, and the shares of validation rows that are right by them, whole and by field."""

    weights: Weights
    shares: dict[str, float]


def fit(train: Sequence[Row], validation: Sequence[Row]) -> Fitted:
    """Learn from the orders of `train`, choose on those of `validation`; the same rows give the same weights."""
    from threadpoolctl import threadpool_limits

    train, validation = ([row for row in part if row.is_order] for part in (train, validation))
    # on one thread, sums do not depend on the number of CPUs, and threads do not wait for each other
    with threadpool_limits(1):
        return _fit(train, validation)


def _fit(train: Sequence[Row], validation: Sequence[Row]) -> Fitted:
    frame, common = frame_words(train), common_words(train)
    learned, held = ([_example(row, frame) for row in part] for part in (train, validation))
    ranking, by_product = _choose(
        _product_weights(learned),
        lambda weights: mean(_line(one, best_of(one.candidates, weights)) for one in held),
    )
    for one in (*learned, *held):
        one.place = best_of(one.candidates, ranking)
    (known, quantity), by_quantity = _choose(
        _quantity_weights(learned, common),
        lambda both: mean(_number(one, both[0], both[1], common) == one.wanted.quantity for one in held),
    )
    for one in (*learned, *held):
        one.spoken = numbers(one.matcher, one.chosen, known, common)
        one.action = actions.features(actions.frame_of(one.matcher, one.chosen.mention, one.spoken))
    (action, threshold), by_action = _choose(
        _action_weights(learned, held),
        lambda both: mean((score(one.action, both[0]) > both[1]) == one.remove for one in held),
    )
    weights = Weights(frame, common, known, ranking, quantity, action, threshold)
    exact = mean(read(weights, row.catalog, row.message) == row.intent for row in validation)
    shares = {"exact_match": exact, "action": by_action, "product": by_product, "quantity": by_quantity}
    return Fitted(weights, shares)


def _example(row: Row, frame: frozenset[str]) -> Example:
    matcher = Matcher(row.catalog, row.message, frame)
    return Example(row.catalog, row.intent, matcher, matcher.candidates())


def _choose(settings: Iterable[Any], share: Any) -> tuple[Any, float]:
    """The first of the best settings, and its share of right rows."""
    best, highest = None, -1.0
    for each in settings:
        if (found := share(each)) > highest:
            best, highest = each, found
    return best, highest


def _line(one: Example, place: int) -> bool:
    return one.catalog[place] == one.wanted.product


# Words


def frame_words(rows: Sequence[Row]) -> frozenset[str]:
    """Words of messages that seldom have a like in the product that is meant: "please", "cart", "remove"."""
    seen: Counter[str] = Counter()
    named: Counter[str] = Counter()
    for row in rows:
        matcher = Matcher([row.intent.product], row.message, ())
        for word in {word.text for word in matcher.words if word.text.isalpha()}:
            seen[word] += 1
            named[word] += any(similarity(word, other) >= ALIKE for other in matcher.lines[0].words)
    return frozenset(word for word, n in seen.items() if n >= FRAME_ROWS and named[word] <= FRAME_SHARE * n)


def common_words(rows: Sequence[Row]) -> frozenset[str]:
    """Words that many messages have, sizes and units among them."""
    seen = Counter(word for row in rows for word in {each.text for each in split_words(fold(row.message))})
    return frozenset(word for word, n in seen.items() if n >= COMMON_ROWS and not word[0].isdigit())


def number_words(examples: Sequence[Example], chance: float) -> dict[str, tuple[int, float]]:
    """Words and phrases that mean a quantity, with the share of their rows that have it.

    From the rows without their quantity in digits. A phrase means a quantity if at least PHRASE_SHARE of its rows have it,
    and so many would with a probability of at most `chance` if they were drawn at random. Short phrases come first, and rows
    that are explained leave: once "half" is 6, "a dozen" is 12, and once "two dozen" is 24, "two" is 2.
    """
    spelled = [one for one in examples if str(one.wanted.quantity) not in {w.text for w in one.matcher.words}]
    said = [list(_phrases(one)) for one in spelled]
    every = _count(said, spelled)
    open_, known = list(range(len(spelled))), dict[str, tuple[int, float]]()
    for length in (*range(1, LONGEST + 1), *range(1, LONGEST + 1)):
        usual = Counter(spelled[at].wanted.quantity for at in open_)
        counts = _count([said[at] for at in open_], [spelled[at] for at in open_])
        for phrase, by_quantity in counts.items():
            (quantity, n), rows = by_quantity.most_common(1)[0], by_quantity.total()
            likely = n * math.log(usual[quantity] / len(open_)) > math.log(chance)
            share = every[phrase][quantity] / every[phrase].total()
            if phrase.count(" ") + 1 != length or n < FEWEST or likely:
                continue
            least = PHRASE_SHARE if quantity == 1 else WHOLE_SHARE  # most rows ask for 1 anyway
            if n >= PHRASE_SHARE * rows and share >= least:
                known.setdefault(phrase, (quantity, round(share, DIGITS)))
        open_ = [
            at
            for at in open_
            if not any(
                phrase in known and known[phrase][0] == spelled[at].wanted.quantity for phrase in said[at]
            )
        ]
    return dict(sorted(known.items()))


def _count(said: Sequence[Sequence[str]], examples: Sequence[Example]) -> dict[str, Counter[int]]:
    """Phrase -> how many rows with it have which quantity."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for of_row, one in zip(said, examples, strict=True):
        for phrase in dict.fromkeys(of_row):
            counts[phrase][one.wanted.quantity] += 1
    return counts


def _phrases(one: Example) -> Iterator[str]:
    """The phrases of words around the product."""
    texts = [word.text for word in one.matcher.words]
    for start in range(len(texts)):
        for end, phrase in phrases(texts, start):
            outside = {*range(start, end)}.isdisjoint(one.chosen.mention.indices)
            if outside and all(word.isalpha() for word in texts[start:end]):
                yield phrase


# Weights


def _product_weights(examples: Sequence[Example]) -> Iterator[dict[str, float]]:
    groups = [[each.features for each in one.candidates] for one in examples]
    right = [[_line(one, place) for place in range(len(one.candidates))] for one in examples]
    return rank(groups, right)


def _quantity_weights(
    examples: Sequence[Example], common: frozenset[str]
) -> Iterator[tuple[Numbers, dict[str, float]]]:
    for chance in CHANCES:
        known = number_words(examples, chance)
        spoken = [numbers(one.matcher, one.chosen, known, common) for one in examples]
        groups = [[each.features for each in of_row] for of_row in spoken]
        right = [
            [each.value == one.wanted.quantity for each in of_row]
            for one, of_row in zip(examples, spoken, strict=True)
        ]
        for weights in rank(groups, right):
            yield known, weights


def _number(one: Example, known: Numbers, weights: dict[str, float], common: frozenset[str]) -> int:
    return best_number(numbers(one.matcher, one.chosen, known, common), weights).value


def _action_weights(
    examples: Sequence[Example], held: Sequence[Example]
) -> Iterator[tuple[dict[str, float], float]]:
    """Weights, and the score above which a message is `remove`."""
    names, table = _table([one.action for one in examples])
    for weights in _regressions(names, table, np.array([one.remove for one in examples])):
        yield weights, threshold([score(one.action, weights) for one in held], [one.remove for one in held])


def threshold(scores: Sequence[float], remove: Sequence[bool]) -> float:
    """The highest threshold whose share of right rows is at most one standard error below the best.

    A message that says nothing clear asks to add: to take something out of a cart needs words that say so, and rows of
    one source cannot show what people leave out.
    """
    given, wanted = np.array(scores), np.array(remove)
    order = np.sort(given)
    limits = np.unique(np.concatenate([[order[0] - 1, 0.0, order[-1]], (order[1:] + order[:-1]) / 2]))
    shares = np.array([np.mean((given > limit) == wanted) for limit in limits])
    best = shares.max()
    least = best - math.sqrt(best * (1 - best) / len(given))
    return round(float(limits[shares >= least].max()), DIGITS)


def rank(groups: Sequence[Sequence[Features]], right: Sequence[Sequence[bool]]) -> Iterator[dict[str, float]]:
    """For each of STRENGTHS, weights by which the right candidates of a group come before its wrong ones.

    Each group counts as one; one without a right or a wrong candidate teaches nothing.
    """
    better, worse, share = [], [], []
    start = 0
    for of_group in right:
        pairs = [
            (a, b) for a, good in enumerate(of_group) if good for b, other in enumerate(of_group) if not other
        ]
        better += [start + a for a, _ in pairs]
        worse += [start + b for _, b in pairs]
        share += [1 / len(pairs) for _ in pairs]
        start += len(of_group)
    if not better:
        yield {}
        return
    names, table = _table([features for group in groups for features in group])
    difference = table[better] - table[worse]
    sign = np.where(np.arange(len(better)) % 2, 1.0, -1.0)  # both classes are needed
    yield from _regressions(names, difference.multiply(sign[:, None]).tocsr(), sign > 0, np.array(share))


def _table(features: Sequence[Features]) -> tuple[list[str], Any]:
    """Feature names, and a sparse row for each of `features`; features of fewer than FEWEST rows are left out."""
    from sklearn.feature_extraction import DictVectorizer

    vectorizer = DictVectorizer()
    table = vectorizer.fit_transform(features)
    kept = np.flatnonzero(np.diff(table.tocsc().indptr) >= FEWEST)
    return [str(vectorizer.feature_names_[column]) for column in kept], table.tocsc()[:, kept].tocsr()


def _regressions(
    names: Sequence[str], table: Any, classes: Any, weight: Any = None
) -> Iterator[dict[str, float]]:
    """For each of STRENGTHS the rounded weights of a logistic regression without intercept, but those that round to 0.

    Without an intercept, a candidate or message of which nothing is known scores 0. One class alone gives no weights.
    """
    from sklearn.linear_model import LogisticRegression

    if len({*classes.tolist()}) < 2:
        yield {}
        return
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, fit_intercept=False, max_iter=2000)
        model.fit(table, classes, sample_weight=weight)
        rounded = (round(float(value), DIGITS) for value in model.coef_[0])
        yield {name: value for name, value in zip(names, rounded, strict=True) if value}
