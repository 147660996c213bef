"""Pretraining of the base model: Muon for matrices, AdamW for the rest, resumable, CUDA where there is any."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cartlm.params import Data
from cartlm.pretraining import corpus


@dataclass(frozen=True)
class Recipe:
    """Shape and training of the base model. `tokens_per_step` counts padded tokens.

    `start` is "nothing" (random weights, an easy beginning) or a folder whose weights training goes on from.
    """

    start: str
    seed: int
    vocabulary: int
    longest_piece: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    steps: int
    tokens_per_step: int
    learning_rate: float
    warmup_steps: int
    decay_share: float
    weight_decay: float
    save_every: int
    probe_every: int
    probe_rows: int


def build(recipe: Recipe, pad: int, bos: int, eos: int) -> Any:
    """A Llama of the recipe's shape with random weights, input and output embeddings tied."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        pad_token_id=pad,
        bos_token_id=bos,
        eos_token_id=eos,
    )
    return LlamaForCausalLM(config)


_LONGEST = 1400
_PARTS = 8  # a batch is worked on in so many parts
FROM_NOTHING = "nothing"
_GROUP = 8  # steps whose documents are drawn together and sorted by length, so that little is padded


def batches(
    recipe: Recipe, data: Data, group: int, tokenize: Callable[[str], list[int]], bos: int, eos: int, pad: int
) -> list[tuple[Any, Any]]:
    """`(ids, weights)`, both (documents, tokens), for each step of a group; a function of seed and group alone."""
    import torch

    rng = random.Random(f"{recipe.seed}/{group}")
    progress = group * _GROUP / recipe.steps if recipe.start == FROM_NOTHING else 1.0
    rows: list[tuple[list[int], list[float]]] = []
    while sum(len(ids) for ids, _ in rows) < recipe.tokens_per_step * _GROUP:
        ids, weights = corpus.encode(corpus.document(data, progress, rng), tokenize, bos, eos)
        if len(ids) <= _LONGEST:
            rows.append((ids, weights))
    rows.sort(key=lambda row: len(row[0]))
    made, total, start = [], sum(len(ids) for ids, _ in rows), 0
    for index in range(_GROUP):
        end, count = start, 0
        others = _GROUP - 1 - index  # each of them gets one document at least
        while end < len(rows) - others and (not others or count < total / _GROUP):
            count += len(rows[end][0])
            end += 1
        part, start = rows[start:end], end
        longest = max(len(ids) for ids, _ in part)
        ids_ = torch.full((len(part), longest), pad)
        weights_ = torch.zeros((len(part), longest))
        for at, (row, weight) in enumerate(part):
            ids_[at, : len(row)] = torch.tensor(row)
            weights_[at, : len(row)] = torch.tensor(weight)
        made.append((ids_, weights_))
    rng.shuffle(made)
    return made


def rate(recipe: Recipe, step: int) -> float:
    """Learning rate: linear warm-up, constant, then linear to zero over the last `decay_share`."""
    left = (recipe.steps - step) / max(1, round(recipe.steps * recipe.decay_share))
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup_steps, left)


def _optimizers(model: Any, recipe: Recipe) -> list[Any]:
    import torch

    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(
        matrices, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, torch.optim.AdamW(others, lr=recipe.learning_rate, weight_decay=0.0, betas=(0.9, 0.95))]


def _gradients(
    model: Any, ids: Any, weights: Any, workers: ThreadPoolExecutor
) -> tuple[list[Any], float, float]:
    """Gradients of the weighted loss over a batch, that loss, and the plain loss on the answers.

    The batch is worked on in parts and the parts are added in their order: the result does not depend on
    which worker was faster.
    """
    import torch

    total = weights[:, 1:].sum()
    parameters = list(model.parameters())

    def part(rows: slice) -> tuple[list[Any], float, float, int]:
        kept = (weights[rows] > 0).any(dim=0).nonzero().max() + 1
        part_ids, weight = ids[rows, :kept], weights[rows, 1:kept]
        chosen = weight > 0
        with torch.autocast(ids.device.type, dtype=torch.bfloat16, cache_enabled=False):
            hidden = model.model(input_ids=part_ids, use_cache=False).last_hidden_state[:, :-1]
            logits = model.lm_head(hidden[chosen])
        each = torch.nn.functional.cross_entropy(logits.float(), part_ids[:, 1:][chosen], reduction="none")
        loss = (each * weight[chosen]).sum() / total
        gradients = torch.autograd.grad(loss, parameters)
        answers = each.detach()[weight[chosen] >= 1.0]
        return list(gradients), loss.item(), answers.sum().item(), answers.numel()

    size = max(1, round(len(ids) / _PARTS))
    done = list(workers.map(part, [slice(at, at + size) for at in range(0, len(ids), size)]))
    gradients = done[0][0]
    for other, *_ in done[1:]:
        torch._foreach_add_(gradients, other)
    answered = max(1, sum(count for *_, count in done))
    return gradients, sum(loss for _, loss, *_ in done), sum(summed for *_, summed, _ in done) / answered


