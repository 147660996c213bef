"""One measurement in a process of its own: `python -m cartlm.bench.worker`, a JSON job on stdin, a JSON line out.

The job: `what` (queries, batched, accuracy, served or harness), `model` (a path), `engine`, for transformers `dtype`,
`device`, `kernel`, `nf4` and `fixed` (cartlm.bench.plan.Model), `warmups` and
`prompts` (pairs: a text or token ids, and the expected completion or null), separator, max_new_tokens, context_tokens, threads. A fresh process, so that memory
and load time are those of this model alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cartlm.bench import energy, latency, llama_server, memory, vram
from cartlm.errors import UserError
from cartlm.files import MIB
from cartlm.system import cgroup, machine


class Others:
    """CPUs that other programs kept busy since this object was made, and those that a hypervisor took away."""

    def __init__(self) -> None:
        self._cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None  # of a cpuset too
        self._before, self._own, self._time = self._busy(), _own_seconds(), time.monotonic()

    def _busy(self) -> tuple[machine.Busy | None, machine.Busy | None]:
        return machine.busy_seconds(cpus=self._cpus), machine.busy_seconds()

    def so_far(self) -> dict[str, float]:
        """`other_cpus`, of those this process may use, and, of them, `stolen_cpus`; `other_cpus_host`, of the whole
        machine. Mean numbers; empty where the kernel does not tell.
        """
        (ours, host), (ours_before, host_before) = self._busy(), self._before
        if ours is None or host is None or ours_before is None or host_before is None:
            return {}
        seconds, own = time.monotonic() - self._time, _own_seconds() - self._own
        return {
            "other_cpus": max(0.0, (ours.all - ours_before.all - own) / seconds),
            "other_cpus_host": max(0.0, (host.all - host_before.all - own) / seconds),
            "stolen_cpus": (ours.stolen - ours_before.stolen) / seconds,
        }


def _own_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _engines(job: dict[str, Any]) -> Any:
    """The module of the job's engine, with the heavy library that it brings."""
    if job["engine"] == "transformers":
        from cartlm.engines import transformers

        return transformers
    from cartlm.engines import llama_cpp

    return llama_cpp


def _load(job: dict[str, Any]) -> Any:
    """The engine that the job names, with its model. Raises UserError for a broken one."""
    path, threads = Path(job["model"]), job["threads"]
    if job["engine"] == "transformers":
        more = {"kernel": job["kernel"], "nf4": job["nf4"]}
        fixed = job["context_tokens"] if job["fixed"] else None
        return _engines(job).load(path, job["dtype"], job["device"], threads, fixed=fixed, **more)
    return _engines(job).load(path, job["context_tokens"], threads, card=job["device"] != "cpu")


def _tokenizer(job: dict[str, Any], engine: Any) -> Callable[[Any], list[int]]:
    """Makes ids of a prompt; one given as ids stays as it is."""
    if isinstance(job["prompts"][0][0], list):
        return list
    tokenize: Callable[[Any], list[int]] = engine.prompt_builder(job["separator"]).prompt_ids
    return tokenize


def _group(job: dict[str, Any]) -> cgroup.Group | None:
    """The cgroup that was made for this process, `[version, folder]` in the job."""
    return cgroup.Group(job["group"][0], Path(job["group"][1])) if job.get("group") else None


def _meter(device: str) -> energy.Meter | None:
    """A running energy meter of the processors, or of the card; None where there is nothing to measure with."""
    try:
        meter = energy.Meter(gpu=vram.card_index() if device.startswith("cuda") else None)
        meter.start()
        return meter
    except UserError:
        return None


def queries(job: dict[str, Any]) -> dict[str, Any]:
    """Load the model, warm up, answer the prompts; what that took. Raises UserError for a broken model.

    `baseline_rss_mib` is Python with the engine's library before the load, `load_rss_mib` after it; the two peaks
    are those of the load and of all after it.
    """
    _engines(job)  # the library is not a part of the load
    own = _group(job)
    card = vram.Vram(job["device"] if job["engine"] == "transformers" else "cpu")  # torch knows no other's
    memory.forget_peak()
    before = memory.now()
    load1, others = os.getloadavg()[0], Others()
    started = time.perf_counter()
    engine = _load(job)
    load_s = time.perf_counter() - started
    with engine:
        loaded = memory.now()
        found: dict[str, Any] = {
            "load_s": load_s,
            "baseline_rss_mib": before.rss_mib,
            "load_rss_mib": loaded.rss_mib,
        }
        if own and (peak := own.peak_bytes()) is not None and own.forget_peak():
            found["load_peak_cgroup_mib"] = peak / MIB
        found |= card.now("load")
        card.forget_peak()
        apart = memory.forget_peak()
        tokenize = _tokenizer(job, engine)
        latency.queries(engine, tokenize, job["warmups"], job["warmup_tokens"])
        meter, used = _meter(job["device"]), time.process_time()
        made = latency.queries(engine, tokenize, job["prompts"], job["max_new_tokens"])
        found["cpu_s"] = time.process_time() - used
        if meter:
            found["energy"] = asdict(meter.stop())
        found |= card.now("run")
        after = memory.now()
        if apart:
            found |= {"load_peak_rss_mib": loaded.peak_rss_mib, "run_peak_rss_mib": after.peak_rss_mib}
        if own and (peak := own.peak_bytes()) is not None:
            name = "run_peak_cgroup_mib" if "load_peak_cgroup_mib" in found else "peak_cgroup_mib"
            found[name] = peak / MIB
        return {
            **found,
            **latency.rates(made),
            "run_rss_anon_mib": after.rss_anon_mib,
            "run_rss_file_mib": after.rss_file_mib,
            "peak_rss_mib": max(loaded.peak_rss_mib, after.peak_rss_mib),
            "load1": load1,
            **others.so_far(),
            "engine": engine.describe(),
            "queries": [asdict(query) for query in made],
        }


