"""The models whose numbers this repository has: the default one in metrics/, and the studies in results/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cartlm.pipeline import study_results
from cartlm.pipeline.study_results import Study
from cartlm.report.paper import GENERATED
from cartlm.report.summary import read_base, read_optional

OFFLINE = "offline"
"""The default of params.yaml in tables beside studies."""
EMBEDDED = "embedded"
LANGUAGE = "language_"
"""Begins the keys of metrics/data.json with the share of a language."""


@dataclass(frozen=True)
class Model:
    """One model, with all its variants."""

    name: str
    metrics: Path
    variants: list[str]
    base: Mapping[str, Any]  # what origin.json says (cartlm.training.origin), as far as it is known
    record: Mapping[str, Any] = field(default_factory=dict)  # study.json
    late: Mapping[str, list[str]] = field(default_factory=dict)  # stage -> what changed since it was run
    dataset: str = GENERATED  # or the path of the published rows or of a user's

    @property
    def parameters(self) -> int | None:
        return read_optional(self.metrics / "merge.json").get("parameters")

    @property
    def size(self) -> str:
        """Parameters in millions, as text."""
        return f"{self.parameters / 1e6:.3g} M" if self.parameters else ""

    @property
    def label(self) -> str:
        return f"{self.name}, {self.size}" if self.size else self.name

    @property
    def pretrained(self) -> bool:
        """Whether somebody else pretrained it."""
        return self.base.get("source") not in (None, EMBEDDED)

    @property
    def origin(self) -> str:
        """Name, parameters, and what the weights were before."""
        was, count = self.base.get("dequantized_from"), self.parameters
        parts = [f"`{self.base.get('name', self.name)}`"]
        parts += [f"{count:,} parameters"] if count else []
        return ", ".join([*parts, *([f"dequantized from {was}"] if was else [])])

    @property
    def untrained(self) -> list[str]:
        """Languages of the test rows that no training row has, as metrics/data.json counts them."""
        shares = read_optional(self.metrics / "data.json")
        trained, tested = (shares.get(f"{split}_shares", {}) for split in ("train", "test"))
        return [
            key.removeprefix(LANGUAGE).capitalize()
            for key in tested
            if key.startswith(LANGUAGE) and key not in trained
        ]

    @property
    def quantized(self) -> dict[str, dict[str, Any]]:
        """Quantized variant -> what its stage says of the file, as metrics/quantize and metrics/gptq have it."""
        files = [
            (each, self.metrics / kind / f"{each}.json")
            for each in self.variants
            for kind in ("quantize", "gptq")
        ]
        return {variant: made for variant, path in files if (made := read_optional(path).get("quantize"))}

    @property
    def bits(self) -> dict[str, float]:
        """Quantized variant -> bits per weight, of the whole file."""
        key = "bits_per_weight"
        return {variant: float(made[key]) for variant, made in self.quantized.items() if key in made}


def studies(root: Path, dated: bool = False) -> list[Model]:
    """All studies; `dated`: with what changed since each was run, for which DVC takes seconds a study."""
    found = study_results.read_all(root)
    late = study_results.find_stale(root, found) if dated else {}
    return [of_study(study, late.get(study.name, {})) for study in found]


def default(metrics: Path, variants: Sequence[str], path: str, source: str) -> Model:
    """The model of params.yaml; `path` and `source` of its base, where metrics/merge.json has nothing of its origin."""
    return Model(OFFLINE, metrics, list(variants), {"name": path, "source": source, **read_base(metrics)})


def of_study(study: Study, late: Mapping[str, list[str]]) -> Model:
    """A study, with what changed since it was run."""
    section = study.params.get("base") or {}
    given = {"name": section.get("path") or section.get("name"), "source": section.get("source")}
    base = {key: value for key, value in {**given, **study.base}.items() if value not in (None, "")}
    dataset = (study.params.get("data") or {}).get("path") or GENERATED
    return Model(study.name, study.metrics, study.variants, base, study.record, late, dataset)
