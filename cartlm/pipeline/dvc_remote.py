"""Models, data and paid answers to and from a DVC remote: what one machine made, another takes instead of making it again.

`dvc repro --pull` fetches outputs of unchanged stages only. Where a stage changed, the answers that it paid for are still
worth having (`fetch_paid`).

`dvc pull --allow-missing` (DVC 3.67) does not do: it brings nothing where a remote lacks one file, removes files of the
workspace that neither cache nor remote have (paid answers, too), and reports success where the remote is gone.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

from cartlm.errors import UserError
from cartlm.pipeline import dvc_lock
from cartlm.pipeline.repository import Tree

MAIN = "dvc.yaml"
LOGGERS = ("dvc", "dvc_data", "dvc_objects")
# DVC leaves its HTTP client to the garbage collector, which may come at the very end, and the client then complains.
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
    """Fetch the main graph's outputs in dvc.lock. What the remote lacks is left out, unless that is all; what was
    changed here stays.

    Raises UserError without a remote, and where it cannot be read or has nothing of what is missing here.
    """
    from dvc.exceptions import DownloadError, DvcException

    with open_repo(root, "dvc pull") as repo:
        remote = check_remote(repo)
        outs = outputs(repo, main=True)
        wanted = [out for out in outs if out.workspace_status()]
        # DVC's default for http alone: else what a broken connection left counts as the file.
        repo.config["remote"][remote]["verify"] = True
        for out in outs:  # one by one: DVC ends at the first that it cannot copy
            if out.changed_cache():
                # Of a file that did not come DVC moves what is not there.
                with suppress(DownloadError, FileNotFoundError):
                    repo.fetch(targets=[str(out)])
        missing = [str(out) for out in wanted if out.changed_cache()]
        kept, files = [], 0
        for name in [str(out) for out in wanted if str(out) not in missing]:
            # one by one: checkout of all would remove those that are missing
            try:
                stats = repo.checkout(targets=[name])["stats"]
                files += stats["added"] + stats["modified"]
            except DvcException as error:
                if "unsaved files" not in str(error):
                    raise
                kept.append(name)
    if not outs:
        raise UserError("dvc.lock lists no output of the main graph", "git pull, or make repro")
    if missing and len(missing) == len(wanted):
        what = f"has none of the {len(wanted)} outputs that are missing here"
        way = "dvc remote list, then make push on the machine that made them"
        raise UserError(f"the DVC remote {remote} cannot be reached, or {what}", way)
    return Transfer(remote, files, len(outs), missing, kept)


def push(root: Path, create: bool = True) -> Transfer:
    """Copy what any pipeline made to the default remote, with paid answers; what is not here is left out.

    `create`: a remote that is a folder may be made by this. Raises UserError without a remote, where it cannot be
    written, and where nothing is here.
    """
    with open_repo(root, "dvc push") as repo:
        remote = check_remote(repo, create)
        outs = outputs(repo)
        missing = [str(out) for out in outs if out.changed_cache()]
        if len(missing) == len(outs):
            what = "nothing of what dvc.lock lists is in DVC's cache here"
            raise UserError(what, "make repro, or make pull")
        return Transfer(remote, repo.push(), len(outs), missing)


def paid_and_missing(path: str) -> bool:
    """Whether a dvc.lock here lists an output with content, and the file is missing or empty."""
    tree = Tree(Path("."))
    return not tree.read(path) and any(stage.outs.get(path) for stage in dvc_lock.read_stages(tree).values())


def fetch_paid(path: str) -> bool:
    """Bring a paid output that is not here from the DVC remote; False where no remote has it.

    Raises UserError if fetching fails.
    """
    if not paid_and_missing(path):
        return True
    Path(path).unlink(missing_ok=True)  # an empty one would be in the way
    try:
        with open_repo(Path("."), "dvc pull") as repo:
            if repo.config["remote"]:
                repo.pull(targets=[path], allow_missing=True)
    except UserError as error:
        what = f"{path} was paid for and cannot be fetched: {error.message}"
        raise UserError(what, f"dvc pull {path}") from None
    return not paid_and_missing(path)


def changed_inputs(root: Path, name: str) -> list[str]:
    """Outputs of the main graph that a stage reads and that are not here as in dvc.lock.

    These are all outputs of the stages that make one of its dependencies. `name` as DVC's, `gpu/dvc.yaml:bench-gpu`.
    """
    with open_repo(root, "dvc status") as repo:
        reads = [dep for stage in repo.stage.collect(name) for dep in stage.deps]
        makers = [stage for stage in repo.index.stages if stage.path_in_repo == MAIN]
        read = [
            stage.outs
            for stage in makers
            if any(dep.fs.overlaps(dep.fs_path, out.fs_path) for out in stage.outs for dep in reads)
        ]
        return [str(out) for outs in read for out in outs if out.use_cache and out.workspace_status()]


def outputs(repo: Any, main: bool = False) -> list[Any]:
    """Outputs in DVC's cache that a dvc.lock lists, of the main graph only or of all pipeline files."""
    stages = [stage for stage in repo.index.stages if not main or stage.path_in_repo == MAIN]
    return [out for stage in stages for out in stage.outs if out.use_cache and out.hash_info]


def check_remote(repo: Any, create: bool = False) -> str:
    """The name of the default remote. Raises UserError without one, and for a missing folder, unless `create`."""
    if not repo.config["remote"]:
        raise UserError("no DVC remote is configured", "dvc remote add -d NAME URL")
    remote = repo.cloud.get_remote()
    if remote.fs.protocol == "local" and not create and not Path(remote.path).is_dir():
        way = f"mount it, or dvc remote modify --local {remote.name} url FOLDER"
        raise UserError(f"the folder of the DVC remote {remote.name} is not there: {remote.path}", way)
    return str(remote.name)


@contextmanager
def open_repo(root: Path, command: str) -> Iterator[Any]:
    """The repository in this process, with DVC's loggers silent; whatever it or a remote's library raises or logs becomes
    a UserError.
    """
    from dvc.repo import Repo

    # DVC only logs why it could not copy a file, and counts it as missing.
    logged = BufferingHandler(sys.maxsize)
    logged.setLevel(logging.ERROR)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger, logger.propagate, logger.handlers) for logger in loggers]
    for logger in loggers:
        logger.propagate, logger.handlers = False, [logged]

    def failures() -> list[BaseException]:
        errors = [record.exc_info[1] for record in logged.buffer if record.exc_info]
        return [error for error in errors if error and not isinstance(error, FileNotFoundError)]

    try:
        with Repo(str(root)) as repo:
            yield repo
        if failed := failures():
            raise failed[0]
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as raised:  # credentials, network, disk: each library has its own
        error = next(iter(failures()), raised)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        package = re.search(r"'(dvc-[a-z0-9]+)' to be installed", lines[0])
        hint = f"pip install {package[1]}" if package else f"{command} -v"
        raise UserError(f"{command} failed: {lines[0]}", hint) from raised
    finally:
        for logger, propagate, handlers in before:
            logger.propagate, logger.handlers = propagate, handlers
