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
from cartlm.system import llama_cpp_probe

SEED = 7
PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 20, 192, 32
# about the offline model's, so it costs as much
SHAPE = llama_cpp_probe.Shape(6, 256, 512, 8, 8, 1024, context=2048, deviation=0.02)
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *(f"t{n}" for n in range(765))]
TYPE = "Q4_K_M"
FOLDER = Path("runs/reference")


def identity(model: Model) -> dict[str, str | int]:
    """The `reference` section of its metrics file: its figures compare only where all of this is equal."""
    shape = {"hidden_size": SHAPE.width, "num_hidden_layers": SHAPE.layers, "vocab_size": SHAPE.vocabulary}
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
            random_weights.write(new, random_weights.config(SHAPE), SEED, never=random_weights.BYTES_EOS_ID)
            random_weights.write_bytes_tokenizer(new)
    return _model(path, engine="transformers", dtype="float16", device=device, fixed=True)


def gguf_model(folder: Path = FOLDER) -> Model:
    """The reference in llama.cpp; made in a second where it is not there. Raises UserError if llama-quantize fails."""
    from cartlm.quantization import gguf

    path = folder / TYPE.lower() / "model.gguf"
    if not path.exists():
        source = path.with_name("f16.gguf")
        with replacing(source) as new:
            llama_cpp_probe.write_model(new, SHAPE, SEED, TOKENS)
        gguf.quantize(source, path, TYPE, threads=1, log=path.with_suffix(".log"))
        source.unlink()
    return _model(path)
