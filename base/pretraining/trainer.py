"""Pretraining of the base model: Muon for matrices, AdamW for the rest, resumable, CUDA where there is any."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from base.pretraining import corpus
from base.pretraining.encoding import Encoded, encode
from base.pretraining.guidance import Guide
from base.pretraining.recipe import GUIDED, LONGEST, PASSED_ON, Recipe, rate
from cartlm.data.config import Data
from cartlm.errors import UserError
from cartlm.files import replacing

_PARTS = 8  # of a batch, whose gradients are computed in parallel
_GROUP = 8  # steps whose documents are drawn together and sorted by length, so that little is padded


def build(recipe: Recipe, special: Special) -> Any:
    """A Llama of the recipe's shape with random weights, input and output embeddings tied."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=recipe.vocabulary, hidden_size=recipe.hidden, intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers, num_attention_heads=recipe.heads, num_key_value_heads=recipe.heads,
        max_position_embeddings=2048, rms_norm_eps=1e-5, tie_word_embeddings=True,
        pad_token_id=special.pad, bos_token_id=special.bos, eos_token_id=special.eos,
    )  # fmt: skip
    return LlamaForCausalLM(config)


class Special(NamedTuple):
    """The ids of the special tokens."""

    bos: int
    eos: int
    pad: int


@dataclass(frozen=True)
class Batch:
    """`ids` and loss `weights`, both (documents, tokens), and the documents with their guided places."""

    ids: Any
    weights: Any
    documents: list[Encoded]


def batches(
    recipe: Recipe, data: Data, phase: int, group: int, tokenize: Callable[[str], list[int]], special: Special
) -> list[Batch]:
    """The batches of a group of steps; a function of recipe, phase and group alone."""
    import torch

    rng = random.Random(f"{recipe.seed}/{phase}/{group}")
    progress = 1.0 if phase else group * _GROUP / recipe.steps
    rows: list[Encoded] = []
    total = 0
    while total < recipe.tokens_per_step * _GROUP:
        document = corpus.document(data, progress, rng, recipe.everyday)
        row = encode(document, tokenize, special.bos, special.eos, recipe.text_weight)
        if len(row.ids) <= LONGEST:
            rows.append(row)
            total += len(row.ids)
    rows.sort(key=lambda row: len(row.ids))
    group_batches, start = [], 0
    for index in range(_GROUP):
        end, count = start, 0
        others = _GROUP - 1 - index  # each of them gets one document at least
        while end < len(rows) - others and (not others or count < total / _GROUP):
            count += len(rows[end].ids)
            end += 1
        part, start = rows[start:end], end
        longest = max(len(row.ids) for row in part)
        ids = torch.full((len(part), longest), special.pad)
        weights = torch.zeros((len(part), longest))
        for at, row in enumerate(part):
            ids[at, : len(row.ids)] = torch.tensor(row.ids)
            weights[at, : len(row.ids)] = torch.tensor(row.weights)
        group_batches.append(Batch(ids, weights, part))
    rng.shuffle(group_batches)
    return group_batches


def _optimizers(model: Any, recipe: Recipe) -> list[Any]:
    import torch

    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(
        matrices, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, torch.optim.AdamW(others, lr=recipe.learning_rate, weight_decay=0.0, betas=(0.9, 0.95))]


def _gradients(
    model: Any, batch: Batch, recipe: Recipe, guide: Guide, workers: ThreadPoolExecutor
) -> tuple[list[Any], dict[str, float]]:
    """Gradients of the weighted loss over a batch; that loss, and the means on answers and guided places.

    The parts of the batch are added in their order: the result does not depend on which worker was faster.
    """
    import torch

    ids, weights = batch.ids, batch.weights
    total = weights[:, 1:].sum()
    parameters = list(model.parameters())

    def places(name: str, rows: slice) -> list[Any]:
        return [getattr(document, name) for document in batch.documents[rows]]

    counts = {name: max(1, sum(map(len, places(name, slice(None))))) for name in (*GUIDED, *PASSED_ON)}

    def part(rows: slice) -> tuple[list[Any], list[float]]:
        length = (weights[rows] > 0).any(dim=0).nonzero().max() + 1
        part_ids, weight = ids[rows, :length], weights[rows, 1:length]
        chosen = weight > 0
        with torch.autocast(ids.device.type, dtype=torch.bfloat16, cache_enabled=False):
            hidden = model.model(input_ids=part_ids, use_cache=False).last_hidden_state[:, :-1]
            logits = model.lm_head(hidden[chosen])
            guided = [
                guide.attention_loss(*head, places(name, rows)) / counts[name]
                for name, head in zip(GUIDED, recipe.heads_guided, strict=True)
            ]
            passed_on = [
                guide.reading_loss(layer, places(name, rows)) / counts[name]
                for name, layer in zip(PASSED_ON, recipe.layers_read, strict=True)
            ]
        each = torch.nn.functional.cross_entropy(logits.float(), part_ids[:, 1:][chosen], reduction="none")
        loss = (each * weight[chosen]).sum() / total
        loss = loss + recipe.guidance * sum(guided) + recipe.passing_on * sum(passed_on)
        gradients = torch.autograd.grad(loss, parameters)
        answers = each.detach()[weight[chosen] >= 1.0]
        extra = [one.item() for one in (*guided, *passed_on)]
        return list(gradients), [loss.item(), answers.sum().item(), answers.numel(), *extra]

    size = max(1, round(len(ids) / _PARTS))
    parts = list(workers.map(part, [slice(at, at + size) for at in range(0, len(ids), size)]))
    gradients = parts[0][0]
    for other, _ in parts[1:]:
        torch._foreach_add_(gradients, other)
    loss, answers, answered, *extra = (sum(values) for values in zip(*(row for _, row in parts), strict=True))
    means = {f"{name}_loss": value for name, value in zip((*GUIDED, *PASSED_ON), extra, strict=True)}
    return gradients, {"loss": loss, "answer_loss": answers / max(1, answered), **means}


