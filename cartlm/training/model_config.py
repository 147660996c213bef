"""Which models are accepted: the config.json that all engines compute alike, and the tensors that it promises.

transformers, gptqmodel, llama.cpp's converter and its engine each know a part of what a config can ask for. What one of
them ignores is refused here; tests/component/training/test_model_config.py asks both engines about the rest. Names and
shapes of the tensors are those of transformers' own model.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cartlm.config import Positive, first_wrong
from cartlm.engines.model_dir import HINT, IN_COPY, Tensor, read_json
from cartlm.errors import UserError
from cartlm.training.rope import LLAMA_TYPES, PLAIN_TYPES, GemmaRopes, Rope, parse_rope

DTYPES = ("F16", "BF16", "F32")
IGNORED_KEYS = frozenset({
    "_attn_implementation_autoset", "_name_or_path", "architectures", "attention_dropout", "auto_map", "bos_token_id",
    "eos_token_id", "finetuning_task", "gradient_checkpointing", "id2label", "initializer_range", "is_decoder",
    "is_llama_config", "label2id", "max_sequence_length", "model_max_length", "num_labels", "pad_token_id",
    "pretraining_tp", "problem_type", "quantization_config", "task_specific_params",
    "tokenizer_class", "transformers.js_config", "transformers_version", "unsloth_fixed", "unsloth_version", "use_cache",
})  # fmt: skip
"""Keys of config.json that change no answer, or that are checked elsewhere."""
UNUSED = "rotary_emb.inv_freq"  # in checkpoints of 2023; transformers computes it anew
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
MEND = f"mend it {IN_COPY}, or {HINT}"

Size = Annotated[int, Field(ge=1, le=2**31 - 1)]  # GGUF stores sizes in 32 bits
Dtype = Literal["float16", "bfloat16", "float32"] | None
LayerTypes = list[Literal["full_attention", "sliding_attention"]] | None


class Decoder(BaseModel):
    """The values of config.json that change what every family computes."""

    model_config = ConfigDict(strict=True, extra="ignore")
    rope_types: ClassVar[tuple[str, ...]] = PLAIN_TYPES

    vocab_size: Size
    hidden_size: Size
    num_hidden_layers: Size
    intermediate_size: Size
    num_attention_heads: Size
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    max_position_embeddings: Size | None = None
    tie_word_embeddings: bool = False
    dtype: Dtype = None
    torch_dtype: Dtype = None
    rms_norm_eps: Positive = 1e-6
    rope_theta: Positive | None = None
    rope_scaling: Rope | None = None
    rope_parameters: Any = None

    @field_validator("rope_scaling", "rope_parameters", mode="before")
    @classmethod
    def _parse_rope(cls, value: Any) -> Rope | None:
        return parse_rope(value, cls.rope_types)

    @model_validator(mode="after")
    def _heads_fit(self) -> Decoder:
        if self.num_attention_heads % (self.num_key_value_heads or 1):
            heads = f"num_attention_heads {self.num_attention_heads} is not a multiple of"
            raise ValueError(f"{heads} num_key_value_heads {self.num_key_value_heads}")
        return self

    @model_validator(mode="after")
    def _one_rope(self) -> Decoder:
        ropes = [rope for rope in (self.rope_scaling, self.rope_parameters) if rope]
        thetas = {theta for theta in (self.rope_theta, *(rope.rope_theta for rope in ropes)) if theta}
        if ropes and ropes[0] != ropes[-1]:
            raise ValueError("rope_scaling and rope_parameters differ")
        if len(thetas) > 1:
            raise ValueError(f"rope_theta is {self.rope_theta}, in the scaling {ropes[0].rope_theta}")
        return self

    def check_made(self, made: Any) -> None:
        """Compare transformers' configuration, with its defaults, with what llama.cpp has built in. Raises ValueError."""


class Llama(Decoder):
    """Llama 1 to 3.2, SmolLM, SmolLM2 and all that are built alike."""

    rope_types = LLAMA_TYPES

    model_type: Literal["llama"] = "llama"
    # one function by two names; llama.cpp computes these models with no other
    hidden_act: Literal["silu", "swish"] = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False


