"""The model that words rows: its requests and answers, what became of them, and what they cost."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cartlm.data.config import Worded
from cartlm.engines import remote
from cartlm.engines.openai import CUT, Reply, Server
from cartlm.engines.remote import Request
from cartlm.text import help_to_read

Ask = Callable[[Sequence[Request], str], Mapping[str, Reply]]
"""The answers to requests, by key; the text says what they are for."""


def ask_server(settings: Worded, responses: Path, poll_s: float) -> Ask:
    """Answers from the file `responses`, the missing ones from the server; the key comes from the environment."""
    key = os.environ.get(settings.api_key_env) if settings.api_key_env else None
    address = (settings.base_url, settings.api_key_env, key, settings.timeout_s, 0, settings.concurrency)
    server = Server(*address, command="dvc repro data")
    budget = remote.Budget(settings.max_requests, settings.max_total_tokens)
    if settings.batch:
        return lambda requests, what: remote.collect_batch(requests, server, responses, what, budget, poll_s)
    retries = settings.max_retries
    return lambda requests, what: remote.collect(requests, server, responses, what, budget, retries)


def cost_usd(settings: Worded, prompt_tokens: int, completion_tokens: int) -> float | None:
    """The list price of these tokens; None without prices in params.yaml."""
    if settings.input_price is None or settings.output_price is None:
        return None
    return (prompt_tokens * settings.input_price + completion_tokens * settings.output_price) / 1e6


@dataclass
class Report:
    """What became of the answers."""

    refused: Counter[str] = field(default_factory=Counter)
    messages: int = 0  # asked for
    replies: dict[str, Reply] = field(default_factory=dict)

    def reasons(self) -> str:
        """The most frequent reasons for refusals."""
        return ", ".join(f"{count} {reason}" for reason, count in self.refused.most_common(5))

    def metrics(self, settings: Worded) -> dict[str, int | float | str]:
        """The `wording` section of metrics/data.json: refused messages by reason, tokens, and cost at list price."""
        section: dict[str, int | float | str] = {
            "model": settings.model,
            "requests": len(self.replies),
            "messages": self.messages,
        }
        for reason, count in sorted(self.refused.items()):
            section[f"refused_{re.sub(r'[^a-z0-9]+', '_', reason.lower())}"] = count
        tokens: dict[str, int] = {}
        for name in ("prompt_tokens", "completion_tokens"):
            counts = [getattr(reply, name) for reply in self.replies.values()]
            if None not in counts:  # else the server does not count them
                tokens[name] = sum(counts)
        cost = cost_usd(settings, **tokens) if len(tokens) == 2 else None
        if cost is not None:
            section |= {"cost_usd": cost, "price_source": settings.price_source or "unknown"}
        return section | tokens


class WordingModel:
    """Sends requests through `ask`; `report` counts what became of the answers."""

    def __init__(self, settings: Worded, ask: Ask) -> None:
        self.settings, self.report, self._ask = settings, Report(), ask
        self._unreadable: list[str] = []  # answers to the latest requests that are not the JSON asked for

    def request(self, row: str, body: dict[str, Any], index: Sequence[Any]) -> Request:
        """A request whose key is made of server, body and index: the same words asked twice are two requests."""
        key = json.dumps([self.settings.base_url, body, list(index)], sort_keys=True)
        return Request(row, body, hashlib.sha256(key.encode()).hexdigest()[:16])

    def ask(self, requests: Sequence[Request], what: str) -> Mapping[str, Reply]:
        self._unreadable.clear()
        replies = self._ask(requests, what)
        self.report.replies |= replies
        return replies

    def parse(self, reply: Reply, parser: Callable[[str, int], list[str]], count: int) -> list[str]:
        """The `count` texts of an answer. Raises ValueError for one that is cut or has another form."""
        try:
            if reply.finish_reason.lower() in CUT:
                raise ValueError("cut at max_tokens")
            return parser(reply.text, count)
        except ValueError:
            self._unreadable.append(reply.text)
            raise

    def note_unreadable(self, name: str, requests: int) -> None:
        """Show an unreadable answer on stderr where most of the latest ones are."""
        if line := help_to_read(self._unreadable, requests, self.hint()):
            print(f"{name}: {line}", file=sys.stderr)

    def hint(self) -> str:
        """What to change where too many answers are refused."""
        if self.report.refused["cut at max_tokens"] or self.report.refused["prompts cut at max_tokens"]:
            return "raise data.openai.max_tokens in params.yaml"
        return "set data.openai.model to another model, or data.openai.structured to true, in params.yaml"
