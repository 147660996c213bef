"""Typed sections of params.yaml. Strict: an unknown key, a wrong type or value names the key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cartlm import yaml_files
from cartlm.errors import UserError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
Tokens = Annotated[int, Field(ge=1, le=2**17)]  # as many as the context of the longest small models
Threads = Annotated[int, Field(ge=1, le=2**10)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# No dot: DVC would split the key there. A file or folder is named after it, and may be no longer than 255.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=100)]
RESERVED = {
    **dict.fromkeys(("base", "adapter", "merged", "f16"), "another model is in models/{0}"),
    "architecture": "make architecture writes below models/{0}",
    **dict.fromkeys(("machine", "rounds"), "metrics/bench has a file {0}"),
    **dict.fromkeys(("parity", "merge"), "a comparison calls metrics/{0}.json so"),
    **dict.fromkeys(("merged-bfloat16", "merged-nf4"), "a card's benchmark has a file {0}"),
}
"""Names that no variant and no server may have, and why."""
Temperature = Annotated[float, Field(ge=0, le=2)]
# The request's field; gpt-5 and the o-series take the latter.
TokenLimit = Literal["max_tokens", "max_completion_tokens"]
Language = Literal["english", "croatian", "spanish"]
GgufType = Literal["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Base(Section):
    """Where the 16-bit base model comes from: the embedded folder, or a hub revision."""

    source: Literal["embedded", "hub"]
    path: str  # embedded: a folder of the repository; hub: an id such as meta-llama/Llama-3.2-1B, or a local folder
    revision: str | None  # hub only; `make pin` writes it, null means the newest


class Prompt(Section):
    """How a row becomes ids; shared by training, engines and calibration."""

    separator: str
    max_tokens: Tokens
    pad_token: str | None  # a special token of the vocabulary, where the tokenizer has no pad of its own


class Catalog(Section):
    min_lines: Count
    max_lines: Count
    twins: Share  # share of catalogs with near-twins of one product

    @model_validator(mode="after")
    def _ordered(self) -> Catalog:
        if self.max_lines < self.min_lines:
            raise ValueError(f"max_lines {self.max_lines} is less than min_lines {self.min_lines}")
        return self


class Wording(Section):
    """Rates of styles, quantity forms and name forms, each among the messages to which it applies.

    The data card (docs/data.md) has the shares of all messages that follow.
    """

    polite: Share
    rambling: Share
    correcting: Share  # the remaining share is terse
    quantity_word: Share  # a number word, where no other form is taken
    quantity_pack: Share  # "a dozen", where the quantity (2, 6, 12, 24) has such a word and is not corrected
    quantity_none: Share  # where the quantity is 1 and not corrected
    name_full: Share
    name_short: Share
    name_part: Share  # of the rows whose catalog holds near-twins
    switch_frame: Share  # the frame is in the row's language, catalog and product are in another
    switch_number: Share  # a number word in another language, where frame and product share one

    @model_validator(mode="after")
    def _shares(self) -> Wording:
        for names in (("polite", "rambling", "correcting"), ("name_full", "name_short")):
            total = sum(getattr(self, name) for name in names)
            if total > 1 + 1e-9:
                raise ValueError(f"{' + '.join(names)} = {total:g} is more than 1")
        return self


class Noise(Section):
    """Rates of the noise operators; see cartlm/data/noise.py for what each one does."""

    clean: Share  # messages that no operator touches
    typo: Share  # of the noisy messages: neighbouring key, dropped, doubled or swapped letters
    max_typos: Count
    slang: Share
    lower_case: Share
    joined_words: Share
    diacritics_all: Share  # of the noisy Croatian and Spanish messages: all dropped
    diacritics_mixed: Share


class Gates(Section):
    """Quality gates: a data set beyond one of them stops the stage."""

    balance: Share  # largest relative distance of an action's or language's share from equal
    template_share: Share
    distinct_2: Share
    near_duplicate: Share  # similarity of messages (0 to 1) at which two splits share a row
    twins: Share  # least share of catalogs with near-twins


def _server(given: Remote | Worded) -> None:
    """Raise ValueError for what is wrong with a server's section; none of the messages shows the value: it may be a key."""
    if given.api_key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", given.api_key_env):
        raise ValueError(
            "api_key_env is not the name of an environment variable, such as OPENAI_API_KEY; "
            "a key never stands here"
        )
    url = urlsplit(given.base_url or "http://default")
    if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc or url.query:
        raise ValueError("base_url is not like http://127.0.0.1:8080/v1, without a password or query")
    if len({value is None for value in (given.input_price, given.output_price, given.price_source)}) > 1:
        raise ValueError("input_price, output_price and price_source are given together or all null")


