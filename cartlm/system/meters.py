"""Energy counters: RAPL of the processor, read below `root`, and NVML's of an NVIDIA card.

Both count all that the hardware does, other programs included. Why the powercap files and not a library: docs/log.md,
"Energy meters compared".
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cartlm.errors import UserError
from cartlm.system.cpu_limits import ROOT

POWERCAP = "sys/class/powercap"
# Zones of the control type intel-rapl, which AMD's have too; intel-rapl-mmio shows the same packages once more.
ZONE = re.compile(r"intel-rapl:(\d+)(?::(\d+))?")
DIE = re.compile(r"(package-\d+)-die-\d+$")
MIRROR_UJ = 1_000_000  # two counters of one socket that are this near are one (codecarbon issue 1274)


@dataclass(frozen=True)
class Counter:
    """A running sum of microjoules; `read` raises UserError. At `wraps_at` it starts again from 0 (None: never)."""

    name: str
    read: Callable[[], int]
    wraps_at: int | None


def available(root: Path = ROOT, gpu: int = 0) -> dict[str, str]:
    """The meters of this machine, for machine.json: `energy_cpu`, or the reason as `energy_cpu_absent`; `energy_gpu` alike.

    `gpu` is the card's number for NVML, which CUDA_VISIBLE_DEVICES does not change.
    """
    sources = {}
    for name, counters in (("cpu", lambda: rapl_counters(root)), ("gpu", lambda: nvml_counters(gpu))):
        try:
            sources[f"energy_{name}"] = describe(counters())
        except UserError as error:
            sources[f"energy_{name}_absent"] = str(error)
    return sources


def describe(counters: list[Counter]) -> str:
    """The name of a sum of counters, such as RAPL package-0 + package-0/dram."""
    return f"{'RAPL' if counters[0].wraps_at else 'NVML'} {' + '.join(counter.name for counter in counters)}"


def rapl_counters(root: Path = ROOT) -> list[Counter]:
    """Counters that add up to processors and memory, each joule once. Raises UserError if one of them cannot be read.

    Package zones and dram: a package counts its core and uncore zones but not the memory, and psys counts the packages
    again (kernel docs, power/powercap/powercap; powercap/powercap issue 3). Where Linux shows the one counter of a
    socket for each of its dies (AMD Zen 1 and 2), it is taken once.
    """
    folder = root / POWERCAP
    # Linux links all zones here; a container may have the folder they point to instead, with parts inside packages
    paths = {path.name: path for pattern in ("*/*:*", "*:*") for path in folder.glob(pattern)}
    zones = sorted(
        (int(match[1]), int(match[2] or -1), match[0]) for match in map(ZONE.fullmatch, paths) if match
    )
    counters: list[Counter] = []
    packages: dict[int, str] = {}
    by_socket: dict[str, list[int]] = defaultdict(list)
    for package, part, zone in zones:
        name = _read(root, paths[zone] / "name")
        if part < 0 and name.startswith("package-"):
            packages[package] = name
        elif part >= 0 and name == "dram" and package in packages:
            name = f"{packages[package]}/dram"
        else:
            continue
        energy, limit = paths[zone] / "energy_uj", paths[zone] / "max_energy_range_uj"
        value, wraps_at = _read_number(root, energy), _read_number(root, limit)
        if wraps_at == 0:
            raise UserError(f"/{limit.relative_to(root)} is 0: no telling when it wraps")
        socket = by_socket[DIE.sub(r"\1", name)]
        if any(abs(value - other) < MIRROR_UJ for other in socket):
            continue
        socket.append(value)
        counters.append(Counter(name, partial(_read_number, root, energy), wraps_at))
    if not counters:
        raise UserError(f"no RAPL: /{POWERCAP} has no processor (as in virtual machines, or without Linux)")
    return counters


def _read(root: Path, path: Path) -> str:
    """A file's text. Raises UserError with the reason why it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        hint = "measure outside the container, which hides it"
        # only root may since Linux 5.10: power reveals what other users compute (CVE-2020-8694)
        if isinstance(error, PermissionError):
            hint = f"run: sudo chmod a+r /{POWERCAP}/intel-rapl:*/energy_uj (until the next boot)"
        why = f"{error.strerror}: /{path.relative_to(root)}"
        raise UserError(f"RAPL is there but unreadable: {why}", hint) from None


def _read_number(root: Path, path: Path) -> int:
    text = _read(root, path)
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"RAPL is there but unreadable: /{path.relative_to(root)} is {text!r:.40}")
    return int(text)


def nvml() -> Any:
    """pynvml, started. Raises UserError where the package or the driver is missing."""
    try:
        import pynvml
    except ImportError:
        raise UserError(
            "no NVML: the package nvidia-ml-py is not installed", "pip install nvidia-ml-py"
        ) from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise UserError(f"no NVIDIA driver: {error}") from None
    return pynvml


def nvml_counters(gpu: int) -> list[Counter]:
    """The energy counter of one NVIDIA card (Volta and newer), memory and all, the whole card also under MIG.

    nvmlDeviceGetTotalEnergyConsumption, millijoules since the driver was loaded. Raises UserError where there is none.
    """
    pynvml = nvml()

    def read() -> int:
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(gpu)
            return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) * 1000
        except pynvml.NVMLError as error:
            raise UserError(f"NVML shows no energy of GPU {gpu}: {error}") from None

    read()
    return [Counter(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(gpu)), read, None)]
