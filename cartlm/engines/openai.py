"""The openai engine: text in, text out, from any server with the OpenAI API (vLLM, llama-server, Ollama, OpenAI).

Retries are the client's own: 408, 409, 429 (with Retry-After up to two minutes), 5xx, time-outs and cut
connections, with growing and jittered waits. The key stands in the request's header and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from cartlm.engines.answer import Answer
from cartlm.errors import UserError

DEFAULT_URL = "https://api.openai.com/v1"
"""The client's own default; said here, since the client would take another one from its environment."""


class Failed(Exception):
    """A request that brought no whole answer: `what` in one line without the key, `hint` the next step.

    `again`: another try may bring one; `after_s`: not before so many seconds (Retry-After). `free`: the server told that it
    did nothing, so that it cannot have cost anything.
    """

    def __init__(
        self, what: str, hint: str = "", again: bool = False, after_s: float = 0.0, free: bool = False
    ) -> None:
        self.what, self.hint, self.again, self.after_s, self.free = what, hint, again, after_s, free
        super().__init__(what)


@dataclass(frozen=True)
class Server:
    """Whom to ask. `base_url` None: the client's default; `key_env` None: a server without keys.

    `key` is what the environment variable `key_env` holds, None where it is not set; `timeout_s` counts
    for each try, of which there are at most 1 + `max_retries`; `concurrency` requests are in flight. `command` is what
    a user typed, and types again after a failure.
    """

    base_url: str | None
    key_env: str | None
    key: str | None
    timeout_s: float
    max_retries: int
    concurrency: int
    command: str = "make remote"

    def __repr__(self) -> str:  # the generated one would show the key
        return f"Server({self.base_url!r}, key from {self.key_env})"


@dataclass(frozen=True)
class Reply:
    """One answer that arrived whole.

    `finish_reason` is the server's own word; token counts are from `usage`, None where the server sends none.
    `latency_s`: client side, from sending the request to the last byte of the answer, of the try that
    succeeded. `model` is what the server says it ran, `asked` the time in UTC.
    """

    text: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    latency_s: float
    retries: int
    concurrency: int
    model: str
    server: str
    client: str
    asked: str

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a line of JSON."""
        return asdict(self)

    def answer(self) -> Answer:
        """For `cartlm.scoring`: only text, finish reason and counts mean something, the rest is not known here."""
        reason, tokens = self.finish_reason, (self.prompt_tokens or 0, self.completion_tokens or 0)
        return Answer(self.text, (), "length" if reason == "length" else "stop", *tokens, 0, 0.0, 0.0)


@dataclass(frozen=True)
class Batch:
    """A batch of the Batch API; `status` is the server's word, the files are there once it has ended."""

    id: str
    status: str
    output_file: str | None
    error_file: str | None
    error: str  # why it failed as a whole

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "failed", "expired", "cancelled")


