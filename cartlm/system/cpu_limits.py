"""How many CPUs this process may use, from its cgroups (v1 and v2) and its affinity: so many threads are started.

Everything is read below `root`, so that a tree of plain files stands in for /proc and /sys in tests.
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
    is there then, and it is the container's own group.
    """
    top = root / "sys/fs/cgroup"
    for line in (read(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            version, mounts = 2, [top, top / "unified"]
        elif controller in controllers.split(","):
            version, mounts = 1, [top / controllers, top / controller]
        else:
            continue
        mount = next((mount for mount in mounts if _is_mount(mount, version)), None)
        if mount is None:
            continue
        parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for depth in range(len(parts), -1, -1):
            folder = mount.joinpath(*parts[:depth])
            if folder.is_dir():
                yield version, folder


def _is_mount(folder: Path, version: int) -> bool:
    return (folder / "cgroup.controllers").exists() if version == 2 else folder.is_dir()


def cpu_quota(root: Path = ROOT) -> float | None:
    """CPUs that the cgroups above this process allow it, the least of all levels; None without a limit.

    cgroup v2: cpu.max, v1: cpu.cfs_quota_us over cpu.cfs_period_us (kernel docs, admin-guide/cgroup-v2 and
    scheduler/sched-bwc).
    """
    found = []
    for version, folder in groups(root, "cpu"):
        if version == 2:
            quota, _, period = (read(folder / "cpu.max") or "").partition(" ")
        else:
            quota = read(folder / "cpu.cfs_quota_us") or ""
            period = read(folder / "cpu.cfs_period_us") or ""
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            found.append(int(quota) / int(period))
    return min(found, default=None)


def affinity() -> int:
    """CPUs on which the scheduler may put this process (taskset, cpuset)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads(root: Path = ROOT, cpus: int | None = None) -> int:
    """Threads worth starting: floor of the smaller of quota and affinity (`cpus`), at least 1.

    More of them than the quota allows are throttled in each period, which costs far more than it gives.
    """
    allowed = float(affinity() if cpus is None else cpus)
    quota = cpu_quota(root)
    return max(1, math.floor(allowed if quota is None else min(quota, allowed)))
