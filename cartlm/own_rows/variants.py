"""Whom to ask: a variant of params.yaml, a model at a path, or a server with the OpenAI API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pydantic import ValidationError

from cartlm.config import first_wrong
from cartlm.engines.config import Remote
from cartlm.errors import UserError
from cartlm.evaluation.shots import INSTRUCTION
from cartlm.params import Params
from cartlm.serving.models import Model, find_model


@dataclass(frozen=True)
class Local:
    """A model on this machine; `name` is what tables call it."""

    name: str
    model: Model


@dataclass(frozen=True)
class Served:
    """A server, and its key; `name` is what tables call it."""

    name: str
    server: Remote
    key: str | None = field(repr=False)


Variant = Local | Served


def find(name: str, params: Params, environ: Mapping[str, str]) -> Variant:
    """A server of params.yaml, whose key is in `environ`, or a model as `cartlm.serving.models.find_model` finds it.

    Raises UserError for what is neither, FileNotFoundError for a model that does not exist yet.
    """
    if name in params.remote:
        return _served(name, params.remote[name], environ)
    return Local(name, find_model(name))


def _served(name: str, server: Remote, environ: Mapping[str, str]) -> Served:
    return Served(name, server, environ.get(server.api_key_env) if server.api_key_env else None)


def served(
    url: str, model: str, api: str, key_variable: str | None, max_new_tokens: int, environ: Mapping[str, str]
) -> Served:
    """The server at `url`, asked for one `model`.

    `api`: `completions` for a model fine-tuned here, which gets the bare prompt; `chat` for an instructed one, which gets an
    instruction. `key_variable` names the variable of `environ` that holds the key. Raises UserError.
    """
    values = {
        "engine": "openai", "base_url": url, "model": model, "api": api, "api_key_env": key_variable,
        "instruction": INSTRUCTION.strip() if api == "chat" else None, "max_new_tokens": max_new_tokens,
        "token_limit": "max_tokens", "temperature": 0.0, "concurrency": 4, "max_retries": 5, "timeout_s": 60.0,
        "input_price": None, "output_price": None, "price_source": None,
    }  # fmt: skip
    try:
        return _served(f"{model}@{urlsplit(url).netloc}", Remote.model_validate(values), environ)
    except ValidationError as error:
        raise UserError(f"--server: {first_wrong(error)}", "cartlm evaluate --help") from None