class Mistral(Decoder):
    """llama.cpp loads it as a Llama, without a window: `base` switches one off that no row fills (`base.make`)."""

    rope_types = LLAMA_TYPES

    model_type: Literal["mistral"] = "mistral"
    hidden_act: Literal["silu", "swish"] = "silu"
    sliding_window: Size | None = 4096  # transformers' default


class _Qwen(Decoder):
    """The window is off in all published ones; llama.cpp has none."""

    hidden_act: Literal["silu", "swish"] = "silu"
    use_sliding_window: Literal[False] = False
    sliding_window: int | None = None  # of no meaning with the above, and so is the next
    max_window_layers: int | None = None
    layer_types: list[Literal["full_attention"]] | None = None


class Qwen2(_Qwen):
    """Qwen 2 and 2.5: biases on queries, keys and values."""

    model_type: Literal["qwen2"] = "qwen2"

    def check_made(self, made: Any) -> None:
        size = made.hidden_size // made.num_attention_heads
        if self.head_dim not in (None, size):
            raise ValueError(f"head_dim is {self.head_dim}, in llama.cpp hidden_size by heads, {size}")


class Qwen3(_Qwen):
    """Qwen 3 without experts: norms on queries and keys in place of biases."""

    model_type: Literal["qwen3"] = "qwen3"


class Gemma3(Decoder):
    """Gemma 3 of text alone: five layers with a window, then one without; two rotary bases; scaled embeddings."""

    model_type: Literal["gemma3_text"] = "gemma3_text"
    hidden_activation: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    tie_word_embeddings: bool = True
    query_pre_attn_scalar: Size | None = None
    sliding_window: Size = 4096
    sliding_window_pattern: Literal[6] | None = None
    layer_types: LayerTypes = None
    rope_local_base_freq: Positive | None = None
    rope_parameters: GemmaRopes | None = None

    @field_validator("rope_scaling", mode="before")
    @classmethod
    def _parse_rope(cls, value: Any) -> Rope | None:
        return parse_rope(value, ("default", "linear"))

    @model_validator(mode="after")
    def _one_rope(self) -> Gemma3:
        if self.rope_scaling and self.rope_parameters:
            raise ValueError("rope_scaling and rope_parameters are both given")
        for key, kind in (("rope_theta", "full_attention"), ("rope_local_base_freq", "sliding_attention")):
            rope = getattr(self.rope_parameters, kind, None)
            given = getattr(self, key)
            if given and rope and rope.rope_theta not in (None, given):
                raise ValueError(f"{key} is {given}, in rope_parameters {rope.rope_theta}")
        return self

    def check_made(self, made: Any) -> None:
        # llama.cpp, src/models/gemma3.cpp: the pattern, and the scale by which it tells the 27B model
        layers = [
            "sliding_attention" if (number + 1) % 6 else "full_attention"
            for number in range(made.num_hidden_layers)
        ]
        if list(made.layer_types) != layers:
            raise ValueError(
                f"layer_types is {made.layer_types!r:.80}, in llama.cpp every sixth has full_attention"
            )
        scale = (
            made.hidden_size // made.num_attention_heads if made.num_hidden_layers == 62 else made.head_dim
        )
        if made.query_pre_attn_scalar != scale:
            raise ValueError(f"query_pre_attn_scalar is {made.query_pre_attn_scalar}, in llama.cpp {scale}")


FAMILIES: dict[str, type[Decoder]] = {
    "LlamaForCausalLM": Llama,
    "MistralForCausalLM": Mistral,
    "Qwen2ForCausalLM": Qwen2,
    "Qwen3ForCausalLM": Qwen3,
    "Gemma3ForCausalLM": Gemma3,
}
"""By `architectures` in config.json, which llama.cpp's converter goes by."""


def family(config: Mapping[str, Any]) -> type[Decoder] | None:
    """The family of a config.json, None for one that is not supported."""
    match config.get("architectures"):
        case [str(name)]:
            return FAMILIES.get(name)
    return None


