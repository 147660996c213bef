"""The adapter merged into the base: a plain 16-bit model folder, and a check that it answers as the adapter did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers as hf

from cartlm.engines import model_dir
from cartlm.engines.answer import Agreement, Answer, Compared, same_tokens
from cartlm.engines.model_dir import Tensor, load_tokenizer
from cartlm.engines.tensor_groups import bytes_by_group
from cartlm.engines.transformers import Transformers, load
from cartlm.errors import UserError
from cartlm.files import MIB, replacing
from cartlm.training.config import Merge
from cartlm.training.model_config import HEAD, check_config
from cartlm.training.qlora import available_dtype, load_base, pick_device

GROUPS = {
    "token_embd": "embedding",
    "attention": "attention",
    "ffn": "mlp",
    "norm": "norm",
    "output": "lm_head",
}
"""transformers' names of the groups in cartlm.engines.tensor_groups, as metrics/merge.json has them."""


Onto = Literal["16-bit", "nf4"]


def ways(onto: Onto, quantization: str) -> list[Onto]:
    """What an adapter can be merged onto: `onto` first, then the other, where the adapter was trained on NF4."""
    if quantization != "nf4":
        return [onto]
    return [onto, "nf4" if onto == "16-bit" else "16-bit"]


@dataclass(frozen=True)
class Merged:
    """Sizes of what was written. `bytes_by_group`: the groups that occur; lm_head is absent where it is tied."""

    size_bytes: int  # of all files in the folder
    parameters: int
    bytes_by_group: dict[str, int]

    @property
    def size_mib(self) -> float:
        return self.size_bytes / MIB


def merge(
    base: Path, adapter: Path, dtype: Literal["float16", "bfloat16"], onto: Onto, target: Path
) -> Merged:
    """`target`: base plus adapter, added in float32 and rounded once to `dtype`, with the base's tokenizer.

    `onto` "nf4" dequantizes the base's NF4 matrices and merges onto those. Tied embeddings stay one tensor. The weights
    are read back and compared. `target` is replaced at the end. Raises UserError.
    """
    device = pick_device("float32")
    if onto == "nf4":
        model = load_base(base, "nf4", "float32", device).dequantize(dtype=torch.float32)
    else:
        model = load_base(base, "none", "float32", device)
    model = with_adapter(model, adapter).merge_and_unload().to("cpu", getattr(torch, dtype))
    for name, weights in model.named_parameters():
        if not torch.isfinite(weights).all():
            raise UserError(
                f"merged, {name} does not fit into {dtype}", "set merge.dtype: bfloat16 in params.yaml"
            )
        if weights.ndim > 1 and not torch.isfinite(weights.half()).all():
            raise UserError(
                f"merged, {name} does not fit into float16, the type of matrices in GGUF F16",
                "set a lower finetune.learning_rate in params.yaml",
            )
    tokenizer = load_tokenizer(base)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.config.update(ids)
    ends = model_dir.read_json(base / "generation_config.json")["eos_token_id"]  # `base` wrote it
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.generation_config = hf.GenerationConfig(**ids | {"eos_token_id": ends}, do_sample=False)
    with replacing(target, folder=True) as temporary:
        model.save_pretrained(temporary)
        model_dir.copy(base, temporary, model_dir.TOKENIZER)
        config = model_dir.read_json(temporary / "config.json")
        config.pop("_name_or_path", None)  # names this machine
        model_dir.write_json(temporary / "config.json", config, sort_keys=True)
        tensors = check_saved(temporary, model, dtype)
    groups = bytes_by_group((name, tensor.bytes) for name, tensor in tensors.items())
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
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{adapter} does not fit the base model: {reason}", "dvc repro -f finetune") from None


def check_saved(folder: Path, model: Any, dtype: str) -> dict[str, Tensor]:
    """The tensors on disk, compared with those of `model`: transformers may tie, split or convert. Raises UserError."""
    from safetensors.torch import load_file

    config, tensors = check_config(folder), model_dir.weights(folder).tensors
    expected = model.state_dict()
    if model.config.tie_word_embeddings:
        del expected[HEAD]
    saved: dict[str, torch.Tensor] = {}
    for file in {tensor.file for tensor in tensors.values()}:
        saved |= load_file(folder / file)
    wrong = [
        f"{name} differs"
        for name in saved.keys() | expected.keys()
        if name not in saved or name not in expected or not _same(saved[name], expected[name])
    ]
    if (saved_dtype := config.get("dtype", config.get("torch_dtype"))) != dtype:
        wrong.append(f"config.json has dtype {saved_dtype}")
    if wrong:
        hint = "report this: the versions in docker/train.txt were tested"
        raise UserError(f"the merged model and what was saved of it: {min(wrong)}", hint)
    return tensors


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def compare(
    base: Path, adapter: Path, merged: Path, prompts: Sequence[list[int]], *, quantization: str, compute_dtype: str,
    max_new_tokens: int, batch_size: int, ours: list[Answer] | None = None,
) -> Compared:  # fmt: skip
    """Answers of the adapter (`ours`, where they are known) and of the model folder `merged`.

    The adapter runs in `compute_dtype`, as in training. The merged model's answers, made in batches, are drafts that the
    adapter verifies; where the two disagree, both count at batch 1.
    """
    engine = load(merged)
    theirs, description = engine.answers(prompts, max_new_tokens, batch_size), engine.describe()
    del engine
    if ours is None:
        drafts = [answer.token_ids for answer in theirs]
        ours = _verified(base, adapter, prompts, drafts, quantization, compute_dtype, max_new_tokens)
    pairs = enumerate(zip(ours, theirs, strict=True))
    if different := [index for index, pair in pairs if not same_tokens(*pair)]:  # because of the batch alone?
        engine = load(merged)
        for index in different:
            theirs[index] = engine.verify_draft(prompts[index], max_new_tokens, ours[index].token_ids)
    return Compared(ours, theirs, description)


def _verified(
    base: Path, adapter: Path, prompts: Sequence[list[int]], drafts: Sequence[Sequence[int]],
    quantization: str, compute_dtype: str, max_new_tokens: int,
) -> list[Answer]:  # fmt: skip
    """The adapter's answers at batch 1, quicker where they begin as the drafts."""
    device = pick_device(compute_dtype)
    compute_dtype = available_dtype(compute_dtype, device)
    model = with_adapter(load_base(base, quantization, compute_dtype, device), adapter)
    engine = Transformers(adapter, model.eval(), load_tokenizer(base))
    with torch.autocast(device, getattr(torch, compute_dtype), enabled=compute_dtype != "float32"):
        return [
            engine.verify_draft(prompt, max_new_tokens, draft)
            for prompt, draft in zip(prompts, drafts, strict=True)
        ]


def require_agreement(agreement: Agreement, settings: Merge, quantization: str) -> None:
    """Raises UserError where adapter and merged model agree on less than the share `merge.min_agreement` of the rows.

    `quantization` is what was trained on: the hint depends on whether `merge.onto` is the same.
    """
    if agreement.share >= settings.min_agreement:
        return
    if quantization == "nf4" and settings.onto == "16-bit":
        hint = "set merge.onto: nf4 (the weights it was trained on), or finetune.quantization: none"
    else:
        hint = "set a lower finetune.learning_rate, or merge.dtype: bfloat16"
    raise UserError(
        f"adapter and merged model answer {agreement.share:.4g} of {agreement.n} rows alike, less than "
        f"merge.min_agreement={settings.min_agreement:g}; see runs/merge.json",
        f"{hint} in params.yaml, then dvc repro; or lower merge.min_agreement",
    )
