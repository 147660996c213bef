"""Sections of a metrics file for answers within the catalog: the model's own, and those of model and baseline together.

The ensemble answers with the baseline's proposal wherever the model hardly prefers another legal answer: where the `gap`
(cartlm.decoding.jump_forward) is at most a margin, which is chosen on validation rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from cartlm.decoding import confidence
from cartlm.decoding.confidence import Calibration, Signs
from cartlm.engines.answer import Answer
from cartlm.evaluation.answers import rows_hash
from cartlm.evaluation.scoring import score, summarize, summarize_slices
from cartlm.task.rows import Row

MARGINS = tuple(step / 2 for step in range(21))  # logits
RELIABILITY_BINS = 10
Choose = Callable[[Answer], Answer]


def constrained(answer: Answer) -> Answer:
    """The legal answer beside a free one; the free one where there is none."""
    legal = answer.legal
    if legal is None:
        return answer
    return replace(answer, text=legal.text, token_ids=legal.token_ids, finish_reason="stop")


def proposed(answer: Answer, margin: float) -> bool:
    """Whether the ensemble takes the baseline's proposal."""
    return answer.legal is not None and answer.legal.proposal is not None and answer.legal.gap <= margin


def ensemble(answer: Answer, margin: float) -> Answer:
    """The proposal, or else the legal answer."""
    if answer.legal is None or answer.legal.proposal is None or not proposed(answer, margin):
        return constrained(answer)
    return replace(answer, text=answer.legal.proposal, token_ids=(), finish_reason="stop")


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


def sections(
    sets: Mapping[str, Sequence[Row]], answered: Mapping[str, Sequence[Answer]]
) -> dict[str, dict[str, Any]]:
    """For each way: WAY and WAY_slices of the rows "free", NAME_WAY of the others, WAY_calibration, WAY_reliability.

    `sets` has "free", "validation" and others, `answered` those of which answers were asked of cartlm.evaluation.reading. WAY is `constrained`, and `ensemble` where
    the baseline proposed answers. A section is as `summarize` makes it, with `calibration_error`, `accuracy_at_COVERAGE` and
    `confidence_at_COVERAGE` of the surest share; `changed` is the share of rows with another answer than in free (or
    constrained) decoding, and `refused`, where there are any, of those too long, which keep their free answer.
    WAY_calibration has what was fitted on the validation rows, how many, and the ensemble's `margin`.
    """
    validation = sets["validation"], answered["validation"]
    ways: dict[str, tuple[Choose, Choose, float | None]] = {
        "constrained": (constrained, lambda answer: answer, None)
    }
    if any(each.legal and each.legal.proposal is not None for each in validation[1]):
        chosen_margin = best_margin(*validation)
        ways["ensemble"] = (partial(ensemble, margin=chosen_margin), constrained, chosen_margin)
    found: dict[str, dict[str, Any]] = {}
    for way, (choose, other, margin) in ways.items():
        kept = [(row, answer) for row, answer in zip(*validation, strict=True) if answer.legal is not None]
        right = [choose(answer).exact(row.completion) for row, answer in kept]
        fitted = confidence.calibrate([signs(answer, margin) for _, answer in kept], right)
        found[f"{way}_calibration"] = {
            "n": len(kept),
            "right": sum(right) / len(kept),
            **({} if margin is None else {"margin": margin}),
            **(asdict(fitted) if fitted else {}),
        }
        for name, answers in answered.items():
            if name in ("validation", "none"):  # messages that are no order: cartlm.evaluation.no_orders
                continue
            rows = sets[name]
            chosen = [choose(answer) for answer in answers]
            scores = [score(row, answer) for row, answer in zip(rows, chosen, strict=True)]
            section = found[way if name == "free" else f"{name}_{way}"] = {
                **summarize(scores),
                "changed": sum(a.text != other(b).text for a, b in zip(chosen, answers, strict=True))
                / len(rows),
            }
            if refused := sum(answer.legal is None for answer in answers):
                section["refused"] = refused / len(rows)
            if name == "free":
                found[f"{way}_slices"] = summarize_slices(rows, scores)
            else:
                section["rows"] = rows_hash(rows)
            if fitted and refused < len(rows):
                sure = _confidence(fitted, rows, answers, chosen, margin)
                section |= _coverage(*sure)
                if name == "free":
                    found[f"{way}_reliability"] = _reliability(*sure)
    return found


def _confidence(
    fitted: Calibration, rows: Sequence[Row], answers: Sequence[Answer], chosen: Sequence[Answer], margin: float | None
) -> tuple[Any, list[bool]]:  # fmt: skip
    """Confidences [n], and which of the answers are right, of the rows that were decoded within their catalogs."""
    every = [each for each in zip(rows, answers, chosen, strict=True) if each[1].legal is not None]
    right = [answer.exact(row.completion) for row, _, answer in every]
    return fitted([signs(answer, margin) for _, answer, _ in every]), right


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
