"""An engine without a model: it always adds the catalog's first line (docs/contributing/engine.md)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from cartlm.engines.answer import Answer
from cartlm.engines.model_dir import load_tokenizer
from cartlm.task import prompt
from cartlm.task.intent import Intent


class FirstLine:
    """The lowest score that a trained model has to beat."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = load_tokenizer(folder)

    @property
    def replicas(self) -> Sequence[FirstLine]:
        """The engines that may answer at the same time."""
        return [self]

    def prompt_builder(self, separator: str) -> prompt.PromptBuilder:
        """How rows become ids: by this engine's tokenizer, with BOS and EOS from the builder alone."""
        bos, eos = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        return prompt.PromptBuilder(self._tokenize, bos, eos, separator)

    def answer(self, prompt_ids: list[int], max_new_tokens: int) -> Answer:
        """The completion of `prompt_ids`, at most `max_new_tokens` long."""
        started = time.perf_counter()
        _title, first_line, *_ = self._tokenizer.decode(prompt_ids[1:]).split("\n")
        text = Intent("add", first_line, 1).canonical()
        ids = self._tokenize(text)
        reason = "stop" if len(ids) <= max_new_tokens else "length"
        prefilled = time.perf_counter() - started
        return Answer(text, tuple(ids), reason, len(prompt_ids), len(ids), 0, prefilled, 0.0)

    def describe(self) -> dict[str, str | int]:
        """The section `engine` of a metrics file."""
        return {"name": "first line", "version": "1", "threads": 1}

    def _tokenize(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)


def load(folder: Path, threads: int) -> FirstLine:
    """The engine of the model in `folder`."""
    return FirstLine(folder)
