"""llama.cpp's own tools beside our engine.

llama-server: queries per second with several requests in flight, what a shop would run. llama-bench checks our harness:
the same file, threads and lengths, in turns with our own engine.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

from cartlm.errors import UserError
from cartlm.system import llama_cpp_build, processes

START_S = 120  # a large model on a slow disk
REPEATS = 3  # of llama-bench, in one process after a warm-up; the median counts


@contextlib.contextmanager
def server(
    model: Path, slots: int, context_tokens: int, threads: int, keep_prompts: bool = False
) -> Iterator[int]:
    """llama-server with `model`, `slots` requests of `context_tokens` each at a time; yields its port.

    By default no prompt is cached: each query is prefilled as a new shopper's would be. With `keep_prompts` it keeps them
    as it does by its own defaults. Raises UserError if it does not start.
    """
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port: int = unused.getsockname()[1]
    command = [
        llama_cpp_build.tool("llama-server"), "-m", model, "--host", "127.0.0.1", "--port", port, "-t", threads,
        "-c", slots * context_tokens, "-np", slots, "-ngl", 0, "--no-kv-unified", "--no-ui", "--log-disable",
        "--offline", *(() if keep_prompts else ("--no-cache-prompt", "--cache-ram", 0)),
    ]  # fmt: skip
    running = subprocess.Popen(
        [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, preexec_fn=processes.die_with_parent,
    )  # fmt: skip
    try:
        _wait(running, port, model)
        yield port
    except (OSError, http.client.HTTPException):
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(2)  # it may be dying
        if (code := running.returncode) is None:
            raise
        what = f"llama-server of {model}: {processes.describe_exit(code)}"
        raise UserError(what, processes.exit_hint(code, "make doctor")) from None
    finally:
        running.kill()  # it holds nothing that is kept
        running.wait()


def _wait(running: subprocess.Popen[bytes], port: int, model: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if running.poll() is not None:
            raise ConnectionError
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _ask(port, "GET", "/health", timeout_s=5)[0] == 200 and running.poll() is None:
                return
        time.sleep(0.05)
    raise UserError(f"llama-server of {model} did not answer within {START_S} s", "make setup")


def _ask(port: int, method: str, path: str, body: str = "", timeout_s: float = 600) -> tuple[int, Any]:
    """(status, value of the JSON in the reply)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    with contextlib.closing(connection):
        connection.request(method, path, body or None, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read() or "null")


def complete(
    port: int, ids: list[int], max_new_tokens: int, more: Mapping[str, Any] = MappingProxyType({})
) -> tuple[float, str]:
    """(seconds, text) of one greedy completion of `ids`; `more` goes into the request.

    Raises UserError for another status than 200.

    Greedy by top_k 1: without samplers the server draws at random, whatever the temperature.
    """
    body = {
        "prompt": ids, "n_predict": max_new_tokens, "samplers": ["top_k"], "top_k": 1, "cache_prompt": False, **more,
    }  # fmt: skip
    started = time.perf_counter()
    status, reply = _ask(port, "POST", "/completion", json.dumps(body))
    seconds = time.perf_counter() - started
    if status != 200:
        raise UserError(f"llama-server answered {status}: {str(reply)[:200]}")
    return seconds, str(reply["content"])


def load(
    port: int, prompts: Sequence[list[int]], in_flight: int, max_new_tokens: int
) -> dict[str, list[float] | float]:
    """Answer `prompts` with `in_flight` requests at a time: `queries_per_s`, and `latencies_s` of each."""
    with ThreadPoolExecutor(in_flight) as clients:
        started = time.perf_counter()
        answers = list(clients.map(lambda ids: complete(port, ids, max_new_tokens), prompts))
        seconds = time.perf_counter() - started
    return {"queries_per_s": len(prompts) / seconds, "latencies_s": [latency for latency, _ in answers]}


def ours(engine: Any, prompt_tokens: int, new_tokens: int) -> dict[str, float]:
    """prefill_tokens_per_s and decode_tokens_per_s of our engine."""
    engine.benchmark_pp_tg(prompt_tokens, 1)
    runs = [engine.benchmark_pp_tg(prompt_tokens, new_tokens) for _ in range(REPEATS)]
    prefill_s, decode_s = (median(seconds) for seconds in zip(*runs, strict=True))
    return {"prefill_tokens_per_s": prompt_tokens / prefill_s, "decode_tokens_per_s": new_tokens / decode_s}


def llama_bench(model: Path, prompt_tokens: int, new_tokens: int, threads: int) -> dict[str, float]:
    """The same of llama-bench, which warms up by itself. Raises UserError if it fails."""
    command = [
        llama_cpp_build.tool("llama-bench"), "-m", model, "-p", prompt_tokens, "-n", new_tokens, "-t", threads,
        "-ngl", 0, "-r", REPEATS, "-o", "json",
    ]  # fmt: skip
    text = processes.output(command, f"llama-bench of {model}", f"rm {model}, then dvc repro")
    try:
        speeds = {bool(test["n_gen"]): median(test["samples_ts"]) for test in json.loads(text)}
        return {"prefill_tokens_per_s": speeds[False], "decode_tokens_per_s": speeds[True]}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"llama-bench of {model} printed no speeds: {text[:200]!r}", "make doctor") from None
