"""An engine without a model: it always adds the catalog's first line (docs/contributing/engine.md)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from cartlm.engines.answer import Answer, Stopped, describe_threads
from cartlm.engines.model_dir import load_tokenizer
from cartlm.task import prompt
from cartlm.task.intent import Intent


class FirstLine:
    """Answers every prompt with the first catalog line, quantity 1."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = load_tokenizer(folder)
        self.stopped = False  # set from another thread after an error or Ctrl-C

    @property
    def replicas(self) -> Sequence[FirstLine]:
        """The engines that may answer at the same time."""
        return [self]

    def prompt_builder(self, separator: str) -> prompt.PromptBuilder:
        """How rows become ids, with this engine's tokenizer; BOS and EOS come from the builder."""
        return prompt.from_transformers(self._tokenizer, separator)

    def answer(self, prompt_ids: list[int], max_new_tokens: int) -> Answer:
        """The completion of `prompt_ids`, at most `max_new_tokens` long."""
        if self.stopped:
            raise Stopped
        started = time.perf_counter()
        _title, first_line, *_ = self._tokenizer.decode(prompt_ids[1:]).split("\n")
        text = Intent("add", first_line, 1).canonical()
        ids = self._tokenizer.encode(text, add_special_tokens=False)[:max_new_tokens]
        reason = "stop" if len(ids) < max_new_tokens else "length"
        text = text if reason == "stop" else self._tokenizer.decode(ids)
        prefill_s = time.perf_counter() - started
        return Answer(text, tuple(ids), reason, len(prompt_ids), len(ids), 0, prefill_s, 0.0)

    def describe(self) -> dict[str, str | int]:
        """The section `engine` of a metrics file."""
        return {"name": "first line", "version": "1", **describe_threads(self, 1)}

    def __enter__(self) -> FirstLine:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to free."""


def load(folder: Path, threads: int, replicas: int = 1) -> FirstLine:
    """The engine of the model in `folder`."""
    return FirstLine(folder)