class Client:
    """A connection to one server, for several threads at once; close it with `close` or a `with` block."""

    def __init__(self, server: Server) -> None:
        """Raises UserError naming the variable when the key is missing or no key at all; asks nothing yet."""
        key = (server.key or "").strip()
        if server.key_env and not key:
            raise UserError(
                f"{server.key_env} is not set: that environment variable holds the server's key",
                f"export {server.key_env}=..., then {server.command}",
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            # the HTTP library would print such a header whole
            raise UserError(f"{server.key_env} holds spaces or signs that no key has", "set it again")
        import openai

        self._openai, self._server, self._key = openai, server, key
        self._client = openai.OpenAI(
            api_key=key or "none", base_url=server.base_url or DEFAULT_URL, timeout=server.timeout_s, max_retries=server.max_retries
        )  # fmt: skip
        self._patient = self._client.with_options(max_retries=5)  # for calls that may safely arrive twice
        self.address = urlsplit(str(self._client.base_url)).netloc.rpartition("@")[2]

    def ask(self, body: Mapping[str, Any]) -> Reply:
        """The answer to one request: chat where `body` has `messages`, else completions. Raises Failed."""
        chat = "messages" in body
        api: Any = self._client.chat.completions if chat else self._client.completions
        asked = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            raw = api.with_raw_response.create(**body)
        except self._openai.OpenAIError as error:
            raise self._failed(error) from None
        try:
            return self._reply(
                json.loads(raw.content), body, asked, raw.elapsed.total_seconds(), raw.retries_taken
            )
        except (ValueError, TypeError, LookupError, AttributeError):
            said = self._clean(raw.content.decode("utf-8", "replace"))
            raise Failed(f"no answer in the form of the OpenAI API: {said!r:.120}", again=True) from None

    def _reply(
        self, value: Any, body: Mapping[str, Any], asked: str, latency_s: float, retries: int
    ) -> Reply:
        """The reply in a decoded answer. Raises ValueError and its like for another form."""
        choice, usage = value["choices"][0], value.get("usage") or {}
        text = choice["message"]["content"] if "messages" in body else choice["text"]
        reason = choice["finish_reason"]
        if not isinstance(reason, str) or not isinstance(text, str | None):
            raise TypeError
        return Reply(
            text=text or "",  # a refusal has none
            finish_reason=reason,
            prompt_tokens=_count(usage, "prompt_tokens"),
            completion_tokens=_count(usage, "completion_tokens"),
            latency_s=latency_s,
            retries=retries,
            concurrency=self._server.concurrency,
            model=str(value.get("model") or body["model"]),
            server=self.address,
            client=f"openai {self._openai.__version__}",
            asked=asked,
        )

    def submit(self, bodies: Mapping[str, Mapping[str, Any]], mark: str) -> str:
        """Hand in chat requests by key as one batch (the Batch API), which `batches(mark)` finds; returns its id.

        Raises Failed, also where the call arrived and its answer did not: look for the mark before another try.
        """
        lines = [
            json.dumps({"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body})
            for key, body in bodies.items()
        ]
        try:
            sent = self._patient.files.create(
                file=("requests.jsonl", "\n".join(lines).encode()), purpose="batch"
            )
            # a second try of a call that arrived would be a second batch
            made = self._client.with_options(max_retries=0).batches.create(
                input_file_id=sent.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"cartlm": mark},
            )
        except self._openai.OpenAIError as error:
            raise self._failed(error) from None
        return made.id

    def batches(self, mark: str, also: str = "") -> list[Batch]:
        """The batches that were handed in with that mark, and the one with the id `also`. Raises Failed."""
        try:
            found = {
                one.id: one
                for one in self._patient.batches.list(limit=100)
                if (one.metadata or {}).get("cartlm") == mark
            }
            if also and also not in found:
                found[also] = self._patient.batches.retrieve(also)
        except self._openai.OpenAIError as error:
            raise self._failed(error) from None
        return [
            Batch(one.id, one.status, one.output_file_id, one.error_file_id, self._why(one))
            for one in found.values()
        ]

    def _why(self, batch: Any) -> str:
        errors = (batch.errors.data or []) if batch.errors else []
        return self._clean(str(errors[0].message)) if errors else ""

    def results(
        self, batch: Batch, bodies: Mapping[str, Mapping[str, Any]]
    ) -> Iterator[tuple[str, Reply | Failed]]:
        """(key, reply or failure) of an ended batch's requests, of `bodies` only. Raises Failed."""
        asked = datetime.now(UTC).isoformat(timespec="seconds")
        for file in filter(None, (batch.output_file, batch.error_file)):
            try:
                lines = self._patient.files.content(file).content.decode("utf-8", "replace").split("\n")
            except self._openai.OpenAIError as error:
                raise self._failed(error) from None
            for line in lines:
                try:
                    value = json.loads(line)
                    key, answer = value["custom_id"], value.get("response") or {}
                    body = bodies[key]
                except (ValueError, TypeError, LookupError, AttributeError):
                    continue  # another run's request, or a broken line
                try:
                    yield key, self._reply(answer["body"], body, asked, 0.0, 0)
                except (ValueError, TypeError, LookupError, AttributeError):
                    said = self._clean(json.dumps(value.get("error") or answer))
                    yield key, Failed(f"the batch brought no answer: {said:.160}")

    def _failed(self, error: Exception) -> Failed:
        if isinstance(error, self._openai.APITimeoutError):
            return Failed(f"no answer within {self._server.timeout_s:g} s, {self._tries()}", again=True)
        if isinstance(error, self._openai.APIConnectionError):
            cause = self._clean(str(error.__cause__ or error))
            return Failed(
                f"{self.address} does not answer ({cause}), {self._tries()}", "start the server", again=True
            )
        if not isinstance(error, self._openai.APIStatusError):
            return Failed(self._clean(str(error)))
        status = error.status_code
        if status in (401, 403):  # its words may quote the key
            source = (
                f"the key in {self._server.key_env}" if self._server.key_env else "a request without a key"
            )
            return Failed(f"{status}, the server refuses {source}", "set api_key_env or the key")
        hint = "check base_url, model and api in params.yaml" if 400 <= status < 500 and status != 429 else ""
        again = status in (408, 409, 429) or status >= 500
        tries = f", {self._tries()}" if again else ""
        after_s = _seconds(error.response.headers.get("retry-after"))
        free = status in (429, 503) or (
            400 <= status < 500 and status != 408
        )  # a gateway's 502 comes after the work
        return Failed(f"{status} {self._clean(error.message)}{tries}", hint, again, after_s, free)

    def _tries(self) -> str:
        most = 1 + self._server.max_retries
        return f"tried {most} times" if most > 1 else "tried once"

    def _clean(self, text: str) -> str:
        """One line of at most 200 characters without the key."""
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join(text.split())[:200]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _seconds(text: str | None) -> float:
    """The seconds of a Retry-After header, at most two minutes; 0 for none, or for a date."""
    try:
        return min(120.0, max(0.0, float(text or 0)))
    except ValueError:
        return 0.0


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) else None
