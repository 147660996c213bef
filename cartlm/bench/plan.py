"""The plan of a benchmark: rounds over all variants in random order, a fresh process for each measurement.

Interleaving spreads slow drifts (heat, neighbours) over all variants instead of over those measured last;
a fresh process keeps one model's memory and caches out of the next one's numbers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cartlm.bench import energy

Job = dict[str, Any]
"""What cartlm.bench.worker reads."""


@dataclass(frozen=True)
class Model:
    """What is measured: a GGUF file in llama.cpp, a folder in transformers with a dtype, or the file of the baseline (`rules`)."""

    path: Path
    engine: str = "llama.cpp"
    dtype: str | None = None  # transformers only, as are kernel, nf4 and fixed
    made_by: str = "dvc repro"  # the command that makes it
    device: str = "cpu"
    kernel: str | None = None  # of a GPTQ checkpoint (cartlm.engines.gptq)
    nf4: bool = False  # quantized at load by bitsandbytes
    fixed: bool = False  # a cache of fixed size, with CUDA graphs on a card
    prompts: tuple[tuple[int, ...], ...] = ()  # token ids instead of the round's prompts (reference model)
    new_tokens: int = 0  # of each answer to these

    @property
    def size_bytes(self) -> int:
        """Size of the weights on disk."""
        files = [self.path] if self.path.is_file() else self.path.glob("*.safetensors")
        return sum(file.stat().st_size for file in files)


@dataclass(frozen=True)
class Target:
    """What is measured on: the CPU, or a card (cartlm.bench.gpu)."""

    section: str  # of the speeds in a variant's file
    machine: Mapping[str, str]  # the fingerprint
    meter: Callable[[], energy.Meter] | None  # makes the energy meter; None: there is none
    details: Mapping[str, Any] = field(default_factory=dict)  # for machine.json
    watts: energy.Watts = field(default_factory=energy.Watts)  # given in params.yaml


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often. The fields are described in cartlm.bench.config."""

    seed: int
    rounds: int
    warmups: int
    queries: int
    threads: int
    max_new_tokens: int
    context_tokens: int
    separator: str
    warmup_tokens: int | None = None  # None: as many as of a measured query
    served_rounds: int = 0
    served_queries: int = 1
    in_flight: Sequence[int] = ()
    harness_rounds: int = 0
    harness_prompt: int = 200
    harness_new: int = 32
    batches: Sequence[int] = ()  # transformers only, as is accuracy_batch
    accuracy_batch: int = 0

    @classmethod
    def of(cls, section: Any, prompt: Any, threads: int, max_new_tokens: int) -> Plan:
        """The plan of a section of params.yaml, with the section `prompt`."""
        settings = {f.name: getattr(section, f.name) for f in fields(cls) if hasattr(section, f.name)}
        settings |= {
            "threads": threads, "max_new_tokens": max_new_tokens, "separator": prompt.separator,
            "context_tokens": prompt.max_tokens + max_new_tokens,
        }  # fmt: skip
        return cls(**settings)

    def order(self, variants: Sequence[str], round: int) -> list[str]:
        """The variants in the random order of a round."""
        shuffled = sorted(variants)
        random.Random(f"order {self.seed} {round}").shuffle(shuffled)
        return shuffled

    def draw(self, prompts: Sequence[Any], round: int) -> tuple[list[Any], list[Any]]:
        """(warm-up, measured) prompts of a round, the same for all variants; rounds share none if there are enough."""
        shuffled = list(prompts)
        random.Random(f"prompts {self.seed}").shuffle(shuffled)
        size = self.warmups + self.queries
        taken = [shuffled[(round * size + i) % len(shuffled)] for i in range(size)]
        return taken[: self.warmups], taken[self.warmups :]

    def kinds(self, model: Model, round: int) -> list[str]:
        """The kinds of measurement of a model in a round, each a function of cartlm.bench.worker."""
        if model.prompts or model.engine == "rules":
            return ["queries"]
        if model.engine == "llama.cpp":
            more = {"served": round < self.served_rounds, "harness": round < self.harness_rounds}
        else:
            more = {"batched": bool(self.batches), "accuracy": self.accuracy_batch > 0 and round == 0}
        return ["queries", *(kind for kind, wanted in more.items() if wanted)]

    def job(self, model: Model, kind: str, prompts: Sequence[Any], round: int) -> Job:
        """The job of one measurement; a batch larger than a round's prompts repeats them."""
        warmups, measured = self.draw(prompts, round)
        if kind == "served":
            measured = measured[: self.served_queries]
        elif kind == "accuracy":
            measured = list(prompts)
        elif kind == "batched":
            largest = max(self.batches)
            measured = (measured * (largest // len(measured) + 1))[:largest]
        job = {
            **vars(self), **vars(model), "model": str(model.path), "path": str(model.path), "kind": kind, "round": round,
            "warmups": warmups, "warmup_tokens": self.warmup_tokens or self.max_new_tokens, "prompts": measured,
        }  # fmt: skip
        if model.prompts:
            own, tokens = [(ids, None) for ids in model.prompts], model.new_tokens
            job |= {
                "warmups": own[: self.warmups], "warmup_tokens": tokens, "prompts": own[self.warmups :],
                "max_new_tokens": tokens, "context_tokens": len(model.prompts[0]) + tokens,
            }  # fmt: skip
        return job
