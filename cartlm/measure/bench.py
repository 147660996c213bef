"""The CPU benchmark: rounds over all variants in random order, a fresh process for each measurement.

Interleaving spreads slow drifts (heat, neighbours) over all variants instead of over those measured last;
a fresh process keeps one model's memory and caches out of the next one's numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cartlm import process
from cartlm.errors import UserError
from cartlm.measure import machine
from cartlm.results import read_metrics, write_metrics

MIB = 2**20
RESAMPLES = 1000
DISTURBED = 0.2  # CPUs
Record = dict[str, Any]
"""One line of the raw files: session, variant, round, time and what cartlm.measure.worker gives."""

MEDIANS = (
    "load_s", "prefill_tokens_per_s", "decode_tokens_per_s", "queries_per_s", "baseline_rss_mib", "load_rss_mib",
    "run_rss_anon_mib", "run_rss_file_mib", "peak_rss_mib",
)  # fmt: skip
"""Quantities with one value a process: the median over rounds, with its interval."""


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often."""

    seed: int
    rounds: int
    warmups: int  # queries before the measured ones, in each process
    queries: int  # a round and variant
    threads: int
    max_new_tokens: int
    context_tokens: int
    separator: str

    def order(self, variants: Sequence[str], round: int) -> list[str]:
        """The variants in the random order of a round."""
        shuffled = sorted(variants)
        random.Random(f"order {self.seed} {round}").shuffle(shuffled)
        return shuffled

    def draw(self, prompts: Sequence[str], round: int) -> tuple[list[str], list[str]]:
        """(warm-up, measured) prompts of a round, the same for all variants; rounds share none if there are enough."""
        shuffled = list(prompts)
        random.Random(f"prompts {self.seed}").shuffle(shuffled)
        size = self.warmups + self.queries
        taken = [shuffled[(round * size + i) % len(shuffled)] for i in range(size)]
        return taken[: self.warmups], taken[self.warmups :]


