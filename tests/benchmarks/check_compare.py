"""Does `cartlm compare` tell noise from change on this machine? Run by `make check-compare`, not by pytest.

python -m tests.benchmarks.check_compare --times 20

bench-cpu is measured once more than --times, in a clone of HEAD with this checkout's models and data, by its params but
without the server's and llama-bench's rounds, which are not judged. The first is compared with each other one: none may
be a change, neither as measured nor with every model and all code marked as changed in dvc.lock. Then a loss of 3 points
of exact match and a slow-down by 30 % are planted in one variant of the last: both must be found, in no other variant.
Exit code 1 otherwise.

The measurements are kept in runs/check-compare/: a stopped run goes on where it was, as long as HEAD and the params are
the same; --judge measures nothing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import numpy as np
import yaml

from cartlm import command
from cartlm.bench.rounds import parse_rounds
from cartlm.compare.comparison import Change
from cartlm.compare.judge import compare_sides
from cartlm.compare.load import Side, flatten, load_side, tolerances_of
from cartlm.errors import UserError
from cartlm.files import write_text
from cartlm.metrics import Outcome
from tests import ROOT

TRIES = 3
LOSS, SLOWER = 0.03, 0.7
KEPT = ROOT / "runs/check-compare"
NOT_JUDGED = {"served_rounds": 0, "harness_rounds": 0}
QUICK = {"rounds": 4, "queries": 2, "served_queries": 1, "threads": 1, "max_spread": 99.0}


@command.command
@click.option("--times", type=click.IntRange(min=1), default=20)
@click.option("--variant", default="q4_k_m", help="The one in which loss and slow-down are planted.")
@click.option(
    "--quick", is_flag=True, help="Few rounds and queries, to try this script: too noisy to judge by."
)
@click.option("--judge", is_flag=True, help="Measure nothing: judge what is in runs/check-compare/.")
def main(times: int, variant: str, quick: bool, judge: bool) -> int:
    """Print `no change in K of N`, and whether the planted loss and slow-down are found."""
    refused = 0 if judge else measure_all(times + 1, variant, quick)
    kept = [KEPT / str(number) for number in range(times + 1) if (KEPT / str(number)).is_dir()]
    if len(kept) < 2:
        raise UserError(f"{KEPT.relative_to(ROOT)} holds no two measurements", "make check-compare")
    head = load_side(ROOT, None)
    tolerances, _ = tolerances_of(head)
    first, *others = [measured_side(head, folder) for folder in kept]
    changes: list[Change] = []
    unchanged = 0
    for other in others:
        alarms = compare_sides(first, other, tolerances).changes
        marked = compare_sides(first, mark_all_changed(other), tolerances).changes
        unchanged += not show_changed(alarms, other.name) and not show_changed(
            marked, f"{other.name}, all marked"
        )
        changes += alarms
    print(noise_table(changes, tolerances))
    print(f"no change in {unchanged} of {len(others)}; {refused} measurements were refused and done again")
    passed = unchanged == len(others)
    for what, plant in (("a loss of 3 points", plant_loss), ("a slow-down by 30 %", plant_slow_down)):
        planted = [mark_all_changed(plant(other, variant)) for other in others]
        found = [is_found(compare_sides(first, side, tolerances).changes, variant) for side in planted]
        passed = passed and found[-1]
        times_found = f"found in {sum(found)} of {len(found)} measurements, in no other variant"
        print(f"{what} in {variant} is {'found' if found[-1] else 'NOT found'} in the last; {times_found}")
    pairs = list(combinations(others, 2))
    quiet = sum(
        not show_changed(compare_sides(*pair, tolerances).changes, f"{pair[0].name}, {pair[1].name}")
        for pair in pairs
    )
    print(f"for information, all others with each other: no change in {quiet} of {len(pairs)}")
    return 0 if passed else 1


def measure_all(count: int, variant: str, quick: bool) -> int:
    """Measure what is not kept yet; returns how many measurements were refused as too unsteady, and done again."""
    for name in (f"models/{variant}/model.gguf", "data/test.jsonl"):
        if not (ROOT / name).exists():
            raise UserError(f"{name} is missing", "make repro")
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["bench_cpu"] |= NOT_JUDGED | (QUICK if quick else {})
    commit = run(ROOT, "git", "rev-parse", "HEAD").strip()
    session = json.dumps({"commit": commit, "bench_cpu": values["bench_cpu"]})
    path = KEPT / "session.json"
    if not path.exists() or path.read_text(encoding="utf-8") != session:
        shutil.rmtree(KEPT, ignore_errors=True)
        write_text(path, session)
    refused = 0
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "repo"
        run(ROOT, "git", "clone", "-q", str(ROOT), str(clone))
        (clone / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        for name in ("models", "data"):  # made by the graph, not in git
            (clone / name).symlink_to(ROOT / name)
        for number in range(count):
            if not (KEPT / str(number)).exists():
                refused += measure(clone, number)
    return refused


def measure(clone: Path, number: int) -> int:
    """Run bench-cpu from nothing and keep what it wrote; a refused measurement is done again, as its message says."""
    began = time.monotonic()
    for refused in range(TRIES):
        shutil.rmtree(clone / "runs/bench", ignore_errors=True)
        try:
            run(clone, sys.executable, "-m", "stages.bench_cpu")
        except UserError as error:
            if "max_spread" not in error.message or refused == TRIES - 1:
                raise
            command.progress(f"{number}: not measured: {error.message}")
            continue
        shutil.rmtree(KEPT / "new", ignore_errors=True)
        shutil.copytree(clone / "metrics/bench/cpu", KEPT / "new")
        (KEPT / "new").rename(KEPT / str(number))
        command.progress(f"{number}: measured in {time.monotonic() - began:.0f} s")
        return refused
    return TRIES


def measured_side(head: Side, folder: Path) -> Side:
    """The checkout's metrics with the benchmark of a kept measurement."""
    metrics = {file: values for file, values in head.metrics.items() if "/bench/" not in file}
    for path in sorted(folder.glob("*.json")):
        metrics[f"metrics/bench/cpu/{path.name}"] = flatten(json.loads(path.read_text(encoding="utf-8")))
    rounds = parse_rounds((folder / "rounds.csv").read_text(encoding="utf-8"), f"{folder}/rounds.csv", "")
    return replace(head, name=folder.name, metrics=metrics, rounds={"cpu": rounds})


