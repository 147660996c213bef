"""What every checkout of this machine shares and git never sees: below `$CARTLM_CACHE`, by default `~/.cache/cartlm`."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cartlm.errors import UserError


def folder(name: str) -> Path:
    """The cache's folder `name`, made if it is not there; docker/llama_cpp.sh keeps its builds in the same cache.

    Raises UserError where it cannot be written.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(os.environ.get("CARTLM_CACHE") or f"{home}/cartlm") / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"the cache {path} cannot be made ({error.strerror})"
        raise UserError(what, "name another folder: export CARTLM_CACHE=/some/folder") from None
    if not os.access(path, os.W_OK):
        raise UserError(
            f"the cache {path} cannot be written", "name another folder: export CARTLM_CACHE=/some/folder"
        )
    return path


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of `path`, a file in the cache: a second process waits, then finds what the first one made."""
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
