"""Params of the contract."""

from __future__ import annotations

from typing import Literal

from cartlm.config import Section, Tokens

Language = Literal["english", "croatian", "spanish"]


class Prompt(Section):
    """How a row becomes ids; shared by training, local engines and calibration."""

    separator: str
    max_tokens: Tokens
    pad_token: str | None  # a special token of the vocabulary, where the tokenizer has no pad of its own
