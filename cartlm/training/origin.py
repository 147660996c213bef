"""models/base/origin.json: where the base model came from. Everything after the stage `base` reads it there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from cartlm.engines import model_dir

ORIGIN = "origin.json"


@dataclass(frozen=True)
class Origin:
    """What models/base/origin.json says: the model's name, the kind of source, the licence, the GGUF type that it was
    dequantized from, such as Q4_K_M, and `revision`: the hub's commit, or sha256:... of the GGUF file. None where there
    is none, or where nobody knows.
    """

    name: str
    source: str
    license: str | None
    dequantized_from: str | None
    revision: str | None = None


def read(folder: Path) -> dict[str, str]:
    """What origin.json in `folder` knows; empty for a base model from before there was one."""
    path = folder / ORIGIN
    known = model_dir.read_json(path) if path.exists() else {}
    return {key: str(value) for key, value in known.items() if value is not None}


def write(folder: Path, origin: Origin) -> None:
    model_dir.write_json(folder / ORIGIN, asdict(origin))
