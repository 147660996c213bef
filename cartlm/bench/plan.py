"""The CPU benchmark: rounds over all variants in random order, a fresh process for each measurement.

Interleaving spreads slow drifts (heat, neighbours) over all variants instead of over those measured last;
a fresh process keeps one model's memory and caches out of the next one's numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cartlm.errors import UserError
from cartlm.system import cgroup, machine, processes

Record = dict[str, Any]
"""One line of the raw files: session, variant, what, round, time and what cartlm.bench.worker gives."""


@dataclass(frozen=True)
class Model:
    """What is measured: a GGUF file in llama.cpp, or a folder in transformers with a dtype."""

    path: Path
    engine: str = "llama.cpp"
    dtype: str | None = None  # transformers only, as the following
    made_by: str = "dvc repro"  # the command that makes it
    device: str = "cpu"
    kernel: str | None = None  # of a GPTQ checkpoint (cartlm.engines.gptq)
    nf4: bool = False  # quantized at load by bitsandbytes
    fixed: bool = False  # a cache of fixed size, with CUDA graphs on a card

    @property
    def bytes(self) -> int:
        """Size of the weights on disk."""
        files = [self.path] if self.path.is_file() else self.path.glob("*.safetensors")
        return sum(file.stat().st_size for file in files)


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
    warmup_tokens: int | None = None  # new tokens of a warm-up query; None: as many as of a measured one
    served_rounds: int = 0  # of these rounds, so many also go through llama-server
    served_queries: int = 1
    in_flight: tuple[int, ...] = ()
    harness_rounds: int = 0  # and so many are compared with llama-bench
    harness_prompt: int = 200
    harness_new: int = 32
    batches: tuple[int, ...] = ()  # transformers only: rows answered together, in every round
    accuracy_batch: int = 0  # transformers only: all prompts answered once, so many together; 0: not at all

    def order(self, variants: Sequence[str], round: int) -> list[str]:
        """The variants in the random order of a round."""
        shuffled = sorted(variants)
        random.Random(f"order {self.seed} {round}").shuffle(shuffled)
        return shuffled

    def draw(self, prompts: Sequence[Any], round: int) -> tuple[list[Any], list[Any]]:
        """(warm-up, measured) prompts of a round, the same for all variants; rounds share none if there are enough."""
        shuffled = list(prompts)
        random.Random(f"prompts {self.seed}").shuffle(shuffled)
        size = self.warmups + self.queries
        taken = [shuffled[(round * size + i) % len(shuffled)] for i in range(size)]
        return taken[: self.warmups], taken[self.warmups :]

    def jobs(self, model: Model, round: int) -> list[str]:
        """What is measured of a model in a round; llama.cpp's server and llama-bench take GGUF files only."""
        if model.engine != "llama.cpp":
            more = {"batched": bool(self.batches), "accuracy": self.accuracy_batch > 0 and round == 0}
            return ["queries", *(what for what, wanted in more.items() if wanted)]
        counts = {"served": self.served_rounds, "harness": self.harness_rounds}
        return ["queries", *(what for what, rounds in counts.items() if round < rounds)]


