"""One message at a time from catalog and message to an intent: within the catalog's legal answers, or freely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from cartlm.baseline import reader as baseline
from cartlm.data import records
from cartlm.decoding.cache import Cache
from cartlm.decoding.confidence import Calibration, Signs
from cartlm.decoding.constrained import Constrained, Reply, TooLong
from cartlm.decoding.jump_forward import CLEAR
from cartlm.decoding.prefix_cache import PrefixCache
from cartlm.errors import UserError
from cartlm.serving.models import Settings
from cartlm.task.intent import NO_ORDER, Intent, parse_intent
from cartlm.task.prompt import PromptBuilder, render_prompt

LONGEST = 128  # characters of a token: Llama 3 has one of 128 spaces, others have shorter ones


class Unreadable(ValueError):
    """A message, catalog or answer without an intent; `answer` is the model's text, None if it was not asked."""

    def __init__(self, message: str, answer: str | None = None) -> None:
        super().__init__(message)
        self.answer = answer


@dataclass(frozen=True)
class Work:
    """What decoding did.

    Of the prompt's tokens `cached_tokens` came out of the prefix cache. The model chose `decided_tokens` of the answer,
    `forced_tokens` were the only legal ones. The baseline's draft proposed `drafted` decisions, of which the model made
    the first `accepted` alike. `checked`: a decision was so close that the answer was decoded again without the draft,
    which is counted in. The baseline itself ("rules") has no tokens.
    """

    decoding: Literal["constrained", "ensemble", "free", "rules"]
    prompt_tokens: int = 0
    cached_tokens: int = 0
    decided_tokens: int = 0
    forced_tokens: int = 0
    forward_passes: int = 0
    drafted: int = 0
    accepted: int = 0
    checked: bool = False


@dataclass(frozen=True)
class Decoded:
    """`confidence` is the probability among the legal answers, calibrated where that was learned; None where these were
    not compared."""

    intent: Intent
    confidence: float | None
    work: Work


class FreeDecoder:
    """An engine that says what it likes, greedily; its text is read as an intent of the catalog, or as none at all.

    `limit`: how many tokens the model was made to read, prompt and answer together; None for the baseline, whose ids are
    characters, as many as there are.
    """

    def __init__(self, engine: Any, builder: PromptBuilder, settings: Settings, limit: int | None) -> None:
        self._engine, self._builder, self._settings, self._limit = engine, builder, settings, limit

    def decode(self, catalog: Sequence[str], message: str) -> Decoded:
        """Raises Unreadable for a prompt that is too long or has a special token, and for an answer that is cut, no
        intent, or names no catalog line."""
        most, limit = self._settings.max_new_tokens, self._limit
        bound = None if limit is None else min(self._settings.max_tokens, limit - 1)
        ids = _prompt_ids(self._builder, catalog, message, bound)
        if bound is not None and len(ids) > bound:
            raise Unreadable(f"the prompt takes {len(ids)} tokens, and {bound} are allowed")
        if limit is not None:
            most = min(most, limit - len(ids))
        answer = self._engine.answer(ids, most)
        if answer.finish_reason != "stop":
            raise Unreadable(f"the answer did not end within {most} tokens", answer.text)
        try:
            intent = parse_intent(answer.text)
            if intent != NO_ORDER or not self._settings.none:
                intent = replace(intent, product=records.catalog_line(intent.product, catalog))
        except ValueError as error:
            raise Unreadable(f"the answer is no intent of this catalog: {error}", answer.text) from None
        if limit is None:
            return Decoded(intent, None, Work("rules"))
        tokens = answer.decoded_tokens
        return Decoded(intent, None, Work("free", len(ids), decided_tokens=tokens, forward_passes=tokens + 1))

    def close(self) -> None:
        """Nothing to free: the engine is the reader's."""


class LegalDecoder:
    """A KV cache over an engine's weights, within the catalog's legal answers, with drafts of the baseline if there is one.

    A draft makes a pass wider, which rounds differently. So an answer that is not CLEAR is decoded again without it: the
    answers are those without a draft. With a `margin` they are the ensemble's, which takes a draft within it. `prefixes`
    reads each catalog in a pass of its own, cached or not. `calibration` makes probabilities confidences; it needs drafts.
    """

    def __init__(
        self, cache: Cache, builder: PromptBuilder, settings: Settings, prefixes: PrefixCache,
        rules: baseline.Weights | None, margin: float | None = None, calibration: Calibration | None = None,
    ) -> None:  # fmt: skip
        bound = min(settings.max_tokens, cache.max_tokens)
        most, none = settings.max_quantity, settings.none
        make = partial(Constrained, cache, builder, most, prefixes, max_tokens=bound, none=none)
        self._cache, self._builder, self._bound = cache, builder, bound
        self._alone = make()
        self._drafted = (
            make(draft=partial(baseline.read, rules), margin=margin) if rules is not None else None
        )
        self._margin, self._calibration = margin, calibration if rules is not None else None

    def decode(self, catalog: Sequence[str], message: str) -> Decoded:
        """Raises Unreadable for a prompt that is too long or has a special token, UserError where the model fails."""
        _prompt_ids(self._builder, catalog, message, self._bound)
        try:
            first = found = (self._drafted or self._alone).answer(catalog, message)
            gap = first.decoded.gap
            lenient = self._margin is not None and gap is not None and gap <= self._margin
            if first.decoded.drafted and first.decoded.probability < CLEAR and not lenient:
                found = self._alone.answer(catalog, message)
        except TooLong as error:
            raise Unreadable(error.message) from None
        confidence = found.decoded.probability
        if self._calibration is not None:
            (confidence,) = self._calibration([Signs(confidence, gap)])
        return Decoded(found.intent, float(confidence), _work(found, first, self._margin is not None))

    def close(self) -> None:
        """Free the KV cache, where Python does not."""
        if close := getattr(self._cache, "close", None):
            close()


def _work(found: Reply, first: Reply, ensemble: bool) -> Work:
    """What a reply took, and the `first` one, with a draft, where that was another."""
    of_found, passes = found.decoded, found.decoded.forward_passes
    if found is not first:
        passes += first.decoded.forward_passes
    return Work(
        "ensemble" if ensemble else "constrained", found.prompt_tokens, first.cached_tokens, of_found.decided, of_found.forced, passes,
        first.decoded.drafted, first.decoded.accepted, found is not first,
    )  # fmt: skip


def _prompt_ids(builder: PromptBuilder, catalog: Sequence[str], message: str, bound: int | None) -> list[int]:
    """The prompt's ids. Raises Unreadable where the text has a special token, or is too long for `bound` tokens whatever
    they are: some texts take a tokenizer time that grows with the square of their length.
    """
    prompt = render_prompt(catalog, message)
    if bound is not None and len(prompt) > bound * LONGEST:
        what = f"the prompt has {len(prompt):,} characters, more than {bound} tokens have"
        raise Unreadable(what)
    try:
        return builder.prompt_ids(prompt)
    except UserError as error:
        raise Unreadable(error.message) from None
