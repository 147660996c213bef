"""Pretraining text: catalogs with many short questions each, so that every token teaches something.

Held-out products, held-out frames and, without a header that asks for it, the target JSON never occur.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from cartlm import prompt as prompts
from cartlm.data import noise, rules
from cartlm.data.lexicon import LANGUAGES, Line, Product
from cartlm.data.wording import Phrase, noun_phrase
from cartlm.intent import ACTIONS
from cartlm.params import Data
from cartlm.pretraining import formats

_ONSETS = [
    "b",
    "c",
    "d",
    "f",
    "g",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "z",
    "st",
    "pr",
    "kr",
    "tr",
    "pl",
    "gr",
    "ch",
    "š",
    "č",
    "",
]
_NUCLEI = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "ó", "ie", "ua"]
_CODAS = ["", "", "", "n", "r", "s", "l", "k", "t", "m"]
# noun and adjective endings: nominative, accusative, genitive, after 2-4, genitive plural
_NOUNS = {"f": ("a", "u", "e", "e", "a"), "m": ("", "", "a", "a", "ova"), "n": ("o", "o", "a", "a", "a")}
_ADJECTIVES = {
    "f": ("a", "u", "e", "e", "ih"),
    "m": ("i", "i", "og", "a", "ih"),
    "n": ("o", "o", "og", "a", "ih"),
}
_CASES = ("nom", "acc", "gen", "paucal", "gen_pl")


@dataclass(frozen=True)
class Span:
    """A piece of a document: its text, its weight in the loss, whether EOS follows it.

    `rival` is the same answer with the other action: where the two part, one token decides the action, and it
    weighs DECISION times as much as the others (an answer has some twenty tokens, copied ones for the most part).
    """

    text: str
    weight: float
    ends: bool = False
    rival: str = ""


Document = list[Span]
CONTEXT, WORDING, ANSWER, DECISION = 0.05, 0.2, 1.0, 5.0


def _syllables(rng: random.Random, least: int = 1) -> str:
    count = rng.randint(least, 3)
    return "".join(rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS) for _ in range(count))


def invented_product(language: str, rng: random.Random) -> Product:
    """A product of invented words with the endings of its language: names cannot be learned by heart."""
    count = rng.choice((1, 2, 2, 3))
    gender = rng.choice("fmn" if language == "croatian" else "fm")
    stems = [_syllables(rng, 2 if count == 1 else 1) for _ in range(count)]
    if language == "croatian":
        head = count - 1
        forms = {
            case: " ".join(
                stem + (_NOUNS[gender][i] if position == head else _ADJECTIVES[gender][i])
                for position, stem in enumerate(stems)
            )
            for i, case in enumerate(_CASES)
        }
        name, content = forms["nom"], forms[rng.choice(("gen", "gen_pl"))]
    else:
        head = 0 if language == "spanish" else count - 1
        name = " ".join(stems)
        stems[head] += "s" if stems[head][-1] in "aeiouó" or language == "english" else "es"
        forms = {"one": name, "many": " ".join(stems)}
        content = rng.choice((name, forms["many"]))
    donor = rng.choice(rules.products(language, False))
    units = tuple(unit for unit in donor.units if unit not in ("pair", "par"))
    return Product(
        language,
        donor.domain,
        name,
        head,
        forms,
        gender if language != "english" else "",
        units,
        content if units else "",
        donor.variants,
    )


def _catalog(language: str, params: Data, lines: tuple[int, int], rng: random.Random) -> list[Line]:
    sizes = params.catalog.model_copy(update={"min_lines": lines[0], "max_lines": lines[1]})
    if rng.random() < 0.4:
        share = rng.choice((0.3, 1.0))
        pool = [
            invented_product(language, rng)
            if rng.random() < share
            else rng.choice(rules.products(language, False))
            for _ in range(lines[1])
        ]
        return rules.sample_catalog(rules.sample_line(rng.choice(pool), rng), sizes, rng, tuple(pool))
    target = rules.sample_line(rng.choice(rules.products(language, False)), rng)
    return rules.sample_catalog(target, sizes, rng)


def _questions(
    params: Data, lines: tuple[int, int], rng: random.Random, header: bool, target: bool
) -> Document:
    """One catalog, then messages, each answered in one format and ended by EOS."""
    language = rng.choice(LANGUAGES)
    source = rng.choice(LANGUAGES) if rng.random() < 0.1 else language
    catalog = _catalog(source, params, lines, rng)
    chosen = formats.TARGET if target else formats.sample(rng)
    texts = [line.text for line in catalog]
    spans = [Span(chosen.header(), CONTEXT)] if header else []
    spans.append(Span("Catalog:\n" + "\n".join(texts), CONTEXT))
    for index in range(rng.randint(5, 12)):
        row = rules.word(language, rng.choice(ACTIONS), rng.choice(catalog), catalog, False, params, rng)
        question = (
            prompts.render(texts, row.message)[len(spans[-1].text) :]
            if not index
            else f"\n\nUser:\n{row.message}"
        )
        spans.append(Span(question, WORDING))
        rival = replace(row.intent, action="add" if row.intent.action == "remove" else "remove")
        spans.append(
            Span("\n" + chosen.render(row.intent), ANSWER, ends=True, rival="\n" + chosen.render(rival))
        )
    return spans


def _mentions(params: Data, lines: tuple[int, int], rng: random.Random) -> Document:
    """One catalog, then noisy mentions or whole messages, each answered with the exact line."""
    language = rng.choice(LANGUAGES)
    catalog = _catalog(language, params, lines, rng)
    word = rng.choice(["Item", "Which", "Find", "Line"])
    messages = rng.random() < 0.5
    spans = [Span("Catalog:\n" + "\n".join(line.text for line in catalog), CONTEXT)]
    for _ in range(rng.randint(6, 14)):
        line = rng.choice(catalog)
        if messages:
            said = rules.word(language, rng.choice(ACTIONS), line, catalog, False, params, rng).message
            spans.append(Span(f"\n\n{word}:\n{said}", WORDING))
            spans.append(Span("\n" + line.text, ANSWER, ends=True))
            continue
        possible = rules.names(line, catalog)
        form = rng.choice(
            [f for f in ("full", "inflected", "short", "part") if f == "full" or getattr(possible, f)]
        )
        many = rng.random() < 0.6
        phrase = Phrase(
            rng.choice((2, 3, 5, 8)) if many else 1,
            "digit" if many else "none",
            form,
            rng.random() < 0.3,
            possible.twin,
            language,
        )
        text, _ = noise.apply(noun_phrase(line, phrase, rng)[0], language, params.noise, rng)
        spans.append(Span(f"\n\n{word}:\n{text}", WORDING))
        spans.append(Span("\n" + line.text, ANSWER, ends=True))
    return spans


def _copies(params: Data, lines: tuple[int, int], rng: random.Random) -> Document:
    """A list and the same lines in another order, or asked for by number or by their first words."""
    language = rng.choice(LANGUAGES)
    texts = [line.text for line in _catalog(language, params, lines, rng)]
    spans = [Span("Catalog:\n" + "\n".join(texts), CONTEXT)]
    kind = rng.choice(("shuffle", "shuffle", "same", "number", "begin"))
    if kind in ("shuffle", "same"):
        shuffled = texts if kind == "same" else rng.sample(texts, len(texts))
        return [
            *spans,
            Span(f"\n\n{kind.capitalize()}:", 0.0),
            Span("\n" + "\n".join(shuffled), ANSWER / 2, ends=True),
        ]
    for _ in range(6):
        at = rng.randrange(len(texts))
        asked = str(at + 1) if kind == "number" else texts[at][: rng.randint(3, 8)]
        spans += [Span(f"\n\n{kind.capitalize()}:\n{asked}", 0.0), Span("\n" + texts[at], ANSWER, ends=True)]
    return [*spans, Span("\n\nCount:", 0.0), Span(f"\n{len(texts)}", ANSWER, ends=True)]


def _raw(params: Data, lines: tuple[int, int], rng: random.Random) -> Document:
    """Messages alone, one a line."""
    language = rng.choice(LANGUAGES)
    catalog = _catalog(language, params, lines, rng)
    messages = [
        rules.word(language, rng.choice(ACTIONS), rng.choice(catalog), catalog, False, params, rng).message
        for _ in range(8)
    ]
    return [Span("User:\n" + "\n".join(messages), WORDING, ends=True)]


def document(params: Data, progress: float, rng: random.Random) -> Document:
    """One document; catalogs grow and copying gives way to questions while `progress` goes from 0 to 1.

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
        return _mentions(params, lines, rng)
    if draw < copies + mentions + 0.03:
        return _raw(params, lines, rng)
    header = rng.random() < 0.6
    # 0.12 of 0.35 to 0.78 of the documents is below 0.1 of all
    return _questions(params, lines, rng, header, header and rng.random() < 0.2)


def encode(
    spans: Document, tokenize: Callable[[str], list[int]], bos: int, eos: int
) -> tuple[list[int], list[float]]:
    """Ids and loss weights (of predicting that id) of a document; the prompt and answer parts are tokenized apart."""
    ids, weights = [bos], [0.0]
    for span in spans:
        text, answer = span.text, span.ends and span.text.startswith("\n")
        if answer:  # the newline before an answer belongs to the question, as prompt.separator does
            ids += (newline := tokenize("\n"))
            weights += [0.0] * len(newline)
            text = text[1:]
        part = tokenize(text)
        ids += part
        weights += [span.weight] * len(part)
        if span.rival and span.rival != span.text:
            pairs = zip(part, tokenize(span.rival[1:]), strict=False)
            decides = next(index for index, (one, other) in enumerate(pairs) if one != other)
            weights[decides - len(part)] *= DECISION
        if span.ends:
            ids.append(eos)
            weights.append(span.weight)
    return ids, weights


def texts(params: Data, count: int, seed: int) -> list[str]:
    """`count` documents as plain text, for the tokenizer."""
    rng = random.Random(f"{seed}/texts")
    return ["".join(span.text for span in document(params, 1.0, rng)) for _ in range(count)]
