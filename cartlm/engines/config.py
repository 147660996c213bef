"""Params of servers with the OpenAI API."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from cartlm.config import Count, Positive, Price, Section, Tokens

Temperature = Annotated[float, Field(ge=0, le=2)]
# The request's field; gpt-5 and the o-series take the latter.
TokenLimit = Literal["max_tokens", "max_completion_tokens"]


def check_server(given: Any) -> None:
    """Raise ValueError for what is wrong with a server's section; none of the messages shows the value: it may be a key."""
    if given.api_key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", given.api_key_env):
        raise ValueError(
            "api_key_env is not the name of an environment variable, such as OPENAI_API_KEY; "
            "a key never stands here"
        )
    url = urlsplit(given.base_url or "http://default")
    if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc or url.query:
        raise ValueError("base_url is not like http://127.0.0.1:8080/v1, without a password or query")
    if len({value is None for value in (given.input_price, given.output_price, given.price_source)}) > 1:
        raise ValueError("input_price, output_price and price_source are given together or all null")


class Remote(Section):
    """A server with the OpenAI API that answers the test rows; `make remote` asks it, nothing else does."""

    engine: Literal["openai"]
    base_url: str | None  # such as http://127.0.0.1:8080/v1; null: the client's default
    model: Annotated[str, Field(min_length=1)]
    api: Literal["chat", "completions"]  # completions: the bare prompt, for a model fine-tuned on it
    api_key_env: str | None  # name of the environment variable with the key; null: a server without keys
    instruction: str | None  # chat: the system prompt
    max_new_tokens: Tokens
    token_limit: TokenLimit
    temperature: Temperature | None  # 0: greedy; null: not sent, for models that take none but their own
    concurrency: Count  # requests in flight
    max_retries: Annotated[int, Field(ge=0)]
    timeout_s: Positive  # of each try
    input_price: Price | None  # US dollars per million tokens; null: no cost is reported
    output_price: Price | None
    price_source: str | None  # where and when the prices were read

    @model_validator(mode="after")
    def _sound(self) -> Remote:
        check_server(self)
        if self.api == "completions" and self.instruction is not None:
            raise ValueError("instruction is the system prompt of api: chat; completions has none")
        if self.api == "completions" and self.token_limit != "max_tokens":
            raise ValueError("token_limit is max_tokens with api: completions, which has no other")
        return self