def measure(
    models: Mapping[str, Path],
    prompts: Sequence[str],
    plan: Plan,
    raw: Path,
    progress: Callable[[str], None],
    about: str = "",
) -> dict[str, list[Record]]:
    """All measurements of all variants (name -> GGUF file), each appended to `raw`/<variant>.jsonl when done.

    A killed run goes on where it stopped, if models, prompts, plan and `about` (what else must be the same, such
    as the machine) are unchanged; `close` ends it. Raises UserError for a missing model or a failing measurement.
    """
    for variant, path in models.items():
        if not path.is_file():
            raise UserError(
                f"{path} is missing",
                f"dvc repro {'convert-gguf' if variant == 'f16' else f'quantize-gguf@{variant}'}",
            )
    session = _session(models, prompts, plan, raw, about)
    done = {variant: _finished(raw / f"{variant}.jsonl", session) for variant in models}
    kept, total = sum(map(len, done.values())), plan.rounds * len(models)
    if kept:
        progress(f"going on after {kept} of {total} measurements")
    for round in range(plan.rounds):
        warmups, measured = plan.draw(prompts, round)
        for variant in plan.order(list(models), round):
            if round in done[variant]:
                continue
            job = {
                "model": str(models[variant]),
                "warmups": warmups,
                "prompts": measured,
                "threads": plan.threads,
                "separator": plan.separator,
                "max_new_tokens": plan.max_new_tokens,
                "context_tokens": plan.context_tokens,
            }
            record = {"session": session, "variant": variant, "round": round, **_work(job)}
            with (raw / f"{variant}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            done[variant][round] = record
            speed = f"{record['prefill_tokens_per_s']:.0f} prefill and {record.get('decode_tokens_per_s', 0):.0f} decode"
            progress(
                f"{sum(map(len, done.values()))}/{total}  round {round + 1}  {variant}: {speed} tokens/s"
            )
    return {variant: [found[round] for round in sorted(found)] for variant, found in done.items()}


def close(raw: Path) -> None:
    """The results are written: the next `measure` starts anew and keeps the raw files."""
    (raw / "session.json").unlink(missing_ok=True)


def _session(models: Mapping[str, Path], prompts: Sequence[str], plan: Plan, raw: Path, about: str) -> str:
    """The name of the run in progress, or of a new one if there is none that measures the same."""
    raw.mkdir(parents=True, exist_ok=True)
    files = [
        (variant, path.stat().st_size, path.stat().st_mtime_ns) for variant, path in sorted(models.items())
    ]
    key = hashlib.sha256(repr((files, list(prompts), asdict(plan), about)).encode()).hexdigest()[:12]
    path = raw / "session.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["key"] == key:
            return str(found["session"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    session = f"{key}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    temporary = path.with_name(".session.json.tmp")
    temporary.write_text(json.dumps({"key": key, "session": session}), encoding="utf-8")
    os.replace(temporary, path)
    return session


def _finished(path: Path, session: str) -> dict[int, Record]:
    """The session's records by round; a line cut by a kill is removed from the file."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    records = [json.loads(line) for line in whole.decode("utf-8").splitlines()]
    return {record["round"]: record for record in records if record["session"] == session}


def _work(job: Record) -> Record:
    """What cartlm.measure.worker gives for a job, in a fresh process; its start, its seconds, and throttling meanwhile."""
    began, started, before = time.time(), time.monotonic(), machine.throttling()
    done = subprocess.run(
        [sys.executable, "-m", "cartlm.measure.worker"], input=json.dumps(job), capture_output=True, text=True,
        preexec_fn=process.die_with_parent, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"measuring {job['model']}: {lines[-1].removeprefix('cartlm: error: ')}")
    result: Record = json.loads(done.stdout.strip().splitlines()[-1])
    after = machine.throttling()
    if before and after:
        held = after.since(before)
        result |= {"throttled_periods": held.periods, "throttled_s": held.seconds}
    return {"time": began, "wall_s": time.monotonic() - started, **result}


def interval(
    rounds: Sequence[Any], statistic: Callable[[list[Any]], float], seed: int
) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of `statistic` over rounds (scipy.stats.bootstrap); None for one round.

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


def summarize(records: Sequence[Record], size_bytes: int, seed: int) -> dict[str, float]:
    """The `cpu` section of a variant's file: medians over rounds, percentiles over all queries, both with intervals.

    `n` is the number of processes (rounds), `queries` of measured queries in all; `load1` the median system load
    when a measurement began, `load1_max` the highest (this run's own share in it is about `threads`), `other_cpus`
    the median number of CPUs that other programs kept busy meanwhile. `wall_s` is of all the variant's processes,
    warm-ups and imports included.
    """
    import numpy as np

    found: dict[str, float] = {"n": len(records), "size_mib": size_bytes / MIB}

    def add(name: str, rounds: Sequence[Any], statistic: Callable[[list[Any]], float]) -> None:
        found[name] = statistic(list(rounds))
        if limits := interval(rounds, statistic, seed):
            found[f"{name}_low"], found[f"{name}_high"] = limits

    for name in MEDIANS:
        if all(name in record for record in records):
            add(name, [[record[name]] for record in records], partial(_percentile, 50))
    latencies = [[1000 * query["latency_s"] for query in record["queries"]] for record in records]
    for percent in (50, 95):
        add(f"latency_ms_p{percent}", latencies, partial(_percentile, percent))
    queries = [query for record in records for query in record["queries"]]
    loads = [record["load1"] for record in records]
    if all("other_cpus" in record for record in records):
        found["other_cpus"] = float(np.median([record["other_cpus"] for record in records]))
    for name in ("throttled_periods", "throttled_s"):
        if all(name in record for record in records):
            found[name] = sum(record[name] for record in records)
    return found | {
        "queries": len(queries),
        "prompt_tokens_per_query": float(np.mean([query["prompt_tokens"] for query in queries])),
        "decoded_tokens_per_query": float(np.mean([query["decoded_tokens"] for query in queries])),
        "stopped": float(np.mean([query["stopped"] for query in queries])),
        "load1": float(np.median(loads)),
        "load1_max": max(loads),
        "wall_s": sum(record["wall_s"] for record in records),
    }


def disturbed(sections: Iterable[Mapping[str, float]]) -> str:
    """A warning if other programs kept more than DISTURBED CPUs busy while a variant was measured, else an empty text.

    llama.cpp's threads wait for each other after every operation, so one that is descheduled stops them all.
    """
    most = max((section.get("other_cpus", 0.0) for section in sections), default=0.0)
    if most <= DISTURBED:
        return ""
    return f"warning: other programs kept {most:.1f} CPUs busy, the speeds are too low; stop them, then: make bench"


def write(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Write `folder`/<name>.json for each of `files` and remove the other ones there; returns what went."""
    for name, values in files.items():
        write_metrics(folder / f"{name}.json", values)
    gone = [path for path in sorted(folder.glob("*.json")) if path.stem not in files]
    for path in gone:
        path.unlink()
    return [path.name for path in gone]


def committed(path: Path) -> dict[str, Any]:
    """The metrics file as the last commit has it, or as it lies there where git knows none; {} for neither."""
    if path.parent.is_dir() and shutil.which("git"):
        shown = subprocess.run(
            ["git", "-C", str(path.parent), "show", f"HEAD:./{path.name}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if shown.returncode == 0:
            found: dict[str, Any] = json.loads(shown.stdout)
            return found
    return read_metrics(path) if path.is_file() else {}


def same_machine(known: Mapping[str, Any], live: Mapping[str, str], strict: bool) -> str:
    """A warning if the machine of the metrics file `known` is another than `live`, else an empty text.

    With `strict` that is a UserError.
    """
    before = known.get("machine", {})
    if not before or before.get("hash") == live["hash"]:
        return ""
    message = (
        f"this machine is {live['name']} ({live['hash']}), "
        f"the committed numbers are of {before.get('name')} ({before.get('hash')})"
    )
    if strict:
        raise UserError(message, "measure there, or without the check: make bench")
    return f"warning: {message}; do not compare them"
