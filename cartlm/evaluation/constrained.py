"""Sections of a metrics file for answers within the catalog: the model's own, and those of model and baseline together.

The ensemble answers with the baseline's proposal wherever the model hardly prefers another legal answer: where the `gap`
(cartlm.decoding.jump_forward) is at most a margin, which is chosen on validation rows.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from cartlm.decoding import confidence
from cartlm.decoding.confidence import Calibration, Signs
from cartlm.engines.answer import Answer
from cartlm.evaluation.answers import rows_hash
from cartlm.evaluation.scoring import score, summarize, summarize_slices
from cartlm.evaluation.statistics import Pairs, mcnemar, newcombe
from cartlm.task.rows import Row

MARGINS = tuple(step / 2 for step in range(21))  # logits
RELIABILITY_BINS = 10
NO_SECTION = ("validation", "none")  # what is fitted on, and messages that are no order (no_orders)


def constrained(answer: Answer) -> Answer:
    """The legal answer beside a free one; the free one where there is none."""
    return answer if answer.legal is None else _other(answer, answer.legal.text)


def proposed(answer: Answer, margin: float) -> bool:
    """Whether the ensemble takes the baseline's proposal."""
    return answer.legal is not None and answer.legal.proposal is not None and answer.legal.gap <= margin


def ensemble(answer: Answer, margin: float) -> Answer:
    """The proposal, or else the legal answer."""
    if answer.legal is None or answer.legal.proposal is None or not proposed(answer, margin):
        return constrained(answer)
    return _other(answer, answer.legal.proposal)


def _other(answer: Answer, text: str) -> Answer:
    """Another text to the same prompt, without tokens and seconds: those of the answer are of free decoding."""
    return replace(
        answer, text=text, token_ids=(), finish_reason="stop", decoded_tokens=0, forced_tokens=0, prefill_s=0.0, decode_s=0.0
    )  # fmt: skip


def best_margin(rows: Sequence[Row], answers: Sequence[Answer]) -> float:
    """The least of MARGINS at which the ensemble gets as many (validation) rows right as at the best, but for a standard error.

    The one-standard-error rule (Hastie et al., The Elements of Statistical Learning, 7.10): few rows cannot tell margins
    apart, and validation rows are easier than others. The error is of (right + 1) / (n + 2), which is never 0 or 1.
    """
    n, right = len(rows), dict[float, int]()
    for margin in MARGINS:
        pairs = zip(rows, answers, strict=True)
        right[margin] = sum(ensemble(answer, margin).exact(row.completion) for row, answer in pairs)
    most = max(right.values())
    share = (most + 1) / (n + 2)
    return next(margin for margin in MARGINS if right[margin] >= most - math.sqrt(share * (1 - share) * n))


def signs(answer: Answer, margin: float | None = None) -> Signs:
    """Of the legal answer, or of the ensemble's. Raises ValueError for a row that was not decoded within its catalog."""
    legal = answer.legal
    if legal is None:
        raise ValueError("a free answer has no signs")
    taken = margin is not None and proposed(answer, margin)
    probability = legal.proposal_probability if taken else legal.probability
    return Signs(probability, None if legal.proposal is None else legal.gap)


@dataclass(frozen=True)
class Way:
    """How answers are chosen, and which other way they are compared with."""

    choose: Callable[[Answer, float | None], Answer]
    other: Callable[[Answer], Answer]


WAYS = {
    "constrained": Way(lambda answer, _: constrained(answer), lambda answer: answer),
    "ensemble": Way(lambda answer, margin: ensemble(answer, margin or 0.0), constrained),
}


@dataclass(frozen=True)
class Fit:
    """What answers to validation rows gave: the ensemble's margin, None for another way, and the calibration, None for too few."""

    n: int
    right: int
    margin: float | None
    calibration: Calibration | None

    def section(self) -> dict[str, float]:
        """As it is written to the metrics."""
        return {
            "n": self.n,
            "right": self.right / self.n,
            **({} if self.margin is None else {"margin": self.margin}),
            **(asdict(self.calibration) if self.calibration else {}),
        }


def fit(way: str, rows: Sequence[Row], answers: Sequence[Answer]) -> Fit:
    """Fitted on those of the rows that were decoded within their catalogs."""
    kept = [(row, answer) for row, answer in zip(rows, answers, strict=True) if answer.legal is not None]
    margin = best_margin(*zip(*kept, strict=True)) if way == "ensemble" and kept else None
    right = [WAYS[way].choose(answer, margin).exact(row.completion) for row, answer in kept]
    calibration = confidence.calibrate([signs(answer, margin) for _, answer in kept], right)
    return Fit(len(kept), sum(right), margin, calibration)


class Fits:
    """A way's fit on all validation rows; for rows that are among these, the fit on the half that they are not in.

    So no row is judged by what was fitted on it, also where a source without a test split has the same rows in both.
    """

    def __init__(self, way: str, rows: Sequence[Row], answers: Sequence[Answer]) -> None:
        self.whole = fit(way, rows, answers)
        self._half: dict[tuple[str, str], int] = {}  # a row that occurs twice is in one half
        halves = [self._half.setdefault((row.prompt, row.completion), len(self._half) % 2) for row in rows]

        @lru_cache
        def without(half: int) -> Fit:
            kept = [number for number, of in enumerate(halves) if of != half]
            return fit(way, [rows[number] for number in kept], [answers[number] for number in kept])

        self._without = without

    def of(self, row: Row) -> Fit:
        """The fit that may judge `row`."""
        half = self._half.get((row.prompt, row.completion))
        return self.whole if half is None else self._without(half)


