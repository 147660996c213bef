"""A loaded model that reads messages: what `cartlm.load` returns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any, Literal, get_args

from cartlm.baseline import reader as baseline
from cartlm.data import records
from cartlm.data.filters import bad_sign
from cartlm.decoding.prefix_cache import PrefixCache
from cartlm.errors import UserError
from cartlm.evaluation.answers import open_engine
from cartlm.evaluation.reading import open_cache
from cartlm.serving.decoders import FreeDecoder, LegalDecoder, Unreadable, Work
from cartlm.serving.models import Model, find_model
from cartlm.system import cpu_limits
from cartlm.task.intent import Intent

__all__ = ["Mode", "Prediction", "Reader", "Unreadable", "Work", "load"]

Mode = Literal["constrained", "free", "ensemble"]
CATALOGS = 256  # recent ones, which are not checked again


@dataclass(frozen=True)
class Prediction:
    """The intent of a message.

    `confidence` is the share of right answers among answers like this one (cartlm.decoding.confidence), which the evaluation of
    the variant learned; without one (`Reader.calibrated`) the model's probability of this answer among all legal ones of the
    catalog. None with free decoding and for the baseline. `latency_ms` is the time from message to
    intent, without the wait while other threads' messages were read.
    """

    intent: Intent
    confidence: float | None
    latency_ms: float
    work: Work


class Reader(AbstractContextManager["Reader"]):
    """A loaded model; `load` makes it, `close` or a `with` block frees it.

    Any number of threads may call `predict`: as many messages are read at the same time as there are `workers`, the
    others wait. `prefixes` counts hits and misses of the catalogs (None with free decoding and for the baseline).
    `calibrated`: whether confidences are shares of right answers.
    """

    def __init__(
        self, model: Model, decoders: Sequence[FreeDecoder | LegalDecoder], prefixes: PrefixCache | None = None,
        engine: Any = None, calibrated: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.prefixes, self.workers = model, prefixes, len(decoders)
        self.calibrated = calibrated
        self._engine, self._decoders, self._closing = engine, decoders, Lock()
        self._closed = False
        self._idle: SimpleQueue[FreeDecoder | LegalDecoder | None] = SimpleQueue()
        for decoder in decoders:
            self._idle.put(decoder)

    def predict(self, catalog: Sequence[str], message: str) -> Prediction:
        """The intent of `message` over the lines of `catalog`, decoded greedily.

        Raises Unreadable (a ValueError) for a message that is blank, wrongly decoded, too long or contains a special
        token, and for a catalog without lines, with a line twice, or with blanks around one; with free decoding also for
        an answer that is cut, no intent, or names no line of the catalog. Raises UserError where the model fails.
        """
        if isinstance(catalog, str):
            raise TypeError("catalog is one str, not lines: pass catalog.splitlines()")
        lines, text = check_catalog(tuple(catalog)), _checked_message(message)
        decoder = self._idle.get()
        if decoder is None:
            self._idle.put(None)  # for the next thread that waits
            raise ValueError("the reader is closed")
        try:
            started = time.perf_counter()
            found = decoder.decode(lines, text)
            latency = 1000 * (time.perf_counter() - started)
        finally:
            self._idle.put(decoder)
        return Prediction(found.intent, found.confidence, latency, found.work)

    def close(self) -> None:
        """Free the model once no message is being read; threads that wait get a ValueError. A second call does nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            for _ in self._decoders:
                if (decoder := self._idle.get()) is not None:
                    decoder.close()
            self._idle.put(None)
            if self._engine is not None:
                self._engine.__exit__(None, None, None)

    def __exit__(self, *_: object) -> None:
        self.close()


