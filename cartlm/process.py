"""Other programs: one dies with us, its output goes to a log, its failure comes back as one line."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cartlm.errors import UserError

PR_SET_PDEATHSIG = 1
# How C++ streams and numpy's tofile tell that a write failed, besides the system's own words.
FULL = re.compile(
    r"No space left on device|File too large|Disk quota exceeded|iostream error|\d+ requested and \d+ written"
)
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills this child when its parent dies, even by kill -9 (Linux)."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def run(
    command: Sequence[str | Path],
    *,
    log: Path,
    writes: Path,
    hint: str,
    reason: str = r"$^",
    environ: Mapping[str, str] | None = None,
) -> str:
    """Run `command` to its end with stdout and stderr in `log`, and return what it said.

    `writes` is the file it makes; `reason` a pattern (one group) that finds the failure in the log, the last
    line is taken where it finds none. Raises OSError (ENOSPC, EFBIG) on a full disk, UserError with `hint`
    for every other failure.
    """
    first, second, *rest = [*map(str, command), ""]
    name = (
        rest[0].split(".")[-1] if second == "-m" else Path(second if second.endswith(".py") else first).name
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("wb") as file:
            code = subprocess.run(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env=environ, preexec_fn=die_with_parent, check=False,
            ).returncode  # fmt: skip
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(f"{name} does not start: {error.strerror}: {error.filename}", "make setup") from None
    said = log.read_text(encoding="utf-8", errors="replace")
    if code == 0:
        return said
    tail = said[-4000:]
    if code == -signal.SIGXFSZ or FULL.search(tail):
        number = errno.EFBIG if code == -signal.SIGXFSZ or "File too large" in tail else errno.ENOSPC
        raise OSError(number, os.strerror(number), str(writes))
    found = re.findall(reason, tail)
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    line = found[-1].strip() if found else lines[-1] if lines else "it said nothing"
    how = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
    raise UserError(f"{name} failed ({how}; all of it in {log}): {line[:300]}", hint)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, with its suffix: renamed to `path` at the end, removed on an error.

    What an earlier, killed run left behind is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".tmp-*-{path.name}"):
        stale.unlink(missing_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
