"""Runs a plan: each measurement in a process of its own, kept in the raw files, resumed after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cartlm.bench.plan import Job, Model, Plan
from cartlm.errors import UserError
from cartlm.files import write_text
from cartlm.system import cgroup, machine, processes

Record = dict[str, Any]
"""A line of a raw file: session, variant, kind, round, time and the result of cartlm.bench.worker."""
SESSION = "session"  # holds the name of the run in progress
CODE = ("baseline", "bench", "engines", "system")


def measure(
    models: Mapping[str, Model],
    prompts: Sequence[Any],
    plan: Plan,
    raw: Path,
    progress: Callable[[str], None],
    unsteady: Callable[[Mapping[str, Sequence[Record]]], Iterable[str]] = lambda _: (),
    machine_hash: str = "",
) -> dict[str, list[Record]]:
    """All measurements of all variants, each appended to `raw`/<variant>.jsonl when done.

    `prompts` are pairs: a text or token ids, and the expected completion or None. Where `unsteady` names variants
    after all rounds, every variant gets as many rounds again, so that they stay comparable.
    A killed run is resumed if models, prompts, plan, code and machine are unchanged, until `close`.
    Raises UserError for a missing model or a failing measurement.
    """
    require(models.values())
    session = _session(models, prompts, plan, raw, machine_hash)
    done = {variant: _read_records(raw / f"{variant}.jsonl", session) for variant in models}

    def work_off(rounds: range, kinds: Callable[[Model, int], list[str]]) -> None:
        todo = [
            (round, variant, kind)
            for round in rounds
            for variant in plan.order(list(models), round)
            for kind in kinds(models[variant], round)
        ]
        if resumed := sum((round, kind) in done[variant] for round, variant, kind in todo):
            progress(f"going on after {resumed} of {len(todo)} measurements")
        for number, (round, variant, kind) in enumerate(todo, 1):
            if (round, kind) in done[variant]:
                continue
            job = plan.job(models[variant], kind, prompts, round)
            record = {"session": session, "variant": variant, "kind": kind, "round": round, **run_worker(job)}
            with (raw / f"{variant}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            done[variant][round, kind] = record
            progress(f"{number}/{len(todo)}  round {round + 1}  {variant}: {_describe(record)}")

    work_off(range(plan.rounds), plan.kinds)
    # Of the first rounds alone: a run that was killed in the additional ones must come to the same answer.
    first = {
        variant: [record for (round, _), record in sorted(of_variant.items()) if round < plan.rounds]
        for variant, of_variant in done.items()
    }
    if names := ", ".join(unsteady(first)):
        progress(f"{names}: the spread is too large; {plan.rounds} more rounds")
        work_off(range(plan.rounds, 2 * plan.rounds), lambda model, round: ["queries"])
    return {variant: [of_variant[key] for key in sorted(of_variant)] for variant, of_variant in done.items()}


def require(models: Iterable[Model]) -> None:
    """Raises UserError for a model that is not there."""
    for model in models:
        if not model.path.exists():
            raise UserError(f"{model.path} is missing", model.made_by)


def close(raw: Path) -> None:
    """End the session: the next `measure` starts anew and keeps the raw files."""
    (raw / SESSION).unlink(missing_ok=True)


def _describe(record: Record) -> str:
    """A measurement for the progress line: its kind, and the speeds of one query at a time."""
    speeds = record.get("ours", record)
    names = {"prefill tokens": "prefill_tokens_per_s", "decode tokens": "decode_tokens_per_s"}
    if speeds.keys().isdisjoint(names.values()):  # an engine without tokens
        names = {"queries": "queries_per_s"}
    told = [f"{speeds[name]:.0f} {what}/s" for what, name in names.items() if name in speeds]
    return ", ".join([record["kind"], *told])


def _session(
    models: Mapping[str, Model], prompts: Sequence[Any], plan: Plan, raw: Path, machine_hash: str
) -> str:
    """The name of the run in progress, or of a new one if none measures the same.

    What measures counts too: the code of some packages and the versions of the libraries they call.
    """
    root = Path(__file__).parents[1]
    code = [file.read_bytes() for name in CODE for file in sorted((root / name).glob("*.py"))]
    files = [
        (variant, {**vars(model), "path": ""}, model.size_bytes, model.path.stat().st_mtime_ns)
        for variant, model in sorted(models.items())
    ]
    content = repr((files, list(prompts), plan, machine_hash, code, machine.libraries()))
    key, path = hashlib.sha256(content.encode()).hexdigest()[:12], raw / SESSION
    running = path.read_text(encoding="utf-8") if path.exists() else ""
    if running.startswith(f"{key}-"):
        return running
    name = f"{key}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    write_text(path, name)
    return name


def _read_records(path: Path, session: str) -> dict[tuple[int, str], Record]:
    """The session's records by round and kind; a line cut by a kill is removed from the file."""
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        os.truncate(path, len(whole))
    records = [json.loads(line) for line in whole.splitlines()]
    return {(record["round"], record["kind"]): record for record in records if record["session"] == session}


def run_worker(job: Job, timeout_s: float | None = None) -> Record:
    """The result of cartlm.bench.worker in a fresh process, with its start, its seconds and throttling meanwhile.

    Raises UserError for a failure, and after `timeout_s` seconds.
    """
    began, started, before = time.time(), time.monotonic(), machine.throttling()
    environ = dict(os.environ)
    # it sees that card alone (gptqmodel would spread a model over all), fetches nothing
    if job["device"] != "cpu":
        environ["CUDA_VISIBLE_DEVICES"] = environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        environ.setdefault("GPTQMODEL_OFFLINE", "1")
    with cgroup.own() as group:
        if group and job["kind"] == "queries":
            job = {**job, "group": str(group)}

        def prepare() -> None:
            processes.die_with_parent()
            if group:
                cgroup.join(group)

        made = processes.output(
            [sys.executable, "-m", "cartlm.bench.worker"], f"measuring {job['model']}", "run it again",
            text=json.dumps(job), environ=environ, prepare=prepare, timeout_s=timeout_s,
        )  # fmt: skip
    result: Record = json.loads(made.strip().splitlines()[-1])
    result |= {name: value - before[name] for name, value in machine.throttling().items() if name in before}
    return {"time": began, "wall_s": time.monotonic() - started, **result}
