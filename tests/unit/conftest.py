"""A unit test starts no process and imports nothing heavy: tests that need more belong to tests/component."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from click.testing import CliRunner, Result

from cartlm import cli

HEAVY = frozenset({"datasets", "gptqmodel", "llama_cpp", "torch", "transformers"})


def imported() -> frozenset[str]:
    return HEAVY & sys.modules.keys()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    before = imported()
    report = yield
    if new := imported() - before:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} imports {', '.join(sorted(new))}: move it to tests/component"
    return report


def refuse(*_: Any, **__: Any) -> NoReturn:
    pytest.fail("a unit test starts a process: move it to tests/component")


@pytest.fixture(autouse=True)
def unit(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    for name in ("fork", "posix_spawn", "posix_spawnp", "system"):
        monkeypatch.setattr(os, name, refuse)
    before = imported()
    yield
    if new := imported() - before:
        pytest.fail(f"a unit test imports {', '.join(sorted(new))}: move it to tests/component")


@pytest.fixture
def cartlm(repo: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command in the folder `repo`, which a test module makes."""
    monkeypatch.chdir(repo)
    return lambda *arguments: CliRunner().invoke(cli.main, arguments, prog_name="cartlm")
