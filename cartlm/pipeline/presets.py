"""Presets: files of presets/ that are laid over params.yaml."""

from __future__ import annotations

from pathlib import Path

from cartlm import yaml_files

REPLACED = ("gguf", "gptq", "remote")
"""Sections of named entries: a preset's takes the place of the whole section."""


def lay_over(params: Path, preset: Path) -> str:
    """The text of a params file with a preset laid over it; comments and order stay. Raises UserError for no YAML.

    Whether the result is sound, `cartlm.params.preset_text` says.
    """
    document, changes = (yaml_files.parse_editable(each.read_bytes(), str(each)) for each in (params, preset))
    yaml_files.overlay(document, changes, REPLACED)
    return yaml_files.dump(document)
