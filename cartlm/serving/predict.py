"""The finished model's intent for a message: `cartlm predict`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cartlm.data import charset, records
from cartlm.data.filters import bad_sign
from cartlm.errors import UserError
from cartlm.evaluation.answers import engine_name, model_path, open_engine
from cartlm.params import Params
from cartlm.system import cpu_limits
from cartlm.task import prompt as prompts
from cartlm.task.intent import Intent, parse_intent


class Unreadable(ValueError):
    """A message or answer without an intent of the catalog; `answer` is the model's text."""

    def __init__(self, message: str, answer: str = "") -> None:
        super().__init__(message)
        self.answer = answer


class Reader:
    """A loaded variant; `load` makes it."""

    def __init__(self, engine: Any, separator: str, max_new_tokens: int) -> None:
        self._engine, self._max_new_tokens = engine, max_new_tokens
        self._builder = engine.prompt_builder(separator)

    def predict(self, catalog: Sequence[str], message: str) -> Intent:
        """The intent of one message, decoded greedily; `catalog` has at least one product, each a line of its own.

        Raises Unreadable for a message that is blank, wrongly decoded or contains a special token, and for an answer
        that is truncated, no intent, or names no catalog line.
        """
        if not message.strip():
            raise Unreadable("the message is blank")
        if sign := bad_sign(message):
            raise Unreadable(f"the message contains U+{ord(sign):04X}, as text that is not UTF-8 does")
        try:
            ids = self._builder.prompt_ids(prompts.render_prompt(catalog, message))
        except UserError as error:
            raise Unreadable(error.message) from None
        answer = self._engine.answer(ids, self._max_new_tokens)
        if answer.finish_reason != "stop":
            raise Unreadable(f"the answer did not end within {self._max_new_tokens} tokens", answer.text)
        try:
            intent = parse_intent(answer.text)
            return replace(intent, product=records.catalog_line(intent.product, catalog))
        except ValueError as error:
            raise Unreadable(f"the answer is no intent of this catalog: {error}", answer.text) from None


@contextmanager
def load(params: Params, variant: str | None = None) -> Iterator[Reader]:
    """The model of `variant`, on as many threads as this process may use.

    None is `q4_k_m` where params.yaml lists it, else `f16`. Raises UserError where params.yaml has no such variant,
    FileNotFoundError where its model does not exist yet.
    """
    variant = variant or ("q4_k_m" if "q4_k_m" in params.gguf else "f16")
    kind = engine_name(variant, params.reference, params.gguf, params.gptq)
    path = model_path(Path("models"), variant, kind)
    with open_engine(kind, path, cpu_limits.threads(), replicas=1) as engine:
        yield Reader(engine, params.prompt.separator, params.eval.max_new_tokens)


def read_catalog(path: Path) -> list[str]:
    """The products of a text file, one a line, stripped; blank lines are dropped.

    Raises UserError for an unreadable file, an unclear encoding, no product, a product twice, or a character that no
    product has.
    """
    try:
        data = path.read_bytes()
        with charset.detect(data, path).open(data) as file:
            lines = [line.strip() for line in file if line.strip()]
        if not lines:
            raise ValueError("no product")
        records.check_texts(lines)
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        raise UserError(f"the catalog {path}: {what}", "name a UTF-8 file with one product a line") from None
    return lines


def predict_lines(
    reader: Reader, catalog: Sequence[str], messages: Iterable[str]
) -> Iterator[tuple[str, bool]]:
    """(JSON, whether it is an intent) of each message: the intent, or an `error` and the `answer` if there is one."""
    for message in messages:
        try:
            yield reader.predict(catalog, message).canonical(), True
        except Unreadable as error:
            answer = {"answer": error.answer} if error.answer else {}
            yield json.dumps({"error": str(error), **answer}, ensure_ascii=False), False
