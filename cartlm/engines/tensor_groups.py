"""Sizes of a model's tensors by group, from their names in transformers or in a GGUF file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

GROUPS = ("token_embd", "attention", "ffn", "norm", "output", "other")
"""llama.cpp's names for embedding, attention, MLP, norms and head."""
_PREFIXES = {
    "token_embd": "token_embd", "embed_tokens": "token_embd", "attn_": "attention", "self_attn": "attention",
    "ffn_": "ffn", "mlp": "ffn", "output": "output", "lm_head": "output",
}  # fmt: skip


def tensor_group(name: str) -> str:
    """The group of a tensor, one of GROUPS."""
    parts = name.split(".")
    if any("norm" in part for part in parts):
        return "norm"
    groups = (group for part in parts for prefix, group in _PREFIXES.items() if part.startswith(prefix))
    return next(groups, "other")


def bytes_by_group(tensors: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The bytes of each group that occurs, from (name, bytes) of all tensors."""
    groups: Counter[str] = Counter()
    for name, size in tensors:
        groups[tensor_group(name)] += size
    return {group: groups[group] for group in GROUPS if groups[group]}