class Worded(Section):
    """`data.source: openai`: the model that words our labels (cartlm/data/generated.py)."""

    base_url: str | None  # such as http://127.0.0.1:8080/v1; null: the client's default
    model: Annotated[str, Field(min_length=1)]
    api_key_env: str | None  # name of the environment variable with the key; null: a server without keys
    prompts: Count  # generation prompts a language
    examples: Count  # messages of one answer
    noise: Literal[
        "ours", "asked"
    ]  # the operators of data.noise, or the model writes it (data.noise.clean tells how often not)
    structured: bool  # OpenAI's structured outputs; false for servers without them
    batch: bool  # the Batch API: cheaper, within 24 hours
    temperature: Temperature | None  # null: not sent, for models that take none but their own
    max_tokens: Tokens  # of one answer
    token_limit: TokenLimit
    max_requests: Count | None  # new requests of one run; null: no limit
    max_total_tokens: Count | None  # their tokens, prompts and answers
    concurrency: Count
    max_retries: Annotated[int, Field(ge=0)]
    timeout_s: Positive  # of each try
    input_price: Price | None  # US dollars per million tokens; null: no cost is reported
    output_price: Price | None
    price_source: str | None

    @model_validator(mode="after")
    def _sound(self) -> Worded:
        _server(self)
        return self


class Data(Section):
    source: Literal["rules", "openai", "hub", "file"]
    path: (
        str | None
    )  # hub: dataset id or a local folder in hub layout; file: JSONL, CSV, ..., or a folder of them
    revision: str | None
    held_out: (
        str | None
    )  # another published dataset, such as jtlicardo/ecommerce-intent-eval: evaluated apart
    held_out_revision: str | None
    show_rows: bool  # rows of source hub and file in docs/data.md, which git tracks; ours are always shown
    seed: Seed
    train: Count
    validation: Count
    calibration: Count
    test: Count
    novel: Share  # share of test rows whose product and template never occur in training
    languages: Annotated[list[Language], Field(min_length=1)]
    catalog: Catalog
    wording: Wording
    noise: Noise
    gates: Gates
    openai: Worded

    @model_validator(mode="after")
    def _distinct(self) -> Data:
        if len(set(self.languages)) < len(self.languages):
            raise ValueError(f"languages {self.languages} names one twice")
        return self


def _steps(value: int) -> int:
    if value != -1 and value < 1:
        raise ValueError("1 or more, or -1 for as many as the epochs give")
    return value


class Finetune(Section):
    """QLoRA (arXiv 2305.14314) with trl and peft; names follow transformers and peft."""

    seed: Seed
    quantization: Literal["nf4", "none"]
    compute_dtype: Literal["bfloat16", "float16", "float32"]
    lora_rank: Count
    lora_alpha: Count
    lora_dropout: Share
    learning_rate: Positive
    lr_scheduler: Literal["linear", "cosine", "constant"]
    warmup_ratio: Share
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    epochs: Positive
    max_steps: Annotated[int, AfterValidator(_steps)]  # -1: as many as the epochs give
    batch_size: Count
    gradient_accumulation: Count
    gradient_checkpointing: bool
    save_steps: Count


class Merge(Section):
    dtype: Literal["float16", "bfloat16"]
    onto: Literal["16-bit", "nf4"]  # nf4 merges onto the dequantized base: measured, not advised
    check_rows: Count  # validation rows on which adapter and merged model are compared
    min_agreement: (
        Share  # answers alike; merging in 16 bits after NF4 moves some, one that lost the training most
    )


