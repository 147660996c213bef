"""The adapter merged into the base: a plain 16-bit Llama folder, and proof that it answers as the adapter did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers as hf

from cartlm.engines import model_dir
from cartlm.engines.agreement import Agreement, Divergence
from cartlm.engines.answer import Answer
from cartlm.engines.model_dir import Tensor, load_tokenizer
from cartlm.engines.tensor_groups import bytes_by_group
from cartlm.engines.transformers import Transformers, load
from cartlm.errors import UserError
from cartlm.files import replacing
from cartlm.training.llama_config import check_config, check_weights
from cartlm.training.qlora import RECORD, computed_in, load_base, pick_device

GROUPS = {
    "token_embd": "embedding",
    "attention": "attention",
    "ffn": "mlp",
    "norm": "norm",
    "output": "lm_head",
}
"""transformers' names of cartlm.engines.tensor_groups' groups, as metrics/merge.json has them."""


@dataclass(frozen=True)
class Merged:
    """Sizes of what was written. `bytes_by_group`: the groups that occur; lm_head is absent where it is tied."""

    size_bytes: int  # of all files in the folder
    parameters: int
    bytes_by_group: dict[str, int]


def merge(
    base: Path,
    adapter: Path,
    dtype: Literal["float16", "bfloat16"],
    onto: Literal["16-bit", "nf4"],
    target: Path,
) -> Merged:
    """`target`: base plus adapter, added in float32 and rounded once to `dtype`, with the base's tokenizer.

    `onto` "nf4" takes the base's matrices as NF4 gives them back. Tied embeddings stay one tensor. What was
    written is read back and compared. `target` is replaced at the end. Raises UserError.
    """
    device = pick_device("float32")
    if onto == "nf4":
        model = load_base(base, "nf4", "float32", device).dequantize(dtype=torch.float32)
    else:
        model = load_base(base, "none", "float32", device)
    model = with_adapter(model, adapter).merge_and_unload()
    model = model.to("cpu", getattr(torch, dtype))
    for name, weights in model.named_parameters():
        if not torch.isfinite(weights).all():
            raise UserError(
                f"merged, {name} does not fit into {dtype}", "set merge.dtype: bfloat16 in params.yaml"
            )
    tokenizer = load_tokenizer(base)
    _set_configs(model, tokenizer)
    with replacing(target, folder=True) as temporary:
        model.save_pretrained(temporary)
        model_dir.copy(base, temporary, model_dir.TOKENIZER)
        _plain_config(temporary / "config.json")
        found = check_saved(temporary, model, tokenizer, dtype)
    groups = bytes_by_group((name, tensor.bytes) for name, tensor in found.items())
    return Merged(
        sum(path.stat().st_size for path in target.iterdir()),
        sum(weights.numel() for weights in model.parameters()),
        {GROUPS[name]: size for name, size in groups.items()},
    )


def with_adapter(model: Any, adapter: Path) -> Any:
    """The base with the adapter on it. Raises UserError if it is broken or was trained on another base."""
    import peft

    for name in (peft.utils.SAFETENSORS_WEIGHTS_NAME, peft.utils.CONFIG_NAME):
        if not (adapter / name).is_file():  # else peft looks for it on the hub
            raise UserError(f"{adapter / name} is missing", "dvc repro -f finetune")
    try:
        return peft.PeftModel.from_pretrained(model, str(adapter))
    except (RuntimeError, ValueError, TypeError) as error:
        text = " ".join(str(error).split())[:160]
        raise UserError(f"{adapter} does not fit the base model: {text}", "dvc repro -f finetune") from None


def _set_configs(model: Any, tokenizer: Any) -> None:
    """The tokenizer's special ids in both configs, greedy decoding, no trace of the quantization."""
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    for name, value in ids.items():
        setattr(model.config, name, value)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.generation_config = hf.GenerationConfig(**ids, do_sample=False)


