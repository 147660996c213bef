"""What all tests share: fixtures (each in its own file under tests/fixtures/), and which tests run on one worker."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Before anything loads OpenMP: two workers on two cores, so one thread each, which sleeps while it waits.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from tests.fixtures.toy import toy_gguf, toy_model

__all__ = ["toy_gguf", "toy_model"]

# A busy machine makes single examples slow: that is no failure.
settings.register_profile("cartlm", deadline=None)
settings.load_profile("cartlm")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of a file share its fixtures, hence a worker; the slow ones start first."""
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
