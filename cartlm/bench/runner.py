"""Runs a plan: each measurement in a process of its own, kept in the raw files, resumed after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cartlm.bench.plan import Job, Model, Plan
from cartlm.errors import UserError
from cartlm.files import write_text
from cartlm.system import cgroup, machine, processes

Record = dict[str, Any]
"""A line of a raw file: session, variant, kind, round, time and the result of cartlm.bench.worker."""


def measure(
    models: Mapping[str, Model],
    prompts: Sequence[Any],
    plan: Plan,
    raw: Path,
    progress: Callable[[str], None],
    machine_hash: str = "",
    unsteady: Callable[[Mapping[str, Sequence[Record]]], Sequence[str]] | None = None,
) -> dict[str, list[Record]]:
    """All measurements of all variants, each appended to `raw`/<variant>.jsonl when done.

    `prompts` are pairs: a text or token ids, and the expected completion or None. Where `unsteady` names variants
    after all rounds, every variant gets as many rounds again, so that they stay comparable.
    A killed run is resumed if models, prompts, plan, code and machine are unchanged, until `close`.
    Raises UserError for a missing model or a failing measurement.
    """
    for model in models.values():
        if not model.path.exists():
            raise UserError(f"{model.path} is missing", model.made_by)
    session = _session(models, prompts, plan, raw, machine_hash)
    done = {variant: _read_records(raw / f"{variant}.jsonl", session) for variant in models}
    todo = [
        (round, variant, kind)
        for round in range(plan.rounds)
        for variant in plan.order(list(models), round)
        for kind in plan.kinds(models[variant], round)
    ]
    if resumed := sum((kind, round) in done[variant] for round, variant, kind in todo):
        progress(f"going on after {resumed} of {len(todo)} measurements")

    def work_off(todo: Sequence[tuple[int, str, str]]) -> None:
        for number, (round, variant, kind) in enumerate(todo, 1):
            if (kind, round) in done[variant]:
                continue
            job = plan.job(models[variant], kind, prompts, round)
            record = {"session": session, "variant": variant, "kind": kind, "round": round, **run_worker(job)}
            with (raw / f"{variant}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            done[variant][kind, round] = record
            progress(f"{number}/{len(todo)}  round {round + 1}  {variant}: {_describe(record)}")

    def records(rounds: int) -> dict[str, list[Record]]:
        return {
            variant: [of_variant[key] for key in sorted(of_variant) if key[1] < rounds]
            for variant, of_variant in done.items()
        }

    work_off(todo)
    # Of the first rounds alone: a run that was killed in the additional ones must come to the same answer.
    if names := unsteady(records(plan.rounds)) if unsteady else ():
        progress(f"{', '.join(names)}: the spread is too large; {plan.rounds} more rounds")
        more = range(plan.rounds, 2 * plan.rounds)
        work_off(
            [(round, variant, "queries") for round in more for variant in plan.order(list(models), round)]
        )
    return records(2 * plan.rounds)


def close(raw: Path) -> None:
    """End the session: the next `measure` starts anew and keeps the raw files."""
    (raw / "session.json").unlink(missing_ok=True)


def _describe(record: Record) -> str:
    """A measurement for the progress line."""
    if record["kind"] == "accuracy":
        return f"{record['exact']} of {record['n']} rows right"
    if levels := record.get("levels"):
        name, unit = (
            ("queries_per_s", "queries/s in flight")
            if record["kind"] == "served"
            else ("decode_tokens_per_s", "decode tokens/s at batch")
        )
        return f"{unit}: {', '.join(f'{level.get(name, 0):.1f} at {n}' for n, level in levels.items())}"
    prefill, decode = (
        record.get("ours", record).get(f"{phase}_tokens_per_s", 0) for phase in ("prefill", "decode")
    )
    beside = " beside llama-bench" if "ours" in record else ""
    return f"{prefill:.0f} prefill and {decode:.0f} decode tokens/s{beside}"


def _session(
    models: Mapping[str, Model], prompts: Sequence[Any], plan: Plan, raw: Path, machine_hash: str
) -> str:
    """The name of the run in progress, or of a new one if none measures the same."""
    files = [
        (variant, {**vars(model), "path": ""}, model.size_bytes, model.path.stat().st_mtime_ns)
        for variant, model in sorted(models.items())
    ]
    content = repr((files, list(prompts), plan, machine_hash, _code()))
    key = hashlib.sha256(content.encode()).hexdigest()[:12]
    path = raw / "session.json"
    try:
        session = json.loads(path.read_text(encoding="utf-8"))
        if session["key"] == key:
            return str(session["session"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    name = f"{key}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    write_text(path, json.dumps({"key": key, "session": name}))
    return name


def _code() -> list[str]:
    """What measures: hashes of three packages, and the versions of the libraries they call."""
    root = Path(__file__).parents[1]
    files = [
        file for package in ("bench", "engines", "system") for file in sorted((root / package).glob("*.py"))
    ]
    return [*(hashlib.sha256(file.read_bytes()).hexdigest() for file in files), repr(machine.libraries())]


def _read_records(path: Path, session: str) -> dict[tuple[str, int], Record]:
    """The session's records by kind and round; a line cut by a kill is removed from the file."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    records = [json.loads(line) for line in whole.decode("utf-8").splitlines()]
    return {(record["kind"], record["round"]): record for record in records if record["session"] == session}


def _environment(device: str) -> dict[str, str]:
    """A worker on a card sees that card alone (gptqmodel would spread a model over all) and fetches nothing."""
    if device == "cpu":
        return dict(os.environ)
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return {"GPTQMODEL_OFFLINE": "1", **os.environ, "CUDA_VISIBLE_DEVICES": first}


def run_worker(job: Job, timeout_s: float | None = None) -> Record:
    """The result of cartlm.bench.worker in a fresh process, with its start, its seconds and throttling meanwhile.

    Raises UserError for a failure, and after `timeout_s` seconds.
    """
    began, started, before = time.time(), time.monotonic(), machine.throttling()
    what = f"measuring {job['model']}"
    with cgroup.own() as group:
        if group and job["kind"] == "queries":
            job = {**job, "group": [group.version, str(group.folder)]}

        def prepare() -> None:
            processes.die_with_parent()
            if group:
                group.join()

        try:
            done = subprocess.run(
                [sys.executable, "-m", "cartlm.bench.worker"], input=json.dumps(job), capture_output=True, text=True,
                preexec_fn=prepare, check=False, timeout=timeout_s, env=_environment(job["device"]),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise UserError(f"{what} took more than {timeout_s:.0f} s", "") from None
    if done.returncode < 0:
        raise UserError(
            f"{what}: {processes.describe_exit(done.returncode)}", processes.exit_hint(done.returncode)
        )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"{what}: {lines[-1].removeprefix('cartlm: error: ')}", "run it again")
    result: Record = json.loads(done.stdout.strip().splitlines()[-1])
    after = machine.throttling()
    if before and after:
        held = after.since(before)
        result |= {"throttled_periods": held.periods, "throttled_s": held.seconds}
    return {"time": began, "wall_s": time.monotonic() - started, **result}
