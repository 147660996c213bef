"""Pretraining text: catalogs with many short questions each, so that every token teaches something.

Held-out products, held-out frames and, without a header that asks for it, the target JSON never occur.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

import yaml
from rapidfuzz import fuzz

from base.pretraining import formats
from base.pretraining.inventions import invented_product, respelled_catalog, respelled_product
from cartlm.data import everyday, menus, noise, rules, spelling
from cartlm.data.config import Data
from cartlm.data.lexicon import LANGUAGES, Line
from cartlm.data.wording import Phrase, noun_phrase
from cartlm.task import prompt as prompts
from cartlm.task.intent import ACTIONS


@dataclass(frozen=True)
class Span:
    """A piece of a document: its text, its weight in the loss, whether EOS follows it.

    `rival` is the same answer with the other action: the first token that differs decides the action, and weighs
    DECISION times as much as the others. `lines` are the indices of the catalog lines that an answer copies or a
    question means, and `mention` is where in a question's text the words for its line begin and end.
    """

    text: str
    weight: float
    ends: bool = False
    rival: str = ""
    lines: tuple[int, ...] = ()
    mention: tuple[int, int] = (0, 0)


Document = list[Span]
CONTEXT, WORDING, ANSWER, DECISION, CHOICE = 0.05, 0.2, 1.0, 5.0, 3.0
CATALOG = "Catalog:\n"


def _catalog(language: str, params: Data, lines: tuple[int, int], rng: random.Random) -> list[Line]:
    sizes = params.catalog.model_copy(update={"min_lines": lines[0], "max_lines": lines[1]})
    known = rules.products(language, False)
    if rng.random() < 0.7:
        share = rng.choice((0.3, 0.6, 1.0))
        make = rng.choice((invented_product, respelled_product, respelled_product))
        pool = [make(language, rng) if rng.random() < share else rng.choice(known) for _ in range(lines[1])]
        return rules.sample_catalog(rules.sample_line(rng.choice(pool), rng), sizes, rng, tuple(pool))
    return rules.sample_catalog(rules.sample_line(rng.choice(known), rng), sizes, rng)


def _mention(draft: rules.Draft, shift: int) -> tuple[int, int]:
    """Where in a noisy message the words for the product begin and end, `shift` added to both."""
    start = draft.clean.lower().rfind(draft.phrase.lower())
    if draft.message == draft.clean and start >= 0:
        return shift + start, shift + start + len(draft.phrase)
    found = fuzz.partial_ratio_alignment(draft.phrase.lower(), draft.message.lower())
    start, end = (found.dest_start, found.dest_end) if found else (0, len(draft.message))
    return shift + start, shift + end


@cache
def other_frames(language: str) -> dict[str, list[str]]:
    """Frames by action that the grammar of the task does not have: text beyond the task."""
    text = (resources.files("base.pretraining") / "frames" / f"{language}.yaml").read_text(encoding="utf-8")
    listed = yaml.safe_load(text)
    frames: dict[str, list[str]] = {}
    for action in ACTIONS:
        verbs = listed["verbs"][action]
        with_verb = [frame.replace("{verb}", verb) for frame in listed["with_verb"] for verb in verbs]
        frames[action] = list(dict.fromkeys([*listed[action], *with_verb]))
    return frames


def _pick(catalog: list[Line], rng: random.Random) -> int:
    """A line to ask for; often one that may be named by its size or its head noun alone: the hardest to find."""
    if rng.random() < 0.5:
        possible = [rules.names(line, catalog) for line in catalog]
        hard = [at for at, names in enumerate(possible) if names.part or names.short]
        if hard:
            return rng.choice(hard)
    return rng.randrange(len(catalog))


def _everyday_catalog(language: str, params: Data, lines: tuple[int, int], rng: random.Random) -> list[Line]:
    """A catalog as everyday messages have: a menu, or names written in their own way; often with words in no lexicon."""
    rates = params.everyday
    if rng.random() < rates.menus:
        sizes = params.catalog.model_copy(update={"min_lines": lines[0], "max_lines": lines[1]})
        catalog = menus.sample(language, False, sizes, rng)[1]
        if rng.random() < 0.6:
            catalog = respelled_catalog(catalog, rng)
    else:
        catalog = _catalog(language, params, lines, rng)
    if rng.random() < rates.spelled:
        return spelling.respell(catalog, rng)
    return spelling.with_signs(catalog, rng) if rng.random() < rates.signs else catalog


def _everyday_message(
    language: str, line: Line, catalog: list[Line], params: Data, rng: random.Random
) -> rules.Draft:
    return everyday.word(language, rng.choice(ACTIONS), line, catalog, False, params, rng)


def _message(language: str, line: Line, catalog: list[Line], params: Data, rng: random.Random) -> rules.Draft:
    action = rng.choice(ACTIONS)
    frames = other_frames(language)[action] if rng.random() < 0.5 else ()
    if rng.random() < 0.5:
        hard = {"name_full": 0.1, "name_short": 0.6, "name_part": 0.8}
        params = params.model_copy(update={"wording": params.wording.model_copy(update=hard)})
    return rules.word(language, action, line, catalog, False, params, rng, frames)


def _questions(
    params: Data, lines: tuple[int, int], rng: random.Random, header: bool, target: bool, daily: bool
) -> Document:
    """One catalog, then messages, each answered in one format and ended by EOS."""
    language = rng.choice(LANGUAGES)
    if daily:
        catalog = _everyday_catalog(language, params, lines, rng)
    else:
        source = rng.choice(LANGUAGES) if rng.random() < 0.1 else language
        catalog = _catalog(source, params, lines, rng)
    ask = _everyday_message if daily else _message
    chosen = formats.TARGET if target else formats.sample(rng)
    texts = [line.text for line in catalog]
    spans = [Span(chosen.header(), CONTEXT)] if header else []
    spans.append(Span(CATALOG + "\n".join(texts), CONTEXT))
    for index in range(rng.randint(5, 12)):
        at = _pick(catalog, rng)
        draft = ask(language, catalog[at], catalog, params, rng)
        question = f"\n\nUser:\n{draft.message}"
        if not index:
            question = prompts.render_prompt(texts, draft.message)[len(spans[-1].text) :]
        mention = _mention(draft, len(question) - len(draft.message))
        spans.append(Span(question, WORDING, lines=(at,), mention=mention))
        rival = replace(draft.intent, action="add" if draft.intent.action == "remove" else "remove")
        answer, other = (f"\n{chosen.render(intent)}" for intent in (draft.intent, rival))
        spans.append(Span(answer, ANSWER, ends=True, rival=other, lines=(at,)))
    return spans


def _mentions(params: Data, lines: tuple[int, int], rng: random.Random, daily: bool) -> Document:
    """One catalog, then noisy mentions or whole messages, each answered with the exact line."""
    language = rng.choice(LANGUAGES)
    catalog = (_everyday_catalog if daily else _catalog)(language, params, lines, rng)
    ask = _everyday_message if daily else _message
    word = rng.choice(["Item", "Which", "Find", "Line"])
    messages = rng.random() < 0.5
    spans = [Span(CATALOG + "\n".join(line.text for line in catalog), CONTEXT)]
    for _ in range(rng.randint(6, 14)):
        at = _pick(catalog, rng)
        line, opening = catalog[at], f"\n\n{word}:\n"
        if messages:
            draft = ask(language, line, catalog, params, rng)
            text, mention = draft.message, _mention(draft, len(opening))
        else:
            text = _noisy_name(language, line, catalog, params, rng)
            mention = (len(opening), len(opening) + len(text))
        spans.append(Span(opening + text, WORDING, lines=(at,), mention=mention))
        spans.append(Span("\n" + line.text, ANSWER, ends=True, lines=(at,)))
    return spans


def _noisy_name(language: str, line: Line, catalog: list[Line], params: Data, rng: random.Random) -> str:
    """The words for a product alone, with or without a quantity."""
    names = rules.names(line, catalog)
    forms = ("full", "inflected", "short", "part")
    form = rng.choice([form for form in forms if form == "full" or getattr(names, form)])
    many = rng.random() < 0.6
    quantity = rng.choice((2, 3, 5, 8)) if many else 1
    phrase = Phrase(quantity, "digit" if many else "none", form, rng.random() < 0.3, names.twin, language)
    return noise.apply(noun_phrase(line, phrase, rng)[0], language, params.noise, rng)[0]


def _copies(params: Data, lines: tuple[int, int], rng: random.Random) -> Document:
    """A list and the same lines in another order, or asked for by number or by their first words."""
    language = rng.choice(LANGUAGES)
    texts = [line.text for line in _catalog(language, params, lines, rng)]
    spans = [Span(CATALOG + "\n".join(texts), CONTEXT)]
    kind = rng.choice(("shuffle", "shuffle", "same", "number", "begin"))
    if kind in ("shuffle", "same"):
        order = list(range(len(texts)))
        if kind == "shuffle":
            rng.shuffle(order)
        copied = "\n" + "\n".join(texts[index] for index in order)
        spans.append(Span(f"\n\n{kind.capitalize()}:", 0.0))
        return [*spans, Span(copied, ANSWER / 2, ends=True, lines=tuple(order))]
    for _ in range(6):
        at = rng.randrange(len(texts))
        key = str(at + 1) if kind == "number" else texts[at][: rng.randint(3, 8)]
        question = f"\n\n{kind.capitalize()}:\n{key}"
        mention = (len(question) - len(key), len(question))
        spans.append(Span(question, 0.0, lines=(at,), mention=mention))
        spans.append(Span("\n" + texts[at], ANSWER, ends=True, lines=(at,)))
    return [*spans, Span("\n\nCount:", 0.0), Span(f"\n{len(texts)}", ANSWER, ends=True)]


def _raw(params: Data, lines: tuple[int, int], rng: random.Random) -> Document:
    """Messages alone, one a line."""
    language = rng.choice(LANGUAGES)
    catalog = _catalog(language, params, lines, rng)
    messages = [_message(language, rng.choice(catalog), catalog, params, rng).message for _ in range(8)]
    return [Span("User:\n" + "\n".join(messages), WORDING, ends=True)]


def document(params: Data, progress: float, rng: random.Random, share: float = 0.0) -> Document:
    """One document; catalogs grow and copying gives way to questions while `progress` goes from 0 to 1.

    `share` of the questions are everyday messages (cartlm/data/everyday.py).
    At most 10 % of documents hold the target JSON, each with the header that asks for it.
    """
    most = 8 if progress < 0.08 else 13 if progress < 0.2 else params.catalog.max_lines
    lines = (min(3 if progress < 0.2 else params.catalog.min_lines, most), most)
    copies = 0.35 if progress < 0.08 else 0.12 if progress < 0.3 else 0.04
    mentions = 0.3 if progress < 0.3 else 0.25
    draw = rng.random()
    if draw < copies:
        return _copies(params, lines, rng)
    if draw < copies + mentions:
        return _mentions(params, lines, rng, _drawn(share, rng))
    if draw < copies + mentions + 0.03:
        return _raw(params, lines, rng)
    header = rng.random() < 0.6
    # 0.12 of 0.35 to 0.78 of the documents is below 0.1 of all
    target = header and rng.random() < 0.2
    return _questions(params, lines, rng, header, target, _drawn(share, rng))


def _drawn(share: float, rng: random.Random) -> bool:
    """Whether something of this probability happens; with 0, the same random numbers as without the question."""
    return share > 0 and rng.random() < share


def texts(params: Data, count: int, seed: int) -> list[str]:
    """`count` documents as plain text, for the tokenizer."""
    rng = random.Random(f"{seed}/texts")
    return ["".join(span.text for span in document(params, 1.0, rng)) for _ in range(count)]
