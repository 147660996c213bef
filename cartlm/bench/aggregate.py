"""From the records of a benchmark to the sections of a metrics file: medians, intervals, spread and its reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cartlm.bench import energy
from cartlm.bench.runner import Record
from cartlm.evaluation.statistics import wilson
from cartlm.files import MIB

RESAMPLES = 1000
DISTURBED = 0.2  # CPUs
Section = dict[str, Any]

MEDIANS = (
    "load_s", "prefill_tokens_per_s", "decode_tokens_per_s", "queries_per_s", "baseline_rss_mib", "load_rss_mib",
    "load_peak_rss_mib", "run_peak_rss_mib", "peak_rss_mib", "run_rss_anon_mib", "run_rss_file_mib",
    "load_peak_cgroup_mib", "run_peak_cgroup_mib", "peak_cgroup_mib", "vram_load_allocated_mib",
    "vram_load_reserved_mib", "vram_load_used_mib", "vram_run_allocated_mib", "vram_run_reserved_mib",
    "vram_run_used_mib",
)  # fmt: skip
"""Quantities with one value per process: the median over rounds, with its interval."""
PERCENTILES = {"latency": (50, 95, 99), "ttft": (50, 95)}
ROUND_METRICS = re.compile(
    r"load_s|peak_rss_mib|energy_j_per_query|\w*(tokens|queries)_per_s(_in_flight_\d+)?|\w+_ms_p(50|95)(_in_flight_\d+)?"
)
"""What rounds.csv has of each round."""


@dataclass(frozen=True)
class Watts:
    """The watts that energy is computed from: measured idle ones, or why there are none; or those of params.yaml."""

    measured_idle: float | None = None
    idle_problem: str = ""
    given_idle: float | None = None
    given_load: float | None = None
    cpus: int = 1

    def with_idle(self, measured: float | None, problem: str) -> Watts:
        return replace(self, measured_idle=measured, idle_problem=problem)


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
    low, high = bootstrap(
        (np.arange(len(rounds)),), lambda picked: statistic([rounds[int(i)] for i in picked]), vectorized=False,
        n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(low), float(high)


def _percentile(percent: int, rounds: Sequence[Sequence[float]]) -> float:
    import numpy as np

    return float(np.percentile(np.concatenate(rounds), percent))


def _with_interval(
    name: str, rounds: Sequence[Any], statistic: Callable[[list[Any]], float], seed: int
) -> Section:
    """`name` with its interval; `rounds` holds a list of values per round."""
    section = {name: statistic(list(rounds))}
    if limits := interval(rounds, statistic, seed):
        section[f"{name}_low"], section[f"{name}_high"] = limits
    return section


def _medians(records: Sequence[Mapping[str, Any]], names: Iterable[str], seed: int) -> Section:
    """The medians over records, with intervals, of each of `names` that all records have."""
    section: Section = {}
    for name in names:
        if all(name in record for record in records):
            rounds = [[record[name]] for record in records]
            section |= _with_interval(name, rounds, partial(_percentile, 50), seed)
    return section


def of(kind: str, records: Iterable[Record]) -> list[Record]:
    """The records of one kind of measurement."""
    return [record for record in records if record["kind"] == kind]


def spread(records: Sequence[Record]) -> float:
    """How far apart the rounds of a variant are: interquartile range over median of their decode speeds.

    Not of their latencies: each round asks other prompts, long or short ones.
    """
    return _relative_range([record[f"{_phase(records)}_tokens_per_s"] for record in records])


def tail_spread(records: Sequence[Record]) -> float:
    """The same of the slow queries of each round: the 95th percentile of decode seconds per token."""
    phase = _phase(records)
    tokens = "decoded_tokens" if phase == "decode" else "prompt_tokens"
    seconds = [
        [query[f"{phase}_s"] / query[tokens] for query in record["queries"] if query[tokens]]
        for record in records
    ]
    return _relative_range([_percentile(95, [of_round]) for of_round in seconds])


def _phase(records: Sequence[Record]) -> str:
    """decode, or prefill where a round of one-token answers has no decode speed."""
    return "decode" if all("decode_tokens_per_s" in record for record in records) else "prefill"


def _relative_range(values: Sequence[float]) -> float:
    import numpy as np

    low, middle, high = np.percentile(values, (25, 50, 75))
    return float((high - low) / middle) if middle else 0.0


def unsteady(records: Mapping[str, Sequence[Record]], max_spread: float) -> list[str]:
    """Variants whose rounds, or their tails, are further apart than `max_spread`."""
    return [
        variant
        for variant, of_variant in records.items()
        if max(spread(of("queries", of_variant)), tail_spread(of("queries", of_variant))) > max_spread
    ]


def reason(records: Sequence[Record]) -> str:
    """The visible cause of a variant's spread, and what helps."""
    held = sum(record.get("throttled_s", 0.0) for record in records)
    if held > 0:
        return f"the cgroup's CPU quota held it back for {held:.1f} s; raise the quota or start fewer threads"
    if cause := _disturbance(records):
        return cause
    return "no reason is visible from here (heat, other guests of the host); measure again, or raise max_spread in params.yaml"


