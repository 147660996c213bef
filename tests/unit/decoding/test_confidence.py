"""Calibration mends a model that is too sure, and the figures are what their definitions say."""

from __future__ import annotations

import numpy as np
import pytest

from cartlm.decoding.confidence import (
    COVERAGES,
    Calibration,
    Method,
    accuracy_at_coverage,
    expected_calibration_error,
    reliability,
)  # fmt: skip


def too_sure(seed: int, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Confidences whose log odds are twice what they should be, and outcomes."""
    random = np.random.default_rng(seed)
    odds = random.normal(1.5, 1.5, count)
    right = random.random(count) < 1 / (1 + np.exp(-odds))
    return 1 / (1 + np.exp(-2 * odds)), right


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_calibration_on_validation_rows_mends_other_rows(method: Method) -> None:
    calibration = Calibration(*too_sure(1), method=method)
    confidence, right = too_sure(2)
    before, after = (
        expected_calibration_error(each, right) for each in (confidence, calibration(confidence))
    )
    assert before > 0.06
    assert after < 0.025
    # surer stays surer
    order = np.argsort(confidence)
    assert (np.diff(calibration(confidence)[order]) >= 0).all()


def test_temperature_finds_the_factor() -> None:
    calibration = Calibration(*too_sure(3, 20_000))
    odds = np.log(0.9 / 0.1)
    assert calibration([0.9])[0] == pytest.approx(1 / (1 + np.exp(-odds / 2)), abs=0.01)


def test_certain_answers_are_no_trouble() -> None:
    confidence, right = too_sure(4)
    calibration = Calibration([*confidence, 1.0, 0.0], [*right, True, False])
    assert np.isfinite(calibration([0.0, 1.0])).all()


def test_one_sided_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="all 3 are the same"):
        Calibration([0.9, 0.8, 0.7], [True, True, True])


def test_the_error_by_hand() -> None:
    confidence, right = [0.95, 0.92, 0.55, 0.51, 1.0], [True, False, True, True, True]
    # bins of width 0.1: [0.51, 0.55] and [0.92, 0.95, 1.0]
    assert reliability(confidence, right, 10) == [
        (2, pytest.approx(0.53), 1.0),
        (3, pytest.approx(0.9566667), 2 / 3),
    ]
    assert expected_calibration_error(confidence, right, 10) == pytest.approx(
        (2 * 0.47 + 3 * (0.9566667 - 2 / 3)) / 5
    )


def test_accuracy_at_coverage_by_hand() -> None:
    confidence = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1]
    right = [True] * 8 + [False, False]
    assert accuracy_at_coverage(confidence, right, 1) == (0.8, 0.1)
    assert accuracy_at_coverage(confidence, right, 0.9) == (pytest.approx(8 / 9), 0.15)
    assert accuracy_at_coverage(confidence, right, 0.8) == (1, 0.2)
    assert accuracy_at_coverage([0.5, 0.5], [True, False], 0.5) == (0.5, 0.5)
    with pytest.raises(ValueError, match="coverage is 0"):
        accuracy_at_coverage(confidence, right, 0)


def test_coverages_are_those_of_the_reports() -> None:
    confidence, right = too_sure(5)
    accuracies = [accuracy_at_coverage(confidence, right, coverage)[0] for coverage in COVERAGES]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[-1] > right.mean()
