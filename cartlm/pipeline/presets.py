"""Presets: files of presets/ that are laid over params.yaml."""

from __future__ import annotations

from pathlib import Path

from ruamel.yaml.comments import CommentedMap

from cartlm import yaml_files
from cartlm.errors import UserError

REPLACED = ("gguf", "gptq", "remote")
"""Sections of named entries: a preset's takes the place of the whole section."""


def lay_over(params: Path, preset: Path) -> tuple[str, frozenset[str]]:
    """The text of a params file with a preset laid over it, and the preset's sections; comments and order stay.

    Whether the result is sound, `cartlm.params.lay_preset` says. Raises UserError for a file that is no YAML or has no sections.
    """
    document, changes = (yaml_files.parse_editable(each.read_bytes(), str(each)) for each in (params, preset))
    if not isinstance(changes, CommentedMap):
        raise UserError(f"{preset} has no sections", "give it one of params.yaml, such as base:")
    yaml_files.overlay(document, changes, REPLACED)
    return yaml_files.dump(document), frozenset(changes)