class Reference(Section):
    """An unquantized variant, evaluated before the parity gate."""

    engine: Literal["transformers", "llama.cpp"]


class References(Section):
    """The unquantized variants: the base and the merged model in transformers, GGUF F16 in llama.cpp."""

    base: Reference
    merged: Reference
    f16: Reference

    @model_validator(mode="after")
    def _engines(self) -> References:
        for name, engine in (("base", "transformers"), ("merged", "transformers"), ("f16", "llama.cpp")):
            if getattr(self, name).engine != engine:
                raise ValueError(
                    f"{name}.engine is {getattr(self, name).engine}, but {name} runs in {engine}"
                )
        return self


class Parity(Section):
    min_agreement: Share
    rows: Count


class Gguf(Section):
    type: GgufType
    imatrix: bool  # with an importance matrix from the calibration rows


class Gptq(Section):
    """A GPTQ variant of the merged model (cartlm/quantization/gptq.py)."""

    bits: Literal[2, 3, 4, 8]
    group_size: Literal[-1, 16, 32, 64, 128, 256]  # weights a scale; -1: a scale a row
    symmetric: bool
    act_order: bool
    damp: Annotated[float, Field(gt=0, lt=1)]


class Eval(Section):
    max_new_tokens: Tokens
    batch_size: Count  # of the base model and of the check of the merge; all others answer one row at a time
    flip_rows: Annotated[int, Field(ge=0)]  # rows on which the batched answers are compared with batch 1
    natural_rows: Annotated[
        int, Field(ge=0)
    ]  # at most so many messages that people wrote (cartlm/natural.py)


class BenchCpu(Section):
    seed: Seed
    rounds: Count
    warmups: Annotated[int, Field(ge=4)]
    queries: Count  # test prompts a round and variant
    threads: Threads | None  # null: as many as quota and affinity allow
    max_spread: Positive  # interquartile range of the rounds' decode speeds over their median: above it, none is published
    served_rounds: Annotated[int, Field(ge=0)]  # rounds that also go through llama-server
    served_queries: Count  # of each of those rounds and numbers in flight
    in_flight: Annotated[list[Count], Field(min_length=1)]  # requests at a time there
    harness_rounds: Annotated[int, Field(ge=0)]  # rounds that are also compared with llama-bench
    idle_w: (
        Positive | None
    )  # the machine's watts, idle and at full load, for an estimate where no meter can be read
    load_w: Positive | None

    @model_validator(mode="after")
    def _sound(self) -> BenchCpu:
        if max(self.served_rounds, self.harness_rounds) > self.rounds:
            raise ValueError(f"served_rounds or harness_rounds is more than rounds {self.rounds}")
        if self.served_queries > self.queries:
            raise ValueError(f"served_queries {self.served_queries} is more than queries {self.queries}")
        if (self.idle_w is None) != (self.load_w is None):
            raise ValueError("idle_w and load_w are given together, or both null")
        if self.idle_w is not None and self.load_w is not None and self.load_w <= self.idle_w:
            raise ValueError(f"load_w {self.load_w:g} is not above idle_w {self.idle_w:g}")
        return self


