"""From the records of a benchmark to the sections of a metrics file: medians, intervals, spread and its reason."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
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
TAILS = 2  # the 95th percentile of 16 queries is about the second slowest, so it varies more than their speed
PERCENTILES = {"latency": (50, 95, 99), "ttft": (50, 95)}
ROUND_METRICS = re.compile(
    r"load_s|peak_rss_mib|(batch_\d+_)?energy_j_per_query|\w*(tokens|queries)_per_s(_in_flight_\d+)?|\w+_ms_p(50|95)(_in_flight_\d+)?"
)
"""What rounds.csv has of each round."""


def _percentile(percent: int, rounds: Sequence[Sequence[float]]) -> float:
    import numpy as np

    return float(np.percentile(np.concatenate(rounds), percent))


_median = partial(_percentile, 50)


def with_interval(
    name: str, rounds: Sequence[Any], seed: int, statistic: Callable[[list[Any]], float] = _median
) -> Section:
    """The `statistic` of all rounds as `name`, and its 95 % percentile bootstrap interval (scipy.stats.bootstrap).

    By default it is the median of a list of values per round. One round has no interval. With few rounds it is too
    short: of five rounds it holds a true median in 93 % of the cases, of three in 72 %.
    Rounds are resampled, not queries: queries of one process share its memory layout and its neighbours.
    """
    import numpy as np
    from scipy.stats import bootstrap

    section = {name: statistic(list(rounds))}
    if len(rounds) > 1:
        limits = bootstrap(
            (np.arange(len(rounds)),), lambda picked: statistic([rounds[int(i)] for i in picked]), vectorized=False,
            n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        section |= {f"{name}_low": float(limits.low), f"{name}_high": float(limits.high)}
    return section


def _medians(records: Sequence[Mapping[str, Any]], names: Iterable[str], seed: int) -> Section:
    """The medians over records, with intervals, of each of `names` that all records have."""
    section: Section = {"n": len(records)}
    for name in names:
        if all(name in record for record in records):
            section |= with_interval(name, [[record[name]] for record in records], seed)
    return section


def of(kind: str, records: Iterable[Record]) -> list[Record]:
    """The records of one kind of measurement."""
    return [record for record in records if record["kind"] == kind]


def tokenless(record: Record) -> bool:
    """Whether the engine has no tokens, and so no phases and no time to the first of them (cartlm.baseline)."""
    return not any(query["prompt_tokens"] for query in record["queries"])


def spread_of(records: Sequence[Record]) -> tuple[str, list[float], list[float]]:
    """What tells how far apart the rounds of a variant are: its name, its value and that of the slow queries by round.

    That is the decode speed, with the 95th percentile of decode seconds per token; not the latency, as each round asks
    other prompts, long or short ones. Of one-token answers, which have no decode speed, it is both of the prefill; of an
    engine without tokens the median and the 95th percentile of the latencies per character of the prompt.
    """
    import numpy as np

    if any(map(tokenless, records)):
        each = [
            [query["latency_s"] / query["prompt_ids"] for query in record["queries"]] for record in records
        ]
        median, slow = ([float(np.percentile(one, percent)) for one in each] for percent in (50, 95))
        return "latencies", median, slow
    decoded = all("decode_tokens_per_s" in record for record in records)
    phase, tokens = ("decode", "decoded_tokens") if decoded else ("prefill", "prompt_tokens")
    seconds = [
        [query[f"{phase}_s"] / query[tokens] for query in record["queries"] if query[tokens]]
        for record in records
    ]
    speeds = [record[f"{phase}_tokens_per_s"] for record in records]
    return f"{phase} speeds", speeds, [float(np.percentile(of_round, 95)) for of_round in seconds]


def spread(rounds: Sequence[float]) -> float:
    """How far apart rounds are: their interquartile range over their median."""
    import numpy as np
    from scipy.stats import iqr

    return float(iqr(rounds) / (np.median(rounds) or math.inf))


def spreads(records: Sequence[Record]) -> dict[str, float]:
    """`spread` of the rounds' values and `spread_p95` of their slow queries, of what `spread_of` says."""
    _, values, slow = spread_of(records)
    return {"spread": spread(values), "spread_p95": spread(slow)}


