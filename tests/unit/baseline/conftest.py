"""A reader fitted on generated rows, once for these tests."""

from __future__ import annotations

import pytest

from cartlm.baseline import fit
from cartlm.baseline.reader import Weights
from tests.fixtures.baseline import generated


@pytest.fixture(scope="package")
def weights() -> Weights:
    return fit.fit(generated("train", 900), generated("validation", 120)).weights
