"""What a benchmark publishes: its files under metrics/bench/, refused where the repetitions lie too far apart."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cartlm.bench import aggregate, energy
from cartlm.bench import plan as bench
from cartlm.bench.plan import Model, Plan, Record
from cartlm.errors import UserError
from cartlm.metrics import read_metrics, write_metrics
from cartlm.system import cgroup, machine

IDLE_S = 5.0


def idle_watts(gpu: int | None = None) -> tuple[float | None, str]:
    """Watts of the processors, or of the card numbered `gpu`, while this process sleeps for IDLE_S seconds, or why there
    are none ("": no meter).

    The counters are of whole processors: what other programs use meanwhile would be taken off every query.
    """
    try:
        meter = energy.Meter(gpu=gpu)
    except UserError:
        return None, ""
    before, began = machine.busy_seconds(), time.monotonic()
    watts = energy.idle_watts(meter, IDLE_S)
    after = machine.busy_seconds()
    if before and after and gpu is None:
        others = (after.all - before.all) / (time.monotonic() - began)
        if others > aggregate.DISTURBED:
            return None, f"other programs kept {others:.1f} CPUs busy while the idle watts were measured"
    return watts, "" if watts is not None else "the idle watts could not be measured"


def run(
    folder: Path,
    raw: Path,
    models: Mapping[str, Model],
    prompts: Sequence[Any],
    plan: Plan,
    *,
    idle_w: float | None,
    load_w: float | None,
    max_spread: float,
    strict: bool,
    say: Callable[[str], None],
    command: str = "dvc repro",
) -> int:
    """Measure `models` (one of them named f16) and write `folder`; returns the number of measurements.

    Every repetition is kept in `raw`. `idle_w` and `load_w` are the machine's watts where it has no meter, `command`
    what to type after a refusal. Raises UserError for rounds that lie too far apart and, with `strict`, on
    another machine than the committed one; what lies in `folder` is then untouched.
    """
    live = machine.fingerprint()
    if warning := same_machine(committed(folder / "machine.json"), live, strict):
        say(warning)
    watts = aggregate.Watts(*idle_watts(), idle_w, load_w, machine.cores()[1])
    records = bench.measure(
        models, prompts, plan, raw, say, about=live["hash"], more=lambda found: unsteady(found, max_spread)
    )  # fmt: skip
    bench.close(raw)  # also where the rounds are refused below: the next run measures anew
    made = files(models, records, live, plan.seed, watts, max_spread, command)
    speeds = [file["cpu"] for file in made.values()]
    made["machine"] = about(live, made["f16"]["engine"], energy.available().metrics())
    for name in write(folder, made):
        say(f"removed {folder / name}, no longer in params.yaml")
    if warning := aggregate.disturbed(speeds):
        say(warning)
    return sum(map(len, records.values()))


def unsteady(records: Mapping[str, Sequence[Record]], max_spread: float) -> list[str]:
    """Variants whose rounds lie further apart than `max_spread` (repetitions.spread)."""
    return [
        variant
        for variant, found in records.items()
        if aggregate.spread(aggregate.of("queries", found)) > max_spread
    ]


def files(
    models: Mapping[str, Model],
    records: Mapping[str, Sequence[Record]],
    live: Mapping[str, str],
    seed: int,
    watts: aggregate.Watts,
    max_spread: float,
    command: str = "dvc repro",
) -> dict[str, dict[str, Any]]:
    """The metrics file of each variant. Raises UserError, with the reason that can be seen, for an unsteady one."""
    refuse_unsteady(records, max_spread, command)
    return {
        variant: {
            "machine": dict(live),
            "engine": aggregate.of("queries", found)[-1]["engine"],
            **aggregate.sections(found, models[variant].bytes, seed, watts),
        }
        for variant, found in records.items()
    }


def refuse_unsteady(
    records: Mapping[str, Sequence[Record]], max_spread: float, command: str = "dvc repro"
) -> None:
    """Raise UserError, with the reason that can be seen, where a variant's rounds lie further apart than `max_spread`."""
    for variant in unsteady(records, max_spread):
        found = aggregate.of("queries", records[variant])
        raise UserError(
            f"{variant}: the rounds' decode speeds spread by {aggregate.spread(found):.0%} of their median, more than "
            f"max_spread = {max_spread:g}, so nothing is published; {aggregate.reason(found)}",
            f"then: {command}",
        )


def about(live: Mapping[str, str], engine: Mapping[str, Any], meters: Mapping[str, str]) -> dict[str, Any]:
    """machine.json: all about the machine, and why something could not be measured on it."""
    more = dict(meters)
    if reason := cgroup.why_none():
        more["cgroup_peak_absent"] = reason
    return {"machine": dict(live), "engine": dict(engine), "details": {**machine.details(), **more}}


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
