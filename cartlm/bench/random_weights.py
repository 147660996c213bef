"""An architecture by name, with random weights: what a model of that shape costs on a machine, nothing downloaded.

Speed, memory and energy depend on shapes and bits, not on what the weights say. The tokenizer is rebuilt from the
vocabulary file that comes with llama.cpp.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cartlm.system import llama_cpp_build
from cartlm.system.llama_cpp_probe import Shape

PAD = "<|finetune_right_pad_id|>"
PAD_ID = 128004  # its id since Llama 3.1; Llama 3.0, whose vocabulary the file holds, calls it reserved
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
BOS_ID = 128000  # EOS follows
BYTES_EOS_ID = 257  # in the tokenizer of bytes
# The pre-tokenizer of Llama 3's tokenizer.json, as in llama.cpp's src/llama-vocab.cpp (LLAMA_VOCAB_PRE_TYPE_LLAMA3).
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

VOCABULARY = 128256
SHAPES = {
    "llama-3.2-1b": Shape(16, 2048, 8192, 32, 8, VOCABULARY),
    "llama-3.2-3b": Shape(28, 3072, 8192, 24, 8, VOCABULARY),
    "toy": Shape(2, 256, 512, 4, 2, VOCABULARY),  # for tests: made and measured in seconds
}
"""Llamas of Meta's 3.2 release, by the config.json of meta-llama/Llama-3.2-1B and -3B."""
OTHERS: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {
        "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "max_position_embeddings": 40960,
    },
    "gemma-3-270m": {
        "model_type": "gemma3_text", "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144,
        "max_position_embeddings": 32768, "sliding_window": 512, "query_pre_attn_scalar": 256,
    },
    "gemma-3-1b": {
        "model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144,
        "max_position_embeddings": 32768, "sliding_window": 512, "query_pre_attn_scalar": 256,
    },
}  # fmt: skip
"""Other families by the config.json of their models on the hub. Their embeddings are tied, and their vocabularies larger than
Llama 3's, whose tokenizer they get here. Qwen 2 is left out: transformers reads its tokenizers with a split of its own."""
NAMES = (*SHAPES, *OTHERS)


def config_of(name: str, **changes: Any) -> Any:
    """The transformers configuration of one of NAMES; `changes` are of its values, for smaller ones in tests."""
    if name in SHAPES:
        return config(SHAPES[name]._replace(**changes))
    from transformers import AutoConfig

    values = {
        **OTHERS[name],
        **changes,
        "tie_word_embeddings": True,
        "bos_token_id": BOS_ID,
        "eos_token_id": BOS_ID + 1,
    }
    return AutoConfig.for_model(**values, pad_token_id=None)


def config(shape: Shape) -> Any:
    """The configuration of a Llama, with tied embeddings and the rotary scaling of Llama 3.2."""
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=shape.width, intermediate_size=shape.inner, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.width // shape.heads,
        vocab_size=shape.vocabulary, max_position_embeddings=131072, tie_word_embeddings=True, rms_norm_eps=1e-5,
        bos_token_id=shape.vocabulary - 256, eos_token_id=shape.vocabulary - 255,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    )  # fmt: skip


