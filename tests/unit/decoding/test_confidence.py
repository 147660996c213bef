"""Calibration mends a model that is too sure, and the figures are what their definitions say."""

from __future__ import annotations

import numpy as np
import pytest

from cartlm.decoding.confidence import (
    COVERAGES,
    FEWEST,
    Calibration,
    Signs,
    accuracy_at_coverage,
    calibrate,
    expected_calibration_error,
    reliability,
)


def too_sure(seed: int, count: int = 4000) -> tuple[list[Signs], np.ndarray]:
    """Answers whose log odds are twice what they should be; where the baseline disagrees, another factor e less."""
    random = np.random.default_rng(seed)
    odds, agrees = random.normal(1.5, 1.5, count), random.random(count) < 0.7
    right = random.random(count) < 1 / (1 + np.exp(-odds - agrees))
    probabilities = 1 / (1 + np.exp(-2 * odds))
    return [Signs(p, 0.0 if same else 3.0) for p, same in zip(probabilities, agrees, strict=True)], right


def raw(signs: list[Signs]) -> np.ndarray:
    return np.array([each.probability for each in signs])


def test_calibration_on_validation_rows_mends_other_rows() -> None:
    calibration = calibrate(*too_sure(1))
    assert calibration is not None
    signs, right = too_sure(2)
    assert expected_calibration_error(raw(signs), right) > 0.06
    assert expected_calibration_error(calibration(signs), right) < 0.025
    # of answers that are alike but for the probability the surer stays surer
    same = sorted((each for each in signs if each.gap == 0), key=lambda each: each.probability)
    assert (np.diff(calibration(same)) >= 0).all()


def test_it_finds_the_weights() -> None:
    calibration = calibrate(*too_sure(3, 20_000))
    assert calibration is not None
    assert calibration.log_odds == pytest.approx(0.5, abs=0.03)
    one, other = calibration([Signs(0.9, 0.0), Signs(0.9, 3.0)])
    assert np.log(one / (1 - one)) - np.log(other / (1 - other)) == pytest.approx(1, abs=0.1)


def test_a_calibration_of_known_weights_by_hand() -> None:
    calibration = Calibration(intercept=0.5, log_odds=1.0, agrees=2.0, gap=-0.1)
    (found,) = calibration([Signs(0.5, 30.0)])
    assert found == pytest.approx(1 / (1 + np.exp(-(0.5 - 1.0))))  # the gap is capped
    (found,) = calibration([Signs(0.5, 0.0)])
    assert found == pytest.approx(1 / (1 + np.exp(-(0.5 + 2.0))))
    (found,) = calibration([Signs(0.5, None)])
    assert found == pytest.approx(1 / (1 + np.exp(-0.5)))


def test_certain_answers_are_no_trouble() -> None:
    signs, right = too_sure(4)
    calibration = calibrate([*signs, Signs(1.0, 0), Signs(0.0, 99)], [*right, True, False])
    assert calibration is not None
    assert np.isfinite(calibration([Signs(0.0, None), Signs(1.0, 0)])).all()


def test_one_sided_and_few_answers_are_not_calibrated() -> None:
    sure = [Signs(0.9, 0)] * FEWEST
    assert calibrate(sure, [True] * FEWEST) is None
    assert calibrate(sure[1:], [True, False, *[True] * (FEWEST - 3)]) is None
    assert calibrate(sure, [True, False, *[True] * (FEWEST - 2)]) is not None


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
    signs, right = too_sure(5)
    confidence = raw(signs)
    accuracies = [accuracy_at_coverage(confidence, right, coverage)[0] for coverage in COVERAGES]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[-1] > right.mean()
