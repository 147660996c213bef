"""Measures and publishes a folder of metrics/bench/: a file per variant, machine.json and rounds.csv.

Nothing is written where the rounds are too far apart.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from cartlm.bench import aggregate, energy, gpu, reference, runner
from cartlm.bench.plan import Model, Plan, Target
from cartlm.bench.rounds import REFERENCE, to_csv
from cartlm.errors import UserError
from cartlm.files import write_text
from cartlm.metrics import read_metrics, write_metrics
from cartlm.system import cgroup, machine, meters

IDLE_S = 5.0


def cpu(idle_w: float | None, load_w: float | None) -> Target:
    """The CPU of this machine; `idle_w` and `load_w` are its watts where it has no meter."""
    watts = energy.Watts(idle_w, load=load_w, cpus=psutil.cpu_count() or 1)
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
    Raises UserError for a model whose rounds are too far apart and, with `strict`, on another machine than the
    committed one; `folder` is then untouched. An engine without tokens (the baseline) is left out instead.
    """
    if warning := compare_machine(committed(folder / "machine.json"), target.machine, strict):
        progress(warning)
    watts = idle_watts(target)
    records = runner.measure(
        models, prompts, plan, raw, progress, partial(aggregate.unsteady, max_spread=max_spread),
        target.machine["hash"],
    )  # fmt: skip
    runner.close(raw)  # also where the rounds are refused below: the next run measures anew
    count = sum(map(len, records.values()))
    unsteady = aggregate.unsteady(records, max_spread)
    light = {
        name for name in unsteady if any(map(aggregate.tokenless, aggregate.of("queries", records[name])))
    }
    for variant, why in unsteady.items():
        # one tick of the scheduler is much of a millisecond: the models' hours are not lost for the baseline's sake
        if variant not in light or light == records.keys():
            raise UserError(f"nothing is published; {variant}: {why}", f"then: {command}")
        progress(f"left out: {variant}: {why}")
        del records[variant]

    files: dict[str, gpu.File] = {}
    by_round: dict[int, dict[str, gpu.File]] = defaultdict(dict)
    for name, of_model in records.items():
        # NF4 is made at load, from the 16-bit file
        size = None if models[name].nf4 else models[name].size_bytes
        sections = partial(
            aggregate.sections, size_bytes=size, seed=plan.seed, watts=watts, name=target.section
        )
        engine = aggregate.of("queries", of_model)[-1]["engine"]
        files[name] = {"machine": dict(target.machine), "engine": engine, **sections(of_model)}
        for round in {record["round"] for record in of_model}:
            alone = sections([record for record in of_model if record["round"] == round])
            by_round[round][name] = {"engine": engine, **alone}
    left_out = [f"{name} {key}" for name, file in files.items() for key in aggregate.leave_out_wide(file)]
    if REFERENCE in files:
        files[REFERENCE]["reference"] = reference.identity(models[REFERENCE])

    files, not_measured = gpu.merge(files, unsupported or {})
    rounds = [
        (round, name, key, value)
        for round, of_round in by_round.items()
        for name, file in gpu.merge(of_round, {}, files)[0].items()
        for key, value in aggregate.round_metrics(file).items()
    ]
    problems = {
        "cgroup_peak_absent": cgroup.why_none(), "left_out": ", ".join(left_out), "not_measured": not_measured,
        "unsteady": "; ".join(f"{name}: {unsteady[name]}" for name in sorted(light)),
    }  # fmt: skip
    details = {**machine.details(), **target.details} | {name: why for name, why in problems.items() if why}
    if left_out:
        progress(f"left out, as the interval is wider than the value: {details['left_out']}")
    first = next(iter(files.values()))
    files["machine"] = {"machine": dict(target.machine), "engine": first["engine"], "details": details}

    for name, values in files.items():
        write_metrics(folder / f"{name}.json", values)
    for path in sorted(folder.glob("*.json")):
        if path.stem not in files:
            path.unlink()
            progress(f"removed {path}, no longer measured")
    write_text(folder / "rounds.csv", to_csv(rounds))
    if cause := aggregate.disturbance([file[target.section] for file in files.values() if "cpu" in file]):
        progress(f"warning: the speeds are too low: {cause}, then: make bench")
    return count


def idle_watts(target: Target) -> energy.Watts:
    """Watts while this process sleeps for IDLE_S seconds, or why there are none; without a meter those of the target.

    A processor's counters include other programs, whose energy would be taken off every query.
    """
    if target.meter is None:
        return target.watts
    others = machine.OtherPrograms()
    try:
        meter = target.meter()
    except UserError:
        return target.watts
    time.sleep(IDLE_S)
    reading = meter.stop()
    busy = others.so_far().get("other_cpus_host", 0.0)
    if busy > aggregate.DISTURBED and target.section == "cpu":
        return energy.Watts(
            problem=f"other programs kept {busy:.1f} CPUs busy while the idle watts were measured"
        )
    return energy.Watts(None if reading.problem else reading.joules / reading.seconds)


def committed(path: Path) -> dict[str, Any]:
    """The metrics file of the last commit, or of the workspace where git has none; {} without either."""
    with suppress(OSError, subprocess.CalledProcessError):  # no folder, no git, not in a commit
        command = ["git", "show", f"HEAD:./{path.name}"]
        shown = subprocess.run(command, cwd=path.parent, capture_output=True, check=True)
        return dict(json.loads(shown.stdout))
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
