"""How often two engines, or two models, answer the same prompts alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cartlm.engines.answer import Answer


@dataclass(frozen=True)
class Divergence:
    """The texts of two answers that differ; `index` is the place of their prompt."""

    index: int
    first: str
    second: str


@dataclass(frozen=True)
class Agreement:
    n: int
    divergences: list[Divergence]

    @property
    def share(self) -> float:
        """Share of the prompts that are answered alike."""
        return 1 - len(self.divergences) / self.n


def same_answer(one: Answer, other: Answer) -> bool:
    """Whether two answers are the same to a user: the same text, ended in the same way."""
    return (one.text, one.finish_reason) == (other.text, other.finish_reason)


def agreement(first: Sequence[Answer], second: Sequence[Answer]) -> Agreement:
    """Compare the answers to the same prompts, in the same order."""
    pairs = enumerate(zip(first, second, strict=True))
    different = [Divergence(at, one.text, two.text) for at, (one, two) in pairs if not same_answer(one, two)]
    return Agreement(len(first), different)
