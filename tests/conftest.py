"""What all tests share: fixtures (each in its own file under tests/fixtures/), and which tests run on one worker."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import settings

# Before anything loads OpenMP: two workers on two cores, so one thread each, which sleeps while it waits.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from tests.fixtures.toy import toy_gguf, toy_model

PIPELINE = "tests/pipeline/"
__all__ = ["toy_gguf", "toy_model"]

# A busy machine makes single examples slow: that is no failure.
settings.register_profile("cartlm", deadline=None)
settings.load_profile("cartlm")


@pytest.hookimpl(optionalhook=True)  # the CPU image has no xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The tests that share fixtures run on one worker: those of a file, and all of tests/pipeline (the toy graph).

    xdist's own groups (3.8.0) do nothing under pytest 9.2, whose items have no `_nodeid` any more.
    """
    from xdist.scheduler import LoadFileScheduling

    class ByFixtures(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return PIPELINE if file.startswith(PIPELINE) else file

    return ByFixtures(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest starts first."""
    items.sort(
        key=lambda item: (
            not item.nodeid.startswith(PIPELINE),
            item.get_closest_marker("slow") is None,
        )
    )
