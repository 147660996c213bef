"""The one llama.cpp of docker/llama_cpp.sh: its tools and its converter."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from cartlm.errors import UserError


def prefix() -> Path:
    """The folder that docker/llama_cpp.sh made.

    CARTLM_LLAMA_CPP names another one; else `llama.cpp` in the running virtual environment.
    Raises UserError when there is none.
    """
    folder = Path(os.environ.get("CARTLM_LLAMA_CPP") or f"{sys.prefix}/llama.cpp")
    if not (folder / "build.json").is_file():
        hint = "make it: make setup (or docker/llama_cpp.sh --venv .venv)"
        raise UserError(f"there is no llama.cpp in {folder}", hint)
    return folder.resolve()


def tool(name: str) -> Path:
    """The path of llama-quantize, llama-imatrix, llama-bench, llama-perplexity or llama-server.

    Raises UserError when it is not there.
    """
    path = prefix() / "bin" / name
    if not os.access(path, os.X_OK):
        raise UserError(f"{name} is missing from {path.parent}", "build llama.cpp again: make setup")
    return path


def converter() -> Path:
    """The official convert_hf_to_gguf.py; run it with this python; its gguf-py is beside it."""
    return prefix() / "convert" / "convert_hf_to_gguf.py"


def llama3_vocabulary() -> Path:
    """A GGUF file with the Llama 3 vocabulary and no weights."""
    return prefix() / "models" / "ggml-vocab-llama-bpe.gguf"


def build_info() -> dict[str, Any]:
    """What docker/llama_cpp.sh recorded: source, version, kind (native or portable), compiler, flags, build_seconds,
    mended (what was patched), without (the CPU code that died here: native, or variants) and the reason.
    """
    return dict(json.loads((prefix() / "build.json").read_text(encoding="utf-8")))
