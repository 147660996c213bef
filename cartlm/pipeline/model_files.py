"""Whether model folders are whole, and the embedded base model's way into git."""

from __future__ import annotations

import shutil
from pathlib import Path

from cartlm.errors import UserError
from cartlm.files import replacing

BASE_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)
BASE_MAX_MB = 16  # of 10^6 bytes: the weights are in git


def check_weights(folder: Path, maker: str) -> None:
    """Raises UserError unless `folder` has a model or adapter config and complete safetensors files.

    maker: the command that makes it.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files or not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise UserError(f"{folder} is missing, or has no config.json or no *.safetensors", maker)
    for path in files:
        try:
            with safe_open(path, framework="numpy") as tensors:
                tensors.keys()
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} does not load: {error}", f"rm -r {folder}, then {maker}") from None


def accept_base(source: Path, target: Path) -> float:
    """Replace the embedded base model by a new one, after checking its files and size; returns its size in MB."""
    missing = [name for name in BASE_FILES if not (source / name).is_file()]
    if missing:
        raise UserError(f"{source} lacks {', '.join(missing)}", "make base")
    check_weights(source, "make base")
    size = sum(path.stat().st_size for path in source.glob("*.safetensors")) / 10**6
    if size > BASE_MAX_MB:
        way = "make the model smaller in base/params.yaml, or save it in 16 bits"
        raise UserError(f"the weights in {source} are {size:.1f} MB, more than {BASE_MAX_MB}", way)
    with replacing(target, folder=True) as new:
        shutil.copytree(source, new, dirs_exist_ok=True)
    return size
