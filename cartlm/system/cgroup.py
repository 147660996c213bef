"""A cgroup of its own for one measured process: its peak memory, page cache included.

The cgroup's peak is what a container's memory limit is held against. Pages of a file that were in the page cache
before are charged to whom they were first read by: a model file that is warm does not count here, unlike in RSS.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cartlm.system.cpu_limits import ROOT, groups, read

PEAK = {1: "memory.max_usage_in_bytes", 2: "memory.peak"}


@dataclass(frozen=True)
class Group:
    """A memory cgroup: its version and its folder."""

    version: int
    folder: Path

    def join(self) -> None:
        """Put the calling process into the group, if the kernel lets it: for `preexec_fn`, before memory is used."""
        with contextlib.suppress(OSError):
            (self.folder / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")

    def peak_bytes(self) -> int | None:
        """The highest memory of the group since it began, or since `reset_peak` (v1); None where unknown.

        Unknown is also 0: that of a group that no process could join.
        """
        text = read(self.folder / PEAK[self.version]) or ""
        return int(text) or None if text.isdigit() else None

    def reset_peak(self) -> bool:
        """Let the peak begin anew; False where the kernel cannot (v2 does so for one open file only)."""
        if self.version != 1:
            return False
        try:
            (self.folder / PEAK[1]).write_text("0", encoding="ascii")
        except OSError:
            return False
        return True


def why_none(root: Path = ROOT) -> str:
    """Why no cgroup can be made here, for machine.json; an empty text where one can."""
    parent = next(groups(root, "memory"), None)
    if parent is None:
        return "no memory cgroup is mounted"
    version, folder = parent
    if version == 2 and "memory" not in (read(folder / "cgroup.subtree_control") or "").split():
        return f"{folder} does not hand the memory controller to groups below it"
    return "" if os.access(folder, os.W_OK) else f"{folder} is not writable"


@contextlib.contextmanager
def own(root: Path = ROOT) -> Iterator[Group | None]:
    """A new group below this process's own one, removed at the end; None where `why_none` has a reason."""
    if why_none(root):
        yield None
        return
    version, parent = next(groups(root, "memory"))
    for left in parent.glob("cartlm-*"):  # by a run that was killed
        if not (root / "proc" / left.name.split("-")[1]).exists():
            with contextlib.suppress(OSError):
                left.rmdir()
    folder = parent / f"cartlm-{os.getpid()}-{time.monotonic_ns()}"
    try:
        folder.mkdir()
    except OSError:
        yield None
        return
    try:
        yield Group(version, folder)
    finally:
        for _ in range(50):  # the kernel lets go of a dead process's group a moment later
            with contextlib.suppress(OSError):
                folder.rmdir()
                break
            time.sleep(0.02)
