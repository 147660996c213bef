"""The requests to a model that words messages, on two levels (after arXiv 2510.21970).

A metaprompt asks for generation prompts, each with its own persona, situation, register and domain; each of these then
words messages for labels sampled by our code. The model never chooses a label.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cartlm.data import filters
from cartlm.data.config import Worded
from cartlm.data.lexicon import Line, read_yaml
from cartlm.task.intent import Intent

FIELDS = ("persona", "situation", "register", "domain", "prompt")
PROMPTS = read_yaml("prompts/prompts.yaml")
NOISE: dict[str, str] = PROMPTS["noise"]


@dataclass(frozen=True)
class GenerationPrompt:
    """A prompt of the first level; the rows' tags have its `id`."""

    id: str
    language: str
    novel: bool
    text: str


@dataclass(frozen=True)
class Label:
    """What one message has to say, and among which lines; `noise` is a key of NOISE or empty."""

    line: Line
    catalog: Sequence[Line]
    intent: Intent
    noise: str = ""


def prompts_body(settings: Worded, language: str, count: int, novel: bool) -> dict[str, Any]:
    """The request for `count` generation prompts of a language; those for the novel slice are asked for apart."""
    more = " Choose shoppers that one would not think of first." if novel else ""
    text = PROMPTS["metaprompt"].format(count=count, language=language.capitalize(), more=more)
    messages = [{"role": "user", "content": text}]
    return _body(settings, messages, "prompts", dict.fromkeys(FIELDS, "string"))


def wording_body(settings: Worded, prompt: GenerationPrompt, labels: Sequence[Label]) -> dict[str, Any]:
    """The request for one message a label."""
    styled = any(label.noise for label in labels)
    noise = " Where a label has a style, write the message in that style." if styled else ""
    system = PROMPTS["wording"].format(prompt=prompt.text, language=prompt.language.capitalize(), noise=noise)
    listed = [
        {
            "n": number,
            "action": label.intent.action,
            "product": label.intent.product,
            "quantity": label.intent.quantity,
            "catalog": [line.text for line in label.catalog],
            **({"style": NOISE[label.noise]} if label.noise else {}),
        }
        for number, label in enumerate(labels, 1)
    ]
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": json.dumps(listed, ensure_ascii=False)},
    ]
    return _body(settings, messages, "messages", {"n": "integer", "message": "string"})


def _body(
    settings: Worded, messages: list[dict[str, str]], name: str, types: Mapping[str, str]
) -> dict[str, Any]:
    """A request for a list `name` of objects with fields of these JSON types."""
    limits = settings.sampling_fields(settings.max_tokens)
    body = {"model": settings.model, **limits}
    if settings.structured:
        entry = _strict({key: {"type": kind} for key, kind in types.items()})
        schema = _strict({name: {"type": "array", "items": entry}})
        form = {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}
        return {**body, "messages": messages, "response_format": form}
    words = f'\nAnswer with one JSON object {{"{name}": [...]}} of objects with the keys {", ".join(types)}, nothing else.'
    first = {**messages[0], "content": messages[0]["content"] + words}
    return {**body, "messages": [first, *messages[1:]]}


def _strict(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _parse_list(text: str, name: str) -> list[dict[str, Any]]:
    """The list of objects that an answer holds under `name`. Raises ValueError."""
    text = text.strip()
    if text.startswith("```"):  # servers without structured outputs like to fence it
        text = text.strip("`").removeprefix("json")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    entries = value.get(name) if isinstance(value, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"no list under {name!r}")
    return entries


def parse_prompts(text: str, count: int) -> list[str]:
    """The generation prompts of an answer, each followed by its persona and the like. Raises ValueError."""
    entries = _parse_list(text, "prompts")
    if len(entries) < count:
        raise ValueError(f"{len(entries)} prompts of {count}")
    prompts = []
    for entry in entries[:count]:
        if not all(isinstance(entry.get(name), str) and entry[name].strip() for name in FIELDS):
            raise ValueError(f"a prompt without {', '.join(FIELDS)}")
        if any(filters.bad_sign(entry[name]) for name in FIELDS):
            raise ValueError("a prompt with a control sign")
        about = "; ".join(f"{name}: {entry[name].strip()}" for name in FIELDS[:-1])
        prompts.append(f"{entry['prompt'].strip()}\n({about})")
    return prompts


def parse_messages(text: str, count: int) -> list[str]:
    """The messages of an answer in the order of their labels; a missing one is empty. Raises ValueError."""
    messages: dict[int, str] = {}
    for entry in _parse_list(text, "messages"):
        if isinstance(entry.get("n"), int) and isinstance(entry.get("message"), str):
            messages.setdefault(entry["n"], " ".join(entry["message"].split()))
    return [messages.get(number, "") for number in range(1, count + 1)]
