"""How sure an answer is: calibration on validation rows, and how well confidence tells right answers from wrong ones.

The confidence of an answer is its `probability` among the legal ones (cartlm.decoding.jump_forward). In all functions
`confidence` is [n] in 0..1, `correct` is [n] and says which of these answers were right.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

Method = Literal["temperature", "isotonic"]
COVERAGES = (0.9, 0.95, 0.99)
BINS = 15  # as in Guo et al. 2017 (arXiv 1706.04599)
SMALLEST = 1e-12  # keeps the log odds of 0 and 1 finite


class _LogOdds(ClassifierMixin, BaseEstimator):
    """The classifier whose decision function is its only feature: what scikit-learn's calibration starts from."""

    def __init__(self) -> None:
        self.classes_ = np.array([0, 1])

    def fit(
        self, features: Any, correct: Any
    ) -> _LogOdds:  # which scikit-learn asks for; there is nothing to fit
        return self

    def decision_function(self, features: Any) -> Any:
        return np.asarray(features)[:, 0]

    def predict(self, features: Any) -> Any:
        return (self.decision_function(features) > 0).astype(int)


def _log_odds(confidence: Any) -> Any:
    """[n, 1]."""
    values = np.clip(np.asarray(confidence, dtype=np.float64), SMALLEST, 1 - SMALLEST)
    return np.log(values / (1 - values))[:, None]


class Calibration:
    """A map from confidence to the share of right answers, fitted on validation rows by scikit-learn.

    "temperature" divides the log odds by one number; "isotonic" is a rising step function, which needs some hundred rows.
    Raises ValueError where all answers, or none, are right.
    """

    def __init__(self, confidence: Any, correct: Any, method: Method = "temperature") -> None:
        right = np.asarray(correct, dtype=int)
        if len(set(right.tolist())) < 2:
            raise ValueError(f"calibration needs right and wrong answers; all {len(right)} are the same")
        model = CalibratedClassifierCV(FrozenEstimator(_LogOdds()), method=method, cv=2, ensemble=False)
        self._model = model.fit(_log_odds(confidence), right)

    def __call__(self, confidence: Any) -> Any:
        """Calibrated confidences, float64 [n]."""
        return self._model.predict_proba(_log_odds(confidence))[:, 1]


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
