"""Merged model (transformers) against its F16 GGUF (llama.cpp): the same ids in, the same answers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cartlm.engines.answer import Answer
from cartlm.evaluation.answers import same
from cartlm.evaluation.statistics import wilson
from cartlm.task.rows import Row


@dataclass(frozen=True)
class Divergence:
    """A row on which the two answer differently."""

    id: str
    merged: str
    f16: str


@dataclass(frozen=True)
class Agreement:
    """Share of rows answered alike (same text, ended alike) with its Wilson 95 % interval."""

    n: int
    divergences: list[Divergence]

    @property
    def share(self) -> float:
        return 1 - len(self.divergences) / self.n

    def section(self) -> dict[str, int | float]:
        """The values of metrics/parity.json."""
        low, high = wilson(self.n - len(self.divergences), self.n)
        return {"agreement": self.share, "agreement_low": low, "agreement_high": high, "n": self.n}


def compare(rows: Sequence[Row], merged: Sequence[Answer], f16: Sequence[Answer]) -> Agreement:
    """Where the two sides answer `rows` differently."""
    return Agreement(
        len(rows),
        [
            Divergence(row.id, one.text, other.text)
            for row, one, other in zip(rows, merged, f16, strict=True)
            if not same(one, other)
        ],
    )