def mark_all_changed(side: Side) -> Side:
    """As if every input of every stage, code and models, were another one."""
    stages = {}
    for name, stage in side.stages.items():
        hashes = {path: md5 if path.startswith("data/") else f"{md5}x" for path, md5 in stage.hashes.items()}
        stages[name] = replace(
            stage, hashes=hashes, out_hashes={path: f"{md5}x" for path, md5 in stage.out_hashes.items()}
        )
    return replace(side, stages=stages)


def show_changed(changes: Iterable[Change], where: str) -> bool:
    """Print what was judged worse or better; whether anything was."""
    alarms = [change for change in changes if change.verdict in ("worse", "better")]
    for each in alarms:
        print(
            f"{where}: {each.variant} {each.metric} {each.verdict}: {each.old} -> {each.new}, {each.why}",
            flush=True,
        )
    return bool(alarms)


def is_found(changes: Iterable[Change], variant: str) -> bool:
    """Whether the variant, and no other, became worse."""
    return {(each.variant, each.verdict) for each in changes if each.verdict in ("worse", "better")} == {
        (variant, "worse")
    }


def noise_table(changes: Iterable[Change], tolerances: dict[str, float]) -> str:
    """How far the metrics of each kind moved from one measurement to another, and how far they may."""
    sizes: dict[str, list[float]] = {}
    for each in changes:
        if each.target == "cpu" and each.change is not None:
            sizes.setdefault(each.kind, []).append(abs(each.change))
    lines = ["| kind | compared | median change | 99th percentile | largest | tolerance |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for kind, found in sorted(sizes.items()):
        cells = [f"{np.percentile(found, at):.1%}" for at in (50, 99, 100)]
        lines.append(f"| {kind} | {len(found)} | {' | '.join(cells)} | {tolerances[kind]:.0%} |")
    return "\n".join(lines)


def plant_loss(side: Side, variant: str) -> Side:
    """Turn exact rows into wrong ones: 3 % of all rows, evenly spread."""
    outcomes = list(side.outcomes[variant])
    exact = [i for i, each in enumerate(outcomes) if each.outcome == "exact"]
    lost = round(LOSS * len(outcomes))
    for at in np.linspace(0, len(exact) - 1, lost).round().astype(int):
        i = exact[at]
        outcomes[i] = Outcome(outcomes[i].id, "wrong", "0" * 12)
    file = f"metrics/eval/{variant}.json"
    values: dict[str, Any] = side.metrics[file] | {"free.exact_match": (len(exact) - lost) / len(outcomes)}
    return replace(side, outcomes=side.outcomes | {variant: outcomes}, metrics=side.metrics | {file: values})


def plant_slow_down(side: Side, variant: str) -> Side:
    """Scale the variant's speeds to 70 %, and its latencies to match."""

    def slower(key: str, value: Any) -> Any:
        if "_per_s" in key and "llama_bench" not in key:
            return value * SLOWER
        return value / SLOWER if "_ms_" in key else value

    file = f"metrics/bench/cpu/{variant}.json"
    values = {key: slower(key, value) for key, value in side.metrics[file].items()}
    rounds = {
        (name, key): {
            number: slower(key, value) if name == variant else value for number, value in measured.items()
        }
        for (name, key), measured in side.rounds["cpu"].items()
    }
    return replace(side, metrics=side.metrics | {file: values}, rounds={"cpu": rounds})


def run(folder: Path, *arguments: str) -> str:
    """Run a command; raises UserError with its last line if it fails."""
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or [str(done.returncode)]
        raise UserError(f"{' '.join(arguments[1:4])} failed: {lines[-1]}", "see the line before")
    return done.stdout


if __name__ == "__main__":
    main()
