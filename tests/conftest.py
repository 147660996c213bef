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


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep on one worker (`--dist loadgroup`) what shares a costly fixture: a file, or all that needs the toy graph's run."""
    items.sort(
        key=lambda item: item.get_closest_marker("slow") is None
    )  # what takes long is not left for the end
    for item in items:
        needs = getattr(item, "fixturenames", ())
        together = "toy graph" if {"first", "changed", "rebuilt"} & set(needs) else str(item.path)
        item.add_marker(pytest.mark.xdist_group(together))
