"""The openai engine: text in, text out, from any server with the OpenAI API (vLLM, llama-server, Ollama, OpenAI).

What may pass is retried with growing, jittered waits: 408, 409, 429, 5xx (Retry-After is honoured), time-outs, cut
connections, and a 200 that holds no answer. The key is sent in the request's header and written nowhere.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from cartlm.engines import connection
from cartlm.engines.answer import Answer
from cartlm.engines.config import Server
from cartlm.engines.connection import RequestFailed
from cartlm.errors import UserError

DEFAULT_URL = "https://api.openai.com/v1"
"""The client's own default; passed explicitly, because the client would read another one from the environment."""
TRUNCATED = ("length", "max_tokens", "max_output_tokens", "model_length")
BROKEN = ("error", "abort", "aborted", "cancelled", "canceled", "failed")
"""Finish reasons, in any case, of an answer cut at its limit, and of one that never was one."""
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
UNKNOWN = "unknown"
"""The finish reason of an answer whose server gives none; the answer counts as complete."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 8.0  # before a retry, doubled for each next one
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What reading an answer of another form raises."""


@dataclass(frozen=True)
class Reply:
    """One answer that arrived whole.

    `finish_reason` is the server's own word, UNKNOWN without one; `refusal` is what the model says instead of an
    answer; token counts are from `usage`, None without it. `latency_s` is measured by the client, from sending the
    request to the last byte of the answer, of the try that succeeded. `model` is the model that the server reports,
    `asked` the time in UTC.
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

    @property
    def total_tokens(self) -> int | None:
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens

    @property
    def is_truncated(self) -> bool:
        return self.finish_reason.lower() in TRUNCATED

    def answer(self) -> Answer:
        """For `cartlm.evaluation.scoring`: only text, finish reason and counts are known."""
        counts = (self.prompt_tokens or 0, self.completion_tokens or 0)
        return Answer(self.text, (), "length" if self.is_truncated else "stop", *counts, 0, 0.0, 0.0)

    def is_empty(self, chat: bool) -> bool:
        """Whether it has neither text nor refusal. Without `chat`, ending at the first token is an answer too."""
        if self.text.strip().strip(INVISIBLE) or self.refusal or self.finish_reason == "content_filter":
            return False
        ended_at_once = self.finish_reason == "stop" and self.completion_tokens in (0, 1)
        return chat or not ended_at_once


class Budget:
    """Limits on new requests and on their tokens, as the server counts them; None is no limit. Thread-safe.

    Every try counts. A try is let through only if its largest possible cost fits, at one token for two bytes (fewer
    than a token has on average): neither limit is ever passed.
    """

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        self._requests, self._tokens = requests, tokens
        self._lock = threading.Lock()
        self.requests = self.tokens = 0

    def reserve(self, body: Mapping[str, Any]) -> int:
        """Reserve tokens for a request; returns how many. Raises RequestFailed where they do not fit."""
        size = len(json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        most = size // 2 + (body.get("max_tokens") or body["max_completion_tokens"])
        with self._lock:
            if self._requests is not None and self.requests >= self._requests:
                what = f"max_requests={self._requests} new requests are used up"
                raise RequestFailed(what, "raise it in params.yaml")
            if self._tokens is not None and self.tokens + most > self._tokens:
                used = f"{self.tokens} of max_total_tokens={self._tokens} are used up"
                raise RequestFailed(
                    f"{used}, and the next request may need {most}", "raise it in params.yaml"
                )
            self.requests += 1
            self.tokens += most
        return most

    def settle(self, reserved: int, used: int | None) -> None:
        """Replace the reserved tokens by those used; None keeps them, where the use is unknown."""
        if used is not None:
            with self._lock:
                self.tokens += used - reserved


class Client(AbstractContextManager["Client"]):
    """A connection to one server, for several threads at once; a `with` block closes it.

    `key` is the value of the variable `server.api_key_env`; `command` is what a user types again after a failure.
    """

    def __init__(self, server: Server, key: str | None, command: str) -> None:
        """Asks nothing yet. Raises UserError for a missing or malformed key, or an unusable proxy."""
        key = (key or "").strip() if server.api_key_env else ""
        if server.api_key_env and not key:
            raise UserError(
                f"{server.api_key_env} is not set: that environment variable holds the server's key",
                f"export {server.api_key_env}=..., then {command}",
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            # the HTTP library would print such a header whole
            raise UserError(f"{server.api_key_env} holds characters that no key has", "set it again")
        import openai

        self._server, self._key, self._openai = server, key, openai
        url = server.base_url or DEFAULT_URL
        self._proxy, http = connection.http_client(url)
        self.client = openai.OpenAI(
            api_key=key or "none", base_url=url, timeout=server.timeout_s, max_retries=0, http_client=http
        )  # fmt: skip
        self.address = urlsplit(url).netloc

    def ask(
        self, body: Mapping[str, Any], budget: Budget | None = None, stop: threading.Event | None = None
    ) -> Reply:
        """The answer to one request: chat where `body` has `messages`, else completions. Raises RequestFailed.

        Each try is taken from the `budget`; `stop` ends the wait for the next one.
        """
        budget, stop = budget or Budget(None, None), stop or threading.Event()
        retries, wait_s = 0, FIRST_WAIT_S
        while True:
            reserved = budget.reserve(body)
            try:
                reply = self._ask(body, retries)
            except RequestFailed as error:
                budget.settle(reserved, 0 if error.free else None)
                pause_s = max(error.retry_after_s, random.uniform(0.5, 1.0) * wait_s)
                if not error.retryable or retries == self._server.max_retries or stop.wait(pause_s):
                    if error.retryable:
                        error.what += f", tried {retries + 1} times" if retries else ", tried once"
                    raise
                retries, wait_s = retries + 1, min(LONGEST_WAIT_S, 2 * wait_s)
            else:
                budget.settle(reserved, reply.total_tokens)
                return reply

    def _ask(self, body: Mapping[str, Any], retries: int) -> Reply:
        """The answer of one try, after so many `retries`. Raises RequestFailed."""
        api: Any = self.client.chat.completions if "messages" in body else self.client.completions
        try:
            raw = api.with_raw_response.create(**body)
        except self._openai.OpenAIError as error:
            raise self.failure(error) from None
        try:
            return self.parse_reply(json.loads(raw.content), body, raw.elapsed.total_seconds(), retries)
        except MALFORMED:
            what = f"no answer in the form of the OpenAI API: {self._quote(raw.content)}"
            raise RequestFailed(what, "check base_url and api in params.yaml", retryable=True) from None

    def parse_reply(
        self, value: Any, body: Mapping[str, Any], latency_s: float = 0.0, retries: int = 0
    ) -> Reply:
        """The reply in a decoded response. Raises one of MALFORMED for another form, RequestFailed for an empty answer."""
        if value.get("error"):
            raise ValueError("an error beside the choices")
        choice, usage = value["choices"][0], value.get("usage") or {}
        message = choice["message"] if "messages" in body else {"content": choice["text"]}
        reason = choice.get("finish_reason") or UNKNOWN
        if reason.lower() in BROKEN:
            raise ValueError("finish_reason")
        content = message.get("content")  # a string, null, or a list of parts, such as the model's thoughts
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        said = {
            kind: "".join(part.get(kind) or "" for part in parts if part["type"] == kind)
            for kind in ("text", "refusal")
        }
        reply = Reply(
            text=said["text"],
            finish_reason=reason,
            prompt_tokens=_token_count(usage, "prompt_tokens"),
            completion_tokens=_token_count(usage, "completion_tokens"),
            latency_s=latency_s,
            retries=retries,
            concurrency=self._server.concurrency,
            model=str(value.get("model") or body["model"]),
            server=self.address,
            client=f"openai {self._openai.__version__}",
            asked=(datetime.now(UTC) - timedelta(seconds=latency_s)).isoformat(timespec="seconds"),
            refusal=str(message.get("refusal") or said["refusal"]),
        )
        if reply.is_empty("messages" in body):
            raise _empty_answer(reply, message)
        return reply

    def failure(self, error: Exception) -> RequestFailed:
        """What an error of the openai package means."""
        if isinstance(error, self._openai.APITimeoutError):
            return RequestFailed(f"no answer within {self._server.timeout_s:g} s", retryable=True)
        if isinstance(error, self._openai.APIConnectionError):
            through = f" through {self._proxy}" if self._proxy else ""
            hint = f"check that proxy, or add {self.address} to NO_PROXY" if through else "start the server"
            cause = self.one_line(str(error.__cause__ or error))
            return RequestFailed(f"{self.address} does not answer{through} ({cause})", hint, retryable=True)
        if not isinstance(error, self._openai.APIStatusError):
            return RequestFailed(self.one_line(str(error)))
        status = error.status_code
        if status in (401, 403):  # the message may quote the key
            name = self._server.api_key_env
            source = f"the key in {name}" if name else "a request without a key"
            return RequestFailed(f"{status}, the server refuses {source}", "set api_key_env or the key")
        message = self.one_line(connection.error_message(error.body) or error.message)
        refused = 400 <= status < 500 and status != 429
        hint = connection.refused_field_hint(message) or "check base_url, model and api in params.yaml"
        return RequestFailed(
            f"{status} {message}",
            hint if refused else "",
            retryable=status in (408, 409, 429) or status >= 500,
            retry_after_s=connection.retry_after_s(error.response.headers.get("retry-after")),
            # a gateway's 502 comes after the work
            free=status in (429, 503) or (refused and status != 408),
        )

    def one_line(self, text: str) -> str:
        """One line of at most 200 characters without the key."""
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join(text.split())[:200]

    def _quote(self, content: bytes) -> str:
        """A response without an answer: its error message, else its first characters."""
        message = ""
        with suppress(*MALFORMED):
            message = connection.error_message(json.loads(content))
        return repr(self.one_line(message or content.decode("utf-8", "replace"))[:120])

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.client.close()


def _empty_answer(reply: Reply, message: Mapping[str, Any]) -> RequestFailed:
    """An answer without text: what the message holds instead, and the setting that helps."""
    what = f"an empty answer (finish_reason {reply.finish_reason}"
    if names := [name for name in ("reasoning_content", "reasoning", "thinking") if message.get(name)]:
        more = "raise its token limit in params.yaml, or " if reply.is_truncated else ""
        return RequestFailed(f"{what}, all of it in {names[0]})", f"{more}turn the model's reasoning off")
    if message.get("tool_calls"):
        return RequestFailed(f"{what}, a tool call instead)", "start the server without tools")
    return RequestFailed(
        f"{what})", "try another model or api in params.yaml, or fix the server's chat template"
    )


def _token_count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) else None