@dataclass
class State:
    """What a checkpoint holds: the state of a training."""

    recipe: Recipe
    model: Any
    optimizers: list[Any]
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def save(self, folder: Path) -> None:
        """Write `folder/checkpoint.pt`."""
        import torch

        state = {
            "recipe": self.recipe.model_dump(), "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step, "tokens": self.tokens, "seconds": self.seconds,
        }  # fmt: skip
        with replacing(folder / "checkpoint.pt") as temporary:
            torch.save(state, temporary)

    def resume(self, folder: Path) -> bool:
        """Resume from `folder/checkpoint.pt` if it exists; the log is cut to its step. Raises UserError."""
        import torch

        path, log = folder / "checkpoint.pt", folder / "log.jsonl"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.model.device, weights_only=True)
        if state["recipe"] != self.recipe.model_dump():
            raise UserError(f"{path} belongs to another recipe", f"rm -r {folder}, then make base")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        log.write_text("".join(json.dumps(line) + "\n" for line in lines if line["step"] <= self.step))
        return True

    def train_step(self, batch: Batch, guide: Guide, workers: ThreadPoolExecutor) -> dict[str, float]:
        """One step; returns its losses."""
        import torch

        device = self.model.device
        batch = replace(batch, ids=batch.ids.to(device), weights=batch.weights.to(device))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(self.recipe, self.step)
        gradients, losses = _gradients(self.model, batch, self.recipe, guide, workers)
        for parameter, gradient in zip(self.model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += batch.ids.numel()
        return losses


@contextmanager
def _threads(device: str, count: int) -> Iterator[ThreadPoolExecutor]:
    """Workers for the parts of a batch: on a CPU of one thread each, which other load slows down less than threads
    inside every operation. Torch's own number of threads is restored at the end.
    """
    import torch

    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(count if device == "cpu" else 1) as workers:
            yield workers
    finally:
        torch.set_num_threads(before)


def train(
    recipe: Recipe,
    data: Data,
    tokenizer: Any,
    work: Path,
    probe: Callable[[Any], dict[str, float]],
    report: Callable[[str], None],
    phase: int = 0,
    start: Mapping[str, Any] | None = None,
    threads: int = 1,
) -> Any:
    """Train one phase to its last step, resumed from `work/checkpoint.pt` where there is one; returns the model.

    `start`: the weights that an earlier phase ended with; None: random ones. The losses and, every `probe_every`
    steps, the figures of `probe(model)` are logged to `work/log.jsonl`.
    Raises UserError where the checkpoint belongs to another recipe.
    """
    import torch

    from base.pretraining import attention

    work.mkdir(parents=True, exist_ok=True)
    special = Special(tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build(recipe, special).to(device)
    if start is not None:
        model.load_state_dict(start)
    state = State(recipe, model, _optimizers(model, recipe))
    if state.resume(work):
        report(f"phase {phase + 1} resumed at step {state.step}")

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    guide = Guide(
        model, sorted({layer for layer, _ in recipe.heads_guided})
    )  # recipe.layers_read are among them
    usual = attention.NAME if device == "cpu" else "sdpa"
    losses: list[dict[str, float]] = []
    ready: list[Batch] = []
    with _threads(device, threads) as workers:
        model.train().set_attn_implementation(usual)
        before, started = state.seconds, time.monotonic()
        while state.step < recipe.steps:
            if not ready:
                group = batches(recipe, data, phase, state.step // _GROUP, tokenize, special)
                ready = group[state.step % _GROUP :]
            losses = [*losses[-19:], state.train_step(ready.pop(0), guide, workers)]
            state.seconds = before + time.monotonic() - started
            last = state.step == recipe.steps
            if state.step % 20 == 0 or last:
                line = _line(state, phase, losses)
                if state.step % recipe.probe_every == 0 or last:
                    model.eval().set_attn_implementation("sdpa")
                    line |= probe(model)
                    model.train().set_attn_implementation(usual)
                with (work / "log.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")
                report(json.dumps(line))
            if state.step % recipe.save_every == 0 or last:
                state.save(work)
    model.set_attn_implementation("sdpa")
    return model.eval()


def _line(state: State, phase: int, losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """A line of the log: the step, and the means of the last losses."""
    return {
        "phase": phase + 1,
        "step": state.step,
        **{name: round(sum(one[name] for one in losses) / len(losses), 4) for name in losses[0]},
        "tokens": state.tokens,
        "tokens_per_s": round(state.tokens / state.seconds),
        "minutes": round(state.seconds / 60, 2),
    }