Right = dict[str, dict[str, list[bool]]]
"""Set of rows -> way of decoding -> whether each row's answer is exact."""


def sections(
    sets: Mapping[str, Sequence[Row]], answered: Mapping[str, Sequence[Answer]]
) -> tuple[dict[str, dict[str, Any]], Right]:
    """Which rows are right, and for each way: WAY and WAY_slices of the rows "free", NAME_WAY of the others, WAY_calibration, WAY_reliability.

    `sets` has "free", "validation" and others, `answered` those of which answers were asked of cartlm.evaluation.reading.
    WAY is `constrained`, and `ensemble` where the baseline proposed answers. A section is as `summarize` makes it, with
    `calibration_error`, `accuracy_at_COVERAGE` and `confidence_at_COVERAGE` of the surest share. `changed` is the share of
    rows with another answer than in free (for the ensemble: constrained) decoding, `gain` the difference in exact match to
    that, with the 95 % interval `gain_low` to `gain_high` and McNemar's `gain_p`. `refused`, where there are any, is the share of
    rows too long, which keep their free answer. WAY_calibration is of the fit on all validation rows (`Fit.section`).
    """
    rows, answers = sets["validation"], answered.get("validation", [])
    ways = [way for way in WAYS if way != "ensemble" or any(a.legal and a.legal.proposal for a in answers)]
    found: dict[str, dict[str, Any]] = {}
    exact: Right = defaultdict(dict)
    for way in ways:
        fits = Fits(way, rows, answers)
        if fits.whole.n:
            found[f"{way}_calibration"] = fits.whole.section()
        for name in (name for name in answered if name not in NO_SECTION):
            more, exact[name][way] = _of_set(way, name, sets[name], answered[name], fits)
            found |= more
    return found, exact


def _of_set(
    way: str, name: str, rows: Sequence[Row], answers: Sequence[Answer], fits: Fits
) -> tuple[dict[str, dict[str, Any]], list[bool]]:
    """The sections of one way and one set of rows, and which of these are right."""
    fitted = [fits.of(row) for row in rows]
    chosen = [WAYS[way].choose(answer, one.margin) for answer, one in zip(answers, fitted, strict=True)]
    others = [WAYS[way].other(answer) for answer in answers]
    scores = [score(row, answer) for row, answer in zip(rows, chosen, strict=True)]
    section: dict[str, Any] = {
        **summarize(scores),
        "changed": sum(a.text != b.text for a, b in zip(chosen, others, strict=True)) / len(rows),
        **_gain(rows, others, chosen),
    }
    if refused := sum(answer.legal is None for answer in answers):
        section["refused"] = refused / len(rows)
    found = {way if name == "free" else f"{name}_{way}": section}
    if name == "free":
        found[f"{way}_slices"] = summarize_slices(rows, scores)
    else:
        section["rows"] = rows_hash(rows)
    every = [each for each in zip(rows, answers, chosen, fitted, strict=True) if each[1].legal is not None]
    if every and all(one.calibration for *_, one in every):
        right = [answer.exact(row.completion) for row, _, answer, _ in every]
        sure = np.concatenate([_calibrated(one, answer) for _, answer, _, one in every])
        section |= _coverage(sure, right)
        if name == "free":
            found[f"{way}_reliability"] = _reliability(sure, right)
    return found, [one.outcome == "exact" for one in scores]


def _gain(rows: Sequence[Row], first: Sequence[Answer], second: Sequence[Answer]) -> dict[str, float]:
    """How much more of `rows` the second answers get right, as a share; paired."""
    every = zip(rows, first, second, strict=True)
    count = Counter((a.exact(row.completion), b.exact(row.completion)) for row, a, b in every)
    pairs = Pairs(count[True, True], count[True, False], count[False, True], count[False, False])
    low, high = newcombe(pairs)
    return {"gain": pairs.difference, "gain_low": low, "gain_high": high, "gain_p": mcnemar(pairs)}


def _calibrated(fitted: Fit, answer: Answer) -> Any:
    """The confidence of one answer, float64 [1]."""
    return fitted.calibration([signs(answer, fitted.margin)]) if fitted.calibration else np.empty(0)


def _coverage(sure: Any, right: Sequence[bool]) -> dict[str, float]:
    section = {"calibration_error": confidence.expected_calibration_error(sure, right)}
    for coverage in confidence.COVERAGES:
        accuracy, least = confidence.accuracy_at_coverage(sure, right, coverage)
        section |= {f"accuracy_at_{coverage:.0%}"[:-1]: accuracy, f"confidence_at_{coverage:.0%}"[:-1]: least}
    return section


def _reliability(sure: Any, right: Sequence[bool]) -> dict[str, float]:
    """For each bin of confidence that has answers: how many, mean confidence, share of right ones."""
    section: dict[str, float] = {}
    for number, (count, mean, share) in enumerate(confidence.reliability(sure, right, RELIABILITY_BINS), 1):
        section |= {
            f"bin_{number}_n": count,
            f"bin_{number}_confidence": mean,
            f"bin_{number}_correct": share,
        }
    return section
