"""Joules per query, token and correct answer: RAPL counters of the processor, NVML's counter of an NVIDIA card.

Both count all that the hardware does, other programs included: measure on a quiet machine, first the idle watts,
then the queries alone, after the model is loaded and warm. Everything of RAPL is read below `root`, so that a tree of
plain files stands in for /sys in tests. Why the powercap files and not a library: docs/log.md, "Energy meters compared".
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartlm.errors import UserError
from cartlm.system.cpu_limits import ROOT

POWERCAP = "sys/class/powercap"
# Zones of the control type intel-rapl, which AMD's have too; intel-rapl-mmio shows the same packages once more.
ZONE = re.compile(r"intel-rapl:(\d+)(?::(\d+))?")
DIE = re.compile(r"(package-\d+)-die-\d+")
MAX_W = 1000.0  # of one counter: no zone or card takes more, so a faster one was reset or misread
SLACK_J = 10.0  # counters are updated in steps of their own (1 ms for RAPL, up to 100 ms for NVML)
MIRROR_UJ = 1_000_000  # two counters of one socket that are this near are one (codecarbon issue 1274)
SAMPLE_S = 20.0  # the least range seen is 65.5 kJ, 65 s at MAX_W
SHORTEST_S = 1.0  # below that the steps of the counters show


@dataclass(frozen=True)
class Counter:
    """A running sum of microjoules; `read` raises UserError. At `wraps_at` it starts again from 0 (None: never)."""

    name: str
    read: Callable[[], int]
    wraps_at: int | None


@dataclass(frozen=True)
class Sources:
    """What can be measured here, and where nothing can, why. Of each pair one text is empty."""

    cpu: str
    cpu_reason: str
    gpu: str
    gpu_reason: str

    def metrics(self) -> dict[str, str]:
        """For machine.json: `energy_cpu` or `energy_cpu_absent`, and the same for `gpu`."""
        found = {
            "energy_cpu": self.cpu,
            "energy_cpu_absent": self.cpu_reason,
            "energy_gpu": self.gpu,
            "energy_gpu_absent": self.gpu_reason,
        }
        return {name: text for name, text in found.items() if text}


@dataclass(frozen=True)
class Reading:
    """Energy of a span of time, idle included. With a `problem` the joules are not to be used."""

    joules: float
    seconds: float
    source: str
    kind: str = "measured"  # or "estimated"
    problem: str = ""


def available(root: Path = ROOT, gpu: int = 0) -> Sources:
    """The meters of this machine. `gpu` is the card's number for NVML, which CUDA_VISIBLE_DEVICES does not change."""

    def one(find: Callable[[], list[Counter]]) -> tuple[str, str]:
        try:
            return describe(find()), ""
        except UserError as error:
            return "", str(error)

    return Sources(*one(lambda: rapl_counters(root)), *one(lambda: nvml_counters(gpu)))


def describe(counters: list[Counter]) -> str:
    """What a sum of counters is called: RAPL package-0 + package-0/dram."""
    return f"{'RAPL' if counters[0].wraps_at else 'NVML'} {' + '.join(counter.name for counter in counters)}"


