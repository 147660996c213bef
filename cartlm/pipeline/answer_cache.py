"""Answers that were paid for: outputs of DVC stages that must not be bought twice.

`dvc repro --pull` fetches outputs of unchanged stages only. Where a stage changed, its old answers are still worth having.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cartlm.errors import UserError
from cartlm.pipeline import dvc_lock
from cartlm.system import processes


def bought(path: str) -> bool:
    """Whether a dvc.lock of the working directory lists `path` as an output that is not empty."""
    stages = dvc_lock.read_stages(
        lambda file: Path(file).read_bytes() if Path(file).is_file() else None, "workspace"
    )
    return any(made.outs.get(path, 0) > 0 for made in stages.values())


def here(path: str) -> bool:
    """Whether the file is there and holds something."""
    return Path(path).is_file() and Path(path).stat().st_size > 0


def fetch(path: str) -> str:
    """Bring a bought output that is not here from the DVC remote; returns a warning where no remote has it.

    Raises UserError if fetching fails.
    """
    if here(path) or not bought(path):
        return ""
    Path(path).unlink(missing_ok=True)  # an empty one would be in the way
    dvc = [sys.executable, "-m", "dvc"]
    if subprocess.run([*dvc, "remote", "list"], capture_output=True).stdout.strip():
        done = subprocess.run([*dvc, "pull", "--allow-missing", path], capture_output=True, text=True)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise UserError(
                f"{path} was paid for and cannot be fetched: {said[0] if said else processes.ended(done.returncode)}",
                f"dvc pull {path}",
            )
    return "" if here(path) else f"warning: {path} was paid for and is in no DVC remote of this repository"
