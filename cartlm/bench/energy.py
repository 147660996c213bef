"""Joules per query, token and correct answer, above the idle watts, by the counters of cartlm.system.meters.

Measure on a quiet machine: first the idle watts, then the queries alone, after the model is loaded and warm.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
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


@dataclass(frozen=True)
class Watts:
    """The machine's watts: measured idle ones, or why there are none; or those of params.yaml, with those at full load."""

    idle: float | None = None
    problem: str = ""
    load: float | None = None
    cpus: int = 1

    def estimate(self, cpu_seconds: float, seconds: float) -> Reading:
        """The energy of `seconds` in which the machine, of these watts idle and with all CPUs busy, works `cpu_seconds`.

        Linear between the two, although the first busy core takes most: it compares variants on one machine, not
        machines.
        """
        idle, load = self.idle or 0.0, self.load or 0.0
        busy = min(1.0, cpu_seconds / (self.cpus * seconds)) if seconds > 0 else 0.0
        source = f"watts given in params.yaml ({idle:g} W idle, {load:g} W at full load)"
        return Reading(seconds * (idle + busy * (load - idle)), seconds, source, kind="estimated")


class Meter:
    """Joules since it was made until `stop`, of the processors, or of the one card that `gpu` numbers.

    Raises UserError where there is no meter. A thread reads the counters every SAMPLE_S seconds, so that no wrap is
    missed; where it was held up so long that one may have been, that is the reading's problem.
    """

    def __init__(
        self, root: Path = ROOT, gpu: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._counters = rapl_counters(root) if gpu is None else nvml_counters(gpu)
        self._clock = clock
        self._stopping = threading.Event()
        self._joules, self._problem = 0.0, ""
        self._began = self._at = clock()
        self._last = [counter.read() for counter in self._counters]
        self._thread = threading.Thread(target=self._run, name="energy", daemon=True)
        self._thread.start()

    def stop(self) -> Reading:
        """What was used since the meter was made."""
        self._stopping.set()
        self._thread.join()
        self.sample()
        return Reading(self._joules, self._at - self._began, describe(self._counters), problem=self._problem)

    def sample(self) -> None:
        """Add what the counters counted since the last sample; after the first problem nothing is added."""
        if self._problem:
            return
        before, self._at = self._at, self._clock()
        try:
            values = [counter.read() for counter in self._counters]
        except UserError as error:
            self._problem = str(error)
            return
        for counter, last, value in zip(self._counters, self._last, values, strict=True):
            self._add(counter, value - last, self._at - before)
        self._last = values

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


def figures(
    readings: Sequence[Reading], watts: Watts, queries: int, generated_tokens: int, correct: int | None
) -> dict[str, float | str]:
    """Metrics of spans in which so many queries were answered: joules above idle over each count.

    energy_j_per_query, energy_j_per_token (generated ones; the prompt's energy is in it), energy_j_per_correct,
    idle_w, energy_kind (measured or estimated), energy_source. A count of 0 or None leaves its figure out; without
    any figure there is only `energy_absent`, the reason.
    """
    kind, seconds = readings[0].kind, sum(reading.seconds for reading in readings)
    total, idle = sum(reading.joules for reading in readings), watts.idle or 0.0
    joules = total - idle * seconds
    problems = [*(reading.problem for reading in readings), watts.problem]
    if watts.idle is None:
        problems.append("the idle watts could not be measured")
    elif kind == "measured" and seconds < SHORTEST_S:
        problems.append(f"measured for {seconds:.2f} s only: the counters need {SHORTEST_S:g} s")
    elif joules <= 0:
        mean = total / seconds if seconds > 0 else 0.0
        problems.append(f"{mean:.3g} W under load are not above the {idle:.3g} W idle")
    if problem := next(filter(None, problems), ""):
        return {"energy_absent": problem}
    counts = {"query": queries, "token": generated_tokens, "correct": correct}
    return {
        **{f"energy_j_per_{name}": joules / count for name, count in counts.items() if count},
        "idle_w": idle,
        "energy_kind": kind,
        "energy_source": f"{kind}: {readings[0].source}",
    }
