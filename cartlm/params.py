"""All of params.yaml: each package has its section."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from cartlm import yaml_files
from cartlm.bench.config import Architecture, BenchCpu, BenchDecoding, Gpu
from cartlm.compare.config import Compare
from cartlm.config import Name, Section, first_wrong
from cartlm.data.config import Data
from cartlm.decoding.config import Decoding
from cartlm.engines.config import Remote
from cartlm.errors import UserError
from cartlm.evaluation.config import Eval, Parity, References
from cartlm.pipeline import presets
from cartlm.pipeline.variants import Variants
from cartlm.quantization.config import Gguf, Gptq
from cartlm.recommend.config import Cost
from cartlm.task.config import Prompt
from cartlm.training.config import Base, Finetune, Merge

RESERVED = (
    *("baseline", "base", "adapter", "merged", "f16", "architecture"),
    *("machine", "rounds", "reference", "parity", "merge", "merged-bfloat16", "merged-nf4"),
)
"""Names of ours below models/, then below metrics/: no variant and no server may have them."""


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
    decoding: Decoding
    eval: Eval
    bench_cpu: BenchCpu
    bench_decoding: BenchDecoding
    architecture: Architecture
    gpu: Gpu
    compare: Compare
    cost: Cost
    remote: dict[Name, Remote]

    @model_validator(mode="after")
    def _names(self) -> Params:
        taken = {*RESERVED}
        for section, names in (("gguf", self.gguf), ("gptq", self.gptq), ("remote", self.remote)):
            for name in names:
                if name in taken:
                    raise ValueError(f"{section}.{name}: that name is taken; choose another")
            taken |= {*names}
        if (variant := self.bench_decoding.variant) not in ("f16", *self.gguf):
            raise ValueError(f"bench_decoding.variant {variant} is not in section gguf, and not f16")
        return self

    @property
    def variants(self) -> Variants:
        """The names of all variants and servers."""
        reference, types = tuple(References.model_fields), tuple(self.architecture.types)
        return Variants(reference, tuple(self.gguf), tuple(self.gptq), tuple(self.remote), types)


def parse(values: Any, name: str, check: str = "cartlm params check") -> Params:
    """Params from plain values; UserError names the first bad key of the file `name`, its value, and the command that checks it."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{name}: {first_wrong(error)}", f"edit {name}, then {check}") from None


def load(path: Path) -> Params:
    """Params from a YAML file; UserError for an unreadable or wrong one, FileNotFoundError for none."""
    return parse(yaml_files.parse(path.read_bytes(), str(path)), path.name)


def find_root(folder: Path) -> Path | None:
    """`folder` or the nearest one above it with a params.yaml of ours; other projects of DVC have such a file too."""
    for each in (folder, *folder.absolute().parents):
        file = each / "params.yaml"
        if file.is_file() and re.search(rb"^prompt:", file.read_bytes(), re.MULTILINE):
            return each
    return None


@dataclass(frozen=True)
class Laid:
    """A params file with a preset laid over it: its text, what that says, and the sections that the preset has."""

    text: str
    params: Params
    sections: frozenset[str]


def lay_preset(path: Path, preset: Path) -> Laid:
    """Lay a preset over a params file; named entries (gguf, gptq, remote) are replaced as a whole.

    Comments and order stay. Raises UserError for a wrong preset or params file.
    """
    load(path)
    text, sections = presets.lay_over(path, preset)
    return Laid(text, parse(yaml_files.parse(text), str(preset), f"cartlm preset {preset.stem}"), sections)
