"""Fixtures that more than one folder of tests uses (each in its own file under tests/fixtures/), and how tests share cores."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Before anything loads OpenMP: threads that wait must not spin on the core that the other worker needs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from tests.fixtures.toy import toy_gguf, toy_model

__all__ = ["toy_gguf", "toy_model"]

# A busy machine makes single examples slow: that is no failure.
settings.register_profile("cartlm", deadline=None)
settings.load_profile("cartlm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long is not left for the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
