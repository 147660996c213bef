"""A model of the local Ollama: its GGUF file, found through the manifest.

The layout is Ollama's own (docs/faq.md, server/modelpath.go): `manifests/HOST/NAMESPACE/MODEL/TAG` lists layers by
media type, and `blobs/sha256-...` holds each.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartlm.engines.model_dir import read_json
from cartlm.errors import UserError
from cartlm.files import sha256

PREFIX = "ollama:"
NAMESPACE, TAG = "library", "latest"
LAYER = "application/vnd.ollama.image."
PART = re.compile(r"(?!\.+$)[\w.:-]+")


@dataclass(frozen=True)
class OllamaModel:
    """The GGUF file of a model, and the first line of its licence where it has one."""

    gguf: Path
    license: str | None


def find(path: str) -> OllamaModel:
    """The model of `ollama:NAME[:TAG]`; NAME may start with a namespace, and that with a host.

    Raises UserError for a model that is not there, is not whole, or consists of more than one GGUF file.
    """
    model, tag = path.removeprefix(PREFIX), TAG
    if ":" in model.rpartition("/")[2]:
        model, _, tag = model.rpartition(":")
    parts = model.split("/")
    parts = [*("*", NAMESPACE)[: max(0, 3 - len(parts))], *parts]
    name = f"{model}:{tag}"
    if len(parts) != 3 or not all(PART.fullmatch(part) for part in (*model.split("/"), tag)):
        raise UserError(
            f"base.path={path} names no model of Ollama", "such as ollama:smollm2:135m; ollama list"
        )
    for store in stores():
        places = sorted((store / "manifests").glob("/".join([*parts, tag])))  # of whatever host it came from
        if len(places) > 1:
            hosts = " and ".join(place.parents[2].name for place in places)
            full = "/".join((places[0].parents[2].name, *parts[1:]))
            raise UserError(f"Ollama has {name} of {hosts}", f"set base.path to {PREFIX}{full}:{tag}")
        if places:
            return _read(store, read_json(places[0], f"ollama pull {name}"), name)
    where = " or ".join(map(str, stores()))
    raise UserError(
        f"Ollama has no model {name} in {where}",
        f"ollama pull {name}; OLLAMA_MODELS names a store elsewhere",
    )


def stores() -> list[Path]:
    """Where Ollama keeps models: $OLLAMA_MODELS, else the user's store, then that of the Linux service."""
    if given := os.environ.get("OLLAMA_MODELS"):
        return [Path(given)]
    return [Path.home() / ".ollama/models", Path("/usr/share/ollama/.ollama/models")]


def _read(store: Path, manifest: dict[str, Any], name: str) -> OllamaModel:
    layers: dict[str, list[str]] = {}
    try:
        for layer in manifest["layers"]:
            layers.setdefault(layer["mediaType"].removeprefix(LAYER), []).append(layer["digest"])
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"the manifest of Ollama's {name} lists no layers", f"ollama pull {name}") from None
    models = layers.get("model", [])
    if len(models) != 1 or "adapter" in layers:
        has = "an adapter" if "adapter" in layers else f"{len(models)} model files"
        raise UserError(
            f"Ollama's {name} has {has}",
            "set base.path to a model of one GGUF file, such as ollama:smollm2:135m",
        )
    gguf = _blob(store, models[0])
    if not gguf.is_file() or sha256(gguf) != models[0].removeprefix("sha256:"):
        raise UserError(f"{gguf} is not there or not what the manifest of {name} says", f"ollama pull {name}")
    for digest in layers.get("license", []):
        if (text := _blob(store, digest)).is_file():
            lines = text.read_text(encoding="utf-8", errors="replace").split("\n")
            return OllamaModel(gguf, next((line.strip()[:80] for line in lines if line.strip()), None))
    return OllamaModel(gguf, None)


def _blob(store: Path, digest: str) -> Path:
    return store / "blobs" / Path(digest.replace(":", "-")).name
