"""Models and data to and from a DVC remote: what one machine made, another takes instead of making it again.

DVC runs in this process, for its progress bars: its own command stops at the first file that a remote lacks, and ends
well where the remote is gone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cartlm.errors import UserError

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo

MAIN = "dvc.yaml"
LOGGERS = ("dvc", "dvc_data", "dvc_objects")


@dataclass(frozen=True)
class Shared:
    """What went over, and what is not here: outputs that dvc.lock lists."""

    remote: str  # its name; a URL may hold a password
    files: int
    outs: int
    missing: list[str]


def pull(root: Path) -> Shared:
    """Bring what dvc.lock says the main graph made. What the remote lacks is left out, unless that is all.

    Raises UserError without a remote, and where it cannot be read or has nothing of what is missing here.
    """
    from dvc.exceptions import DownloadError

    with opened(root, "dvc pull") as repo:
        remote = checked(repo)
        made = outputs(repo, main=True)
        lacking = sum(not out.exists for out in made)
        with suppress(DownloadError):  # some files are not there; the others came
            repo.fetch(targets=[MAIN])
        added = repo.checkout(targets=[MAIN], allow_missing=True)["stats"]
        missing = [str(out) for out in made if not out.exists]
    if not made:
        raise UserError("dvc.lock lists no output of the main graph", "git pull, or make repro")
    if missing and len(missing) == lacking:
        raise UserError(
            f"the DVC remote {remote} cannot be reached, or has none of the {lacking} outputs that are missing here",
            "dvc remote list, then make push on the machine that made them",
        )
    return Shared(remote, added["added"] + added["modified"], len(made), missing)


def push(root: Path) -> Shared:
    """Copy what any pipeline made to the default remote, with paid answers; what is not here is left out.

    Raises UserError without a remote, where it cannot be written, and where nothing is here.
    """
    with opened(root, "dvc push") as repo:
        remote = checked(repo, writing=True)
        made = outputs(repo)
        missing = [str(out) for out in made if out.changed_cache()]
        if len(missing) == len(made):
            raise UserError(
                "nothing of what dvc.lock lists is in DVC's cache here", "make repro, or make pull"
            )
        return Shared(remote, repo.push(), len(made), missing)


@contextmanager
def opened(root: Path, command: str) -> Iterator[Repo]:
    """The repository, with DVC's loggers silent. What a remote's library raises becomes a UserError of one line."""
    from dvc.repo import Repo

    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger, logger.propagate, logger.handlers) for logger in loggers]
    for logger in loggers:
        logger.propagate, logger.handlers = False, [logging.NullHandler()]
    try:
        with Repo(str(root)) as repo:
            yield repo
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:  # credentials, network, disk: each library has its own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        package = re.search(r"'(dvc-[a-z0-9]+)' to be installed", lines[0])
        hint = f"pip install {package[1]}" if package else f"{command} -v"
        raise UserError(f"{command} failed: {lines[0]}", hint) from error
    finally:
        for logger, propagate, handlers in before:
            logger.propagate, logger.handlers = propagate, handlers


def checked(repo: Repo, writing: bool = False) -> str:
    """The name of the default remote. Raises UserError without one, and for a folder that is not there to be read.

    To a folder that is not there DVC writes: the first push makes it.
    """
    if not repo.config["remote"]:
        raise UserError("no DVC remote is configured", "dvc remote add -d NAME URL")
    remote = repo.cloud.get_remote()
    name = str(remote.name)
    if remote.fs.protocol == "local" and not writing and not Path(remote.path).is_dir():
        raise UserError(
            f"the folder of the DVC remote {name} is not there: {remote.path}",
            f"mount it, or dvc remote modify --local {name} url FOLDER",
        )
    return name


def outputs(repo: Repo, main: bool = False) -> list[Output]:
    """Outputs in DVC's cache that a dvc.lock lists, of the main graph only or of all pipeline files."""
    return [
        out
        for stage in repo.index.stages
        if not main or stage.path_in_repo == MAIN
        for out in stage.outs
        if out.use_cache and out.hash_info
    ]
