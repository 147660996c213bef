"""A stage in this process: importing torch and transformers anew for each call would take most of the time."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner


def stage(folder: Path, name: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a stage's command with `folder` as working directory."""
    main = importlib.import_module(f"stages.{name}").main
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for variable, value in environ.items():
            patch.setenv(variable, value)
        result = CliRunner().invoke(main, arguments)
    return subprocess.CompletedProcess(name, result.exit_code, result.stdout, result.stderr)