def measure(
    models: Mapping[str, Model],
    prompts: Sequence[Any],
    plan: Plan,
    raw: Path,
    progress: Callable[[str], None],
    about: str = "",
    more: Callable[[Mapping[str, Sequence[Record]]], Sequence[str]] | None = None,
) -> dict[str, list[Record]]:
    """All measurements of all variants, each appended to `raw`/<variant>.jsonl when done.

    `prompts` are pairs: a text or token ids, and the expected completion or None. Where `more` names variants once
    all rounds are done, all of them get as many rounds again, so that they stay comparable.
    A killed run goes on where it stopped, if models, prompts, plan and `about` (what else must be the same, such
    as the machine) are unchanged; `close` ends it. Raises UserError for a missing model or a failing measurement.
    """
    for model in models.values():
        if not model.path.exists():
            raise UserError(f"{model.path} is missing", model.made_by)
    session = _session(models, prompts, plan, raw, about)
    done = {variant: _finished(raw / f"{variant}.jsonl", session) for variant in models}
    todo = [
        (round, variant, what)
        for round in range(plan.rounds)
        for variant in plan.order(list(models), round)
        for what in plan.jobs(models[variant], round)
    ]
    if kept := sum((what, round) in done[variant] for round, variant, what in todo):
        progress(f"going on after {kept} of {len(todo)} measurements")

    def work_off(todo: Sequence[tuple[int, str, str]]) -> None:
        for number, (round, variant, what) in enumerate(todo):
            if (what, round) in done[variant]:
                continue
            record = {
                "session": session, "variant": variant, "what": what, "round": round,
                **work(job(models[variant], what, plan, prompts, round)),
            }  # fmt: skip
            with (raw / f"{variant}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            done[variant][what, round] = record
            progress(f"{number + 1}/{len(todo)}  round {round + 1}  {variant}: {_said(record)}")

    work_off(todo)
    # Of the first rounds alone: a run that was killed in the additional ones must come to the same answer.
    first = {
        variant: {key: record for key, record in found.items() if key[1] < plan.rounds}
        for variant, found in done.items()
    }
    again = more(_listed(first)) if more else ()
    if again:
        progress(f"{', '.join(again)}: the spread is too large; {plan.rounds} more rounds")
        rounds, names = range(plan.rounds, 2 * plan.rounds), list(models)
        work_off([(round, variant, "queries") for round in rounds for variant in plan.order(names, round)])
    return _listed(done)


def _listed(done: Mapping[str, Mapping[tuple[str, int], Record]]) -> dict[str, list[Record]]:
    return {variant: [found[key] for key in sorted(found)] for variant, found in done.items()}


def _said(record: Record) -> str:
    """A measurement in some words, for the progress line."""
    if record["what"] == "served":
        parts = [f"{level['queries_per_s']:.1f} at {n}" for n, level in record["levels"].items()]
        return f"queries/s in flight: {', '.join(parts)}"
    if record["what"] == "batched":
        parts = [f"{level.get('decode_tokens_per_s', 0):.0f} at {n}" for n, level in record["levels"].items()]
        return f"decode tokens/s at batch: {', '.join(parts)}"
    if record["what"] == "accuracy":
        return f"{record['exact']} of {record['n']} rows right"
    speeds = record["ours"] if record["what"] == "harness" else record
    said = (
        f"{speeds['prefill_tokens_per_s']:.0f} prefill and "
        f"{speeds.get('decode_tokens_per_s', 0):.0f} decode tokens/s"
    )
    return f"{said} beside llama-bench" if record["what"] == "harness" else said


def job(model: Model, what: str, plan: Plan, prompts: Sequence[Any], round: int) -> Record:
    """The job of cartlm.bench.worker for one measurement."""
    warmups, measured = plan.draw(prompts, round)
    return {
        "what": what,
        "round": round,
        "model": str(model.path),
        "engine": model.engine,
        "dtype": model.dtype,
        "device": model.device,
        "kernel": model.kernel,
        "nf4": model.nf4,
        "fixed": model.fixed,
        "batches": plan.batches,
        "accuracy_batch": plan.accuracy_batch,
        "warmups": warmups,
        "warmup_tokens": plan.warmup_tokens or plan.max_new_tokens,
        "prompts": _asked(what, plan, prompts, measured),
        "threads": plan.threads,
        "separator": plan.separator,
        "max_new_tokens": plan.max_new_tokens,
        "context_tokens": plan.context_tokens,
        "in_flight": plan.in_flight,
        "harness_prompt": plan.harness_prompt,
        "harness_new": plan.harness_new,
    }


def _asked(what: str, plan: Plan, prompts: Sequence[Any], measured: list[Any]) -> list[Any]:
    """The prompts of a measurement; a batch larger than a round's prompts takes them again."""
    if what == "served":
        return measured[: plan.served_queries]
    if what == "accuracy":
        return list(prompts)
    if what == "batched":
        most = max(plan.batches)
        return (measured * (most // len(measured) + 1))[:most]
    return measured


def close(raw: Path) -> None:
    """The results are written: the next `measure` starts anew and keeps the raw files."""
    (raw / "session.json").unlink(missing_ok=True)


def _session(models: Mapping[str, Model], prompts: Sequence[Any], plan: Plan, raw: Path, about: str) -> str:
    """The name of the run in progress, or of a new one if there is none that measures the same."""
    raw.mkdir(parents=True, exist_ok=True)
    files = [
        (variant, {**vars(model), "path": ""}, model.bytes, model.path.stat().st_mtime_ns)
        for variant, model in sorted(models.items())
    ]
    key = hashlib.sha256(repr((files, list(prompts), asdict(plan), about, _code())).encode()).hexdigest()[:12]
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


def _code() -> list[str]:
    """What measures: the files of this folder and of the engines, and the versions of what they call."""
    folders = (Path(__file__).parent, Path(__file__).parents[1] / "engines")
    files = [path for folder in folders for path in sorted(folder.glob("*.py"))]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    details = machine.details()
    return [*digests, *(str(details.get(name.replace("-", "_"))) for name in machine.LIBRARIES)]


def _finished(path: Path, session: str) -> dict[tuple[str, int], Record]:
    """The session's records by what and round; a line cut by a kill is removed from the file."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    records = [json.loads(line) for line in whole.decode("utf-8").splitlines()]
    return {(record["what"], record["round"]): record for record in records if record["session"] == session}


def _environment(card: bool) -> dict[str, str]:
    """Of a worker on a card: that one alone is seen, as gptqmodel would spread a model over all; and nothing is fetched."""
    if not card:
        return dict(os.environ)
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return {"GPTQMODEL_OFFLINE": "1", **os.environ, "CUDA_VISIBLE_DEVICES": first}


def work(job: Record, timeout_s: float | None = None) -> Record:
    """What cartlm.bench.worker gives for a job, in a fresh process; its start, its seconds, and throttling meanwhile.

    Raises UserError for a failure, and after `timeout_s` seconds.
    """
    began, started, before = time.time(), time.monotonic(), machine.throttling()
    with cgroup.own() as own:
        if own and job["what"] == "queries":
            job = {**job, "group": [own.version, str(own.folder)]}

        def prepare() -> None:
            processes.die_with_parent()
            if own:
                own.join()

        try:
            done = subprocess.run(
                [sys.executable, "-m", "cartlm.bench.worker"], input=json.dumps(job), capture_output=True, text=True,
                preexec_fn=prepare, check=False, timeout=timeout_s, env=_environment(job["device"] != "cpu"),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise UserError(f"measuring {job['model']} took more than {timeout_s:.0f} s", "") from None
    if done.returncode < 0:
        raise UserError(
            f"measuring {job['model']}: {processes.ended(done.returncode)}", processes.advice(done.returncode)
        )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(
            f"measuring {job['model']}: {lines[-1].removeprefix('cartlm: error: ')}", "run it again"
        )
    result: Record = json.loads(done.stdout.strip().splitlines()[-1])
    after = machine.throttling()
    if before and after:
        held = after.since(before)
        result |= {"throttled_periods": held.periods, "throttled_s": held.seconds}
    return {"time": began, "wall_s": time.monotonic() - started, **result}