def unsteady(records: Mapping[str, Sequence[Record]], max_spread: float) -> dict[str, str]:
    """Variants whose rounds are further apart than `max_spread`, or their tails than TAILS times that, with the reason."""
    found = {}
    for variant, of_variant in records.items():
        measured = of("queries", of_variant)
        what, values, slow = spread_of(measured)
        for name, by_round, limit in (
            (what, values, max_spread), ("95th percentiles", slow, TAILS * max_spread),
        ):  # fmt: skip
            if (worst := spread(by_round)) > limit:
                found[variant] = (
                    f"the rounds' {name} spread by {worst:.0%} of their median, more than {limit:.0%} "
                    f"(max_spread = {max_spread:g}); {reason(measured)}"
                )
    return found


def reason(records: Sequence[Record]) -> str:
    """The visible cause of a variant's spread, and what helps."""
    held = sum(record.get("throttled_s", 0.0) for record in records)
    if held > 0:
        return f"the cgroup's CPU quota held it back for {held:.1f} s; raise the quota or start fewer threads"
    return disturbance(records) or (
        "no reason is visible from here (heat, other guests of the host); measure again, or raise max_spread in params.yaml"
    )


def disturbance(values: Sequence[Mapping[str, Any]]) -> str:
    """Who took more than DISTURBED CPUs, how many at most and what helps; else an empty text.

    llama.cpp's threads wait for each other after every operation, so one that is descheduled stops them all.
    """
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
    that a hypervisor took. `wall_s` is of all the variant's processes, warm-ups and imports included. What is counted in
    tokens, or to the first of them, is absent for an engine without any.
    """
    import numpy as np

    section = {} if size_bytes is None else {"size_mib": size_bytes / MIB}
    section |= _medians(records, MEDIANS, seed)
    tokens = not any(map(tokenless, records))
    for name, percents in PERCENTILES.items():
        if name == "ttft" and not tokens:
            continue
        each = [[1000 * query[f"{name}_s"] for query in record["queries"]] for record in records]
        for percent in percents:
            section |= with_interval(f"{name}_ms_p{percent}", each, seed, partial(_percentile, percent))
    totals: dict[str, Callable[[Any], float]] = {
        "other_cpus": np.median, "stolen_cpus": np.median, "throttled_periods": sum, "throttled_s": sum,
    }  # fmt: skip
    for name, total in totals.items():
        if all(name in record for record in records):
            section[name] = total([record[name] for record in records])
    every = [query for record in records for query in record["queries"]]
    loads = [record["load1"] for record in records]
    return section | {
        **spreads(records),
        "queries": len(every),
        **(_tokens_per_query(every) if tokens else {}),
        "stopped": np.mean([query["stopped"] for query in every]),
        "load1": np.median(loads),
        "load1_max": max(loads),
        "wall_s": sum(record["wall_s"] for record in records),
    }


def _tokens_per_query(queries: Sequence[Mapping[str, Any]]) -> Section:
    """The mean length of prompts and answers."""
    kinds = ("prompt_tokens", "decoded_tokens")
    return {f"{kind}_per_query": sum(query[kind] for query in queries) / len(queries) for kind in kinds}


def served(records: Sequence[Record], seed: int) -> Section:
    """The `served` section: queries/s of llama-server by requests in flight, and the median latency of one of them."""
    section: Section = {"n": len(records)}
    for count in records[0]["levels"]:
        levels = [record["levels"][count] for record in records]
        rates = [[level["queries_per_s"]] for level in levels]
        each = [[1000 * seconds for seconds in level["latencies_s"]] for level in levels]
        section |= with_interval(f"queries_per_s_in_flight_{count}", rates, seed)
        section |= with_interval(f"latency_ms_p50_in_flight_{count}", each, seed)
    return section


def harness(records: Sequence[Record], seed: int) -> Section:
    """The `harness` section: both speeds of llama-bench, and ours over them, paired by round."""
    flat = []
    for record in records:
        theirs = record["llama_bench"].items()
        ratios = {
            name.replace("tokens_per_s", "ratio"): record["ours"][name] / speed for name, speed in theirs
        }
        flat.append({f"llama_bench_{name}": speed for name, speed in theirs} | ratios)
    return _medians(flat, flat[0], seed)


def batched(records: Sequence[Record], size: str, seed: int, watts: energy.Watts) -> Section:
    """The `batch_N` section: speeds with N rows answered together, and energy where it was measured."""
    levels = [record["levels"][size] for record in records]
    section = _medians(levels, ("prefill_tokens_per_s", "decode_tokens_per_s", "queries_per_s"), seed)
    if all("energy" in level for level in levels):
        readings = [energy.Reading(**level["energy"]) for level in levels]
        tokens = sum(level["decoded_tokens"] for level in levels)
        answered = int(size) * sum(level["times"] for level in levels)
        section |= energy.figures(readings, watts, answered, tokens, None)
    return section


def accuracy(record: Record) -> Section:
    """The `accuracy` section: exact match of all prompts, with its Wilson interval."""
    right, n = record["exact"], record["n"]
    low, high = wilson(right, n)
    return {
        "exact_match": right / n, "exact_match_low": low, "exact_match_high": high, "n_accuracy": n,
        "batch_size": record["batch_size"],
    }  # fmt: skip


def joules(records: Sequence[Record], watts: energy.Watts, seed: int) -> Section:
    """The `energy` section, of all measured queries without load and warm-ups: measured where there is a meter, else
    estimated where params.yaml gives watts; empty where there is neither.
    """
    if all("energy" in record for record in records):
        others = max(record.get("other_cpus_host", 0.0) for record in records)
        # a processor's counters include the joules of other programs; a card's do not count the processor's
        if others > DISTURBED and records[0]["energy"]["source"].startswith("RAPL"):
            return {"energy_absent": f"other programs kept up to {others:.1f} CPUs busy"}
        readings = [energy.Reading(**record["energy"]) for record in records]
    elif watts.load is not None:
        readings = [
            watts.estimate(record["cpu_s"], sum(query["latency_s"] for query in record["queries"]))
            for record in records
        ]
    else:
        return {}
    every = [query for record in records for query in record["queries"]]
    tokens = sum(query["decoded_tokens"] for query in every)
    correct = sum(query["exact"] is True for query in every)
    section: Section = energy.figures(readings, watts, len(every), tokens, correct)
    if "energy_j_per_query" in section:
        each = [
            (reading.joules - section["idle_w"] * reading.seconds, len(record["queries"]))
            for reading, record in zip(readings, records, strict=True)
        ]

        def ratio_of_sums(rounds: Sequence[tuple[float, int]]) -> float:
            return sum(above for above, _ in rounds) / sum(count for _, count in rounds)

        section |= with_interval("energy_j_per_query", each, seed, ratio_of_sums)
    return section


def sections(
    records: Sequence[Record], size_bytes: int | None, seed: int, watts: energy.Watts, name: str = "cpu"
) -> dict[str, Section]:
    """All sections that a variant's records give; `name` is that of the speeds, cpu or gpu."""
    asked, in_batches = of("queries", records), of("batched", records)
    made = {name: queries(asked, size_bytes, seed), "energy": joules(asked, watts, seed)}
    for kind, section_of in (("served", served), ("harness", harness)):
        if measured := of(kind, records):
            made[kind] = section_of(measured, seed)
    for size in in_batches[0]["levels"] if in_batches else ():
        made[f"batch_{size}"] = batched(in_batches, size, seed, watts)
    if scored := of("accuracy", records):
        made["accuracy"] = accuracy(scored[-1])
    return {section: values for section, values in made.items() if values}


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
