"""How many CPUs this process may use, from its cgroups (v1 and v2) and its affinity: so many threads are started.

Everything is read below `root`, which tests replace by a tree of plain files.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def read(path: Path) -> str | None:
    """A file's text, stripped; None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def groups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """(cgroup version, folder) of this process's groups for a controller, innermost first, up to the mount.

    In a container without a cgroup namespace the path of /proc/self/cgroup is the host's; only the mount's top
    exists then, and it is the container's own group.
    """
    top = root / "sys/fs/cgroup"
    for line in (read(root / "proc/self/cgroup") or "").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            version, mounts, mark = 2, (top, top / "unified"), "cgroup.controllers"
        elif controller in controllers.split(","):
            version, mounts, mark = 1, (top / controllers, top / controller), ""
        else:
            continue
        parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for mount in [mount for mount in mounts if (mount / mark).exists()][:1]:
            folders = (mount.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))
            yield from ((version, folder) for folder in folders if folder.is_dir())


def cpu_quota(root: Path = ROOT) -> float | None:
    """CPUs that the cgroups above this process allow it, the least of all levels; None without a limit.

    cgroup v2: cpu.max, v1: cpu.cfs_quota_us over cpu.cfs_period_us (kernel docs, admin-guide/cgroup-v2 and
    scheduler/sched-bwc).
    """
    quotas = []
    for _, folder in groups(root, "cpu"):
        v1 = f"{read(folder / 'cpu.cfs_quota_us')} {read(folder / 'cpu.cfs_period_us')}"
        numbers = [int(text) for text in (read(folder / "cpu.max") or v1).split() if text.isdigit()]
        if len(numbers) == 2 and numbers[1] > 0:
            quotas.append(numbers[0] / numbers[1])
    return min(quotas, default=None)


def affinity() -> int:
    """CPUs on which the scheduler may put this process (taskset, cpuset)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(root: Path = ROOT, cpus: int | None = None) -> int:
    """Threads worth starting: floor of the smaller of quota and affinity (`cpus`), at least 1.

    More threads than the quota allows are throttled in each period, which costs far more than it gives.
    """
    allowed = affinity() if cpus is None else cpus
    return max(1, math.floor(min(cpu_quota(root) or allowed, allowed)))