def write(
    folder: Path, model: Any, seed: int, never: int | None = None, quantization: dict[str, Any] | None = None,
    linear: Callable[[str, Any, Any], dict[str, Any]] | None = None,
) -> int:  # fmt: skip
    """A model folder in hub layout with random float16 weights; returns the number of parameters.

    `model` is its transformers configuration. Weights are normal with deviation 0.02, biases 0, norms those of a new model. The token `never` has a logit of 0, so it is never the answer.
    `linear` draws the projections of a checkpoint with this `quantization`. Raises OSError on a full disk.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(model)
    norm = 0.0 if model.model_type.startswith("gemma") else 1.0  # Gemma adds 1 to the weights of its norms
    random = torch.Generator().manual_seed(seed)
    weights: dict[str, Any] = {}
    for name, tensor in empty.named_parameters():  # the tied output is named once
        if tensor.ndim == 1:
            value = 0.0 if name.endswith("bias") else norm
            weights[name] = torch.full(tensor.shape, value, dtype=torch.float16)
        elif linear and "_proj" in name:
            weights |= linear(name.removesuffix("weight"), tensor, random)
        else:
            weights[name] = torch.empty(tensor.shape).normal_(0.0, 0.02, generator=random).half()
    if never is not None:
        weights["model.embed_tokens.weight"][never] = 0
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model.architectures, model.dtype = [type(empty).__name__], torch.float16
    if quantization:
        model.quantization_config = quantization
        (folder / "quantize_config.json").write_text(json.dumps(quantization, indent=2), encoding="utf-8")
    model.save_pretrained(folder)
    return sum(tensor.numel() for tensor in weights.values())


def write_gptq(folder: Path, model: Any, bits: int, group_size: int, seed: int) -> None:
    """A GPTQ checkpoint of random integers, scaled to the deviation of `write`.

    Speed and memory depend on shapes and bits only, so nothing is calibrated. The layout is that of gptqmodel's
    format `gptq`: qweight [inputs * bits / 32, outputs], zeros stored less 1. Raises OSError on a full disk.
    """
    import torch

    middle, width = 2 ** (bits - 1), 32 // bits
    zeros = sum((middle - 1) << (bits * place) for place in range(width))
    zeros -= 2**32 if zeros >= 2**31 else 0
    deviation = (2**bits) / 12**0.5  # of evenly drawn integers

    def linear(part: str, tensor: Any, random: Any) -> dict[str, Any]:
        outputs, inputs = tensor.shape
        groups, packed = inputs // group_size, (inputs // width, outputs)
        return {
            f"{part}qweight": torch.randint(-(2**31), 2**31, packed, generator=random, dtype=torch.int32),
            f"{part}qzeros": torch.full((groups, outputs // width), zeros, dtype=torch.int32),
            f"{part}scales": torch.full((groups, outputs), 0.02 / deviation, dtype=torch.float16),
            f"{part}g_idx": (torch.arange(inputs) // group_size).to(torch.int32),
        }

    quantization = {
        "bits": bits, "group_size": group_size, "desc_act": False, "sym": True, "lm_head": False, "quant_method": "gptq",
        "checkpoint_format": "gptq", "format": "gptq", "method": "gptq", "pack_dtype": "int32", "meta": {},
    }  # fmt: skip
    write(folder, model, seed, quantization=quantization, linear=linear)


def write_bytes_tokenizer(folder: Path) -> None:
    """A tokenizer of single bytes, for prompts that are given as ids: an engine needs one, with BOS and EOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocabulary = {letter: byte for byte, letter in bytes_to_unicode().items()}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.add_special_tokens([BOS, EOS])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    _save_tokenizer(folder, tokenizer)


def write_tokenizer(folder: Path, size: int = VOCABULARY) -> None:
    """tokenizer.json and tokenizer_config.json of Llama 3.2, without a pad token, as published.

    A vocabulary of a larger `size` has more tokens, which no text is read as.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    from cartlm.quantization import gguf  # not on a machine that has torch alone

    fields = gguf.open_gguf(llama_cpp_build.llama3_vocabulary()).fields
    names = ("tokens", "token_type", "merges")
    tokens, types, merges = (fields[f"tokenizer.ggml.{name}"].contents() for name in names)
    tokens[PAD_ID] = PAD
    special = [number for number, kind in enumerate(types) if kind == 3]
    vocabulary = {token: number for number, token in enumerate(tokens) if number < special[0]}
    vocabulary |= {f"<unused{number}>": number for number in range(len(tokens), size)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=True))
    tokenizer.add_special_tokens(
        [AddedToken(tokens[number], special=True, normalized=False) for number in special]
    )
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    template = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B:1", special_tokens=[(BOS, tokens.index(BOS))]
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), template])
    tokenizer.decoder = decoders.ByteLevel()
    _save_tokenizer(
        folder, tokenizer, clean_up_tokenization_spaces=True, model_input_names=["input_ids", "attention_mask"],
        model_max_length=131072,
    )  # fmt: skip


def _save_tokenizer(folder: Path, tokenizer: Any, **settings: Any) -> None:
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    names = {"bos_token": BOS, "eos_token": EOS}
    config = {**names, **settings, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    if settings:
        (folder / "special_tokens_map.json").write_text(json.dumps(names), encoding="utf-8")
