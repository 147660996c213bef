"""From the repetitions of a benchmark to the sections of a metrics file: medians, intervals, spread and its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cartlm.bench import energy
from cartlm.files import MIB

RESAMPLES = 1000
DISTURBED = 0.2  # CPUs
Record = dict[str, Any]
Section = dict[str, float]

MEDIANS = (
    "load_s", "prefill_tokens_per_s", "decode_tokens_per_s", "queries_per_s", "baseline_rss_mib", "load_rss_mib",
    "load_peak_rss_mib", "run_peak_rss_mib", "peak_rss_mib", "run_rss_anon_mib", "run_rss_file_mib",
    "load_peak_cgroup_mib", "run_peak_cgroup_mib", "peak_cgroup_mib", "vram_load_allocated_mib",
    "vram_load_reserved_mib", "vram_load_used_mib", "vram_run_allocated_mib", "vram_run_reserved_mib",
    "vram_run_used_mib",
)  # fmt: skip
"""Quantities with one value a process: the median over rounds, with its interval."""
PERCENTILES = {"latency": (50, 95, 99), "ttft": (50, 95)}


def interval(
    rounds: Sequence[Any], statistic: Callable[[list[Any]], float], seed: int
) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of `statistic` over rounds (scipy.stats.bootstrap); None for one round.

    With few rounds it is too short: of five rounds it holds a true median in 93 % of the cases, of three in 72 %.

    Rounds are resampled, not queries: queries of one process share its memory layout and its neighbours.
    """
    import numpy as np
    from scipy.stats import bootstrap

    if len(rounds) < 2:
        return None
    found = bootstrap(
        (np.arange(len(rounds)),), lambda picked: statistic([rounds[int(i)] for i in picked]), vectorized=False,
        n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    low, high = float(found.low), float(found.high)
    return low, high


def _percentile(percent: int, rounds: Sequence[Sequence[float]]) -> float:
    import numpy as np

    return float(np.percentile(np.concatenate(rounds), percent))


def _add(
    found: Section, name: str, rounds: Sequence[Any], statistic: Callable[[list[Any]], float], seed: int
) -> None:
    """`name` with its interval."""
    found[name] = statistic(list(rounds))
    if limits := interval(rounds, statistic, seed):
        found[f"{name}_low"], found[f"{name}_high"] = limits


def of(what: str, records: Iterable[Record]) -> list[Record]:
    """The records of one kind of measurement."""
    return [record for record in records if record["what"] == what]


def spread(records: Sequence[Record]) -> float:
    """How far the rounds of a variant lie apart: interquartile range over median of their decode speeds.

    Not of their latencies: each round asks other prompts, long or short ones.
    """
    import numpy as np

    names = (
        "decode_tokens_per_s",
        "prefill_tokens_per_s",
    )  # a round of one-token answers has no decode speed
    name = next(name for name in names if all(name in record for record in records))
    speeds = [float(record[name]) for record in records]
    low, middle, high = np.percentile(speeds, (25, 50, 75))
    return float((high - low) / middle)


def reason(records: Sequence[Record]) -> str:
    """What can be seen that made a variant's rounds differ, and what helps."""
    held = sum(record.get("throttled_s", 0.0) for record in records)
    stolen = max((record.get("stolen_cpus", 0.0) for record in records), default=0.0)
    others = max(map(_programs, records), default=0.0)
    if held > 0:
        return f"the cgroup's CPU quota held it back for {held:.1f} s; raise the quota or start fewer threads"
    if others > DISTURBED:
        return f"other programs kept up to {others:.1f} CPUs busy; stop them"
    if stolen > DISTURBED:
        return f"the hypervisor took up to {stolen:.1f} CPUs away; measure when its other guests are quiet"
    return "no reason is visible from here (heat, other guests of the host); measure again, or raise max_spread in params.yaml"


def queries(records: Sequence[Record], size_bytes: int, seed: int) -> Section:
    """The `cpu` section of a variant's file: medians over rounds, percentiles over all queries, both with intervals.

    `n` is the number of processes (rounds), `queries` of measured queries in all; `load1` the median system load
    when a measurement began, `load1_max` the highest (this run's own share in it is about `threads`), `other_cpus`
    the median number, of those that may be used, that other programs kept busy meanwhile, `stolen_cpus` those of them
    that a hypervisor took. `wall_s` is of all the variant's processes, warm-ups and imports included.
    """
    import numpy as np

    found: Section = {"n": len(records), "size_mib": size_bytes / MIB}
    for name in MEDIANS:
        if all(name in record for record in records):
            _add(found, name, [[record[name]] for record in records], partial(_percentile, 50), seed)
    for name, percents in PERCENTILES.items():
        each = [[1000 * query[f"{name}_s"] for query in record["queries"]] for record in records]
        for percent in percents:
            _add(found, f"{name}_ms_p{percent}", each, partial(_percentile, percent), seed)
    all_queries = [query for record in records for query in record["queries"]]
    loads = [record["load1"] for record in records]
    for name in ("other_cpus", "stolen_cpus"):
        if all(name in record for record in records):
            found[name] = float(np.median([record[name] for record in records]))
    for name in ("throttled_periods", "throttled_s"):
        if all(name in record for record in records):
            found[name] = sum(record[name] for record in records)
    return found | {
        "spread": spread(records),
        "queries": len(all_queries),
        "prompt_tokens_per_query": float(np.mean([query["prompt_tokens"] for query in all_queries])),
        "decoded_tokens_per_query": float(np.mean([query["decoded_tokens"] for query in all_queries])),
        "stopped": float(np.mean([query["stopped"] for query in all_queries])),
        "load1": float(np.median(loads)),
        "load1_max": max(loads),
        "wall_s": sum(record["wall_s"] for record in records),
    }


def served(records: Sequence[Record], seed: int) -> Section:
    """The `served` section: queries/s of llama-server by requests in flight, and the median latency of one of them."""
    found: Section = {"n": len(records)}
    for level in records[0]["levels"]:
        rates = [[record["levels"][level]["queries_per_s"]] for record in records]
        each = [[1000 * s for s in record["levels"][level]["latencies_s"]] for record in records]
        _add(found, f"queries_per_s_in_flight_{level}", rates, partial(_percentile, 50), seed)
        _add(found, f"latency_ms_p50_in_flight_{level}", each, partial(_percentile, 50), seed)
    return found


@dataclass(frozen=True)
class Watts:
    """What energy is reckoned from: idle watts as measured, or why not; or those of params.yaml, idle and at full load."""

    measured_idle: float | None = None
    idle_problem: str = ""
    given_idle: float | None = None
    given_load: float | None = None
    cpus: int = 1


def _total(readings: Sequence[energy.Reading]) -> energy.Reading:
    """All readings as one, with the first problem."""
    return replace(
        readings[0],
        joules=sum(reading.joules for reading in readings),
        seconds=sum(reading.seconds for reading in readings),
        problem=next((reading.problem for reading in readings if reading.problem), ""),
    )


def batched(records: Sequence[Record], size: str, seed: int, watts: Watts) -> dict[str, Any]:
    """The `batch_N` section: speeds with N rows answered together, and energy where it was measured."""
    found: dict[str, Any] = {"n": len(records)}
    levels = [record["levels"][size] for record in records]
    for name in ("prefill_tokens_per_s", "decode_tokens_per_s", "queries_per_s"):
        if all(name in level for level in levels):
            _add(found, name, [[level[name]] for level in levels], partial(_percentile, 50), seed)
    if all("energy" in level for level in levels):
        readings = [energy.Reading(**level["energy"]) for level in levels]
        total = _total(readings)
        total = replace(total, problem=total.problem or watts.idle_problem)
        tokens = sum(level["decoded_tokens"] for level in levels)
        queries = int(size) * sum(level["times"] for level in levels)
        found |= energy.figures(total, watts.measured_idle, queries, tokens, None)
    return found


def harness(records: Sequence[Record], seed: int) -> Section:
    """The `harness` section: both speeds of llama-bench, and ours over them, paired by round."""
    found: Section = {"n": len(records)}
    for phase in ("prefill", "decode"):
        name = f"{phase}_tokens_per_s"
        theirs = [[record["llama_bench"][name]] for record in records]
        ratios = [[record["ours"][name] / record["llama_bench"][name]] for record in records]
        _add(found, f"llama_bench_{name}", theirs, partial(_percentile, 50), seed)
        _add(found, f"{phase}_ratio", ratios, partial(_percentile, 50), seed)
    return found


def _ratio_of_sums(rounds: Sequence[tuple[float, int]]) -> float:
    return sum(above for above, _ in rounds) / sum(count for _, count in rounds)


def joules(records: Sequence[Record], watts: Watts, seed: int) -> dict[str, Any]:
    """The `energy` section, of all measured queries without load and warm-ups: measured where there is a meter, else
    estimated where params.yaml gives watts; empty where there is neither.
    """
    made = [query for record in records for query in record["queries"]]
    counts = (
        len(made),
        sum(query["decoded_tokens"] for query in made),
        sum(query["exact"] is True for query in made),
    )
    if all("energy" in record for record in records):
        others = max(record.get("other_cpus_host", 0.0) for record in records)
        # a processor's counters cannot tell whose joules they count; a card's do not count the processor's
        if others > DISTURBED and records[0]["energy"]["source"].startswith("RAPL"):
            return {"energy_absent": f"other programs kept up to {others:.1f} CPUs busy"}
        readings = [energy.Reading(**record["energy"]) for record in records]
        idle = watts.measured_idle
        if idle is None and watts.idle_problem:
            return {"energy_absent": watts.idle_problem}
    elif watts.given_idle is not None and watts.given_load is not None:
        idle = watts.given_idle
        readings = [
            energy.estimate(
                idle, watts.given_load, record["cpu_s"], watts.cpus,
                sum(query["latency_s"] for query in record["queries"]),
            )
            for record in records
        ]  # fmt: skip
    else:
        return {}
    found: dict[str, Any] = energy.figures(_total(readings), idle, *counts)
    if "energy_j_per_query" in found and idle is not None:
        each = [
            (reading.joules - idle * reading.seconds, len(record["queries"]))
            for reading, record in zip(readings, records, strict=True)
        ]
        if limits := interval(each, _ratio_of_sums, seed):
            found["energy_j_per_query_low"], found["energy_j_per_query_high"] = limits
    return found


def sections(
    records: Sequence[Record], size_bytes: int, seed: int, watts: Watts
) -> dict[str, dict[str, Any]]:
    """All sections that a variant's records give."""
    found: dict[str, dict[str, Any]] = {"cpu": queries(of("queries", records), size_bytes, seed)}
    if used := joules(of("queries", records), watts, seed):
        found["energy"] = used
    for name, summarize in (("served", served), ("harness", harness)):
        if some := of(name, records):
            found[name] = summarize(some, seed)
    return found


def disturbed(sections: Iterable[Mapping[str, float]]) -> str:
    """A warning if more than DISTURBED CPUs were kept busy by others while a variant was measured, else an empty text.

    llama.cpp's threads wait for each other after every operation, so one that is descheduled stops them all.
    """
    found = list(sections)
    others = max(map(_programs, found), default=0.0)
    stolen = max((section.get("stolen_cpus", 0.0) for section in found), default=0.0)
    if others > DISTURBED:
        return f"warning: other programs kept {others:.1f} CPUs busy, the speeds are too low; stop them, then: make bench"
    if stolen > DISTURBED:
        return f"warning: the hypervisor took {stolen:.1f} CPUs away, the speeds are too low; when it is quiet: make bench"
    return ""


def _programs(values: Mapping[str, Any]) -> float:
    """CPUs that other programs of this machine kept busy: `other_cpus` without what a hypervisor took."""
    return float(values.get("other_cpus", 0.0) - values.get("stolen_cpus", 0.0))
