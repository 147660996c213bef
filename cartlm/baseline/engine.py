"""The reader as an engine: it answers prompts as the models do, so that its answers are collected and scored alike.

It has no tokens: the ids of a prompt are its characters, and an answer counts none.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from cartlm.baseline import reader
from cartlm.engines.answer import Answer, Stopped, describe_threads
from cartlm.engines.collect import file_digest
from cartlm.errors import UserError
from cartlm.task import prompt

BOS, EOS, FIRST = 0, 1, 2


def identity(path: Path) -> str:
    """32 hex digits of what its answers depend on: the fitted weights at `path`, and the code of this package."""
    return file_digest(path) + file_digest(Path(__file__).parent)


class Baseline:
    """A fitted reader; `load` makes it."""

    def __init__(self, weights: reader.Weights) -> None:
        self._weights, self._separator = weights, ""
        self.stopped = False  # set from another thread after an error or Ctrl-C

    @property
    def replicas(self) -> Sequence[Baseline]:
        """The engine alone: Python's lock lets one thread work at a time."""
        return [self]

    def prompt_builder(self, separator: str) -> prompt.PromptBuilder:
        """How prompts become characters; the prompts of `answer` end with this separator."""
        self._separator = separator
        return prompt.PromptBuilder(
            lambda text: [FIRST + ord(letter) for letter in text], BOS, EOS, separator
        )

    def answer(self, prompt_ids: list[int], max_new_tokens: int) -> Answer:
        """The canonical JSON of the intent, whole whatever `max_new_tokens` is: there is nothing to cut.

        Raises UserError for what is no prompt of ours.
        """
        if self.stopped:
            raise Stopped
        text = "".join(chr(each - FIRST) for each in prompt_ids if each >= FIRST)
        try:
            catalog, message = prompt.split_prompt(text.removesuffix(self._separator))
        except ValueError as error:
            raise UserError(f"the baseline cannot read {text[:40]!r}...: {error}", "dvc repro data") from None
        intent = reader.read(self._weights, catalog, message)
        return Answer(intent.canonical(), (), "stop", 0, 0, 0, 0.0, 0.0)

    def describe(self) -> dict[str, str | int]:
        """The section `engine` of a metrics file."""
        return {"name": "rules", "version": f"rapidfuzz {version('rapidfuzz')}", **describe_threads(self, 1)}

    def __enter__(self) -> Baseline:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to free."""


def load(path: Path) -> Baseline:
    """The reader of a file that the stage baseline wrote. Raises FileNotFoundError, and UserError for any other file."""
    return Baseline(reader.load(path))
