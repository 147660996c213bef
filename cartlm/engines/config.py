"""Params of servers with the OpenAI API."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from cartlm.config import Count, Positive, Price, Section, Tokens


class Server(Section):
    """A server with the OpenAI API, and how a model on it is asked.

    No error message shows a value of this section: it may be a key.
    """

    base_url: str | None  # such as http://127.0.0.1:8080/v1; null: the client's default
    model: Annotated[str, Field(min_length=1)]
    api_key_env: str | None  # name of the environment variable with the key; null: a server without keys
    temperature: Annotated[float, Field(ge=0, le=2)] | None  # 0: greedy; null: not sent, the model's own
    token_limit: Literal["max_tokens", "max_completion_tokens"]  # gpt-5 and the o-series take the latter
    concurrency: Count  # requests in flight
    max_retries: Annotated[int, Field(ge=0)]
    timeout_s: Positive  # of each try
    input_price: Price | None  # US dollars per million tokens; null: no cost is reported
    output_price: Price | None
    price_source: str | None  # where and when the prices were read

    @model_validator(mode="after")
    def _check_server(self) -> Server:
        if self.api_key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.api_key_env):
            raise ValueError(
                "api_key_env is not the name of an environment variable, such as OPENAI_API_KEY; "
                "never write a key here"
            )
        url = urlsplit(self.base_url or "http://default")
        if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc or url.query:
            raise ValueError("base_url is not like http://127.0.0.1:8080/v1, without a password or query")
        if len({price is None for price in (self.input_price, self.output_price, self.price_source)}) > 1:
            raise ValueError("set input_price, output_price and price_source together, or none of them")
        return self

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """The cost at list price, no discount taken off; None without prices."""
        if self.input_price is None or self.output_price is None:
            return None
        return (prompt_tokens * self.input_price + completion_tokens * self.output_price) / 10**6

    def sampling_fields(self, max_tokens: int) -> dict[str, Any]:
        """The fields of a request that control sampling and length."""
        temperature = {} if self.temperature is None else {"temperature": self.temperature}
        return {**temperature, self.token_limit: max_tokens}


class Remote(Server):
    """A server that answers the test rows; only `make remote` asks it."""

    engine: Literal["openai"]
    api: Literal["chat", "completions"]  # completions: the bare prompt, for a model fine-tuned on it
    instruction: str | None  # chat: the system prompt
    max_new_tokens: Tokens

    @model_validator(mode="after")
    def _check_api(self) -> Remote:
        if self.api == "completions" and self.instruction is not None:
            raise ValueError("instruction is the system prompt of api: chat; completions has none")
        if self.api == "completions" and self.token_limit != "max_tokens":
            raise ValueError("token_limit is max_tokens with api: completions, which has no other")
        return self