def batched(job: dict[str, Any]) -> dict[str, Any]:
    """Speeds and energy with several prompts answered together, for each batch size; all of them warmed up first."""
    levels: dict[str, Any] = {}
    with _load(job) as engine:
        tokenize = _tokenizer(job, engine)
        prompts = [tokenize(text) for text, _ in job["prompts"]]
        others = Others()
        for size in job["batches"]:
            engine.answers(prompts[:size], job["warmup_tokens"], size)
            meter, started, times = _meter(job["device"]), time.perf_counter(), 0
            while not times or (meter and time.perf_counter() - started < energy.SHORTEST_S):
                made = engine.answers(prompts[:size], job["max_new_tokens"], size)
                times += 1
            seconds = (time.perf_counter() - started) / times
            reading = asdict(meter.stop()) if meter else None
            passes = sum(answer.decoded_tokens - (answer.finish_reason == "length") for answer in made)
            prefill_s, decode_s = (
                sum(getattr(answer, name) for answer in made) for name in ("prefill_s", "decode_s")
            )
            level = {
                "prefill_tokens_per_s": sum(answer.prompt_tokens for answer in made) / prefill_s,
                "queries_per_s": size / seconds, "seconds": seconds, "times": times,
                "decoded_tokens": times * sum(answer.decoded_tokens for answer in made),
            }  # fmt: skip
            if passes and decode_s > 0:
                level["decode_tokens_per_s"] = passes / decode_s
            if reading:
                level["energy"] = reading
            levels[str(size)] = level
    return {"levels": levels, **others.so_far()}


def accuracy(job: dict[str, Any]) -> dict[str, Any]:
    """How many of the prompts are answered exactly (Answer.exact), in batches of like length."""
    with _load(job) as engine:
        tokenize = _tokenizer(job, engine)
        asked = [(tokenize(text), expected) for text, expected in job["prompts"] if expected is not None]
        made = engine.answers([ids for ids, _ in asked], job["max_new_tokens"], job["accuracy_batch"])
    right = sum(answer.exact(expected) for answer, (_, expected) in zip(made, asked, strict=True))
    return {"exact": right, "n": len(asked), "batch_size": job["accuracy_batch"]}


def served(job: dict[str, Any]) -> dict[str, Any]:
    """Queries per second of llama-server with each number of requests in flight."""
    path, most = Path(job["model"]), max(job["in_flight"])
    with _load(job) as engine:
        tokenize = _tokenizer(job, engine)
        warmups, prompts = ([tokenize(text) for text, _ in job[name]] for name in ("warmups", "prompts"))
    others = Others()
    with llama_server.server(path, most, job["context_tokens"], job["threads"]) as port:
        llama_server.load(port, warmups, most, job["warmup_tokens"])
        levels = {
            str(count): llama_server.load(port, prompts, count, job["max_new_tokens"])
            for count in job["in_flight"]
        }
    return {"levels": levels, **others.so_far()}


def compared(job: dict[str, Any]) -> dict[str, Any]:
    """Our engine and llama-bench on the same work; which goes first changes from round to round."""
    from cartlm.bench import llama_bench  # brings llama.cpp, which has no place in a transformers process

    path, lengths = Path(job["model"]), (job["harness_prompt"], job["harness_new"])

    def ours() -> dict[str, float]:
        with _load(job) as engine:
            return llama_bench.ours(engine, *lengths)

    def theirs() -> dict[str, float]:
        return llama_bench.llama_bench(path, *lengths, job["threads"])

    others = Others()
    first, second = (ours, theirs) if job["round"] % 2 else (theirs, ours)
    made = (first(), second())
    mine, bench = made if job["round"] % 2 else made[::-1]
    return {"ours": mine, "llama_bench": bench, **others.so_far()}


WHAT = {
    "queries": queries, "batched": batched, "accuracy": accuracy, "served": served, "harness": compared,
}  # fmt: skip


def main() -> None:
    try:
        job = json.load(sys.stdin)
        print(json.dumps(WHAT[job["what"]](job), allow_nan=False), flush=True)
    except UserError as error:
        print(f"cartlm: error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:  # the last line of a traceback is seldom what happened
        first = [*str(error).strip().splitlines(), ""][0]
        print(f"cartlm: error: {type(error).__name__}: {first[:300]}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