def rapl_counters(root: Path = ROOT) -> list[Counter]:
    """Counters that together are processors and memory, each joule once. UserError if one of them cannot be read.

    Package zones and, beside them, dram: a package counts its core and uncore zones but not the memory, and psys
    counts the packages again (kernel docs, power/powercap/powercap; powercap/powercap issue 3). Where Linux shows
    the one counter of a socket for each of its dies (AMD Zen 1 and 2), it is taken once.
    """
    folder = root / POWERCAP
    try:
        # Linux links all zones there; in a container the folder that they lead to may stand in its place, parts in packages
        paths = {path.name: path for path in [*folder.glob("*/intel-rapl:*"), *folder.iterdir()]}
        found = sorted(
            (int(match[1]), int(match[2] or -1), match[0]) for match in map(ZONE.fullmatch, paths) if match
        )
    except OSError:
        raise UserError(
            f"no RAPL: there is no /{POWERCAP} (virtual machines have none, nor other systems than Linux)"
        ) from None
    if not found:
        raise UserError(f"no RAPL: /{POWERCAP} has no intel-rapl zone (virtual machines have none)")
    counters: list[Counter] = []
    packages: dict[int, str] = {}
    seen: dict[str, list[int]] = {}
    for package, part, zone in found:
        name = _text(root, paths[zone] / "name")
        if part < 0 and name.startswith("package-"):
            packages[package] = name
        elif part >= 0 and name == "dram" and package in packages:
            name = f"{packages[package]}/dram"
        else:
            continue
        counter = _zone(root, paths[zone], name)
        value = counter.read()
        if die := DIE.fullmatch(name):
            values = seen.setdefault(die[1], [])
            if any(abs(value - other) < MIRROR_UJ for other in values):
                continue
            values.append(value)
        counters.append(counter)
    if not counters:
        raise UserError(f"no RAPL: none of the zones of /{POWERCAP} is a processor package")
    return counters


def _zone(root: Path, folder: Path, name: str) -> Counter:
    wraps_at = _number(root, folder / "max_energy_range_uj")
    if wraps_at == 0:
        raise UserError(
            f"/{(folder / 'max_energy_range_uj').relative_to(root)} is 0: no telling when it wraps"
        )
    return Counter(name, lambda: _number(root, folder / "energy_uj"), wraps_at)


def _text(root: Path, path: Path) -> str:
    """A file's text, or the reason why there is none, with the path below `root`."""
    shown = f"/{path.relative_to(root)}"
    try:
        return path.read_text(encoding="utf-8").strip()
    except PermissionError:
        # only root may since Linux 5.10: from power one can guess at what other users compute (CVE-2020-8694)
        raise UserError(
            f"RAPL is there but unreadable: permission denied on {shown}",
            f"run: sudo chmod a+r /{POWERCAP}/intel-rapl:*/energy_uj (until the next boot)",
        ) from None
    except FileNotFoundError:
        raise UserError(
            f"RAPL is there but unreadable: {shown} is missing (container engines hide it)",
            "measure outside the container",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"RAPL is there but unreadable: {getattr(error, 'strerror', error)} on {shown}"
        ) from None