def disturbed(sections: Iterable[Mapping[str, float]], command: str = "make bench") -> str:
    """A warning if more than DISTURBED CPUs were taken while a variant was measured, else an empty text.

    llama.cpp's threads wait for each other after every operation, so one that is descheduled stops them all.
    """
    cause = _disturbance(list(sections))
    return f"warning: the speeds are too low: {cause}, then: {command}" if cause else ""


def _disturbance(values: Sequence[Mapping[str, Any]]) -> str:
    """Who took CPUs, how many at most and what helps; an empty text below DISTURBED."""
    stolen = [each.get("stolen_cpus", 0.0) for each in values]
    programs = [each.get("other_cpus", 0.0) - each.get("stolen_cpus", 0.0) for each in values]
    if max(programs, default=0.0) > DISTURBED:
        return f"other programs took up to {max(programs):.1f} CPUs; stop them"
    if max(stolen, default=0.0) > DISTURBED:
        return f"the hypervisor took up to {max(stolen):.1f} CPUs; measure when its other guests are quiet"
    return ""


def queries(records: Sequence[Record], size_bytes: int | None, seed: int) -> Section:
    """The section of speeds and memory: medians over rounds, percentiles over all queries, both with intervals.

    `n` is the number of processes (rounds), `queries` of measured queries in all; `load1` the median system load
    when a measurement began, `load1_max` the highest (this run's own share in it is about `threads`), `other_cpus`
    the median number of usable CPUs that other programs kept busy meanwhile, `stolen_cpus` those of them
    that a hypervisor took. `wall_s` is of all the variant's processes, warm-ups and imports included.
    """
    import numpy as np

    section: Section = {"n": len(records)}
    if size_bytes is not None:
        section["size_mib"] = size_bytes / MIB
    section |= _medians(records, MEDIANS, seed)
    for name, percents in PERCENTILES.items():
        each = [[1000 * query[f"{name}_s"] for query in record["queries"]] for record in records]
        for percent in percents:
            section |= _with_interval(f"{name}_ms_p{percent}", each, partial(_percentile, percent), seed)
    totals: dict[str, Callable[[Any], float]] = {
        "other_cpus": np.median, "stolen_cpus": np.median, "throttled_periods": sum, "throttled_s": sum,
    }  # fmt: skip
    for name, total in totals.items():
        if all(name in record for record in records):
            section[name] = total([record[name] for record in records])
    every = [query for record in records for query in record["queries"]]
    loads = [record["load1"] for record in records]
    return section | {
        "spread": spread(records),
        "spread_p95": tail_spread(records),
        "queries": len(every),
        "prompt_tokens_per_query": np.mean([query["prompt_tokens"] for query in every]),
        "decoded_tokens_per_query": np.mean([query["decoded_tokens"] for query in every]),
        "stopped": np.mean([query["stopped"] for query in every]),
        "load1": np.median(loads),
        "load1_max": max(loads),
        "wall_s": sum(record["wall_s"] for record in records),
    }


def served(records: Sequence[Record], seed: int) -> Section:
    """The `served` section: queries/s of llama-server by requests in flight, and the median latency of one of them."""
    section: Section = {"n": len(records)}
    for level in records[0]["levels"]:
        rates = [[record["levels"][level]["queries_per_s"]] for record in records]
        each = [[1000 * s for s in record["levels"][level]["latencies_s"]] for record in records]
        for name, values in (("queries_per_s", rates), ("latency_ms_p50", each)):
            section |= _with_interval(f"{name}_in_flight_{level}", values, partial(_percentile, 50), seed)
    return section


def harness(records: Sequence[Record], seed: int) -> Section:
    """The `harness` section: both speeds of llama-bench, and ours over them, paired by round."""
    flat = []
    for record in records:
        ours, theirs = record["ours"], record["llama_bench"]
        flat.append({f"llama_bench_{name}": speed for name, speed in theirs.items()})
        flat[-1] |= {
            name.replace("tokens_per_s", "ratio"): ours[name] / speed for name, speed in theirs.items()
        }
    return {"n": len(records), **_medians(flat, flat[0], seed)}


