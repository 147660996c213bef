"""One measurement in a process of its own: `python -m cartlm.bench.worker`, a JSON job on stdin, a JSON line out.

The job is that of cartlm.bench.plan.Plan.job. Prompts are pairs: a text or token ids, and the expected completion or
null. A fresh process, so that memory and load time are those of this model alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from cartlm.bench import energy, llama_tools, memory
from cartlm.bench.plan import Job
from cartlm.engines.answer import Answer, Engine
from cartlm.errors import UserError
from cartlm.files import MIB
from cartlm.system import cgroup, machine


def _loader(job: Job) -> Callable[[], Any]:
    """Imports the job's engine, with the heavy library that it brings; calling the result loads the model.

    That raises UserError for a broken one.
    """
    path, threads, tokens = Path(job["model"]), job["threads"], job["context_tokens"]
    if job["engine"] == "transformers":
        from cartlm.engines import transformers

        return partial(
            transformers.load, path, job["dtype"], job["device"], threads, fixed=tokens if job["fixed"] else None,
            kernel=job["kernel"], nf4=job["nf4"],
        )  # fmt: skip
    if job["engine"] == "rules":
        from cartlm.baseline import engine as baseline

        return partial(baseline.load, path)
    from cartlm.engines import llama_cpp

    return partial(llama_cpp.load, path, tokens, threads, card=job["device"] != "cpu")


def _tokenizer(job: Job, engine: Any) -> Callable[[Any], list[int]]:
    """Makes the ids of a prompt; one given as ids stays as it is."""
    if isinstance(job["prompts"][0][0], list):
        return list
    return engine.prompt_builder(job["separator"]).prompt_ids


def _meter(device: str) -> energy.Meter | None:
    """A running energy meter of the processors, or of the card; None where there is none."""
    with suppress(UserError):
        return energy.Meter(gpu=memory.card_index() if device.startswith("cuda") else None)
    return None


def query(answer: Answer, latency_s: float, tokenize_s: float, expected: str | None) -> dict[str, Any]:
    """One answered query. Seconds; `latency_s` is all of it: tokenizing, prefill, decode, detokenizing.

    `ttft_s`: to the first token, tokenizing and prefill. `stopped`: at EOS, not at the cap. `exact`: Answer.exact; None
    where no completion is expected.
    """
    return {
        "latency_s": latency_s, "ttft_s": tokenize_s + answer.prefill_s, "prompt_tokens": answer.prompt_tokens,
        "decoded_tokens": answer.decoded_tokens, "prefill_s": answer.prefill_s, "decode_s": answer.decode_s,
        "stopped": answer.finish_reason == "stop", "exact": None if expected is None else answer.exact(expected),
    }  # fmt: skip


def answer_each(
    engine: Engine, tokenize: Callable[[Any], list[int]], prompts: Sequence[Any], max_new_tokens: int
) -> list[dict[str, Any]]:
    """Answer (prompt, expected completion) pairs one after the other and time each; `tokenize` makes a prompt's ids."""
    answered = []
    for prompt, expected in prompts:
        started = time.perf_counter()
        ids = tokenize(prompt)
        tokenize_s = time.perf_counter() - started
        answer = engine.answer(ids, max_new_tokens)
        took = query(answer, time.perf_counter() - started, tokenize_s, expected)
        answered.append({**took, "prompt_ids": len(ids)})  # of an engine without tokens: characters
    return answered


