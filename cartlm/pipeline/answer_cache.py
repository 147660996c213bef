"""Answers that were paid for: outputs of DVC stages that must not be bought twice.

`dvc repro --pull` fetches outputs of unchanged stages only. Where a stage changed, its old answers are still worth having.
"""

from __future__ import annotations

from pathlib import Path

from cartlm.errors import UserError
from cartlm.pipeline import dvc_lock
from cartlm.pipeline.dvc_remote import open_repo
from cartlm.pipeline.repository import read_file


def bought(path: str) -> bool:
    """Whether a dvc.lock of the working directory lists `path` as an output that is not empty."""
    stages = dvc_lock.read_stages(lambda file: read_file(Path("."), None, file), "workspace")
    return any(stage.outs.get(path, 0) > 0 for stage in stages.values())


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
    try:
        with open_repo(Path("."), "dvc pull") as repo:
            if repo.config["remote"]:
                repo.pull(targets=[path], allow_missing=True)
    except UserError as error:
        raise UserError(
            f"{path} was paid for and cannot be fetched: {error.message}", f"dvc pull {path}"
        ) from None
    return "" if here(path) else f"warning: {path} was paid for and is in no DVC remote of this repository"
