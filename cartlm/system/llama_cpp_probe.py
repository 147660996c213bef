"""The child of cartlm/system/llama_cpp_check.py: makes a small model of each type and asks it through the Python binding.

    python3 -I cartlm/system/llama_cpp_probe.py PREFIX FOLDER

Prints each step as a JSON line and leaves the models in FOLDER. Exit code 3: the answers are wrong. Any step may kill
the process; that is what it is for. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import math
import os
import random
import re
import struct
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

TYPES = {"F16": 1, "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q4_K_M": 15, "Q3_K_M": 12, "Q2_K": 10}
"""What the pipeline makes, by llama.h's numbers of llama_ftype."""
PROMPT, ANSWER = 45, 3  # tokens; the prompt is a whole and a part of what AMX computes at a time
THREADS = min(2, os.cpu_count() or 1)  # a second one, as AMX is set up in each
LEAST = 0.99  # cosine of the logits to those in float32; sound kernels give 0.999 and more, noise 0.0
SOURCE = "source.gguf"
WRONG = 3


class Shape(NamedTuple):
    """Of a Llama; widths are multiples of 256, the blocks of K-quants. A head is width / heads wide."""

    layers: int = 2
    width: int = 256
    inner: int = 512
    heads: int = 4
    kv_heads: int = 2
    vocabulary: int = 256
    context: int = 128
    deviation: float = 0.08


SHAPE = Shape()


def ask(prefix: Path, folder: Path) -> None:
    """Quantize to each type and compare its logits with those of the same weights in float32."""
    write_model(folder / SOURCE, SHAPE)
    c = _binding(prefix)
    silent = c.llama_log_callback(lambda *_: None)  # kept: the library calls it
    c.llama_log_set(silent, None)
    if any((prefix / "lib").glob("libggml-cpu-*.so")):
        # a portable build's variants: these, and not those of the place it was built for
        ctypes.CDLL(str(prefix / "lib/libggml.so")).ggml_backend_load_all_from_path(
            os.fsencode(prefix / "lib")
        )
    c.llama_backend_init()
    _report(variant=cpu_variant())
    for name, number in TYPES.items():
        quantized, plain = folder / f"{name}.gguf", folder / f"{name}-float32.gguf"
        _report(doing=f"quantizing to {name}")
        _quantize(c, folder / SOURCE, quantized, number)
        _quantize(c, quantized, plain, 0)
        _report(doing=f"asking a model in {name}")
        ours, right = _logits(c, quantized), _logits(c, plain)
        plain.unlink()
        cosine = _cosine(ours, right)
        if not cosine >= LEAST:
            _report(wrong=f"a model in {name} answers otherwise than in float32 (cosine {cosine:.3f})")
            sys.exit(WRONG)


def _cosine(first: Sequence[float], second: Sequence[float]) -> float:
    """0 where one of them is all zero; NaN where one holds NaN."""
    lengths = math.hypot(*first) * math.hypot(*second)
    return sum(a * b for a, b in zip(first, second, strict=True)) / lengths if lengths else 0.0


def _report(**step: str) -> None:
    print(json.dumps(step), flush=True)


def _binding(prefix: Path) -> Any:
    """The low-level part of llama_cpp from `prefix`; its package wants numpy and more, which need not be there."""
    package = types.ModuleType("llama_cpp")
    package.__path__ = [str(prefix / "python/llama_cpp")]
    sys.modules["llama_cpp"] = package
    sys.modules["typing_extensions"] = typing  # of which it takes nothing newer
    return importlib.import_module("llama_cpp.llama_cpp")


def cpu_variant() -> str:
    """The CPU code of ggml in this process: `native`, or the variant which a portable build chose.

    Call it after llama_backend_init(). Empty where no backend is loaded or the system has no /proc.
    """
    with contextlib.suppress(OSError):
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        names = set(re.findall(r"/libggml-cpu(?:-([a-z0-9_]+))?\.so", maps))
        return "+".join(sorted(name or "native" for name in names))
    return ""


def _quantize(c: Any, source: Path, target: Path, number: int) -> None:
    settings = c.llama_model_quantize_default_params()
    settings.nthread, settings.ftype, settings.allow_requantize = THREADS, number, True
    if c.llama_model_quantize(os.fsencode(source), os.fsencode(target), settings):
        sys.exit(f"{target.name} cannot be made")


