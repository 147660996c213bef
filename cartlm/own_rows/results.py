"""What variants' answers to a user's rows are worth: shares with intervals, slices, and pairs of variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cartlm.engines.answer import Answer
from cartlm.evaluation.paired import Difference, mcnemar_differences, pair_outcomes
from cartlm.evaluation.scoring import Score, score, summarize
from cartlm.metrics import Outcome, rounded
from cartlm.own_rows.answering import Answered
from cartlm.own_rows.labelled import SIZES, Labelled
from cartlm.task.intent import NO_ORDER, parse_intent
from cartlm.task.rows import Row


@dataclass(frozen=True)
class Scored:
    """A variant's answers and their scores, in the order of the rows."""

    answered: Answered
    scores: list[Score]
    outside: int  # answers that parse and name no line of the row's catalog

    @property
    def name(self) -> str:
        return self.answered.name

    def section(self) -> dict[str, int | float]:
        """As `cartlm.evaluation.scoring.summarize`, with `outside_catalog` and, where measured, `latency_ms_p50` and `_p95`."""
        section = {**summarize(self.scores), "outside_catalog": self.outside / len(self.scores)}
        if latency := self.answered.latency_ms:
            low, high = np.percentile(latency, (50, 95))
            section |= {
                "latency_ms_p50": float(low),
                "latency_ms_p95": float(high),
                "latency_n": len(latency),
            }
        return section


@dataclass(frozen=True)
class Slice:
    """The rows with one value of a kind, and each variant's section of them, in the variants' order."""

    kind: str
    value: str
    sections: list[dict[str, int | float]]

    @property
    def n(self) -> int:
        return int(self.sections[0]["n"])


@dataclass(frozen=True)
class Evaluation:
    """Rows with one or more variants' answers; `differences` are of exact match, of each variant to the first."""

    rows: Sequence[Labelled]
    variants: list[Scored]
    slices: list[Slice]
    differences: list[Difference]

    def wrong(self) -> list[int]:
        """The places of the rows that at least one variant did not answer exactly."""
        every = zip(*(variant.scores for variant in self.variants), strict=True)
        return [at for at, scores in enumerate(every) if any(one.outcome != "exact" for one in scores)]


def evaluate(rows: Sequence[Labelled], answered: Sequence[Answered]) -> Evaluation:
    """Score the answers of one or more variants, whose names differ, to the same rows. Raises ValueError without rows."""
    variants = [_score([each.row for each in rows], one) for one in answered]
    # by place: all rows of a JSON array on one line have the same id
    outcomes = {
        each.name: [Outcome(str(at), one.outcome, "") for at, one in enumerate(each.scores)]
        for each in variants
    }
    first, *others = outcomes
    pairs = {name: pair_outcomes(outcomes[first], outcomes[name]) for name in others}
    return Evaluation(rows, variants, _slices(rows, variants), mcnemar_differences(pairs) if pairs else [])


def _score(rows: Sequence[Row], answered: Answered) -> Scored:
    scores = [score(row, answer) for row, answer in zip(rows, answered.answers, strict=True)]
    outside = sum(map(is_outside, rows, answered.answers))
    return Scored(answered, scores, outside)


def is_outside(row: Row, answer: Answer) -> bool:
    """Whether an answer ended, parses, and names a product that is no line of the row's catalog."""
    try:
        intent = parse_intent(answer.text)
    except ValueError:
        return False
    return answer.finish_reason == "stop" and intent != NO_ORDER and intent.product not in row.catalog


def _slices(rows: Sequence[Labelled], variants: Sequence[Scored]) -> list[Slice]:
    """Each kind's values, sizes of catalogs by size, others the most frequent first; kinds in the order of the rows'."""
    places: dict[tuple[str, str], list[int]] = {}
    for at, own in enumerate(rows):
        for kind, value in own.slices.items():
            places.setdefault((kind, value), []).append(at)
    kinds = list(dict.fromkeys(kind for own in rows for kind in own.slices))
    sizes = [*SIZES.values()]

    def rank(each: tuple[str, str]) -> tuple[int, int, str]:
        kind, value = each
        by_size = kind == "catalog lines" and value in sizes
        return kinds.index(kind), sizes.index(value) if by_size else -len(places[each]), value

    return [
        Slice(*each, [summarize([variant.scores[at] for at in places[each]]) for variant in variants])
        for each in sorted(places, key=rank)
    ]


def plain_section(section: dict[str, Any]) -> dict[str, Any]:
    """A section with its floats rounded as in metrics files."""
    return {key: rounded(value) if isinstance(value, float) else value for key, value in section.items()}
