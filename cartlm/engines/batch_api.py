"""The Batch API: chat requests answered within 24 hours at a lower price."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from cartlm.engines.budget import Budget
from cartlm.engines.connection import RequestFailed
from cartlm.engines.openai import MALFORMED, Client, Reply
from cartlm.engines.replies import Asking, ReplyFile, Request, read_replies
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

        with asking.client() as client:
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
        self._label, self._file = asking.label, ReplyFile(asking.path)
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
            bodies = self._affordable(missing)
            self._submitted = self._submit(bodies)
            self._print(f"batch {self._submitted} of {len(bodies)} requests submitted")
        return bool(missing)

    def _list(self) -> list[Any]:
        """The server's batches with our mark, and the one submitted last."""
        marked = {
            batch.id: batch
            for batch in self._api.batches.list(limit=100)
            if (batch.metadata or {}).get("cartlm") == self._mark
        }
        if self._submitted and self._submitted not in marked:
            marked[self._submitted] = self._api.batches.retrieve(self._submitted)
        return list(marked.values())

    def _affordable(self, missing: dict[str, Any]) -> dict[str, Any]:
        """As many of the requests as the budget covers. Raises RequestFailed where that is none."""
        part: dict[str, Any] = {}
        for key, body in missing.items():
            try:
                self._reserved[key] = self._budget.reserve(body)
            except RequestFailed:
                if not part:
                    raise
                break
            part[key] = body
        return part

    def _submit(self, bodies: dict[str, Any]) -> str:
        """The id of a new batch."""
        lines = [
            json.dumps({"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body})
            for key, body in bodies.items()
        ]
        content = "\n".join(lines).encode()
        file = self._api.files.create(file=("requests.jsonl", content), purpose="batch")
        # without retries: a second try of a call that arrived would be a second batch
        return self._client.client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"cartlm": self._mark},
        ).id

    def _fetch(self, batch: Any) -> None:
        """Keep the new replies of a batch that has ended."""
        new, failure = 0, ""
        for key, reply in self._results(batch):
            if isinstance(reply, RequestFailed):
                failure = reply.what
            elif key not in self._replies:
                self._file.append(self._requests[key], reply)
                self._replies[key] = reply
                if key in self._reserved:
                    self._budget.settle(self._reserved.pop(key), reply.total_tokens)
                new += 1
        self._print(f"batch {batch.id} {batch.status}, {new} new answers")
        if batch.id == self._submitted:
            self._empty = 0 if new else self._empty + 1
        if self._empty == MAX_EMPTY_BATCHES:
            errors = (batch.errors.data or []) if batch.errors else []
            why = self._client.one_line(str(errors[0].message)) if errors else "no answer"
            raise RequestFailed(failure or f"batch {batch.id} {batch.status}: {why}")

    def _results(self, batch: Any) -> Iterator[tuple[str, Reply | RequestFailed]]:
        """(key, reply or failure) of our requests in an ended batch."""
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            for line in self._api.files.content(file).content.decode("utf-8", "replace").split("\n"):
                try:
                    value = json.loads(line)
                    key, response = value["custom_id"], value.get("response") or {}
                    body = self._requests[key].body
                except MALFORMED:
                    continue  # another run's request, or a broken line
                try:
                    yield key, self._client.parse_reply(response["body"], body)
                except RequestFailed as error:
                    yield key, error
                except MALFORMED:
                    quoted = self._client.one_line(json.dumps(value.get("error") or response))
                    yield key, RequestFailed(f"the batch brought no answer: {quoted:.160}")

    def _print(self, message: str) -> None:
        print(f"{self._label}: {message}", file=sys.stderr, flush=True)