def make(config: Mapping[str, Any]) -> Any:
    """transformers' own configuration of a supported config.json; its errors are transformers'."""
    kind = family(config)
    if kind is None:
        raise ValueError(f"architectures is {config.get('architectures')}")
    return _config_class(kind).from_dict(deepcopy(dict(config)))  # it fills the dicts inside


@cache
def _config_class(kind: type[Decoder]) -> Any:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[kind.model_fields["model_type"].default]


def tied(config: Mapping[str, Any]) -> bool:
    """Whether the head of a checked config.json is the embedding."""
    return bool(make(config).tie_word_embeddings)


def check_config(folder: Path) -> dict[str, Any]:
    """config.json of an unquantized model that every stage computes alike. Raises UserError naming key and value."""
    config, file = read_json(folder / "config.json", HINT), f"{folder}/config.json"
    kind = family(config)
    if kind is None:
        supported = f"one of {', '.join(FAMILIES)}"
        raise UserError(f"{folder} is a {config.get('architectures')}, not {supported}", HINT)
    for key, why in (("auto_map", "needs code of its own"), ("quantization_config", "is quantized already")):
        if config.get(key):
            raise UserError(f"{folder} {why} ({key} in config.json)", HINT)
    try:
        values = kind.model_validate(config)
    except ValidationError as error:
        raise UserError(f"{file}: {first_wrong(error)}", MEND) from None
    _check_other_keys(config, kind, file)
    try:
        made = make(config)
    except Exception as error:  # each of transformers' validators fails in its own way
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: transformers refuses it: {reason}", HINT) from None
    try:
        values.check_made(made)
    except ValueError as error:
        raise UserError(f"{file}: {error}", MEND) from None
    return config


def _check_other_keys(config: Mapping[str, Any], kind: type[Decoder], file: str) -> None:
    """A key beyond those of the family must be null, false, empty or transformers' default. Raises UserError."""
    known = IGNORED_KEYS | kind.model_fields.keys() | generation_keys() | {"_sliding_window_pattern"}
    defaults = {**_config_class(kind)().to_dict(), "is_causal": True, "partial_rotary_factor": 1}
    for key, value in config.items():
        off = value is None or value in ("", [], {}) or (value is False and key not in defaults)
        if key not in known and not off and (key not in defaults or value != defaults[key]):
            raise UserError(
                f"{file}: {key} is {value!r:.80}, which llama.cpp does not know in a {kind.__name__}", MEND
            )


def generation_keys() -> frozenset[str]:
    """Settings of generation that old config.json files hold; transformers saves no model that has one set."""
    from transformers import GenerationConfig, LlamaConfig

    return frozenset(GenerationConfig().to_dict()) - frozenset(LlamaConfig().to_dict())


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of transformers' model of this config; a tied head is none of them."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(make(config))
    shapes = {name: tuple(weights.shape) for name, weights in model.named_parameters()}
    if tied(config):
        shapes.pop(HEAD, None)
    return shapes


def check_weights(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """The tensors of `folder` are those that its config promises, in 16 or 32 bits. Raises UserError."""
    expected, is_tied = expected_shapes(config), tied(config)
    if missing := [name for name in expected if name not in tensors]:
        raise UserError(f"{folder} lacks {len(missing)} weights such as {missing[0]}", HINT)
    for name, tensor in tensors.items():
        if name.endswith(UNUSED) or (name == HEAD and is_tied):
            continue
        if name not in expected:
            flag = "attention_bias" if "attn" in name else "mlp_bias"
            known = name.endswith(".bias") and hasattr(make(config), flag)
            reason = f"{flag} {config.get(flag, False)}" if known else f"a {config['architectures'][0]}"
            raise UserError(f"{folder} holds {name}, which config.json ({reason}) has no place for", HINT)
        if tensor.dtype not in DTYPES or tensor.shape != expected[name]:
            right = f"by config.json it should be {expected[name]} in {', '.join(DTYPES)}"
            raise UserError(f"{folder}: {name} is {tensor.shape} in {tensor.dtype}, {right}", HINT)
