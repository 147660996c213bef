"""How many requests a second does the client keep going? Run by `make check-requests`, not by pytest.

python -m tests.benchmarks.check_requests

A server in a process of its own answers each request after 200 ms; with 16 in flight 80 a second are the most that is
possible. Every answer is on the disk before it counts. Exit code 1 below 60 a second.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click

from cartlm import command, params
from cartlm.data import metaprompt
from cartlm.data.generated import Generator, Slot
from cartlm.engines import remote
from cartlm.engines.openai import Server
from tests import ROOT
from tests.fixtures import wordsmith

DELAY_S = 0.2
AT_LEAST = 60.0  # requests a second


@command.command
@click.option("--requests", default=960)
@click.option("--in-flight", default=16)
def main(requests: int, in_flight: int) -> int:
    """Print requests a second."""
    data = params.load(ROOT / "params.yaml").data
    generator = Generator(data, lambda asked, what: {})
    prompt = metaprompt.GenerationPrompt("english/prompt-0", "english", False, "You are a shopper.")
    slots = [Slot(i * data.openai.examples, "english", "add", False) for i in range(requests)]
    asked = [batch.request for slot in slots for batch in generator.batches("check", 0, [slot], [prompt])]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "responses.jsonl"
        with wordsmith.served(Path(folder), 0.0, DELAY_S) as url:
            server = Server(url, None, None, 30.0, 2, in_flight)
            remote.collect(asked[:in_flight], server, path, "warm-up")
            began = time.monotonic()
            remote.collect(asked, server, path, "requests")
            seconds = time.monotonic() - began
        kept = len(remote.stored(path))
    rate = (kept - in_flight) / seconds
    print(
        f"{rate:.1f} requests/s with {in_flight} in flight and {1000 * DELAY_S:.0f} ms each, {kept} answers kept"
    )
    return 0 if rate >= AT_LEAST and kept == len({one.key for one in asked}) else 1


if __name__ == "__main__":
    main()
