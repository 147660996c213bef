"""Fixtures that more than one folder of tests uses (each in its own file under tests/fixtures/), and how tests share cores."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import settings

# Before anything loads OpenMP: threads that wait must not spin on the core that the other worker needs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from tests.fixtures.toy import toy_gguf, toy_model

__all__ = ["toy_gguf", "toy_model"]

# A busy machine makes single examples slow: that is no failure.
settings.register_profile("cartlm", deadline=None)
settings.load_profile("cartlm")


# They share the toy repositories of tests/pipeline/conftest.py, which take minutes to run.
TOGETHER = {
    f"tests/pipeline/test_{name}.py" for name in ("broken_input", "graph_runs", "kill", "two_machines")
}


@pytest.hookimpl(optionalhook=True)  # the images measure without xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For --dist loadfile: a file's tests go to one worker, and so do the files of TOGETHER."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "together" if file in TOGETHER else file

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long is not left for the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
