"""Params of the benchmarks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from cartlm.config import Count, Name, Positive, Section, Seed, Threads
from cartlm.quantization.gguf_types import PlainTypeName

NotNegative = Annotated[int, Field(ge=0)]


class Schedule(Section):
    """What all benchmarks have."""

    seed: Seed
    rounds: Count
    warmups: Annotated[int, Field(ge=4)]  # queries before the measured ones, in each process
    queries: Count  # test prompts per round and variant, one at a time
    # Interquartile range over median of the rounds' decode speeds, and half of that of the 95th percentiles of their
    # seconds per token (of the baseline, which has no tokens: latencies per character): above it, nothing is
    # published (of the baseline: it is left out)
    max_spread: Positive

    @model_validator(mode="after")
    def _within_the_rounds(self) -> Schedule:
        for name, value in self:
            if name.endswith("_rounds") and value > self.rounds:
                raise ValueError(f"{name} {value} is more than rounds {self.rounds}")
        return self


class BenchCpu(Schedule):
    threads: Threads | None  # null: as many as quota and affinity allow
    served_rounds: NotNegative  # rounds that also go through llama-server
    served_queries: Count  # of each of those rounds and numbers in flight
    in_flight: Annotated[list[Count], Field(min_length=1)]  # requests at a time there
    harness_rounds: NotNegative  # rounds that are also compared with llama-bench
    # The machine's watts, idle and at full load, for an estimate where no meter can be read
    idle_w: Positive | None
    load_w: Positive | None

    @model_validator(mode="after")
    def _sound(self) -> BenchCpu:
        if self.served_queries > self.queries:
            raise ValueError(f"served_queries {self.served_queries} is more than queries {self.queries}")
        if (self.idle_w is None) != (self.load_w is None):
            raise ValueError("idle_w and load_w are given together, or both null")
        if self.idle_w is not None and self.load_w is not None and self.load_w <= self.idle_w:
            raise ValueError(f"load_w {self.load_w:g} is not above idle_w {self.idle_w:g}")
        return self


class BenchDecoding(Section):
    """One model file through every way of decoding."""

    variant: Name  # of section gguf, or f16
    seed: Seed
    sessions: Annotated[int, Field(ge=2)]  # catalogs, one after the other
    messages: Annotated[
        int, Field(ge=2)
    ]  # about each catalog, which has as many lines; the first one is cold


class Architecture(Schedule):
    """`make architecture`: a known architecture with random weights, measured on this machine."""

    name: Literal["llama-3.2-1b", "llama-3.2-3b", "qwen3-0.6b", "gemma-3-270m", "gemma-3-1b", "toy"]
    types: list[PlainTypeName]  # GGUF, beside f16
    dtypes: list[Literal["float16", "bfloat16", "float32"]]  # of transformers on the CPU
    warmup_tokens: Count  # new tokens of a warm-up query
    new_tokens: Count  # of each query: random weights never end an answer
    harness_rounds: NotNegative
    harness_prompt: Count  # tokens, for us and for llama-bench
    harness_new: Count

    @model_validator(mode="after")
    def _sound(self) -> Architecture:
        for name, values in (("types", self.types), ("dtypes", self.dtypes)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {values} names one twice")
        return self


def _card(name: str) -> str:
    if name in ("accuracy", "models") or name.split("-")[0] in ("cpu", "gpu"):
        raise ValueError("the name is taken by other metrics; use a word of the card's name, as t4")
    return name


class Gpu(Schedule):
    """gpu/dvc.yaml: the benchmark of a CUDA card."""

    card: Annotated[
        Name, AfterValidator(_card)
    ]  # a word of its name, as t4 or h100; the metrics' folder, too
    dtype: Literal["float16", "bfloat16"]  # of GPTQ's activations and of what is not quantized
    batches: list[Count]  # rows answered together
    accuracy_batch: NotNegative  # all test rows, so many together; 0: accuracy is not measured
