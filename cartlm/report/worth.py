"""On which messages a fine-tuned model is worth it: `f16` beside the baseline, which needs no model, by kind of message."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartlm.evaluation.paired import BASELINE, F16
from cartlm.evaluation.statistics import wilson
from cartlm.report import cells
from cartlm.report.cells import Interval
from cartlm.report.summary import read_optional

BEGIN, END = "<!-- worth -->", "<!-- /worth -->"
"""The README's markers around `sentences`."""
TITLE = "Model against baseline, by kind of message"
ANCHOR = "-".join(re.findall(r"\w+", TITLE.lower()))
"""Of the section with that title."""
FEWEST = 30  # rows of a kind that a sentence names
NAMED = 3  # kinds in a sentence
TEST, NATURAL = "generated test messages", "messages typed by people, mostly short English orders"
KINDS = {
    "language_croatian": "in Croatian",
    "language_english": "in English",
    "language_spanish": "in Spanish",
    "noise_clean": "without typing errors or slang",
    "noise_noisy": "with typing errors or slang",
    "phrasing_classic": "in classic wording",
    "phrasing_everyday": "in everyday wording",
    "not_novel": "about products and in phrases seen in training",
    "novel": "about products and in phrases never seen in training",
    "correction_none": "without a correction",
    "correction_product": "that correct the product",
    "correction_quantity": "that correct the quantity",
    "style_polite": "that ask politely",
    "style_terse": "in a few words",
    "style_rambling": "that ramble",
    "style_bare": "that are just a product name",
    "style_order": "that are plain orders",
    "style_aside": "that only give a reason",
    "lines_menu": "about a menu",
    "spelling_own": "with unusually spelled names",
    "name_form_full": "that copy the catalog line",
    "name_form_inflected": "that inflect the product's name",
    "name_form_short": "that give one word of the product's name",
    "name_form_part": "that give only the product's size",
    "name_form_some_words": "that give some words of the product's name",
    "name_form_property": "that name a property of the product",
    "name_form_synonym": "that use another word for the product",
    "quantity_form_digit": "with the quantity in digits",
    "quantity_form_word": "with the quantity in words",
    "quantity_form_pack": "with a pack as the quantity",
    "quantity_form_behind": "with the quantity behind the name",
    "quantity_form_none": "without a quantity",
}
"""Slice of the test rows -> the messages in it: what follows "messages" in a sentence."""


@dataclass(frozen=True)
class Kind:
    """One kind of message, answered by both."""

    messages: str
    n: int
    baseline: Interval  # exact match, as the next
    f16: Interval

    @property
    def lead(self) -> float:
        """How much more of them `f16` answers exactly."""
        return self.f16.value - self.baseline.value

    @property
    def better(self) -> str:
        """The variant whose interval lies above the other's; empty where they overlap."""
        if self.f16.low > self.baseline.high:
            return F16
        return BASELINE if self.baseline.low > self.f16.high else ""

    @property
    def against(self) -> str:
        """The better one's share before the other's, the model's where neither is better."""
        shares = (percent(self.f16.value), percent(self.baseline.value))
        return " against ".join(reversed(shares) if self.better == BASELINE else shares)


def kinds(metrics: Path) -> list[Kind]:
    """All test rows, each of KINDS, and the natural messages, as far as both variants answered the same number of them."""
    both = [read_optional(metrics / "eval" / f"{name}.json") for name in (BASELINE, F16)]
    found = [_kind(TEST, both, "free", "exact_match", "n")]
    found += [
        _kind(f"messages {words}", both, "free_slices", key, f"{key}_n") for key, words in KINDS.items()
    ]
    found.append(_kind(NATURAL, both, "natural", "exact_match", "n"))
    return [each for each in found if each]


def _kind(
    messages: str, both: Sequence[Mapping[str, Any]], section: str, key: str, count: str
) -> Kind | None:
    values = [file.get(section, {}) for file in both]
    if not all(key in each and count in each for each in values) or values[0][count] != values[1][count]:
        return None
    n = int(values[0][count])
    baseline, f16 = (Interval(each[key], *wilson(round(each[key] * n), n)) for each in values)
    return Kind(messages, n, baseline, f16)


def sentences(metrics: Path) -> str:
    """Where the model is worth it and where it is not; empty where one of both was not evaluated."""
    found = {each.messages: each for each in kinds(metrics)}
    test, natural = found.pop(TEST, None), found.pop(NATURAL, None)
    if test is None:
        return ""
    told = [
        f"Of {test.n:,} {TEST}, the fine-tuned model (`{F16}`, decoded freely) answers {percent(test.f16.value)} exactly, and the "
        f"baseline, which uses no language model, {percent(test.baseline.value)}."
    ]
    gains, losses = (largest(found.values(), variant) for variant in (F16, BASELINE))
    if gains:
        told.append(f"The model helps most on messages {listed(gains)}.")
    if losses:
        told.append(f"The baseline is better on messages {listed(losses)}.")
    if natural:
        outcome = {
            F16: f"the model {'wins, too' if gains else 'wins'}",
            BASELINE: "the baseline wins",
            "": "the intervals of model and baseline overlap",
        }
        told.append(f"On {natural.n:,} {NATURAL}, {outcome[natural.better]}: {natural.against}.")
    return " ".join([*told, *together(metrics)])


def together(metrics: Path) -> list[str]:
    """A sentence on the ensemble of both, if it was evaluated."""
    evaluation = read_optional(metrics / "eval" / f"{F16}.json")
    shares = {
        words: evaluation[name]["exact_match"]
        for name, words in {
            "ensemble": "the test messages",
            "natural_ensemble": "the messages typed by people",
        }.items()
        if name in evaluation
    }
    parts = [f"{percent(share)} of {words}" for words, share in shares.items()]
    return [f"Together, as an ensemble, they answer {' and '.join(parts)}."] if parts else []


def largest(found: Iterable[Kind], better: str) -> list[Kind]:
    """The kinds of at least FEWEST rows that one variant answers better, by its lead; NAMED at most."""
    kept = [each for each in found if each.n >= FEWEST and each.better == better]
    return sorted(kept, key=lambda each: -abs(each.lead))[:NAMED]


def listed(kinds: Sequence[Kind]) -> str:
    named = [f"{each.messages.removeprefix('messages ')} ({each.against})" for each in kinds]
    return " and ".join(filter(None, [", ".join(named[:-1]), named[-1]]))


def percent(share: float) -> str:
    """Rounded as in the table beside it: 0.805, a little more in binary, is 0.81 there."""
    return f"{100 * round(share, 2):.0f} %"


def section(metrics: Path, level: str) -> list[str]:
    """Title (after `level`, such as ##), sentences and a table of all kinds; nothing where one of both was not evaluated."""
    told = sentences(metrics)
    if not told:
        return []
    rows = [
        {
            "messages": each.messages,
            "rows": f"{each.n:,}",
            **each.baseline.row(BASELINE),
            **each.f16.row(F16),
        }
        for each in kinds(metrics)
    ]
    return [
        f"{level} {TITLE}",
        f"`{BASELINE}` matches the message with the catalog lines (rapidfuzz) and reads number and action by linear weights "
        f"fitted on the training rows. {told}",
        cells.markdown(("messages", "rows", BASELINE, F16), rows),
    ]
