"""The openai engine: text in, text out, from any server with the OpenAI API (vLLM, llama-server, Ollama, OpenAI).

Retries are the client's own: 408, 409, 429 (with Retry-After up to two minutes), 5xx, time-outs and cut
connections, with growing and jittered waits; a 200 that holds no answer is retried in the same way. The key is sent in
the request's header and written nowhere. A server on this machine is asked directly, whatever proxy is set.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from cartlm.engines.answer import Answer
from cartlm.engines.connection import http_client, refused_field, retry_after_s, words
from cartlm.errors import UserError

DEFAULT_URL = "https://api.openai.com/v1"
"""The client's own default; said here, since the client would take another one from its environment."""
CUT = ("length", "max_tokens", "max_output_tokens", "model_length")
BROKEN = ("error", "abort", "aborted", "cancelled", "canceled", "failed")
"""Finish reasons, in any case, of an answer that was cut at its limit, and of one that never was one."""
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
UNKNOWN = "unknown"
"""The finish reason of an answer whose server names none; it is taken as complete."""
RETRY_S = 0.5  # before the first retry, at most; twice as long before each next one


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

    `finish_reason` is the server's own word, UNKNOWN where it has none; `refusal` is what the model says instead of an
    answer; token counts are from `usage`, None where the server sends none.
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
    refusal: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a line of JSON."""
        return asdict(self)

    def answer(self) -> Answer:
        """For `cartlm.evaluation.scoring`: only text, finish reason and counts mean something, the rest is not known here."""
        reason, tokens = self.finish_reason, (self.prompt_tokens or 0, self.completion_tokens or 0)
        return Answer(self.text, (), "length" if reason.lower() in CUT else "stop", *tokens, 0, 0.0, 0.0)

    def is_empty(self, chat: bool) -> bool:
        """Whether it is no answer: no text and no refusal.

        Without `chat`, a model that ends at its first token has answered nothing, and that counts.
        """
        if self.text.strip().strip(INVISIBLE) or self.refusal or self.finish_reason == "content_filter":
            return False
        ended_at_once = self.finish_reason == "stop" and self.completion_tokens in (0, 1)
        return chat or not ended_at_once


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
        """Asks nothing yet. Raises UserError naming the variable of a key that is missing or none, or of an unusable proxy."""
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
        self._proxy, http = http_client(server.base_url or DEFAULT_URL)
        self._client = openai.OpenAI(
            api_key=key or "none", base_url=server.base_url or DEFAULT_URL, timeout=server.timeout_s,
            max_retries=server.max_retries, http_client=http,
        )  # fmt: skip
        self._patient = self._client.with_options(max_retries=5)  # for calls that may safely arrive twice
        self.address = urlsplit(str(self._client.base_url)).netloc.rpartition("@")[2]

    def ask(self, body: Mapping[str, Any]) -> Reply:
        """The answer to one request: chat where `body` has `messages`, else completions. Raises Failed."""
        retries = 0
        while True:
            try:
                return self._ask(body, retries)
            except _NoAnswer as error:
                retries = error.retries + 1
                if retries > self._server.max_retries:
                    raise Failed(f"{error.what}, {self._tries()}", error.hint, again=True) from None
                time.sleep(random.uniform(0.5, 1.0) * min(8.0, RETRY_S * 2 ** (retries - 1)))

    def _ask(self, body: Mapping[str, Any], retries: int) -> Reply:
        """The answer after `retries` in vain. Raises Failed, _NoAnswer for a 200 that may be better the next time."""
        client = self._client.with_options(max_retries=self._server.max_retries - retries)
        api: Any = client.chat.completions if "messages" in body else client.completions
        asked = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            raw = api.with_raw_response.create(**body)
        except self._openai.OpenAIError as error:
            raise self._failed(error) from None
        retries += raw.retries_taken
        try:
            value = json.loads(raw.content)
            reply = self._reply(value, body, asked, raw.elapsed.total_seconds(), retries)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            raise _NoAnswer(
                f"no answer in the form of the OpenAI API: {self._said(raw.content)}", retries
            ) from None
        if reply.is_empty("messages" in body):
            raise self._empty(value, reply)
        return reply

    def _said(self, content: bytes) -> str:
        """What a body without an answer says: its error's words where it has some."""
        try:
            error = words(json.loads(content))
        except (ValueError, RecursionError):
            error = ""
        return repr(self._clean(error or content.decode("utf-8", "replace"))[:120])

    def _empty(self, value: Any, reply: Reply) -> Failed:
        """An answer without text: what else was in it, and the setting that helps."""
        message = value["choices"][0].get("message") or {}
        thought = next(
            (name for name in ("reasoning_content", "reasoning", "thinking") if message.get(name)), ""
        )
        what = f"an empty answer (finish_reason {reply.finish_reason}"
        if thought:
            hint = "turn the model's reasoning off"
            if reply.finish_reason.lower() in CUT:
                hint = f"raise its token limit in params.yaml, or {hint}"
            return Failed(f"{what}, all of it in {thought})", hint)
        if message.get("tool_calls"):
            return Failed(f"{what}, a tool call instead)", "start the server without tools")
        return Failed(
            f"{what})", "try another model or api in params.yaml, or mend the server's chat template"
        )

    def _reply(
        self, value: Any, body: Mapping[str, Any], asked: str, latency_s: float, retries: int
    ) -> Reply:
        """The reply in a decoded answer. Raises ValueError and its like for another form."""
        if value.get("error"):
            raise ValueError("an error beside the choices")
        choice, usage = value["choices"][0], value.get("usage") or {}
        message = choice["message"] if "messages" in body else {"content": choice["text"]}
        reason = choice.get("finish_reason")
        if not isinstance(reason, str | None) or (reason or "").lower() in BROKEN:
            raise TypeError
        text, refused = _parts(message.get("content"))
        return Reply(
            text=text,
            finish_reason=reason or UNKNOWN,
            prompt_tokens=_count(usage, "prompt_tokens"),
            completion_tokens=_count(usage, "completion_tokens"),
            latency_s=latency_s,
            retries=retries,
            concurrency=self._server.concurrency,
            model=str(value.get("model") or body["model"]),
            server=self.address,
            client=f"openai {self._openai.__version__}",
            asked=asked,
            refusal=str(message.get("refusal") or refused),
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
                    reply = self._reply(answer["body"], body, asked, 0.0, 0)
                    empty = self._empty(answer["body"], reply) if reply.is_empty("messages" in body) else None
                    yield key, empty or reply
                except (ValueError, TypeError, LookupError, AttributeError):
                    said = self._clean(json.dumps(value.get("error") or answer))
                    yield key, Failed(f"the batch brought no answer: {said:.160}")

    def _failed(self, error: Exception) -> Failed:
        if isinstance(error, self._openai.APITimeoutError):
            return Failed(f"no answer within {self._server.timeout_s:g} s, {self._tries()}", again=True)
        if isinstance(error, self._openai.APIConnectionError):
            cause = self._clean(str(error.__cause__ or error))
            through = f" through {self._proxy}" if self._proxy else ""
            hint = f"check that proxy, or add {self.address} to NO_PROXY" if through else "start the server"
            return Failed(
                f"{self.address} does not answer{through} ({cause}), {self._tries()}", hint, again=True
            )
        if not isinstance(error, self._openai.APIStatusError):
            return Failed(self._clean(str(error)))
        status = error.status_code
        if status in (401, 403):  # its words may quote the key
            source = (
                f"the key in {self._server.key_env}" if self._server.key_env else "a request without a key"
            )
            return Failed(f"{status}, the server refuses {source}", "set api_key_env or the key")
        said = self._clean(words(error.body) or error.message)
        refused = 400 <= status < 500 and status != 429
        hint = (refused_field(said) or "check base_url, model and api in params.yaml") if refused else ""
        again = status in (408, 409, 429) or status >= 500
        tries = f", {self._tries()}" if again else ""
        after_s = retry_after_s(error.response.headers.get("retry-after"))
        free = status in (429, 503) or (
            400 <= status < 500 and status != 408
        )  # a gateway's 502 comes after the work
        return Failed(f"{status} {said}{tries}", hint, again, after_s, free)

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


class _NoAnswer(Failed):
    """A 200 whose body is an error or anything else but an answer, after so many `retries`."""

    def __init__(self, what: str, retries: int) -> None:
        super().__init__(what, "check base_url and api in params.yaml", again=True)
        self.retries = retries


def _parts(content: Any) -> tuple[str, str]:
    """Text and refusal of a message's content: a string, null, or a list of parts, of which thoughts do not count.

    Raises TypeError for anything else.
    """
    if isinstance(content, list):
        told: dict[str, list[str]] = {"text": [], "refusal": [], "thinking": [], "reasoning": []}
        for part in content:
            told[part["type"]].append(str(part.get(part["type"]) or ""))
        return "".join(told["text"]), "".join(told["refusal"])
    if not isinstance(content, str | None):
        raise TypeError
    return content or "", ""


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) else None
