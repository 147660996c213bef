"""One measurement in a process of its own: `python -m cartlm.bench.worker`, a JSON job on stdin, a JSON line out.

The job is that of cartlm.bench.plan.Plan.job. Prompts are pairs: a text or token ids, and the expected completion or
null. A fresh process, so that memory and load time are those of this model alone.
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
from cartlm.bench.plan import Job
from cartlm.errors import UserError
from cartlm.files import MIB
from cartlm.system import cgroup, machine


def _import_engine(job: Job) -> Any:
    """The module of the job's engine, with the heavy library that it brings."""
    if job["engine"] == "transformers":
        from cartlm.engines import transformers

        return transformers
    from cartlm.engines import llama_cpp

    return llama_cpp


def _load(job: Job) -> Any:
    """The job's engine, with its model. Raises UserError for a broken one."""
    path, threads, module = Path(job["model"]), job["threads"], _import_engine(job)
    if job["engine"] == "transformers":
        fixed = job["context_tokens"] if job["fixed"] else None
        return module.load(
            path, job["dtype"], job["device"], threads, fixed=fixed, kernel=job["kernel"], nf4=job["nf4"]
        )
    return module.load(path, job["context_tokens"], threads, card=job["device"] != "cpu")


def _tokenizer(job: Job, engine: Any) -> Callable[[Any], list[int]]:
    """Makes the ids of a prompt; one given as ids stays as it is."""
    if isinstance(job["prompts"][0][0], list):
        return list
    tokenize: Callable[[Any], list[int]] = engine.prompt_builder(job["separator"]).prompt_ids
    return tokenize


def _start_meter(device: str) -> energy.Meter | None:
    """A running energy meter of the processors, or of the card; None where there is none."""
    try:
        meter = energy.Meter(gpu=vram.card_index() if device.startswith("cuda") else None)
        meter.start()
        return meter
    except UserError:
        return None


def queries(job: Job) -> dict[str, Any]:
    """Load the model, warm up, answer the prompts, and return what that took. Raises UserError for a broken model.

    `baseline_rss_mib` is Python with the engine's library before the load, `load_rss_mib` after it; the two peaks
    are those of the load and of all after it.
    """
    _import_engine(job)  # the library is not a part of the load
    group = cgroup.Group(job["group"][0], Path(job["group"][1])) if job.get("group") else None
    card = vram.Vram(
        job["device"] if job["engine"] == "transformers" else "cpu"
    )  # torch sees no other memory
    memory.reset_peak()
    before = memory.now()
    load1, others = os.getloadavg()[0], machine.OtherPrograms()
    started = time.perf_counter()
    engine = _load(job)
    load_s = time.perf_counter() - started
    with engine:
        loaded = memory.now()
        result: dict[str, Any] = {
            "load_s": load_s, "baseline_rss_mib": before.rss_mib, "load_rss_mib": loaded.rss_mib,
        }  # fmt: skip
        if group and (peak := group.peak_bytes()) is not None and group.reset_peak():
            result["load_peak_cgroup_mib"] = peak / MIB
        result |= card.now("load")
        card.reset_peak()
        apart = memory.reset_peak()
        tokenize = _tokenizer(job, engine)
        latency.queries(engine, tokenize, job["warmups"], job["warmup_tokens"])
        meter, cpu_before = _start_meter(job["device"]), time.process_time()
        answered = latency.queries(engine, tokenize, job["prompts"], job["max_new_tokens"])
        result["cpu_s"] = time.process_time() - cpu_before
        if meter:
            result["energy"] = asdict(meter.stop())
        result |= card.now("run")
        after = memory.now()
        if apart:
            result |= {"load_peak_rss_mib": loaded.peak_rss_mib, "run_peak_rss_mib": after.peak_rss_mib}
        if group and (peak := group.peak_bytes()) is not None:
            name = "run_peak_cgroup_mib" if "load_peak_cgroup_mib" in result else "peak_cgroup_mib"
            result[name] = peak / MIB
        return {
            **result,
            **latency.rates(answered),
            "run_rss_anon_mib": after.rss_anon_mib,
            "run_rss_file_mib": after.rss_file_mib,
            "peak_rss_mib": max(loaded.peak_rss_mib, after.peak_rss_mib),
            "load1": load1,
            **others.so_far(),
            "engine": engine.describe(),
            "queries": [asdict(query) for query in answered],
        }


