"""The reference model: a small Llama with seeded random weights that no commit changes, measured in every round.

A comparison divides the figures of a round by the reference's of the same round: what slows the machine cancels out.
Its prompts are the same token ids in every round, and its answers never end, so each costs the same work.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from cartlm.bench import random_weights
from cartlm.bench.plan import Model
from cartlm.files import replacing

REFERENCE = "reference"
SEED = 7
PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 20, 192, 32
SHAPE = random_weights.Shape(
    256, 512, 6, 8, 8, 32, vocab_size=1024
)  # about the offline model's, so it costs as much
TYPE = "Q4_K_M"
FOLDER = Path("runs/reference")


def identity(model: Model) -> dict[str, str | int]:
    """The `reference` section of its metrics file: its figures compare only where all of this is equal."""
    shape = {name: getattr(SHAPE, name) for name in ("hidden_size", "num_hidden_layers", "vocab_size")}
    work = {"prompts": PROMPTS, "prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW_TOKENS}
    return {"engine": model.engine, "type": model.dtype or TYPE, "seed": SEED, **shape, **work}


def _model(path: Path, **fields: Any) -> Model:
    draw = random.Random(SEED)
    prompts = tuple(tuple(draw.randrange(3, 256) for _ in range(PROMPT_TOKENS)) for _ in range(PROMPTS))
    return Model(path, prompts=prompts, new_tokens=NEW_TOKENS, **fields)


def transformers_model(device: str, folder: Path = FOLDER) -> Model:
    """The reference in transformers, in float16; made in seconds where it is not there."""
    path = folder / "float16"
    if not path.exists():
        with replacing(path, folder=True) as new:
            random_weights.write(new, SHAPE, SEED, never=random_weights.BYTES_EOS_ID)
            random_weights.write_bytes_tokenizer(new)
    return _model(path, engine="transformers", dtype="float16", device=device, fixed=True)


def gguf_model(folder: Path = FOLDER) -> Model:
    """The reference in llama.cpp; made in a second where it is not there. Raises UserError if llama-quantize fails."""
    from cartlm.quantization import gguf

    path = folder / TYPE.lower() / "model.gguf"
    if not path.exists():
        source = path.with_name("f16.gguf")
        with replacing(source) as new:
            _write_gguf(new)
        gguf.quantize(source, path, TYPE, threads=1, log=path.with_suffix(".log"))
        source.unlink()
    return _model(path)


def _write_gguf(path: Path) -> None:
    """Random float16 weights (normal, deviation 0.02; norms 1) and a vocabulary of bytes and numbers.

    The row of EOS in the output matrix is zero: some other token always has a higher logit.
    """
    import numpy as np
    from gguf import GGUFWriter, TokenType

    size, eos = SHAPE.vocab_size, 2
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += [f"t{number}" for number in range(len(names), size)]
    types = [TokenType.UNKNOWN] + 2 * [TokenType.CONTROL] + 256 * [TokenType.BYTE]
    types += (size - len(types)) * [TokenType.NORMAL]
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_block_count(SHAPE.num_hidden_layers)
    writer.add_embedding_length(SHAPE.hidden_size)
    writer.add_feed_forward_length(SHAPE.intermediate_size)
    writer.add_head_count(SHAPE.num_attention_heads)
    writer.add_head_count_kv(SHAPE.num_key_value_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(names)
    writer.add_token_scores([-float(number) for number in range(size)])
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(eos)

    draw = np.random.default_rng(SEED)
    width, inner = SHAPE.hidden_size, SHAPE.intermediate_size
    kv = SHAPE.num_key_value_heads * SHAPE.head_dim
    matrices = {
        "attn_q": (width, width), "attn_k": (kv, width), "attn_v": (kv, width), "attn_output": (width, width),
        "ffn_gate": (inner, width), "ffn_up": (inner, width), "ffn_down": (width, inner),
    }  # fmt: skip
    shapes = {"token_embd": (size, width), "output": (size, width)}
    for layer in range(SHAPE.num_hidden_layers):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in matrices.items()}
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(width, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for name, shape in shapes.items():
        weights = (0.02 * draw.standard_normal(shape, np.float32)).astype(np.float16)
        if name == "output":
            weights[eos] = 0
        writer.add_tensor(f"{name}.weight", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
