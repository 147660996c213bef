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
                while batches.advance():
                    time.sleep(poll_s)
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
        self._fetched: set[str] = set()
        self._submitted, self._empty = "", 0  # the last batch of this run; batches without an answer in a row
        self._reserved: dict[str, int] = {}

    def advance(self) -> bool:
        """Fetch what has ended, submit what is missing; False when nothing is."""
        batches = self._list()
        for batch in batches:
            if batch.status in ENDED and batch.id not in self._fetched:
                self._fetched.add(batch.id)
                self._fetch(batch)
        missing = {key: request.body for key, request in self._requests.items() if key not in self._replies}
        if missing and all(batch.status in ENDED for batch in batches):
            self._submit(missing)
        return bool(missing)

    def _list(self) -> list[Any]:
        """The server's batches with our mark, and the one submitted last."""
        batches = [
            batch
            for batch in self._api.batches.list(limit=100)
            if batch.id == self._submitted or (batch.metadata or {}).get("cartlm") == self._mark
        ]
        if self._submitted and self._submitted not in (batch.id for batch in batches):
            batches.append(self._api.batches.retrieve(self._submitted))
        return batches

    def _submit(self, missing: Mapping[str, Any]) -> None:
        """A new batch of as many requests as the budget covers. Raises RequestFailed where that is none."""
        lines: list[str] = []
        for key, body in missing.items():
            try:
                self._reserved[key] = self._budget.reserve(body)
            except RequestFailed:
                if not lines:
                    raise
                break
            lines.append(
                json.dumps({"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body})
            )
        file = self._api.files.create(file=("requests.jsonl", "\n".join(lines).encode()), purpose="batch")
        # without retries: a second try of a call that arrived would be a second batch
        self._submitted = self._client.client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"cartlm": self._mark},
        ).id
        self._print(f"batch {self._submitted} of {len(lines)} requests submitted")

    def _fetch(self, batch: Any) -> None:
        """Keep the new replies of a batch that has ended. Raises RequestFailed after too many without one."""
        new, failure = 0, ""
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            for line in self._api.files.content(file).content.decode("utf-8", "replace").split("\n"):
                try:
                    value = json.loads(line)
                    request = self._requests[value["custom_id"]]
                except MALFORMED:
                    continue  # another run's request, or a broken line
                try:
                    reply = self._client.parse_reply(value["response"]["body"], request.body)
                except RequestFailed as error:
                    failure = error.what
                except MALFORMED:
                    quoted = json.dumps(value.get("error") or value.get("response"))
                    failure = f"the batch brought no answer: {self._client.one_line(quoted):.160}"
                else:
                    new += self._keep(request, reply)
        self._print(f"batch {batch.id} {batch.status}, {new} new answers")
        if batch.id == self._submitted:
            self._empty = 0 if new else self._empty + 1
        if self._empty == MAX_EMPTY_BATCHES:
            errors = (batch.errors.data or []) if batch.errors else []
            why = self._client.one_line(str(errors[0].message)) if errors else "no answer"
            raise RequestFailed(failure or f"batch {batch.id} {batch.status}: {why}")

    def _keep(self, request: Request, reply: Reply) -> bool:
        """Whether the reply is new, and is now kept."""
        if request.key in self._replies:
            return False
        append_reply(self._path, request, reply)
        self._replies[request.key] = reply
        if request.key in self._reserved:
            self._budget.settle(self._reserved.pop(request.key), reply.total_tokens)
        return True

    def _print(self, message: str) -> None:
        print(f"{self._label}: {message}", file=sys.stderr, flush=True)
