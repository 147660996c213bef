"""Models and data to and from a DVC remote: what one machine made, another takes instead of making it again.

DVC runs in this process, for its progress bars: its own command stops at the first file that a remote lacks, and ends
well where the remote is gone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cartlm.errors import UserError

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo

MAIN = "dvc.yaml"
LOGGERS = ("dvc", "dvc_data", "dvc_objects")
# DVC leaves its HTTP client to the garbage collector, which may come when all is said, and the client then complains.
logging.getLogger("aiohttp_retry").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Transfer:
    """What went over, and what is not here: outputs that dvc.lock lists."""

    remote: str  # its name; a URL may hold a password
    files: int
    outs: int
    missing: list[str]
    kept: list[str] = field(default_factory=list)  # changed here, in DVC's cache nowhere: not overwritten


def pull(root: Path) -> Transfer:
    """Bring what dvc.lock says the main graph made. What the remote lacks is left out, unless that is all; what stands in its
    place here stays.

    Raises UserError without a remote, and where it cannot be read or has nothing of what is missing here.
    """
    from dvc.exceptions import DownloadError, DvcException

    with opened(root, "dvc pull") as repo:
        remote = checked(repo)
        made = outputs(repo, main=True)
        wanted = [out for out in made if not here(out)]
        # DVC's default for http alone: else what a broken connection left counts as the file.
        repo.config["remote"][remote]["verify"] = True
        for out in made:  # one by one: DVC ends at the first that it cannot copy
            if out.changed_cache():
                # Of a file that did not come DVC moves what is not there.
                with suppress(DownloadError, FileNotFoundError):
                    repo.fetch(targets=[str(out)])
        missing, kept, files = [], [], 0
        for out in wanted:  # DVC's checkout of all would remove what it cannot replace
            if out.changed_cache():
                missing.append(str(out))
                continue
            try:
                stats = repo.checkout(targets=[str(out)])["stats"]
            except DvcException as error:
                if "unsaved files" not in str(error):
                    raise
                kept.append(str(out))
            else:
                files += stats["added"] + stats["modified"]
    if not made:
        raise UserError("dvc.lock lists no output of the main graph", "git pull, or make repro")
    if missing and len(missing) == len(wanted):
        raise UserError(
            f"the DVC remote {remote} cannot be reached, or has none of the {len(wanted)} outputs that are missing here",
            "dvc remote list, then make push on the machine that made them",
        )
    return Transfer(remote, files, len(made), missing, kept)


def here(out: Output) -> bool:
    """Whether the workspace has an output as dvc.lock says."""
    return bool(out.exists and not out.changed_checksum())


def changed_inputs(root: Path, name: str) -> list[str]:
    """What a stage reads of the main graph and the workspace does not have as dvc.lock says that it was made.

    That is: all outputs of the stages that make anything which it depends on. `name` as DVC's, `gpu/dvc.yaml:bench-gpu`.
    """
    with opened(root, "dvc status") as repo:
        stages = [stage for stage in repo.index.stages if stage.path_in_repo == MAIN]
        file, _, short = name.rpartition(":")
        named = [
            stage for stage in repo.index.stages if (stage.path_in_repo, stage.name) == (file or MAIN, short)
        ]
        if not named:
            raise UserError(f"there is no stage {name}", "dvc stage list --all")
        reads = [dep for stage in named for dep in stage.deps]
        makers = [
            stage
            for stage in stages
            if any(dep.fs.overlaps(dep.fs_path, out.fs_path) for out in stage.outs for dep in reads)
        ]
        return [str(out) for stage in makers for out in stage.outs if out.use_cache and not here(out)]


def push(root: Path, create: bool = True) -> Transfer:
    """Copy what any pipeline made to the default remote, with paid answers; what is not here is left out.

    `create`: a remote that is a folder may be made by this. Raises UserError without a remote, where it cannot be
    written, and where nothing is here.
    """
    with opened(root, "dvc push") as repo:
        remote = checked(repo, create)
        made = outputs(repo)
        missing = [str(out) for out in made if out.changed_cache()]
        if len(missing) == len(made):
            raise UserError(
                "nothing of what dvc.lock lists is in DVC's cache here", "make repro, or make pull"
            )
        return Transfer(remote, repo.push(), len(made), missing)


class Failures(logging.Handler):
    """Keeps what DVC only logs: it counts a file that it could not copy as one that is not there, whatever the reason."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, FileNotFoundError):
            self.found.append(error)


@contextmanager
def opened(root: Path, command: str) -> Iterator[Repo]:
    """The repository, with DVC's loggers silent. What a remote's library raises, or DVC only logs, becomes a UserError."""
    from dvc.repo import Repo

    failures = Failures()
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger, logger.propagate, logger.handlers) for logger in loggers]
    for logger in loggers:
        logger.propagate, logger.handlers = False, [failures]
    try:
        with Repo(str(root)) as repo:
            yield repo
        if failures.found:
            raise failures.found[0]
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as raised:  # credentials, network, disk: each library has its own
        error = failures.found[0] if failures.found else raised
        lines = str(error).strip().splitlines() or [type(error).__name__]
        package = re.search(r"'(dvc-[a-z0-9]+)' to be installed", lines[0])
        hint = f"pip install {package[1]}" if package else f"{command} -v"
        raise UserError(f"{command} failed: {lines[0]}", hint) from raised
    finally:
        for logger, propagate, handlers in before:
            logger.propagate, logger.handlers = propagate, handlers


def checked(repo: Repo, create: bool = False) -> str:
    """The name of the default remote. Raises UserError without one, and for a folder that is not there, unless `create`."""
    if not repo.config["remote"]:
        raise UserError("no DVC remote is configured", "dvc remote add -d NAME URL")
    remote = repo.cloud.get_remote()
    name = str(remote.name)
    if remote.fs.protocol == "local" and not create and not Path(remote.path).is_dir():
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