def _number(root: Path, path: Path) -> int:
    text = _text(root, path)
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"RAPL is there but unreadable: /{path.relative_to(root)} says {text!r:.40}")
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

    nvmlDeviceGetTotalEnergyConsumption, millijoules since the driver was loaded. UserError where there is none.
    """
    pynvml = nvml()

    def read() -> int:
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(gpu)
            return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) * 1000
        except pynvml.NVMLError as error:
            raise UserError(f"NVML shows no energy of GPU {gpu}: {error}") from None

    read()
    name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(gpu))
    return [Counter(name.decode() if isinstance(name, bytes) else str(name), read, None)]


class Meter:
    """Joules between `start` and `stop`, of the processors, or of the one card that `gpu` numbers.

    Raises UserError where `available` gives a reason. A thread reads the counters every SAMPLE_S seconds, so any
    number of wraps is seen; only where it was kept from running so long that a counter could have come round
    unseen, the reading says so as its problem. Idle, it costs some microseconds a sample.
    """

    def __init__(
        self, root: Path = ROOT, gpu: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._counters = rapl_counters(root) if gpu is None else nvml_counters(gpu)
        self._clock = clock
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.source = describe(self._counters)

    def start(self) -> None:
        """Begin anew from 0 J."""
        self._end_thread()
        self._joules, self._problem = 0.0, ""
        self._last: list[int] | None = None
        self.sample()
        self._began = self._at
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="energy", daemon=True)
        self._thread.start()

    def stop(self) -> Reading:
        """What was used since `start`."""
        if self._thread is None:
            raise RuntimeError("the meter was not started")
        self._end_thread()
        self.sample()
        return Reading(self._joules, self._at - self._began, self.source, problem=self._problem)

    def sample(self) -> None:
        """Add what the counters counted since the last sample; after the first problem nothing is added."""
        with self._lock:
            if self._problem:
                return
            try:
                now, values = self._clock(), [counter.read() for counter in self._counters]
            except UserError as error:
                self._problem = str(error)
                self._at = self._clock()
                return
            if self._last is not None:
                gap = now - self._at
                for counter, before, after in zip(self._counters, self._last, values, strict=True):
                    self._add(counter, after - before, gap)
            self._at, self._last = now, values

    def _add(self, counter: Counter, microjoules: int, gap: float) -> None:
        if counter.wraps_at and gap * MAX_W > counter.wraps_at / 1e6:
            self._problem = (
                f"{counter.name} was not read for {gap:.0f} s: it may have come round more than once"
            )
        if microjoules < 0 and counter.wraps_at:
            microjoules += counter.wraps_at
        joules = microjoules / 1e6
        if not 0 <= joules <= gap * MAX_W + SLACK_J:
            self._problem = f"{counter.name} jumped by {joules:.0f} J in {gap:.1f} s: it was reset"
        self._joules += joules

    def _run(self) -> None:
        while not self._stopping.wait(SAMPLE_S):
            self.sample()

    def _end_thread(self) -> None:
        if self._thread is not None:
            self._stopping.set()
            self._thread.join()
            self._thread = None


def idle_watts(meter: Meter, seconds: float) -> float | None:
    """Mean watts while this process sleeps; None where the reading had a problem. Nothing else should run."""
    meter.start()
    time.sleep(seconds)
    reading = meter.stop()
    return None if reading.problem or reading.seconds <= 0 else reading.joules / reading.seconds


def estimate(idle_w: float, load_w: float, cpu_seconds: float, cpus: int, seconds: float) -> Reading:
    """What a machine with these watts, idle and with all of its `cpus` busy, uses while they work `cpu_seconds`.

    A straight line between the two, which real processors do not follow: the first busy core takes most. Good for
    comparing variants on one machine, not machines.
    """
    busy = min(1.0, cpu_seconds / (cpus * seconds)) if seconds > 0 else 0.0
    source = f"watts given in params.yaml ({idle_w:g} W idle, {load_w:g} W at full load)"
    return Reading(seconds * (idle_w + busy * (load_w - idle_w)), seconds, source, kind="estimated")


def figures(
    reading: Reading, idle_watts: float | None, queries: int, generated_tokens: int, correct: int | None
) -> dict[str, float | str]:
    """Metrics of a span in which so many queries were answered: joules above idle over each count.

    energy_j_per_query, energy_j_per_token (generated ones; the prompt's energy is in it), energy_j_per_correct,
    idle_w, energy_kind (measured or estimated), energy_source. A count of 0 or None leaves its figure out; where
    no figure can stand, `energy_absent` alone says why.
    """
    if reading.problem:
        return {"energy_absent": reading.problem}
    if idle_watts is None:
        return {"energy_absent": "the idle watts could not be measured"}
    if reading.kind == "measured" and reading.seconds < SHORTEST_S:
        return {
            "energy_absent": f"measured for {reading.seconds:.2f} s only: the counters need {SHORTEST_S:g} s"
        }
    joules = reading.joules - idle_watts * reading.seconds
    if joules <= 0:
        mean = reading.joules / reading.seconds if reading.seconds > 0 else 0.0
        return {"energy_absent": f"{mean:.3g} W under load are not above the {idle_watts:.3g} W idle"}
    counts = {"query": queries, "token": generated_tokens, "correct": correct}
    return {
        **{f"energy_j_per_{name}": joules / count for name, count in counts.items() if count},
        "idle_w": idle_watts,
        "energy_kind": reading.kind,
        "energy_source": f"{reading.kind}: {reading.source}",
    }
