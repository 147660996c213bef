"""The model that words rows: its requests and answers, what became of them, and what they cost."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cartlm.data.config import Worded
from cartlm.engines.batch_api import collect_replies_by_batch
from cartlm.engines.openai import Budget, Reply
from cartlm.engines.replies import Asking, Request, collect_replies, usage_section
from cartlm.text import help_to_read

Ask = Callable[[Sequence[Request], str], Mapping[str, Reply]]
"""The answers to requests, by key; the text says what they are for."""


def ask_server(settings: Worded, responses: Path, poll_s: float) -> Ask:
    """Answers from the file `responses`, the missing ones from the server; the key comes from the environment."""
    key = os.environ.get(settings.api_key_env) if settings.api_key_env else None
    budget = Budget(settings.max_requests, settings.max_total_tokens)

    def ask(requests: Sequence[Request], what: str) -> Mapping[str, Reply]:
        asking = Asking(settings, key, responses, "dvc repro data", what)
        if settings.batch:
            return collect_replies_by_batch(requests, asking, budget, poll_s)
        return collect_replies(requests, asking, budget)

    return ask


class WordingModel:
    """Sends requests through `ask` and counts what became of the answers."""

    def __init__(self, settings: Worded, ask: Ask) -> None:
        self.settings, self._ask = settings, ask
        self.refused = Counter[str]()
        self.messages = 0  # asked for
        self._replies: dict[str, Reply] = {}
        self._unreadable: list[str] = []  # answers to the latest requests that are not the JSON asked for

    def reasons(self) -> str:
        """The most frequent reasons for refusals."""
        return ", ".join(f"{count} {reason}" for reason, count in self.refused.most_common(5))

    def metrics(self) -> dict[str, int | float | str]:
        """The `wording` section of metrics/data.json: refused messages by reason, tokens, and cost at list price."""
        section: dict[str, int | float | str] = {
            "model": self.settings.model,
            "requests": len(self._replies),
            "messages": self.messages,
        }
        for reason, count in sorted(self.refused.items()):
            section[f"refused_{re.sub(r'[^a-z0-9]+', '_', reason.lower())}"] = count
        return section | usage_section(self._replies.values(), self.settings)

    def request(self, row: str, body: dict[str, Any], index: Sequence[Any]) -> Request:
        """A request whose key is made of server, body and index: the same words asked twice are two requests."""
        key = json.dumps([self.settings.base_url, body, list(index)], sort_keys=True)
        return Request(row, body, hashlib.sha256(key.encode()).hexdigest()[:16])

    def ask(self, requests: Sequence[Request], what: str) -> Mapping[str, Reply]:
        self._unreadable.clear()
        replies = self._ask(requests, what)
        self._replies |= replies
        return replies

    def parse(
        self, reply: Reply, parser: Callable[[str, int], list[str]], count: int, what: str, lost: int
    ) -> list[str]:
        """The `count` texts of an answer; none of one that is cut or has another form, which counts as `lost` refusals."""
        try:
            if reply.is_truncated:
                raise ValueError("cut at max_tokens")
            return parser(reply.text, count)
        except ValueError as error:
            self._unreadable.append(reply.text)
            self.refused[f"{what}{error}"] += lost
            return []

    def note_unreadable(self, name: str, requests: int) -> None:
        """Show an unreadable answer on stderr where most of the latest ones are."""
        if line := help_to_read(self._unreadable, requests, self.hint()):
            print(f"{name}: {line}", file=sys.stderr)

    def hint(self) -> str:
        """What to change where too many answers are refused."""
        if self.refused["cut at max_tokens"] or self.refused["prompts cut at max_tokens"]:
            return "raise data.openai.max_tokens in params.yaml"
        return "set data.openai.model to another model, or data.openai.structured to true, in params.yaml"
