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
from cartlm.engines.replies import Asking, collect_replies, read_replies
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
            settings = {"base_url": url, "api_key_env": None, "timeout_s": 30.0, "max_retries": 2}
            server = data.openai.model_copy(update=settings | {"concurrency": in_flight})
            collect_replies(asked[:in_flight], Asking(server, None, path))
            began = time.monotonic()
            collect_replies(asked, Asking(server, None, path))
            seconds = time.monotonic() - began
        kept = len(read_replies(path))
    rate = (kept - in_flight) / seconds
    print(
        f"{rate:.1f} requests/s with {in_flight} in flight and {1000 * DELAY_S:.0f} ms each, {kept} answers kept"
    )
    return 0 if rate >= AT_LEAST and kept == len({one.key for one in asked}) else 1


if __name__ == "__main__":
    main()
