"""The Batch API: chat requests answered within 24 hours at a lower price."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cartlm.engines.connection import RequestFailed
from cartlm.engines.openai import MALFORMED, Budget, Client, Reply
from cartlm.engines.replies import Asking, Request, append_reply, read_replies
from cartlm.errors import UserError

ENDED = ("completed", "failed", "expired", "cancelled")
MAX_EMPTY_BATCHES = 3
SAFE_RETRIES = 5  # of calls that may arrive twice


def collect_replies_by_batch(
    requests: Sequence[Request], asking: Asking, budget: Budget, poll_s: float
) -> dict[str, Reply]:
    """As `replies.collect_replies`, through the Batch API.

    A batch carries a mark made of its set of requests: a killed run finds it on the server and goes on waiting.
    What a batch leaves unanswered goes into another one; after MAX_EMPTY_BATCHES without an answer in a row, UserError.
    """
    replies, distinct = read_replies(asking.path), {request.key: request for request in requests}
    if not distinct.keys() <= replies.keys():
        import openai

        with Client(asking.server, asking.key, asking.command) as client:
            batches = _Batches(distinct, replies, client, asking, budget)
            try:
                batches.collect(poll_s)
            except (RequestFailed, openai.OpenAIError) as error:
                failure = error if isinstance(error, RequestFailed) else client.failure(error)
                left = len(distinct.keys() - replies.keys())
                raise UserError(
                    f"{asking.label}: {failure.what}; {left} of {len(distinct)} answers are missing",
                    "; ".join(filter(None, (failure.hint, f"{asking.command} goes on"))),
                ) from None
    return {request.key: replies[request.key] for request in requests}


class _Batches:
    """The batches of one set of requests; replies go to a file and into `replies`.

    Methods raise RequestFailed and the errors of the openai package.
    """

    def __init__(
        self, requests: dict[str, Request], replies: dict[str, Reply], client: Client, asking: Asking, budget: Budget
    ) -> None:  # fmt: skip
        self._requests, self._replies, self._client, self._budget = requests, replies, client, budget
        self._api = client.client.with_options(max_retries=SAFE_RETRIES)
        self._label, self._path = asking.label, asking.path
        self._mark = hashlib.sha256("".join(sorted(requests)).encode()).hexdigest()[:32]
        self._reserved: dict[str, int] = {}

    def collect(self, poll_s: float) -> None:
        """Fetch the batches that an earlier run handed in, then hand in what is missing until nothing is."""
        for batch in self._api.batches.list(limit=100):
            if (batch.metadata or {}).get("cartlm") == self._mark:
                self._fetch(batch, poll_s)
        empty = 0
        while missing := self._missing():
            new, failure = self._fetch(self._submit(missing), poll_s)
            empty = 0 if new else empty + 1
            if empty == MAX_EMPTY_BATCHES:
                raise RequestFailed(failure)

    def _missing(self) -> dict[str, Request]:
        return {key: request for key, request in self._requests.items() if key not in self._replies}

    def _submit(self, missing: Mapping[str, Request]) -> Any:
        """A new batch of as many requests as the budget covers. Raises RequestFailed where that is none."""
        lines: list[str] = []
        for key, request in missing.items():
            try:
                self._reserved[key] = self._budget.reserve(request.body)
            except RequestFailed:
                if not lines:
                    raise
                break
            line = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": request.body}
            lines.append(json.dumps(line))
        file = self._api.files.create(file=("requests.jsonl", "\n".join(lines).encode()), purpose="batch")
        # without retries: a second try of a call that arrived would be a second batch
        batch = self._client.client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"cartlm": self._mark},
        )
        print(
            f"{self._label}: batch {batch.id} of {len(lines)} requests submitted", file=sys.stderr, flush=True
        )
        return batch

    def _fetch(self, batch: Any, poll_s: float) -> tuple[int, str]:
        """Wait for a batch and keep its new replies: how many, and why it may lack some."""
        while batch.status not in ENDED:
            time.sleep(poll_s)
            batch = self._api.batches.retrieve(batch.id)
        missing, new, failure = self._missing(), 0, ""
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            for line in self._api.files.content(file).content.decode("utf-8", "replace").split("\n"):
                try:
                    value = json.loads(line)
                    request = missing[value["custom_id"]]
                except MALFORMED:
                    continue  # another run's request, one that has its answer, or a broken line
                try:
                    reply = self._client.parse_reply(value["response"]["body"], request.body)
                except RequestFailed as error:
                    failure = error.what
                except MALFORMED:
                    quoted = json.dumps(value.get("error") or value.get("response"))
                    failure = f"the batch brought no answer: {self._client.one_line(quoted):.160}"
                else:
                    append_reply(self._path, request, reply)
                    self._replies[request.key] = reply
                    del missing[request.key]
                    new += 1
                    if request.key in self._reserved:
                        self._budget.settle(self._reserved.pop(request.key), reply.total_tokens)
        print(
            f"{self._label}: batch {batch.id} {batch.status}, {new} new answers", file=sys.stderr, flush=True
        )
        errors = (batch.errors.data or []) if batch.errors else []
        why = self._client.one_line(str(errors[0].message)) if errors else "no answer"
        return new, failure or f"batch {batch.id} {batch.status}: {why}"
