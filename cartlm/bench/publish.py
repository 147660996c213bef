"""Measures and publishes a folder of metrics/bench/: a file per variant, machine.json and rounds.csv.

Nothing is written where the rounds are too far apart.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from cartlm.bench import aggregate, energy, kernels, reference, runner
from cartlm.bench.plan import Model, Plan
from cartlm.bench.runner import Record
from cartlm.errors import UserError
from cartlm.files import write_text
from cartlm.metrics import read_metrics, write_metrics
from cartlm.system import cgroup, machine, meters

IDLE_S = 5.0
File = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """What is measured on: the CPU, or a card (cartlm.bench.gpu)."""

    section: str  # of the speeds in a variant's file
    machine: Mapping[str, str]  # the fingerprint
    meter: Callable[[], energy.Meter] | None  # makes the energy meter; None: there is none
    details: Mapping[str, Any] = field(default_factory=dict)  # for machine.json
    watts: aggregate.Watts = field(default_factory=aggregate.Watts)  # given in params.yaml


def cpu(idle_w: float | None, load_w: float | None) -> Target:
    """The CPU of this machine; `idle_w` and `load_w` are its watts where it has no meter."""
    watts = aggregate.Watts(given_idle=idle_w, given_load=load_w, cpus=psutil.cpu_count() or 1)
    return Target("cpu", machine.fingerprint(), energy.Meter, meters.available(), watts)


def run(
    folder: Path,
    raw: Path,
    models: Mapping[str, Model],
    prompts: Sequence[Any],
    plan: Plan,
    target: Target,
    *,
    max_spread: float,
    strict: bool,
    progress: Callable[[str], None],
    command: str = "dvc repro",
    unsupported: Mapping[str, str] | None = None,
) -> int:
    """Measure `models` and write `folder`; returns the number of measurements, all of which are kept in `raw`.

    `command` is what to type after a refusal; `unsupported` holds kernels that do not run here, with the reason.
    Raises UserError for rounds that are too far apart and, with `strict`, on another machine than the committed one;
    `folder` is then untouched.
    """
    if warning := compare_machine(committed(folder / "machine.json"), target.machine, strict):
        progress(warning)
    watts = target.watts.with_idle(*idle_watts(target)) if target.meter else target.watts
    records = runner.measure(
        models, prompts, plan, raw, progress, target.machine["hash"],
        lambda records: aggregate.unsteady(records, max_spread),
    )  # fmt: skip
    runner.close(raw)  # also where the rounds are refused below: the next run measures anew
    refuse_unsteady(records, max_spread, command)

    files: dict[str, File] = {}
    rounds: list[tuple[int, str, str, float]] = []
    for name, of_model in records.items():
        size = (
            None if models[name].nf4 else models[name].size_bytes
        )  # NF4 is made at load, from the 16-bit file
        engine = aggregate.of("queries", of_model)[-1]["engine"]
        sections = aggregate.sections(of_model, size, plan.seed, watts, target.section)
        files[name] = {"machine": dict(target.machine), "engine": engine, **sections}
        for round in sorted({record["round"] for record in of_model}):
            of_round = [record for record in of_model if record["round"] == round]
            alone = aggregate.sections(of_round, size, plan.seed, watts, target.section)
            rounds += [(round, name, key, value) for key, value in aggregate.round_metrics(alone).items()]
    left_out = [f"{name} {key}" for name, file in files.items() for key in aggregate.leave_out_wide(file)]
    if reference.REFERENCE in files:
        files[reference.REFERENCE]["reference"] = reference.identity(models[reference.REFERENCE])

    details = {**machine.details(), **target.details}
    if reason := cgroup.why_none():
        details["cgroup_peak_absent"] = reason
    if left_out:
        details["left_out"] = ", ".join(left_out)
        progress(f"left out, as the interval is wider than the value: {details['left_out']}")
    files, not_measured = kernels.merge(files, unsupported or {})
    if not_measured:
        details["not_measured"] = not_measured
    first = next(iter(files.values()))
    files["machine"] = {"machine": dict(target.machine), "engine": first["engine"], "details": details}

    for removed in write(folder, files):
        progress(f"removed {folder / removed}, no longer measured")
    write_text(folder / "rounds.csv", rounds_csv(kernels.merge_rounds(rounds, files)))
    if warning := aggregate.disturbed([file[target.section] for file in files.values() if "cpu" in file]):
        progress(warning)
    return sum(map(len, records.values()))


def idle_watts(target: Target) -> tuple[float | None, str]:
    """Watts while this process sleeps for IDLE_S seconds, or None and why not ("": no meter).

    A processor's counters include other programs, whose energy would be taken off every query.
    """
    try:
        meter = target.meter() if target.meter else None
    except UserError:
        meter = None
    if meter is None:
        return None, ""
    others = machine.OtherPrograms()
    watts = energy.idle_watts(meter, IDLE_S)
    busy = others.so_far().get("other_cpus_host", 0.0)
    if busy > aggregate.DISTURBED and target.section == "cpu":
        return None, f"other programs kept {busy:.1f} CPUs busy while the idle watts were measured"
    return watts, "" if watts is not None else "the idle watts could not be measured"


def refuse_unsteady(records: Mapping[str, Sequence[Record]], max_spread: float, command: str) -> None:
    """Raise UserError, with the visible reason, where a variant's rounds are further apart than `max_spread`."""
    for variant in aggregate.unsteady(records, max_spread):
        of_variant = aggregate.of("queries", records[variant])
        median, tail = aggregate.spread(of_variant), aggregate.tail_spread(of_variant)
        what = "decode speeds" if median >= tail else "95th percentiles"
        raise UserError(
            f"{variant}: the rounds' {what} spread by {max(median, tail):.0%} of their median, more than "
            f"max_spread = {max_spread:g}, so nothing is published; {aggregate.reason(of_variant)}",
            f"then: {command}",
        )


def rounds_csv(rounds: Sequence[tuple[int, str, str, float]]) -> str:
    """The text of rounds.csv: `round,variant,metric,value`, sorted, 4 significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("round", "variant", "metric", "value"))
    writer.writerows((*key, f"{float(f'{value:.4g}'):g}") for *key, value in sorted(rounds))
    return text.getvalue()


def write(folder: Path, files: Mapping[str, File]) -> list[str]:
    """Write `folder`/<name>.json for each of `files` and remove the others there; returns the names removed."""
    for name, values in files.items():
        write_metrics(folder / f"{name}.json", values)
    stale = [path for path in sorted(folder.glob("*.json")) if path.stem not in files]
    for path in stale:
        path.unlink()
    return [path.name for path in stale]


def committed(path: Path) -> dict[str, Any]:
    """The metrics file of the last commit, or of the workspace where git has none; {} without either."""
    if path.parent.is_dir() and shutil.which("git"):
        shown = subprocess.run(
            ["git", "-C", str(path.parent), "show", f"HEAD:./{path.name}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if shown.returncode == 0:
            values: dict[str, Any] = json.loads(shown.stdout)
            return values
    return read_metrics(path) if path.is_file() else {}


def compare_machine(known: Mapping[str, Any], live: Mapping[str, str], strict: bool) -> str:
    """A warning if the metrics file `known` is of another machine than `live`, else an empty text.

    With `strict` it is raised as a UserError.
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
