"""Joules per query, token and correct answer, above the idle watts, by the counters of cartlm.system.meters.

Measure on a quiet machine: first the idle watts, then the queries alone, after the model is loaded and warm.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cartlm.errors import UserError
from cartlm.system.cpu_limits import ROOT
from cartlm.system.meters import Counter, describe, nvml_counters, rapl_counters

MAX_W = 1000.0  # of one counter: no zone or card takes more, so a faster one was reset or misread
SLACK_J = 10.0  # counters are updated in steps of their own (1 ms for RAPL, up to 100 ms for NVML)
SAMPLE_S = 20.0  # the smallest known range is 65.5 kJ, 65 s at MAX_W
SHORTEST_S = 1.0  # below that the steps of the counters show


@dataclass(frozen=True)
class Reading:
    """Energy of a span of time, idle included. With a `problem` the joules are not to be used."""

    joules: float
    seconds: float
    source: str
    kind: str = "measured"  # or "estimated"
    problem: str = ""


class Meter:
    """Joules between `start` and `stop`, of the processors, or of the one card that `gpu` numbers.

    Raises UserError where there is no meter. A thread reads the counters every SAMPLE_S seconds, so that no wrap is
    missed; where it was held up so long that one may have been, that is the reading's problem.
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
            self._problem = f"{counter.name} was not read for {gap:.0f} s: it may have wrapped more than once"
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
    """The energy of a machine with these watts, idle and with all `cpus` busy, while they work `cpu_seconds`.

    Linear between the two, although the first busy core takes most: it compares variants on one machine, not machines.
    """
    busy = min(1.0, cpu_seconds / (cpus * seconds)) if seconds > 0 else 0.0
    source = f"watts given in params.yaml ({idle_w:g} W idle, {load_w:g} W at full load)"
    return Reading(seconds * (idle_w + busy * (load_w - idle_w)), seconds, source, kind="estimated")


def figures(
    reading: Reading, idle_watts: float | None, queries: int, generated_tokens: int, correct: int | None
) -> dict[str, float | str]:
    """Metrics of a span in which so many queries were answered: joules above idle over each count.

    energy_j_per_query, energy_j_per_token (generated ones; the prompt's energy is in it), energy_j_per_correct,
    idle_w, energy_kind (measured or estimated), energy_source. A count of 0 or None leaves its figure out; without
    any figure there is only `energy_absent`, the reason.
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
