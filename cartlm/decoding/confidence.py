"""How sure an answer is: calibration on validation rows, and how well confidence tells right answers from wrong ones.

The confidence of an answer is the share of right ones among answers like it, by three signs: its `probability` among the
legal answers (cartlm.decoding.jump_forward), whether the model by itself answers as the baseline proposes, and the `gap` of
that proposal.
In all functions `confidence` is [n] in 0..1, `correct` is [n] and says which of these answers were right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

COVERAGES = (0.9, 0.95, 0.99)
BINS = 15  # as in Guo et al. 2017 (arXiv 1706.04599)
SMALLEST = 1e-12  # keeps the log odds of 0 and 1 finite
LARGEST_GAP = 10.0  # logits; beyond it a proposal is out of the question
FEWEST = 20  # validation rows


@dataclass(frozen=True)
class Signs:
    """What tells how sure an answer is; the gap is None without a legal proposal, 0 where the model proposes the same."""

    probability: float
    gap: float | None

    def features(self) -> tuple[float, float, float]:
        probability = min(max(self.probability, SMALLEST), 1 - SMALLEST)
        log_odds = float(np.log(probability / (1 - probability)))
        return log_odds, float(self.gap == 0), min(self.gap or 0.0, LARGEST_GAP)


@dataclass(frozen=True)
class Calibration:
    """A logistic regression from the signs to the share of right answers (Platt scaling with two more features)."""

    intercept: float
    log_odds: float
    agrees: float
    gap: float

    def __call__(self, signs: Sequence[Signs]) -> Any:
        """Confidences, float64 [n]."""
        features = np.array([each.features() for each in signs]).reshape(-1, 3)
        return 1 / (1 + np.exp(-self.intercept - features @ [self.log_odds, self.agrees, self.gap]))


def calibrate(signs: Sequence[Signs], correct: Sequence[bool]) -> Calibration | None:
    """Fitted by scikit-learn on validation answers; None where all, or none, are right, or there are too few."""
    from sklearn.linear_model import LogisticRegression

    if len(correct) < FEWEST or len(set(correct)) < 2:
        return None
    model = LogisticRegression().fit([each.features() for each in signs], correct)
    return Calibration(float(model.intercept_[0]), *map(float, model.coef_[0]))


def reliability(confidence: Any, correct: Any, bins: int = BINS) -> list[tuple[int, float, float]]:
    """(answers, mean confidence, share of right ones) of each bin of equal width that has answers, by confidence."""
    values, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
    places = np.minimum((values * bins).astype(int), bins - 1)
    return [
        (
            int((places == place).sum()),
            float(values[places == place].mean()),
            float(right[places == place].mean()),
        )
        for place in np.unique(places)
    ]


def expected_calibration_error(confidence: Any, correct: Any, bins: int = BINS) -> float:
    """Mean distance of confidence and share of right answers over `reliability`, weighted by the bins' answers."""
    table = reliability(confidence, correct, bins)
    return sum(count * abs(mean - share) for count, mean, share in table) / sum(count for count, *_ in table)


def accuracy_at_coverage(confidence: Any, correct: Any, coverage: float) -> tuple[float, float]:
    """Share of right answers among the surest `coverage` of all, and the least confidence among these.

    The others would go to a person. Answers as sure as the least one are counted in.
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage is {coverage}, not above 0 and at most 1")
    values, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
    least = np.sort(values)[::-1][int(np.ceil(round(coverage * len(values), 9))) - 1]
    return float(right[values >= least].mean()), float(least)
