"""All of params.yaml: each package has its section."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from cartlm import yaml_files
from cartlm.bench.config import Architecture, BenchCpu, Gpu
from cartlm.compare.config import Compare
from cartlm.config import Name, Section, first_wrong
from cartlm.data.config import Data
from cartlm.engines.config import Remote
from cartlm.errors import UserError
from cartlm.evaluation.config import Eval, Parity, References
from cartlm.pipeline.variants import Variants
from cartlm.quantization.config import Gguf, Gptq
from cartlm.task.config import Prompt
from cartlm.training.config import Base, Finetune, Merge

RESERVED = {
    **dict.fromkeys(("base", "adapter", "merged", "f16"), "another model is in models/{0}"),
    "architecture": "make architecture writes below models/{0}",
    **dict.fromkeys(("machine", "rounds", "reference"), "metrics/bench has a file {0}"),
    **dict.fromkeys(("parity", "merge"), "a comparison calls metrics/{0}.json so"),
    **dict.fromkeys(("merged-bfloat16", "merged-nf4"), "a card's benchmark has a file {0}"),
}
"""Names that no variant and no server may have, and why."""


class Params(Section):
    """All of params.yaml."""

    base: Base
    prompt: Prompt
    data: Data
    finetune: Finetune
    merge: Merge
    reference: References
    parity: Parity
    gguf: dict[Name, Gguf]
    gptq: dict[Name, Gptq]
    eval: Eval
    bench_cpu: BenchCpu
    architecture: Architecture
    gpu: Gpu
    compare: Compare
    remote: dict[Name, Remote]

    @model_validator(mode="after")
    def _names(self) -> Params:
        taken = dict(RESERVED)
        for section, names in (("gguf", self.gguf), ("gptq", self.gptq), ("remote", self.remote)):
            for name in names:
                if name in taken:
                    raise ValueError(f"{section}.{name}: that name is taken, {taken[name].format(name)}")
            taken |= dict.fromkeys(names, f"{section}.{{0}} has it")
        return self

    @property
    def variants(self) -> Variants:
        """The names of all variants and servers."""
        return Variants(
            reference=tuple(References.model_fields),
            gguf=tuple(self.gguf),
            gptq=tuple(self.gptq),
            remote=tuple(self.remote),
            architecture_types=tuple(self.architecture.types),
        )


def parse(values: Any, name: str) -> Params:
    """Params from plain values; UserError names the first bad key of `name` and its value."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{name}: {first_wrong(error)}", f"edit {name}, then cartlm params check") from None


def load(path: Path) -> Params:
    """Params from a YAML file; UserError for a missing, unreadable or wrong one."""
    try:
        values = yaml_files.parse(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing", "git checkout params.yaml") from None
    except yaml_files.NotYaml as error:
        raise UserError(f"{path} is not YAML: {error}", f"git diff {path}") from None
    return parse(values, path.name)


def preset_text(path: Path, preset: Path) -> str:
    """A params file with a preset laid over it; named entries (gguf, gptq, remote) are replaced as a whole.

    Comments and order stay. Raises UserError for a wrong preset.
    """
    try:
        document = yaml_files.parse_editable(path.read_bytes())
        yaml_files.overlay(
            document, yaml_files.parse_editable(preset.read_bytes()), ("gguf", "gptq", "remote")
        )
    except yaml_files.NotYaml as error:
        raise UserError(f"{path} or {preset} is not YAML: {error}", f"git diff {path} {preset}") from None
    text = yaml_files.dump(document)
    parse(yaml_files.parse(text), preset.name)
    return text
