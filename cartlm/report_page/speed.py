"""Speed and energy: the mean query split into prefill and decode, and joules where they were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from cartlm.report import cells
from cartlm.report.summary import read_optional
from cartlm.report_page.drawing import Bar, stacked
from cartlm.report_page.parts import Section, Sources, View, benches, machines, shown_path, table

PHASES = ("prefill", "decode")
ENERGY = ("energy_j_per_query", "energy_j_per_token", "energy_idle_w", "energy_source")
KEYS = ("variant", "prefill ms", "decode ms", "prefill_tokens_per_s", "decode_tokens_per_s", "latency_ms_p50", "latency_ms_p95", "queries_per_s", "load_s", "peak_rss_mib")  # fmt: skip


def split(speed: Mapping[str, Any]) -> tuple[float, float] | None:
    """Milliseconds of prefill and decode of a mean query; None without tokens."""
    needed = (
        "prompt_tokens_per_query",
        "decoded_tokens_per_query",
        *(f"{phase}_tokens_per_s" for phase in PHASES),
    )
    if not all(speed.get(key) for key in needed):
        return None
    prompt, decoded, prefill, decode = (speed[key] for key in needed)
    return 1000 * prompt / prefill, 1000 * decoded / decode


def section(sources: Sources) -> Section:
    """Bars of both phases, by target."""
    views = []
    for target, files in benches(sources.models[0]).items():
        bars, rows = [], []
        for name, file in files.items():
            speed = file["speed"]
            times = split(speed)
            if times:
                bars.append(Bar(name, times, f"{cells.number(sum(times))} ms"))
            rows.append(
                {
                    "variant": name,
                    **({"prefill ms": times[0], "decode ms": times[1]} if times else {}),
                    **speed,
                }
            )
        title = f"Mean query on {target}, milliseconds of prefill and decode"
        picture = stacked(title, PHASES, bars, "ms") if bars else Markup()
        folder = shown_path(sources.root, sources.metrics / "bench" / target)
        keys = [key for key in KEYS if any(key in row for row in rows)]
        views.append(
            View({"target": target}, machines(files.values()), [folder], picture, table(title, keys, rows))
        )
    return Section(
        "latency",
        "Latency: prefill and decode",
        "Reading the prompt and writing the answer cost different things: prefill computes, decode moves weights. Free decoding, one query "
        "at a time.",
        "Milliseconds are tokens of a mean query over the measured tokens per second of each phase; the percentiles in the table are of "
        "whole queries. Each variant runs in a process of its own, in interleaved rounds.",
        "make bench (this machine), make bench-gpu (a card), make architecture (Llama 3.2 1B with random weights)",
        views,
    )


def energy_section(sources: Sources) -> Section:
    """Joules by target; where none were measured, why."""
    views = []
    for target, files in benches(sources.models[0]).items():
        rows = [{"variant": name, **file["energy"]} for name, file in files.items() if file.get("energy")]
        title = f"Energy on {target}"
        folder = sources.metrics / "bench" / target
        if rows:
            keys = ["variant", *(key for key in ENERGY if any(key in row for row in rows))]
            bars = [
                Bar(row["variant"], [row[ENERGY[0]]], f"{cells.number(row[ENERGY[0]])} J")
                for row in rows
                if ENERGY[0] in row
            ]
            picture = stacked(title, ["above idle"], bars, "J per query") if bars else Markup()
            view = View({"target": target}, machines(files.values()), [shown_path(sources.root, folder)], picture, table(title, keys, rows))  # fmt: skip
        else:
            details = read_optional(folder / "machine.json").get("details", {})
            view = View({"target": target}, machines(files.values()), [shown_path(sources.root, folder)], note=f"Not measured on {target}{absent(details)}.")  # fmt: skip
        views.append(view)
    return Section(
        "energy",
        "Energy",
        "Above idle, of processor or card; what no meter measured is absent, never an estimate under another name.",
        "Counters of the processor (RAPL) or the card (NVML) over all queries, idle power taken off, loading left out.",
        "make bench on a machine with a meter; make doctor says whether this one has one",
        views,
    )


def absent(details: Mapping[str, Any]) -> str:
    """Why, as machine.json has it."""
    reasons: Sequence[str] = [str(details[key]) for key in sorted(details) if key.startswith("energy_") and key.endswith("_absent")]  # fmt: skip
    return f": {'; '.join(reasons)}" if reasons else ""