def rates(queries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Speeds over the queries of one process; a rate that nothing was measured for is absent.

    prefill_tokens_per_s, decode_tokens_per_s: tokens over seconds of that phase, all queries together (so long
    prompts weigh more); queries_per_s: one query at a time, nothing batched. The first token of an answer comes out
    of the prefill, and EOS costs a pass like any other: an answer cut at the cap had one pass fewer than tokens.
    """
    prompt, decoded, stopped, prefill_s, decode_s, latency_s = (
        sum(each[name] for each in queries)
        for name in ("prompt_tokens", "decoded_tokens", "stopped", "prefill_s", "decode_s", "latency_s")
    )
    passes = decoded + stopped - len(queries)
    counts = {
        "prefill_tokens_per_s": (prompt, prefill_s), "decode_tokens_per_s": (passes, decode_s),
        "queries_per_s": (len(queries), latency_s),
    }  # fmt: skip
    return {name: count / seconds for name, (count, seconds) in counts.items() if count and seconds > 0}


def queries(job: Job) -> dict[str, Any]:
    """Load the model, warm up, answer the prompts, and return what that took. Raises UserError for a broken model.

    `baseline_rss_mib` is Python with the engine's library before the load, `load_rss_mib` after it; the two peaks
    are those of the load and of all after it.
    """
    load = _loader(job)  # the library is not a part of the load
    group = Path(job.get("group", "no cgroup"))
    # torch sees no other memory
    card = memory.Vram(job["device"] if job["engine"] == "transformers" else "cpu")
    memory.reset_peak()
    before = memory.now()
    load1, others = os.getloadavg()[0], machine.OtherPrograms()
    started = time.perf_counter()
    with load() as engine:
        load_s = time.perf_counter() - started
        loaded, load_cgroup = memory.now(), cgroup.peak_bytes(group)
        cgroups_apart = load_cgroup is not None and cgroup.reset_peak(group)
        vram = card.now("load")
        card.reset_peak()
        peaks_apart = memory.reset_peak()
        tokenize = _tokenizer(job, engine)
        answer_each(engine, tokenize, job["warmups"], job["warmup_tokens"])
        meter, cpu_before = _meter(job["device"]), time.process_time()
        answered = answer_each(engine, tokenize, job["prompts"], job["max_new_tokens"])
        cpu_s = time.process_time() - cpu_before
        used = {"energy": asdict(meter.stop())} if meter else {}
        vram |= card.now("run")
        after = memory.now()
        result = {
            "load_s": load_s, "baseline_rss_mib": before["VmRSS"], "load_rss_mib": loaded["VmRSS"], "cpu_s": cpu_s,
            "run_rss_anon_mib": after["RssAnon"], "run_rss_file_mib": after["RssFile"],
            "peak_rss_mib": max(loaded["VmHWM"], after["VmHWM"]), "load1": load1, **others.so_far(), **vram,
            **used, **rates(answered), "engine": engine.describe(),
            "queries": answered,
        }  # fmt: skip
    if peaks_apart:
        result |= {"load_peak_rss_mib": loaded["VmHWM"], "run_peak_rss_mib": after["VmHWM"]}
    peaks = {
        "load_peak_cgroup_mib": load_cgroup if cgroups_apart else None,
        "run_peak_cgroup_mib" if cgroups_apart else "peak_cgroup_mib": cgroup.peak_bytes(group),
    }
    return result | {name: peak / MIB for name, peak in peaks.items() if peak is not None}


def batched(job: Job) -> dict[str, Any]:
    """Speeds and energy with several prompts answered together, for each batch size; all of them warmed up first."""
    levels: dict[str, Any] = {}
    with _loader(job)() as engine:
        tokenize = _tokenizer(job, engine)
        prompts = [tokenize(prompt) for prompt, _ in job["prompts"]]
        for size in job["batches"]:
            engine.answers(prompts[:size], job["warmup_tokens"], size)
            meter, started, times = _meter(job["device"]), time.perf_counter(), 0
            while not times or (meter and time.perf_counter() - started < energy.SHORTEST_S):
                answers = engine.answers(prompts[:size], job["max_new_tokens"], size)
                times += 1
            each_s = (time.perf_counter() - started) / times / size
            level = rates([query(answer, each_s, 0.0, None) for answer in answers])
            tokens = times * sum(answer.decoded_tokens for answer in answers)
            used = {"energy": asdict(meter.stop())} if meter else {}
            levels[str(size)] = {**level, "times": times, "decoded_tokens": tokens, **used}
    return {"levels": levels}


def accuracy(job: Job) -> dict[str, Any]:
    """How many of the prompts are answered exactly (Answer.exact), in batches of like length."""
    with _loader(job)() as engine:
        tokenize = _tokenizer(job, engine)
        pairs = [(tokenize(prompt), expected) for prompt, expected in job["prompts"] if expected is not None]
        answers = engine.answers([ids for ids, _ in pairs], job["max_new_tokens"], job["accuracy_batch"])
    exact = sum(answer.exact(expected) for answer, (_, expected) in zip(answers, pairs, strict=True))
    return {"exact": exact, "n": len(pairs), "batch_size": job["accuracy_batch"]}


def served(job: Job) -> dict[str, Any]:
    """Queries per second of llama-server with each number of requests in flight."""
    most, new_tokens = max(job["in_flight"]), job["max_new_tokens"]
    with _loader(job)() as engine:
        tokenize = _tokenizer(job, engine)
        warmups, prompts = ([tokenize(prompt) for prompt, _ in job[name]] for name in ("warmups", "prompts"))
    with llama_tools.server(Path(job["model"]), most, job["context_tokens"], job["threads"]) as port:
        llama_tools.load(port, warmups, most, job["warmup_tokens"])
        levels = {str(n): llama_tools.load(port, prompts, n, new_tokens) for n in job["in_flight"]}
    return {"levels": levels}


def harness(job: Job) -> dict[str, Any]:
    """Our engine and llama-bench on the same work; which goes first changes from round to round."""
    path, lengths = Path(job["model"]), (job["harness_prompt"], job["harness_new"])
    speeds: dict[str, Any] = {}
    for who in ("ours", "llama_bench") if job["round"] % 2 else ("llama_bench", "ours"):
        if who == "ours":
            with _loader(job)() as engine:
                speeds[who] = llama_tools.ours(engine, *lengths)
        else:
            speeds[who] = llama_tools.llama_bench(path, *lengths, job["threads"])
    return speeds


KINDS = {function.__name__: function for function in (queries, batched, accuracy, served, harness)}


def main() -> None:
    try:
        job = json.load(sys.stdin)
        print(json.dumps(KINDS[job["kind"]](job), allow_nan=False), flush=True)
    except UserError as error:
        sys.exit(str(error))
    except Exception as error:  # the last line of a traceback is seldom what happened
        first = [*str(error).strip().splitlines(), ""][0]
        sys.exit(f"{type(error).__name__}: {first[:300]}")


if __name__ == "__main__":
    main()
