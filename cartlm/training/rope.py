"""Rotary embeddings that transformers and llama.cpp compute alike, as config.json gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cartlm.config import Positive, first_wrong


class Rope(BaseModel):
    """Rotary embeddings without scaling. Bounds of one value: transformers and llama.cpp differ elsewhere."""

    model_config = ConfigDict(strict=True, extra="forbid")

    rope_theta: Positive | None = None
    partial_rotary_factor: Annotated[float, Field(ge=1, le=1)] = 1
    beta_fast: Annotated[float, Field(ge=32, le=32)] = 32
    beta_slow: Annotated[float, Field(ge=1, le=1)] = 1


class Linear(Rope):
    factor: Positive


class Yarn(Linear):
    original_max_position_embeddings: Annotated[int, Field(ge=1, le=2**31 - 1)]


class Llama3(Yarn):
    low_freq_factor: Positive
    high_freq_factor: Positive


ROPE_TYPES: dict[str, type[Rope]] = {"default": Rope, "linear": Linear, "llama3": Llama3, "yarn": Yarn}
LLAMA_TYPES = tuple(ROPE_TYPES)
PLAIN_TYPES = ("default", "linear", "yarn")
"""Of models whose converter in llama.cpp drops the factors of llama3."""


def parse_rope(value: Any, types: Sequence[str]) -> Rope | None:
    """The embeddings of rope_scaling, or of rope_parameters, its new name, if they are of one of `types`.

    None for an empty one. Raises ValueError.
    """
    if not value:
        return None
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    given = {key: one for key, one in value.items() if one is not None}
    named = [given.pop(key) for key in ("rope_type", "type") if key in given] or ["default"]
    if named[0] != named[-1] or str(named[0]) not in types:
        found = " and ".join(map(repr, named))
        raise ValueError(f"its rope_type is {found}, not one of {', '.join(types)}")
    try:
        rope = ROPE_TYPES[named[0]].model_validate(given)
    except ValidationError as error:
        raise ValueError(f"{first_wrong(error)} ({named[0]})") from None
    if isinstance(rope, Llama3) and rope.high_freq_factor <= rope.low_freq_factor:
        raise ValueError(f"high_freq_factor {rope.high_freq_factor} is not above low_freq_factor")
    return rope


class GemmaRopes(BaseModel):
    """Gemma 3's embeddings by the type of the layer: with a window they are never scaled."""

    model_config = ConfigDict(strict=True, extra="forbid")

    full_attention: Rope | None = None
    sliding_attention: Rope | None = None

    @field_validator("full_attention", mode="before")
    @classmethod
    def _parse_full(cls, value: Any) -> Rope | None:
        return parse_rope(value, ("default", "linear"))

    @field_validator("sliding_attention", mode="before")
    @classmethod
    def _parse_sliding(cls, value: Any) -> Rope | None:
        return parse_rope(value, ("default",))