def load(
    model: str | Path, *, decoding: Mode = "constrained", drafts: bool | str | Path = True, cache_mib: float = 64,
    workers: int | None = 1, threads: int | None = None, separator: str | None = None, max_tokens: int | None = None,
    max_new_tokens: int | None = None, max_quantity: int | None = None, margin: float | None = None,
    none: bool | None = None,
) -> Reader:  # fmt: skip
    """The reader of a variant's folder or name, a GGUF file, a model folder of transformers, or `baseline`.

    `decoding`: "constrained" can only answer with an intent of the catalog; so can "ensemble", which takes the baseline's answer
    where the model prefers another by at most `margin` logits, by default what the variant's evaluation chose
    (cartlm.evaluation.constrained); "free" says whatever the model likes.
    `drafts` speed constrained decoding up and change no answer of it; whether the baseline agrees is a sign for confidence. True
    takes models/baseline where the model has one beside it, a path another fitted baseline. The keys and values of recent
    catalogs are kept, up to `cache_mib` MiB. `workers` messages are read at the same time, which share `threads` (by default all that quota and
    affinity allow; each gets at least one); None is the number that evaluations use.

    No GGUF file or model folder records how the model was trained to be asked. A model inside of the repository is
    asked as its params.yaml says; for any other give what differs from the defaults: `separator` "\\n" behind the
    prompt (`prompt.separator`), `max_tokens` 640 of prompt and answer (`prompt.max_tokens`; longer prompts are refused, and
    never more are read than the model was made for), `max_new_tokens` 96 of a free answer (`eval.max_new_tokens`),
    `max_quantity` 1000 (`decoding.max_quantity`), `none` False (`decoding.none`: a model trained so may answer that a message
    is no order).

    Raises UserError for what names no model and for a broken one, FileNotFoundError for one that does not exist.
    """
    if decoding not in get_args(Mode):
        raise ValueError(f"decoding is {decoding!r}, not {' or '.join(map(repr, get_args(Mode)))}")
    found = find_model(model)
    settings = found.settings.given(
        separator=separator,
        max_tokens=max_tokens,
        max_new_tokens=max_new_tokens,
        max_quantity=max_quantity,
        none=none,
    )
    found = replace(found, settings=settings)  # what was learned holds for the settings of the evaluation
    rules = baseline.load(path) if decoding != "free" and (path := _drafts(found, drafts)) else None
    together = decoding == "ensemble" and found.engine != "rules"  # the baseline alone has one way to answer
    margin = ensemble_margin(found, margin) if together else None
    if together and rules is None:
        what = "the ensemble needs drafts" if not drafts else no_baseline(found)
        raise UserError(what, "give drafts=PATH of a fitted baseline")
    calibration = None
    # it holds for the baseline and the margin that it was learned with
    if rules is not None and drafts is True and margin in (None, found.learned.margin):
        calibration = found.learned.ensemble if together else found.learned.constrained
    with ExitStack() as undo:
        # fewer threads than workers would be dealt as 0, which engines take for all CPUs
        enough = max(threads or cpu_limits.threads(), workers or 1)
        engine = undo.enter_context(open_engine(found.engine, found.path, enough, workers))
        builder = engine.prompt_builder(settings.separator)
        if decoding == "free" or found.engine == "rules":
            limit = None
            if found.engine != "rules":
                with open_cache(found.engine, engine) as cache:  # an engine does not say it of itself
                    limit = cache.max_tokens
            free = [FreeDecoder(each, builder, settings, limit) for each in engine.replicas]
            reader = Reader(found, free, None, engine)
        else:
            prefixes, legal = PrefixCache(cache_mib), list[LegalDecoder]()
            for replica in engine.replicas:
                cache = undo.enter_context(open_cache(found.engine, replica))
                legal.append(LegalDecoder(cache, builder, settings, prefixes, rules, margin, calibration))
            reader = Reader(found, legal, prefixes, engine, calibration is not None)
        undo.pop_all()  # the reader frees them
    return reader


def ensemble_margin(model: Model, given: float | None = None) -> float:
    """The margin that is given, or else learned with the baseline. Raises UserError where there is none."""
    margin = model.learned.margin if given is None else given
    if margin is None and model.baseline is None:
        raise UserError(no_baseline(model), "take constrained decoding, or dvc repro baseline")
    if margin is None:
        what = f"no margin of the ensemble was chosen for {model.path}"
        raise UserError(
            what,
            "take constrained decoding, give cartlm.load a margin, or evaluate it as it is now: dvc repro",
        )
    return margin


def no_baseline(model: Model) -> str:
    """What is wrong with a model that an ensemble is asked of."""
    return f"{model.path} has no baseline beside it"


def _drafts(model: Model, drafts: bool | str | Path) -> Path | None:
    if isinstance(drafts, bool):
        return model.baseline if drafts and model.engine != "rules" else None
    found = find_model(drafts)
    if found.engine != "rules":
        raise UserError(f"{drafts} is no baseline, so it proposes no drafts", "name models/baseline")
    return found.path


@lru_cache(CATALOGS)
def check_catalog(lines: tuple[str, ...]) -> tuple[str, ...]:
    """The same lines. Raises Unreadable for what `predict` refuses in a catalog."""
    if not lines:
        raise Unreadable("the catalog has no lines")
    for line in lines:
        if not isinstance(line, str) or not line or line != line.strip() or "\n" in line or "\r" in line:
            what = "is no text, is empty, or has blanks around it or a line break within"
            raise Unreadable(f"catalog line {line!r:.60} {what}")
    try:
        records.check_texts(lines)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    return lines


def _checked_message(message: str) -> str:
    """The message, its line ends as \\n. Raises Unreadable."""
    text = message.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise Unreadable("the message is blank")
    if sign := bad_sign(text):
        raise Unreadable(f"the message contains U+{ord(sign):04X}, as text that is not UTF-8 does")
    return text
