"""Does `cartlm compare` tell noise from change on this machine? Run by `make check-compare`, not by pytest.

python -m tests.benchmarks.check_compare --times 20

In a clone of the committed state, bench-cpu is measured and committed. Then the same commit is measured again and
again, each time as the workspace: none of these may be a change, and a table says how far each kind of metric went
beside its tolerance. Then a loss of 3 points of exact match and a
slow-down by 30 % are planted in one variant, and both must be flagged. Exit code 1 otherwise. Needs the models and
data of this checkout (make repro); takes the time of `make bench` once more than --times. The measurements stay in
runs/check-compare/; --judge judges them again, by the tolerances that stand in params.yaml then, without measuring.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import yaml

from cartlm import command as stage
from cartlm import metrics as results
from cartlm import params
from cartlm.errors import UserError
from cartlm.evaluation.statistics import wilson
from tests import ROOT

NEEDED = ("models", "data")  # made by the graph, not in git
CHANGED = ("worse", "better")
TRIES = 3
LOSS = 0.03
SLOWER = 0.7
KEPT = ROOT / "runs/check-compare"
QUICK = {
    "rounds": 2,
    "queries": 2,
    "served_rounds": 0,
    "served_queries": 1,
    "harness_rounds": 0,
    "threads": 1,
    "max_spread": 99.0,
}


@stage.command
@click.option("--times", type=click.IntRange(min=0), default=20)
@click.option("--variant", default="q4_k_m", help="The one in which loss and slow-down are planted.")
@click.option(
    "--quick", is_flag=True, help="Few rounds and queries, to try this script: too noisy to judge by."
)
@click.option("--judge", is_flag=True, help="Measure nothing: judge what lies in runs/check-compare/.")
def main(times: int, variant: str, quick: bool, judge: bool) -> int:
    """Print `no change in K of N`, and whether the planted loss and slow-down are flagged."""
    for name in () if judge else (f"models/{variant}/model.gguf", "data/test.jsonl"):
        if not (ROOT / name).exists():
            raise UserError(f"{name} is missing", "make repro")
    if judge and not (KEPT / "0").exists():
        raise UserError(f"{KEPT.relative_to(ROOT)} holds no measurements", "make check-compare")
    with tempfile.TemporaryDirectory() as folder:
        repo = clone(Path(folder) / "repo", quick, judge)
        seen: list[dict[str, Any]] = []
        refused: list[int] = []
        unchanged = sum(repetition(repo, i + 1, seen, refused, judge) for i in range(times))
        print(noise(seen, params.load(repo / "params.yaml").compare.model_dump()))
        again = f"; {len(refused)} measurements were refused and done again" if refused else ""
        print(f"no change in {unchanged} of {times}{again}", flush=True)
        last = KEPT / str(
            times
        )  # all that was measured moved a little, as in a pull request that measures again
        loss = flagged(
            repo, "a loss of 3 points", plant_loss, variant, ("accuracy", "free.exact_match"), last
        )
        slow = flagged(
            repo, "a slow-down by 30 %", plant_slow_down, variant, ("cpu", "decode_tokens_per_s"), last
        )
    return 0 if unchanged == times and loss and slow else 1


def clone(repo: Path, quick: bool, judge: bool) -> Path:
    """The committed state with this checkout's models and data, and a first measurement, committed."""
    run(ROOT, "git", "clone", "-q", str(ROOT), str(repo))
    shutil.copy(ROOT / "params.yaml", repo)
    for name in NEEDED:
        (repo / name).symlink_to(ROOT / name)
    if quick:
        path = repo / "params.yaml"
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        values["bench_cpu"] |= {name: value for name, value in QUICK.items() if name in values["bench_cpu"]}
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    stage.progress("measuring what all repetitions are compared with")
    measure(repo, 0, judge)
    run(repo, "git", "add", "metrics", "params.yaml")
    who = ("-c", "user.name=check", "-c", "user.email=check@example.invalid")
    run(repo, "git", *who, "commit", "-q", "--allow-empty", "-m", "measured here")
    return repo


def measure(repo: Path, number: int, judge: bool) -> None:
    """Run bench-cpu in the clone, from nothing, and keep what it gave; with `judge` take what was kept."""
    kept, made = KEPT / str(number), repo / "metrics/bench/cpu"
    if judge:
        if not kept.exists():
            raise UserError(f"there is no {kept.relative_to(ROOT)}", "make check-compare")
        shutil.copytree(kept, made, dirs_exist_ok=True)
        return
    shutil.rmtree(kept, ignore_errors=True)
    shutil.rmtree(repo / "runs", ignore_errors=True)
    run(repo, sys.executable, "-m", "stages.bench_cpu")
    shutil.copytree(made, kept)


