"""The tests of `make bench` load with the packages that the CPU image has."""

from __future__ import annotations

import os
import subprocess
import sys

from tests import ROOT
from tests.unit.docker.test_locks import DOCKERFILES


def test_benchmarks_load_without_xdist() -> None:
    code = (
        "import sys; sys.modules['xdist'] = None; import pytest;"
        "sys.exit(pytest.main(['--collect-only', '-q', 'tests/benchmarks', '-p', 'pytest_timeout', '-p', 'pytest_benchmark.plugin']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    install = next(line for line in DOCKERFILES["cpu"].splitlines() if "pytest-benchmark" in line)
    assert "xdist" not in install
