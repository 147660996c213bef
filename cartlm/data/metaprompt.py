"""What is asked of a model that words messages, in two levels after arXiv 2510.21970.

A metaprompt asks for generation prompts, each with its own persona, situation, register and domain; each of these then
words messages for labels that our code sampled. The model never chooses a label.
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
    """One prompt of the first level; `id` names it in the rows' tags."""

    id: str
    language: str
    novel: bool
    text: str


@dataclass(frozen=True)
class Label:
    """What one message has to say, and among which lines; `noise` is a key of NOISE or empty."""

    catalog: Sequence[str]
    intent: Intent
    noise: str = ""


def prompts_body(settings: Mapping[str, Any], language: str, count: int, novel: bool) -> dict[str, Any]:
    """The request for `count` generation prompts of a language; those for the novel slice are asked for apart."""
    more = " Choose shoppers that one would not think of first." if novel else ""
    text = METAPROMPT.format(count=count, language=NAMES[language], more=more)
    entry = {"type": "object", "properties": {name: {"type": "string"} for name in FIELDS}}
    shape = {"prompts": {"type": "array", "items": _strict(entry)}}
    return _body(settings, [{"role": "user", "content": text}], "prompts", shape, list(FIELDS))


def wording_body(
    settings: Mapping[str, Any], prompt: GenerationPrompt, labels: Sequence[Label]
) -> dict[str, Any]:
    """The request for one message a label."""
    kinds = [label.noise for label in labels if label.noise]
    noise = " Where a label has a style, write the message in that style." if kinds else ""
    system = WORDING.format(prompt=prompt.text, language=NAMES[prompt.language], noise=noise)
    listed = []
    for number, label in enumerate(labels, 1):
        one: dict[str, Any] = {
            "n": number,
            "action": label.intent.action,
            "product": label.intent.product,
            "quantity": label.intent.quantity,
            "catalog": list(label.catalog),
        }
        listed.append(one | ({"style": NOISE[label.noise]} if label.noise else {}))
    entry = {"type": "object", "properties": {"n": {"type": "integer"}, "message": {"type": "string"}}}
    shape = {"messages": {"type": "array", "items": _strict(entry)}}
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": json.dumps(listed, ensure_ascii=False)},
    ]
    return _body(settings, messages, "messages", shape, ["n", "message"])


def _strict(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "required": list(entry["properties"]), "additionalProperties": False}


def _body(
    settings: Mapping[str, Any],
    messages: list[dict[str, str]],
    name: str,
    shape: dict[str, Any],
    keys: list[str],
) -> dict[str, Any]:
    """`settings`: model, `sampling` (fields of the request), structured (OpenAI's structured outputs, else told in words)."""
    body = {"model": settings["model"], **settings["sampling"]}
    if settings["structured"]:
        schema = _strict({"type": "object", "properties": shape})
        form = {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}
        return {**body, "messages": messages, "response_format": form}
    words = f'\nAnswer with one JSON object {{"{name}": [...]}} of objects with the keys {", ".join(keys)}, nothing else.'
    first = {**messages[0], "content": messages[0]["content"] + words}
    return {**body, "messages": [first, *messages[1:]]}


def _listed(text: str, name: str) -> list[dict[str, Any]]:
    """The list of objects that an answer holds under `name`. Raises ValueError."""
    inner = text.strip()
    if inner.startswith("```"):  # servers without structured outputs like to fence it
        inner = inner.strip("`").removeprefix("json")
    try:
        value = json.loads(inner)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError(f"no list under {name!r}")
    return found


def read_prompts(text: str, count: int) -> list[str]:
    """The generation prompts of an answer, persona and the like put before each. Raises ValueError."""
    found = _listed(text, "prompts")
    if len(found) < count:
        raise ValueError(f"{len(found)} prompts of {count}")
    made = []
    for one in found[:count]:
        if not all(isinstance(one.get(name), str) and one[name].strip() for name in FIELDS):
            raise ValueError(f"a prompt without {', '.join(FIELDS)}")
        if any(filters.bad_sign(one[name].replace("\n", " ")) for name in FIELDS):
            raise ValueError("a prompt with a control sign")
        about = "; ".join(f"{name}: {one[name].strip()}" for name in FIELDS[:-1])
        made.append(f"{one['prompt'].strip()}\n({about})")
    return made


def read_messages(text: str, count: int) -> list[str]:
    """The messages of an answer in the order of their labels; a missing one is empty. Raises ValueError."""
    said: dict[int, str] = {}
    for one in _listed(text, "messages"):
        if isinstance(one.get("n"), int) and isinstance(one.get("message"), str):
            said.setdefault(one["n"], " ".join(one["message"].split()))
    return [said.get(number, "") for number in range(1, count + 1)]