def _logits(c: Any, path: Path) -> list[float]:
    """Of a prompt, at its last positions, and of a few tokens more, one at a time."""
    settings = c.llama_model_default_params()
    settings.n_gpu_layers = 0
    model = c.llama_model_load_from_file(os.fsencode(path), settings)
    if not model:
        sys.exit(f"{path.name} does not load")
    how = c.llama_context_default_params()
    how.n_ctx, how.n_batch, how.n_threads, how.n_threads_batch = 128, 64, THREADS, THREADS
    context = c.llama_init_from_model(model, how)
    ids = random.Random(1).choices(range(SHAPE.vocabulary), k=PROMPT + ANSWER)
    found: list[float] = []
    for part in (ids[:PROMPT], *([token] for token in ids[PROMPT:])):
        tokens = (c.llama_token * len(part))(*part)  # kept: the batch only points at them
        if c.llama_decode(context, c.llama_batch_get_one(tokens, len(part))):
            sys.exit(f"{path.name} gives no answer")
        found += c.llama_get_logits_ith(context, -1)[: SHAPE.vocabulary]
    c.llama_free(context)
    c.llama_model_free(model)
    return found


def write_model(path: Path, shape: Shape, seed: int = 0, tokens: Sequence[str] = ()) -> None:
    """A Llama in GGUF (version 3), its random weights in float16, without a vocabulary or with that of `tokens`.

    Of these 1 is BOS and 2 is EOS, whose logit is 0, so it is never the answer.
    """
    draw, width = random.Random(seed), shape.width
    # 256 values of a normal distribution: one byte draws one
    values = [struct.pack("<e", draw.gauss(0.0, shape.deviation)) for _ in range(256)]
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (width, shape.vocabulary), "output_norm": (width,)}
    for layer in (f"blk.{number}" for number in range(shape.layers)):
        shapes |= {f"{layer}.attn_{name}": (width, width) for name in ("q", "output")}
        shapes |= {f"{layer}.attn_{name}": (width, width * shape.kv_heads // shape.heads) for name in "kv"}
        shapes |= {f"{layer}.ffn_{name}": (width, shape.inner) for name in ("gate", "up")}
        shapes |= {f"{layer}.ffn_down": (shape.inner, width)}
        shapes |= {f"{layer}.{name}_norm": (width,) for name in ("attn", "ffn")}
    shapes["output"] = (width, shape.vocabulary)
    keys: dict[str, Any] = {
        "general.architecture": "llama", "general.alignment": 32, "general.file_type": 1,
        "llama.block_count": shape.layers, "llama.context_length": shape.context, "llama.embedding_length": width,
        "llama.feed_forward_length": shape.inner, "llama.attention.head_count": shape.heads,
        "llama.attention.head_count_kv": shape.kv_heads, "llama.vocab_size": shape.vocabulary,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "tokenizer.ggml.model": "llama" if tokens else "no_vocab",
    }  # fmt: skip
    if tokens:
        kinds = [
            {"<unk>": 2, "<s>": 3, "</s>": 3}.get(token, 6 if token.startswith("<0x") else 1)
            for token in tokens
        ]
        keys |= {
            "tokenizer.ggml.tokens": list(tokens), "tokenizer.ggml.token_type": kinds,
            "tokenizer.ggml.scores": [-float(number) for number in range(len(tokens))],
            "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
        }  # fmt: skip
    head, data, offset = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(keys)), [], 0
    for key, value in keys.items():
        if isinstance(value, list):
            kind = {str: 8, float: 6, int: 5}[type(value[0])]
            head += _pack(key) + struct.pack("<IIQ", 9, kind, len(value)) + b"".join(map(_pack, value))
        else:
            head += _pack(key) + struct.pack("<I", {str: 8, float: 6, int: 4}[type(value)]) + _pack(value)
    for name, sizes in shapes.items():
        if len(sizes) == 1:
            kind, tensor = 0, struct.pack("<f", 1.0) * sizes[0]  # a norm, in float32
        else:
            kind, tensor = 1, b"".join(map(values.__getitem__, draw.randbytes(math.prod(sizes))))
        if name == "output" and tokens:
            tensor = tensor[: 4 * width] + bytes(2 * width) + tensor[6 * width :]
        head += _pack(f"{name}.weight")
        head += struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)
        data.append(tensor)  # each a multiple of 32 bytes
        offset += len(tensor)
    path.write_bytes(head + bytes(-len(head) % 32) + b"".join(data))


def _pack(value: str | float) -> bytes:
    if isinstance(value, str):
        return struct.pack("<Q", len(value.encode())) + value.encode()
    return struct.pack("<f" if isinstance(value, float) else "<I", value)


if __name__ == "__main__":
    ask(Path(sys.argv[1]), Path(sys.argv[2]))
