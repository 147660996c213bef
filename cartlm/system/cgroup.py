"""A cgroup of its own for one measured process: its peak memory, page cache included.

The peak is what a container's memory limit applies to. Pages of a file are charged to the first process that read
them: a model file already in the page cache does not count here, unlike in RSS.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from cartlm.system.cpu_limits import ROOT, groups, read

PEAK, PEAK_V1 = "memory.peak", "memory.max_usage_in_bytes"


def join(group: Path) -> None:
    """For `preexec_fn`: put the calling process into the group, if the kernel lets it, before it uses memory."""
    with contextlib.suppress(OSError):
        (group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")


def peak_bytes(group: Path) -> int | None:
    """The highest memory of the group since it began, or since `reset_peak` (v1); None where unknown.

    0 is unknown too: no process could join the group.
    """
    text = read(group / PEAK) or read(group / PEAK_V1) or ""
    return int(text) or None if text.isdigit() else None


def reset_peak(group: Path) -> bool:
    """Start the peak anew; False where the kernel cannot (v2 does so for one open file only)."""
    with contextlib.suppress(OSError):
        if (group / PEAK_V1).exists():
            (group / PEAK_V1).write_text("0", encoding="ascii")
            return True
    return False


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
def own(root: Path = ROOT) -> Iterator[Path | None]:
    """The folder of a new group below this process's own one, removed at the end; None where none can be made."""
    group = None
    if not why_none(root):
        _, parent = next(groups(root, "memory"))
        for stale in parent.glob("cartlm-*"):  # of a killed run
            if not (root / "proc" / stale.name.split("-")[1]).exists():
                with contextlib.suppress(OSError):
                    stale.rmdir()
        with contextlib.suppress(OSError):
            new = parent / f"cartlm-{os.getpid()}-{time.monotonic_ns()}"
            new.mkdir()
            group = new
    try:
        yield group
    finally:
        for _ in range(50):  # the kernel releases a dead process's group a moment later
            with contextlib.suppress(OSError):
                if group:
                    group.rmdir()
                break
            time.sleep(0.02)
