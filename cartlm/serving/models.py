"""Which model is meant, a variant's name, a GGUF file or a folder; and how it was trained to be asked."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path

from cartlm import params as params_file
from cartlm.baseline import reader as baseline
from cartlm.engines.collect import file_digest
from cartlm.errors import UserError
from cartlm.evaluation.answers import MODEL_FILES, engine_name, model_path
from cartlm.evaluation.reading import Within, inputs
from cartlm.params import Params, find_root
from cartlm.serving import learned as learning
from cartlm.serving.learned import Learned

PACKAGES = {"llama.cpp": "llama-cpp-python", "transformers": "transformers", "rules": "rapidfuzz"}
"""Engine -> the package whose version may change its answers."""
BASELINE = Path("baseline") / MODEL_FILES["rules"]
"""The baseline below the folder of the variants."""
_WAYS = "name a variant of params.yaml, a GGUF file, or a folder with one, with a model of transformers or with a baseline"


@dataclass(frozen=True)
class Settings:
    """How a model is asked. The defaults are those of params.yaml as it ships.

    Training put `separator` behind each prompt and refused rows of more than `max_tokens` tokens, prompt and answer
    together: longer prompts are refused too. Free decoding ends after `max_new_tokens`; legal quantities are 1 to
    `max_quantity`, and with `none` a message may be no order. No GGUF file and no model folder records these.
    """

    separator: str = "\n"
    max_tokens: int = 640
    max_new_tokens: int = 96
    max_quantity: int = 1000
    none: bool = False

    def given(self, **values: int | str | None) -> Settings:
        """The same with those `values` that are not None."""
        return replace(self, **{name: value for name, value in values.items() if value is not None})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Model:
    """A model that exists: its engine (`llama.cpp`, `transformers` or `rules`), its file or folder, how it is asked.

    `baseline` is the fitted reader beside it, None where there is none; `evaluated` the file of metrics/eval that may be of it.
    """

    engine: str
    path: Path
    settings: Settings
    baseline: Path | None
    evaluated: Path | None = None

    @cached_property
    def digest(self) -> str:
        """`file_digest` of the whole model, read once."""
        return file_digest(self.path)

    @cached_property
    def learned(self) -> Learned:
        """What its evaluation learned, if that is of this model and this baseline, asked this way."""
        if self.evaluated is None or self.baseline is None or not self.evaluated.is_file():
            return Learned()
        within = Within(self.settings.max_quantity, self.baseline, self.settings.none)
        return learning.read(self.evaluated, inputs(self.digest, self.settings.separator, within))

    def identity(self) -> dict[str, str]:
        """What answers depend on beside the question: the model's digest and its engine's version."""
        return {
            "model": self.digest,
            "engine": f"{self.engine} {version(PACKAGES[self.engine])}",
        }


def find_model(model: str | Path, here: Path = Path()) -> Model:
    """The model of a variant's name, of a GGUF file, or of a folder (a variant's, or in Hugging Face layout).

    A name is looked up in the params.yaml of the folder `here` or of the nearest one above it; a path's settings come
    from the params.yaml nearest above the model, and are the defaults where there is none. Raises UserError for what
    names no model, FileNotFoundError for one that does not exist yet.
    """
    path = Path(model)
    is_name = not path.suffix and len(path.parts) == 1
    if is_name and (root := find_root(here)) is not None:
        params = params_of(root)
        if str(model) in params.variants.names or not path.exists():
            kind = engine_name(str(model), params.reference, params.gguf, params.gptq)
            return _model(kind, model_path(root / "models", str(model), kind), root, params)
    if not path.exists():
        if is_name:
            raise UserError(f"{str(model)!r} names no model: there is no params.yaml of cartlm here", _WAYS)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    kind, path = _in_folder(path) if path.is_dir() else (_of_file(path), path)
    root = find_root(path.absolute().parent)
    return _model(kind, path, root, params_of(root) if root is not None else None)


def default_variant(here: Path = Path()) -> str:
    """`q4_k_m` where the params.yaml of `here`, or of the nearest folder above it, lists it, else `f16`. Raises UserError."""
    root = find_root(here)
    if root is None:
        raise UserError("there is no params.yaml of cartlm here, so no default model", "add --variant PATH")
    return "q4_k_m" if "q4_k_m" in params_of(root).gguf else "f16"


def params_of(root: Path) -> Params:
    """All of the params.yaml in a folder. Raises UserError for a wrong one."""
    path = (root / "params.yaml").absolute()
    return _params(path, path.stat().st_mtime_ns)


@lru_cache(4)
def _params(path: Path, _changed: int) -> Params:
    return params_file.load(path)


def _model(kind: str, path: Path, root: Path | None, params: Params | None) -> Model:
    settings = Settings()
    if params is not None:
        settings = Settings(
            params.prompt.separator, params.prompt.max_tokens, params.eval.max_new_tokens, params.decoding.max_quantity,
            params.decoding.none,
        )  # fmt: skip
    variant = path if path.is_dir() else path.parent
    places = [variant.absolute().parent / BASELINE, *([root / "models" / BASELINE] if root else [])]
    found = next((place for place in places if place.is_file()), None)
    of_root = root is not None and variant.absolute().parent == root.absolute() / "models"
    evaluated = root / f"metrics/eval/{variant.name}.json" if root and of_root else None
    return Model(kind, path, settings, found, evaluated)


def _of_file(path: Path) -> str:
    """The engine of a file, by its first bytes. Raises UserError for no model."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"GGUF" or path.suffix == ".gguf":
        return "llama.cpp"
    if path.suffix == ".json":
        baseline.load(path)
        return "rules"
    raise UserError(f"{path} is no model", _WAYS)


def _in_folder(folder: Path) -> tuple[str, Path]:
    """Engine and path of the model in a folder. Raises UserError for none and for several."""
    is_plain = (folder / "config.json").is_file()
    if is_plain and any(folder.glob("*.safetensors")):
        return "transformers", folder
    files = sorted(folder.glob("*.gguf"))
    if (main := folder / MODEL_FILES["llama.cpp"]) in files:
        files = [main]
    if len(files) > 1:
        raise UserError(
            f"{folder} holds several models: {', '.join(each.name for each in files)}", "name one"
        )
    if files:
        return "llama.cpp", files[0]
    if is_plain:
        return "transformers", folder
    if (rules := folder / MODEL_FILES["rules"]).is_file():
        return "rules", rules
    raise UserError(f"{folder} holds no model", _WAYS)
