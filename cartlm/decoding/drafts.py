"""Where drafts come from: a reader that proposes an intent without the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cartlm.baseline import reader
from cartlm.task.intent import Intent

Draft = Callable[[Sequence[str], str], Intent]
"""Catalog and message to the intent that the model is likely to choose."""


def baseline(path: Path) -> Draft:
    """Drafts of the baseline in the file `path` (models/baseline/model.json). Raises as `cartlm.baseline.reader.load`."""
    weights = reader.load(path)

    def draft(catalog: Sequence[str], message: str) -> Intent:
        return reader.read(weights, catalog, message)

    return draft
