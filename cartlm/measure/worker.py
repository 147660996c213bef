"""One measurement in a process of its own: `python -m cartlm.measure.worker`, a JSON job on stdin, a JSON line out.

The job: model (path of a GGUF file), warmups and prompts (texts), separator, max_new_tokens, context_tokens,
threads. A fresh process, so that memory and load time are those of this model alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cartlm.engines import llama_cpp
from cartlm.errors import UserError
from cartlm.measure import latency, machine, memory


class Others:
    """CPUs that other programs kept busy since this object was made."""

    def __init__(self) -> None:
        self._busy, self._own, self._time = machine.busy_seconds(), time.process_time(), time.monotonic()

    def so_far(self) -> dict[str, float]:
        """`other_cpus`, the mean number of them; empty where the kernel does not tell."""
        busy = machine.busy_seconds()
        if busy is None or self._busy is None:
            return {}
        used = busy - self._busy - (time.process_time() - self._own)
        return {"other_cpus": max(0.0, used / (time.monotonic() - self._time))}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Load the model, warm up, answer the prompts; what that took. Raises UserError for a broken model.

    `baseline_rss_mib` is Python with the binding before the load, `load_rss_mib` after it, `peak_rss_mib` the
    highest until the end.
    """
    before = memory.now()
    load1, others = os.getloadavg()[0], Others()
    started = time.perf_counter()
    engine = llama_cpp.load(Path(job["model"]), context_tokens=job["context_tokens"], threads=job["threads"])
    load_s = time.perf_counter() - started
    with engine:
        loaded = memory.now()
        builder = engine.prompt_builder(job["separator"])
        latency.queries(engine, builder, job["warmups"], job["max_new_tokens"])
        made = latency.queries(engine, builder, job["prompts"], job["max_new_tokens"])
        after = memory.now()
        return {
            "load_s": load_s,
            **latency.rates(made),
            "baseline_rss_mib": before.rss_mib,
            "load_rss_mib": loaded.rss_mib,
            "run_rss_anon_mib": after.rss_anon_mib,
            "run_rss_file_mib": after.rss_file_mib,
            "peak_rss_mib": after.peak_rss_mib,
            "load1": load1,
            **others.so_far(),
            "engine": engine.describe(),
            "queries": [asdict(query) for query in made],
        }


def main() -> None:
    try:
        print(json.dumps(measure(json.load(sys.stdin)), allow_nan=False), flush=True)
    except UserError as error:
        print(f"cartlm: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