def repetition(repo: Path, number: int, seen: list[dict[str, Any]], refused: list[int], judge: bool) -> bool:
    """Measure once more; True if that compares as no change. What was judged of it is added to `seen`.

    A measurement that is refused, as its rounds lie too far apart, is told and done again, as its message says;
    after TRIES the repetition has failed.
    """
    for _ in range(1 if judge else TRIES):
        try:
            measure(repo, number, judge)
            break
        except UserError as error:
            if "max_spread" not in error.message:  # nothing that another try mends
                raise
            print(f"{number}: not measured: {error.message}", flush=True)
            refused.append(number)
    else:
        return False
    judged, notes = compared(repo)
    seen += judged
    for note in notes:
        print(f"{number}: {note}", flush=True)
    changed = [each for each in judged if each["verdict"] in CHANGED]
    for each in changed:
        print(
            f"{number}: {each['variant']} {each['metric']} {each['verdict']}: {each['old']} -> {each['new']}",
            flush=True,
        )
    print(f"{number}: {'a change' if changed else 'no change'}", flush=True)
    return not changed


def compared(repo: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """What `cartlm compare HEAD` judges in the workspace of the clone, and its notes."""
    command = [sys.executable, "-m", "cartlm.cli", "compare", "HEAD", "--json"]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise UserError(f"compare failed: {done.stderr.strip()}", "cartlm compare HEAD")
    told: dict[str, Any] = json.loads(done.stdout)
    found: list[dict[str, Any]] = told["changes"]
    worse = any(each["verdict"] == "worse" for each in found)
    if (worse or told["lost"] > 0) != (done.returncode == 1):
        raise UserError(f"compare ended with {done.returncode}, worse is {worse}", "cartlm compare HEAD")
    return found, told["notes"]


def noise(seen: list[dict[str, Any]], tolerances: dict[str, float]) -> str:
    """A table: how far the metrics of each kind went from one measurement to another, and how far they may."""
    sizes: dict[str, list[float]] = {}
    for each in seen:
        if each["target"] == "cpu" and each["change"] is not None:
            sizes.setdefault(each["kind"], []).append(abs(each["change"]))
    lines = ["| kind | compared | median change | 99th percentile | largest | tolerance |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for kind, found in sorted(sizes.items()):
        cells = [f"{np.percentile(found, at):.1%}" for at in (50, 99, 100)]
        lines.append(f"| {kind} | {len(found)} | {' | '.join(cells)} | {tolerances[kind]:.0%} |")
    return "\n".join(lines)


def flagged(repo: Path, what: str, plant: Any, variant: str, expected: tuple[str, str], last: Path) -> bool:
    """Plant a change in the last measurement, or the committed one; True if it is found, and nothing in another variant."""
    run(repo, "git", "checkout", "-q", "--", "metrics")
    if last.exists():
        shutil.copytree(last, repo / "metrics/bench/cpu", dirs_exist_ok=True)
    plant(repo / "metrics", variant)
    found = [each for each in compared(repo)[0] if each["verdict"] in CHANGED]
    hit = any(
        (each["target"], each["metric"], each["verdict"]) == (*expected, "worse") for each in found
    ) and all(each["variant"] == variant for each in found)
    print(f"{what} in {variant} is {'flagged' if hit else 'NOT flagged, or not alone'}", flush=True)
    return hit


def plant_loss(metrics: Path, variant: str) -> None:
    """Turn exact rows into wrong ones: 3 % of all rows, evenly spread."""
    outcomes = results.read_outcomes(metrics / "outcomes" / f"{variant}.csv")
    exact = [i for i, each in enumerate(outcomes) if each.outcome == "exact"]
    lost = max(1, round(LOSS * len(outcomes)))
    if lost > len(exact):
        raise UserError(f"{variant} has only {len(exact)} exact rows", "name another --variant")
    for i in (exact[at] for at in np.linspace(0, len(exact) - 1, lost).round().astype(int)):
        outcomes[i] = results.Outcome(outcomes[i].id, "wrong", "0" * 12)
    results.write_outcomes(metrics / "outcomes" / f"{variant}.csv", outcomes)
    path = metrics / "eval" / f"{variant}.json"
    values = results.read_metrics(path)
    n, left = len(outcomes), len(exact) - lost
    low, high = wilson(left, n)
    values["free"] |= {"exact_match": left / n, "exact_match_low": low, "exact_match_high": high}
    results.write_metrics(path, values)


def plant_slow_down(metrics: Path, variant: str) -> None:
    """Scale all speeds of the variant to 70 %, and its latencies to match."""
    path = metrics / "bench" / "cpu" / f"{variant}.json"
    values = results.read_metrics(path)
    for section in values.values():
        for name, value in section.items() if isinstance(section, dict) else ():
            if "_per_s" in name and "llama_bench" not in name:
                section[name] = value * SLOWER
            elif "_ms_" in name:
                section[name] = value / SLOWER
    results.write_metrics(path, values)


def run(folder: Path, *command: str) -> None:
    """Run a command; raises UserError with its last line where it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        words = " ".join(command[1:4])
        raise UserError(f"{words} failed: {said[-1] if said else done.returncode}", "see the line before")


if __name__ == "__main__":
    main()