def _plain_config(path: Path) -> None:
    """Drop what names this machine."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_saved(folder: Path, model: Any, tokenizer: Any, dtype: str) -> dict[str, Tensor]:
    """The tensors on disk, after comparing all that was written with `model` and `tokenizer`. Raises UserError."""
    from safetensors.torch import load_file

    def require(holds: bool, what: str) -> None:
        if not holds:
            raise UserError(
                f"the merged model: {what}", "report this: the versions in docker/train.txt were tested"
            )

    config = check_config(folder)
    found = model_dir.weights(folder).tensors
    check_weights(folder, config, found)
    tied = bool(config.get("tie_word_embeddings"))
    require(tied == bool(model.config.tie_word_embeddings), f"tie_word_embeddings became {tied}")
    require(not (tied and "lm_head.weight" in found), "lm_head is stored beside the embedding it is tied to")
    kept = model.state_dict()
    weights: dict[str, torch.Tensor] = {}
    for file in {tensor.file for tensor in found.values()}:
        weights |= load_file(folder / file)
    require(set(kept) - {"lm_head.weight"} == set(weights) - {"lm_head.weight"}, "tensors were left out")
    for name, tensor in weights.items():
        require(torch.equal(tensor, kept[name]), f"{name} differs on disk")
        require(str(tensor.dtype) == f"torch.{dtype}", f"{name} is {tensor.dtype}")
    require(
        config.get("dtype", config.get("torch_dtype")) == dtype, f"config.json says {config.get('dtype')}"
    )

    generation = hf.GenerationConfig.from_pretrained(folder)
    again = load_tokenizer(folder)
    require(generation.do_sample is False, "generation_config.json samples")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(tokenizer, name)
        for where, given in (("tokenizer", again), ("generation_config", generation)):
            require(
                getattr(given, name) == value, f"{name} of its {where} is {getattr(given, name)}, not {value}"
            )
        require(config.get(name) == value, f"{name} of its config.json is {config.get(name)}, not {value}")
    require(tokenizer.pad_token_id != tokenizer.eos_token_id, "it pads with its EOS")
    return found


def compare(
    base: Path, adapter: Path, merged: Path, prompts: Sequence[list[int]], *,
    quantization: str, compute_dtype: str, max_new_tokens: int, batch_size: int,
) -> tuple[Agreement, dict[str, str | int]]:  # fmt: skip
    """On how many of `prompts` (ids) both give the same tokens; the adapter in `compute_dtype`, as in training.

    The merged model's answers, made in batches, are drafts that the adapter verifies; where it disagrees, both count at
    batch 1.
    """
    device = pick_device(compute_dtype)
    compute_dtype = computed_in(compute_dtype, device)
    engine = load(merged)
    about = engine.describe()
    theirs = engine.answers(prompts, max_new_tokens, batch_size)
    del engine
    model = with_adapter(load_base(base, quantization, compute_dtype, device), adapter)
    asked = Transformers(adapter, model.eval(), load_tokenizer(base))
    with torch.autocast(device, getattr(torch, compute_dtype), enabled=compute_dtype != "float32"):
        ours = [
            asked.verified(prompt, max_new_tokens, answer.token_ids)
            for prompt, answer in zip(prompts, theirs, strict=True)
        ]
    del model, asked
    differ = [index for index, pair in enumerate(zip(ours, theirs, strict=True)) if not _alike(*pair)]
    if differ:  # by the batch alone? at batch 1, as the adapter was asked
        engine = load(merged)
        for index in differ:
            theirs[index] = engine.verified(prompts[index], max_new_tokens, ours[index].token_ids)
    differ = [index for index in differ if not _alike(ours[index], theirs[index])]
    divergences = [Divergence(index, ours[index].text, theirs[index].text) for index in differ]
    return Agreement(len(prompts), divergences), about


def require_agreement(alike: Agreement, least: float, onto: str, quantization: str) -> None:
    """Stop where the merged model answers less than the share `least` of the prompts as the adapter did. Raises UserError.

    `onto` and `quantization` are what was merged onto and trained on: where they differ, that is what can be mended.
    """
    if alike.share >= least:
        return
    if quantization == "nf4" and onto == "16-bit":
        way = "set merge.onto: nf4 (the weights it was trained on), or finetune.quantization: none"
    else:
        way = "set a lower finetune.learning_rate, or merge.dtype: bfloat16"
    raise UserError(
        f"adapter and merged model answer {alike.share:.4g} of {alike.n} rows alike, less than "
        f"merge.min_agreement={least:g}; see runs/merge.json",
        f"{way} in params.yaml, then dvc repro; or lower merge.min_agreement",
    )


def _alike(one: Answer, other: Answer) -> bool:
    return (one.token_ids, one.finish_reason) == (other.token_ids, other.finish_reason)


def record(adapter: Path) -> dict[str, Any]:
    """Where and with what the adapter was trained. Raises UserError if its folder is not ours."""
    try:
        found: dict[str, Any] = json.loads((adapter / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{adapter} has no {RECORD}", "dvc repro finetune") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{adapter / RECORD} is not JSON: {error}", "dvc repro -f finetune") from None
    return found
