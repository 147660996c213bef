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
from cartlm.task.intent import Intent

NAMES = {"english": "English", "croatian": "Croatian", "spanish": "Spanish"}
FIELDS = ("persona", "situation", "register", "domain", "prompt")
NOISE = {
    "typos": "with one or two typing slips, as on a phone keyboard",
    "slang": "with chat abbreviations or slang of that language",
    "lower": "all in lower case, without punctuation",
    "plain": "without any diacritics",
    "mixed": "with some words of another language that young people there mix in",
}
"""Kinds of noise that the model can be asked for, with the words for it."""

METAPROMPT = """\
You design synthetic data for a shop's assistant that reads what shoppers type. Write {count} different prompts, in English,
each of which tells a language model how one particular kind of shopper words short chat messages in {language}.
The {count} shoppers must differ from each other in all of these: persona (age, job, temper, how well they type), situation
(where they are and why they order), register (formal, curt, chatty, dialect, impatient ...) and domain (groceries,
household, clothing, electronics, beauty, sport, office). The prompts must not mention particular products or numbers,
and must not tell the model to answer the shopper. Keep each prompt under 60 words.{more}"""

WORDING = """\
{prompt}

You now write messages that this shopper types to an online shop, in {language}. For each numbered label below write exactly
one message which a shop assistant would understand as that label: the action (add to the cart or remove from it), the
product, and the quantity. Name the product as a person would (shortened or inflected is fine) so that it cannot be
taken for another line of the catalog given with it; where only a size tells two lines apart, say the size. With a quantity
of 1 the number may be left out; otherwise say it, as digits or a word. Do not mention the catalog, do not
write JSON in a message, one line each, at most 40 words.{noise}"""


@dataclass(frozen=True)
class GenerationPrompt:
    """A prompt of the first level; the rows' tags have its `id`."""

    id: str
    language: str
    novel: bool
    text: str


@dataclass(frozen=True)
class Label:
    """What one message has to say, and the catalog it is about; `noise` is a key of NOISE or empty."""

    catalog: Sequence[str]
    intent: Intent
    noise: str = ""


def prompts_body(settings: Mapping[str, Any], language: str, count: int, novel: bool) -> dict[str, Any]:
    """The request for `count` generation prompts of a language; those for the novel slice are asked for apart."""
    more = " Choose shoppers that one would not think of first." if novel else ""
    text = METAPROMPT.format(count=count, language=NAMES[language], more=more)
    messages = [{"role": "user", "content": text}]
    return _body(settings, messages, "prompts", dict.fromkeys(FIELDS, "string"))


def wording_body(
    settings: Mapping[str, Any], prompt: GenerationPrompt, labels: Sequence[Label]
) -> dict[str, Any]:
    """The request for one message a label."""
    styled = any(label.noise for label in labels)
    noise = " Where a label has a style, write the message in that style." if styled else ""
    system = WORDING.format(prompt=prompt.text, language=NAMES[prompt.language], noise=noise)
    listed = [
        {
            "n": number,
            "action": label.intent.action,
            "product": label.intent.product,
            "quantity": label.intent.quantity,
            "catalog": list(label.catalog),
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
    settings: Mapping[str, Any], messages: list[dict[str, str]], name: str, types: Mapping[str, str]
) -> dict[str, Any]:
    """A request for a list `name` of objects with fields of these JSON types.

    `settings`: model, sampling (fields of the request), structured (structured outputs, else the form is described).
    """
    body = {"model": settings["model"], **settings["sampling"]}
    if settings["structured"]:
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
        if any(filters.bad_sign(entry[name].replace("\n", " ")) for name in FIELDS):
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