def _earlier(model: Any, folder: Path) -> list[dict[str, Any]]:
    """Give `model` the weights of an accepted base model; returns the log of their training."""
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"{folder} has another shape: missing {missing}, unexpected {unexpected}")
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]


def _save(folder: Path, state: dict[str, Any]) -> None:
    import torch

    temporary = folder / ".checkpoint.tmp"
    torch.save(state, temporary)
    os.replace(temporary, folder / "checkpoint.pt")


def run(
    recipe: Recipe,
    data: Data,
    tokenizer: Any,
    work: Path,
    probe: Callable[[Any], dict[str, float]],
    say: Callable[[str], None],
) -> Any:
    """Train to the last step, going on from `work/checkpoint.pt` where there is one; returns the model.

    `probe(model)` gives the figures that are logged every `probe_every` steps beside the loss.
    """
    import torch

    if recipe.tokens_per_step < 2 * _LONGEST:
        raise ValueError(
            f"tokens_per_step={recipe.tokens_per_step} is less than two documents of {_LONGEST} tokens"
        )
    work.mkdir(parents=True, exist_ok=True)
    bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build(recipe, pad, bos, eos).to(device)
    optimizers = _optimizers(model, recipe)
    step, tokens, seconds = 0, 0, 0.0
    log = work / "log.jsonl"
    checkpoint = work / "checkpoint.pt"
    if recipe.start != FROM_NOTHING and not checkpoint.exists():
        earlier = _earlier(model, Path(recipe.start))
        tokens, seconds = earlier[-1]["tokens"], earlier[-1]["minutes"] * 60
        log.write_text("".join(json.dumps({"before": True} | line) + "\n" for line in earlier))
        say(f"goes on from {recipe.start}, {tokens} tokens old")
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        # the length alone may change while the rate is still constant: the decay then starts earlier or later
        if state["recipe"] | {"steps": 0} != asdict(recipe) | {"steps": 0}:
            raise ValueError(f"{checkpoint} is of another recipe")
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, tokens, seconds = state["step"], state["tokens"], state["seconds"]
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        kept = [line for line in lines if line.get("before") or line["step"] <= step]
        log.write_text("".join(json.dumps(line) + "\n" for line in kept))
        say(f"resumed at step {step}")

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    losses: list[float] = []
    # one-thread workers on parts of a batch lose less to other load than threads inside every operation
    workers = ThreadPoolExecutor(torch.get_num_threads() if device == "cpu" else 1)
    if device == "cpu":
        torch.set_num_threads(1)
    started = time.monotonic()
    model.train()
    ready: list[tuple[Any, Any]] = []
    while step < recipe.steps:
        if not ready:
            ready = batches(recipe, data, step // _GROUP, tokenize, bos, eos, pad)[step % _GROUP :]
        ids, weights = (part.to(device) for part in ready.pop(0))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(recipe, step)
        gradients, loss, answer_loss = _gradients(model, ids, weights, workers)
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(answer_loss)
        step += 1
        tokens += ids.numel()
        if step % 20 == 0 or step == recipe.steps:
            spent = seconds + time.monotonic() - started
            line = {
                "step": step,
                "loss": round(loss, 4),
                "answer_loss": round(sum(losses[-20:]) / len(losses[-20:]), 4),
                "tokens": tokens,
                "tokens_per_s": round(tokens / spent),
                "minutes": round(spent / 60, 2),
            }
            if step % recipe.probe_every == 0 or step == recipe.steps:
                model.eval()
                line |= probe(model)
                model.train()
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
            say(json.dumps(line))
        if step % recipe.save_every == 0 or step == recipe.steps:
            _save(
                work,
                {
                    "recipe": asdict(recipe),
                    "model": model.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "step": step,
                    "tokens": tokens,
                    "seconds": seconds + time.monotonic() - started,
                },
            )
    return model.eval()