def batched(job: Job) -> dict[str, Any]:
    """Speeds and energy with several prompts answered together, for each batch size; all of them warmed up first."""
    levels: dict[str, Any] = {}
    with _load(job) as engine:
        tokenize = _tokenizer(job, engine)
        prompts = [tokenize(prompt) for prompt, _ in job["prompts"]]
        others = machine.OtherPrograms()
        for size in job["batches"]:
            engine.answers(prompts[:size], job["warmup_tokens"], size)
            meter, started, times = _start_meter(job["device"]), time.perf_counter(), 0
            while not times or (meter and time.perf_counter() - started < energy.SHORTEST_S):
                answers = engine.answers(prompts[:size], job["max_new_tokens"], size)
                times += 1
            seconds = (time.perf_counter() - started) / times
            reading = asdict(meter.stop()) if meter else None
            passes = sum(answer.decoded_tokens - (answer.finish_reason == "length") for answer in answers)
            prefill_s = sum(answer.prefill_s for answer in answers)
            decode_s = sum(answer.decode_s for answer in answers)
            level = {
                "prefill_tokens_per_s": sum(answer.prompt_tokens for answer in answers) / prefill_s,
                "queries_per_s": size / seconds, "seconds": seconds, "times": times,
                "decoded_tokens": times * sum(answer.decoded_tokens for answer in answers),
            }  # fmt: skip
            if passes and decode_s > 0:
                level["decode_tokens_per_s"] = passes / decode_s
            if reading:
                level["energy"] = reading
            levels[str(size)] = level
    return {"levels": levels, **others.so_far()}


def accuracy(job: Job) -> dict[str, Any]:
    """How many of the prompts are answered exactly (Answer.exact), in batches of like length."""
    with _load(job) as engine:
        tokenize = _tokenizer(job, engine)
        pairs = [(tokenize(prompt), expected) for prompt, expected in job["prompts"] if expected is not None]
        answers = engine.answers([ids for ids, _ in pairs], job["max_new_tokens"], job["accuracy_batch"])
    exact = sum(answer.exact(expected) for answer, (_, expected) in zip(answers, pairs, strict=True))
    return {"exact": exact, "n": len(pairs), "batch_size": job["accuracy_batch"]}


def served(job: Job) -> dict[str, Any]:
    """Queries per second of llama-server with each number of requests in flight."""
    most, new_tokens = max(job["in_flight"]), job["max_new_tokens"]
    with _load(job) as engine:
        tokenize = _tokenizer(job, engine)
        warmups, prompts = ([tokenize(prompt) for prompt, _ in job[name]] for name in ("warmups", "prompts"))
    others = machine.OtherPrograms()
    with llama_server.server(Path(job["model"]), most, job["context_tokens"], job["threads"]) as port:
        llama_server.load(port, warmups, most, job["warmup_tokens"])
        levels = {str(n): llama_server.load(port, prompts, n, new_tokens) for n in job["in_flight"]}
    return {"levels": levels, **others.so_far()}


def harness(job: Job) -> dict[str, Any]:
    """Our engine and llama-bench on the same work; which goes first changes from round to round."""
    from cartlm.bench import llama_bench  # brings llama.cpp, which has no place in a transformers process

    path, lengths = Path(job["model"]), (job["harness_prompt"], job["harness_new"])
    others = machine.OtherPrograms()
    speeds: dict[str, Any] = {}
    for who in ("ours", "llama_bench") if job["round"] % 2 else ("llama_bench", "ours"):
        if who == "ours":
            with _load(job) as engine:
                speeds[who] = llama_bench.ours(engine, *lengths)
        else:
            speeds[who] = llama_bench.llama_bench(path, *lengths, job["threads"])
    return {**speeds, **others.so_far()}


KINDS = {function.__name__: function for function in (queries, batched, accuracy, served, harness)}


def main() -> None:
    try:
        job = json.load(sys.stdin)
        print(json.dumps(KINDS[job["kind"]](job), allow_nan=False), flush=True)
    except UserError as error:
        print(f"cartlm: error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:  # the last line of a traceback is seldom what happened
        first = [*str(error).strip().splitlines(), ""][0]
        print(f"cartlm: error: {type(error).__name__}: {first[:300]}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