class Architecture(Section):
    """`make architecture`: a known architecture with random weights, measured on this machine."""

    name: Literal["llama-3.2-1b", "llama-3.2-3b", "toy"]
    seed: Seed
    types: list[Literal["q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k"]]  # GGUF, beside f16
    dtypes: list[Literal["float16", "bfloat16", "float32"]]  # of transformers on the CPU
    rounds: Count
    warmups: Annotated[int, Field(ge=4)]
    warmup_tokens: Count  # new tokens of a warm-up query
    queries: Count  # a round and variant
    new_tokens: Count  # of each query: random weights never end an answer
    harness_rounds: Annotated[int, Field(ge=0)]
    harness_prompt: Count  # tokens, for us and for llama-bench
    harness_new: Count
    max_spread: Positive

    @model_validator(mode="after")
    def _sound(self) -> Architecture:
        if self.harness_rounds > self.rounds:
            raise ValueError(f"harness_rounds {self.harness_rounds} is more than rounds {self.rounds}")
        for name, values in (("types", self.types), ("dtypes", self.dtypes)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {values} names one twice")
        return self


def _card(name: str) -> str:
    if name in ("accuracy", "models") or name.split("-")[0] in ("cpu", "gpu"):
        raise ValueError(
            "no card is called so, and other numbers go by that name; a word of the card's name, as t4"
        )
    return name


class Gpu(Section):
    """gpu/dvc.yaml: the benchmark of a CUDA card."""

    card: Annotated[
        Name, AfterValidator(_card)
    ]  # a word of its name, as t4 or h100; the metrics' folder, too
    dtype: Literal["float16", "bfloat16"]  # of GPTQ's activations and of what is not quantized
    seed: Seed
    rounds: Count
    warmups: Annotated[int, Field(ge=4)]
    queries: Count  # a round and variant, one at a time
    batches: list[Count]  # rows answered together
    accuracy_batch: Annotated[
        int, Field(ge=0)
    ]  # all test rows, so many together; 0: accuracy is not measured
    max_spread: Positive


class Compare(Section):
    """What `cartlm compare` takes for a change, by kind of metric: anything smaller is none."""

    accuracy: Share  # of all rows; a paired test comes on top
    speed: Share  # these and the following: of the old value; what the rounds explain is no change either
    latency: Share
    load: Share
    memory: Share
    energy: Share
    size: Share
    loss: Share  # of the fine-tuning's evaluation, and of GPTQ's layers


class Remote(Section):
    """A server with the OpenAI API that answers the test rows; `make remote` asks it, nothing else does."""

    engine: Literal["openai"]
    base_url: str | None  # such as http://127.0.0.1:8080/v1; null: the client's default
    model: Annotated[str, Field(min_length=1)]
    api: Literal["chat", "completions"]  # completions: the bare prompt, for a model fine-tuned on it
    api_key_env: str | None  # name of the environment variable with the key; null: a server without keys
    instruction: str | None  # chat: the system prompt
    max_new_tokens: Tokens
    token_limit: TokenLimit
    temperature: Temperature | None  # 0: greedy; null: not sent, for models that take none but their own
    concurrency: Count  # requests in flight
    max_retries: Annotated[int, Field(ge=0)]
    timeout_s: Positive  # of each try
    input_price: Price | None  # US dollars per million tokens; null: no cost is reported
    output_price: Price | None
    price_source: str | None  # where and when the prices were read

    @model_validator(mode="after")
    def _sound(self) -> Remote:
        _server(self)
        if self.api == "completions" and self.instruction is not None:
            raise ValueError("instruction is the system prompt of api: chat; completions has none")
        if self.api == "completions" and self.token_limit != "max_tokens":
            raise ValueError("token_limit is max_tokens with api: completions, which has no other")
        return self


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


def parse(values: Any, name: str) -> Params:
    """Params from plain values; UserError names the first bad key of `name` and its value."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{name}: {first_wrong(error)}", f"edit {name}, then cartlm params check") from None


def first_wrong(error: ValidationError) -> str:
    """The first wrong key, its value and what is wrong with it, and how many more there are."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "(top level)"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    # a check of a whole section names its values itself
    silent = first["type"] in ("missing", "value_error") and not isinstance(first["input"], int | float | str)
    silent = silent or "key" in key.rpartition(".")[2]  # an API key, put where none belongs
    given = "" if silent else f" = {first['input']!r:.80}"
    what = {"extra_forbidden": "unknown key", "missing": "missing key", "bool_type": "true or false"}.get(
        first["type"], first["msg"]
    )
    return f"{key}{given}: {what.removeprefix('Value error, ')}{more}"


def load(path: Path) -> Params:
    """Params from a YAML file; UserError for a missing, unreadable or wrong one."""
    try:
        values = yaml_files.parse(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing", "make preset NAME=offline") from None
    except yaml_files.NotYaml as error:
        raise UserError(f"{path} is not YAML: {error}", f"git diff {path}") from None
    return parse(values, path.name)