def batched(records: Sequence[Record], size: str, seed: int, watts: Watts) -> Section:
    """The `batch_N` section: speeds with N rows answered together, and energy where it was measured."""
    levels = [record["levels"][size] for record in records]
    names = ("prefill_tokens_per_s", "decode_tokens_per_s", "queries_per_s")
    section: Section = {"n": len(records), **_medians(levels, names, seed)}
    if all("energy" in level for level in levels):
        total = _total([energy.Reading(**level["energy"]) for level in levels])
        total = replace(total, problem=total.problem or watts.idle_problem)
        tokens = sum(level["decoded_tokens"] for level in levels)
        answered = int(size) * sum(level["times"] for level in levels)
        section |= energy.figures(total, watts.measured_idle, answered, tokens, None)
    return section


def accuracy(record: Record) -> Section:
    """The `accuracy` section: exact match of all prompts, with its Wilson interval."""
    right, n = record["exact"], record["n"]
    low, high = wilson(right, n)
    return {
        "exact_match": right / n, "exact_match_low": low, "exact_match_high": high, "n_accuracy": n,
        "batch_size": record["batch_size"],
    }  # fmt: skip


def _total(readings: Sequence[energy.Reading]) -> energy.Reading:
    """All readings as one, with the first problem."""
    return replace(
        readings[0],
        joules=sum(reading.joules for reading in readings),
        seconds=sum(reading.seconds for reading in readings),
        problem=next((reading.problem for reading in readings if reading.problem), ""),
    )


def _ratio_of_sums(rounds: Sequence[tuple[float, int]]) -> float:
    return sum(above for above, _ in rounds) / sum(count for _, count in rounds)


def joules(records: Sequence[Record], watts: Watts, seed: int) -> Section:
    """The `energy` section, of all measured queries without load and warm-ups: measured where there is a meter, else
    estimated where params.yaml gives watts; empty where there is neither.
    """
    if all("energy" in record for record in records):
        others = max(record.get("other_cpus_host", 0.0) for record in records)
        # a processor's counters include the joules of other programs; a card's do not count the processor's
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
    every = [query for record in records for query in record["queries"]]
    tokens = sum(query["decoded_tokens"] for query in every)
    correct = sum(query["exact"] is True for query in every)
    section: Section = energy.figures(_total(readings), idle, len(every), tokens, correct)
    if "energy_j_per_query" in section and idle is not None:
        each = [
            (reading.joules - idle * reading.seconds, len(record["queries"]))
            for reading, record in zip(readings, records, strict=True)
        ]
        if limits := interval(each, _ratio_of_sums, seed):
            section["energy_j_per_query_low"], section["energy_j_per_query_high"] = limits
    return section


def sections(
    records: Sequence[Record], size_bytes: int | None, seed: int, watts: Watts, name: str = "cpu"
) -> dict[str, Section]:
    """All sections that a variant's records give; `name` is that of the speeds, cpu or gpu."""
    by_kind = {kind: of(kind, records) for kind in ("queries", "served", "harness", "batched", "accuracy")}
    made: dict[str, Section] = {name: queries(by_kind["queries"], size_bytes, seed)}
    if used := joules(by_kind["queries"], watts, seed):
        made["energy"] = used
    if by_kind["served"]:
        made["served"] = served(by_kind["served"], seed)
    if by_kind["harness"]:
        made["harness"] = harness(by_kind["harness"], seed)
    if by_kind["batched"]:
        for size in by_kind["batched"][0]["levels"]:
            made[f"batch_{size}"] = batched(by_kind["batched"], size, seed, watts)
    if by_kind["accuracy"]:
        made["accuracy"] = accuracy(by_kind["accuracy"][-1])
    return made


def leave_out_wide(sections: Mapping[str, Section]) -> list[str]:
    """Remove each figure whose interval is wider than the figure itself; returns the keys, such as `cpu.load_s`."""
    removed = []
    for section, values in sections.items():
        for name in [name for name in values if f"{name}_low" in values and name != "exact_match"]:
            if values[f"{name}_high"] - values[f"{name}_low"] > values[name]:
                removed.append(f"{section}.{name}")
                for key in (name, f"{name}_low", f"{name}_high"):
                    del values[key]
        if f"{section}.energy_j_per_query" in removed:
            for name in [name for name in values if name.startswith("energy_j_per_")]:
                del values[name]
            values["energy_absent"] = "its interval is wider than the value"
    return removed


def round_metrics(sections: Mapping[str, Section]) -> dict[str, float]:
    """The figures of one round by dotted key, from the sections that its records alone give."""
    return {
        f"{section}.{name}": values[name]
        for section, values in sections.items()
        for name in values
        if section != "harness" and ROUND_METRICS.fullmatch(name)
    }
