"""The linters of workflows, where they are installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

TOOLS = {"zizmor": ["--offline", "--quiet", ".github/workflows"], "actionlint": []}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_linter_finds_nothing(tool: str) -> None:
    path = shutil.which(tool, path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if path is None:
        pytest.skip(f"{tool} is not installed: pip install -r .github/tools.txt")
    done = subprocess.run([path, *TOOLS[tool]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
