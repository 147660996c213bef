"""How long does a training step take, and how much memory? Run by hand, not by pytest.

python -m tests.benchmarks.training_step --model models/base --rows data/train.jsonl

Two ways, by turns, each in a process of its own: `libraries` computes a whole batch as transformers, peft and bitsandbytes come,
with logits from the first label on; `ours` is what the stage finetune does. Both see the same rows in the same order. CPU seconds
tell more than wall seconds where other programs run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import click

from cartlm import command, params
from tests import ROOT

WAYS = ("libraries", "ours")
FIGURES = ("wall_s", "cpu_s", "peak_rss_mib")


@command.command
@click.option("--model", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--rows", type=click.Path(path_type=Path, exists=True), default=Path("data/train.jsonl"))
@click.option("--preset", type=click.Path(path_type=Path, exists=True), help="Laid over params.yaml.")
@click.option("--steps", default=6, help="Measured in a process, after one that warms up.")
@click.option("--rounds", default=2)
@click.option("--memory", type=float, help="finetune.device_memory_gib of `ours`.")
@click.option("--way", type=click.Choice(WAYS), help="Measure this one, in this process.")
def main(
    model: Path,
    rows: Path,
    preset: Path | None,
    steps: int,
    rounds: int,
    memory: float | None,
    way: str | None,
) -> None:
    """Print a line of JSON for each process, and at the end what `ours` takes as a share of `libraries`."""
    if way:
        print(json.dumps(measure(way, model, rows, preset, steps, memory)), flush=True)
        return
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name in WAYS:
            given = [sys.executable, "-m", "tests.benchmarks.training_step", *sys.argv[1:], "--way", name]
            lines = subprocess.run(given, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
            print(lines[-1], flush=True)
            found[name].append(json.loads(lines[-1]))
    before, after = ({key: median(one[key] for one in found[name]) for key in FIGURES} for name in WAYS)
    print(json.dumps({f"share_{key}": round(after[key] / before[key], 3) for key in FIGURES}))


def measure(
    way: str, model: Path, rows: Path, preset: Path | None, steps: int, bound: float | None
) -> dict[str, Any]:
    """Medians of wall and CPU seconds of a step, trained tokens without padding a second, the losses, peak memory."""
    import torch

    from cartlm.engines.model_dir import load_tokenizer
    from cartlm.system import cpu_limits
    from cartlm.task import prompt
    from cartlm.task import rows as row_files
    from cartlm.training import memory, qlora
    from cartlm.training.examples import examples

    command.imported()
    torch.set_num_threads(cpu_limits.threads())
    path = ROOT / "params.yaml"
    found = params.load(path)
    if preset:
        found = params.lay_preset(path, preset).params
    dtype = qlora.available_dtype(found.finetune.compute_dtype, "cpu")
    settings = found.finetune.model_copy(
        update={"device_memory_gib": bound, "max_steps": -1, "compute_dtype": dtype}
    )
    tokenizer = load_tokenizer(model)
    builder = prompt.from_transformers(tokenizer, found.prompt.separator)
    learned = examples(row_files.read(rows), builder, found.prompt.max_tokens)
    base = qlora.load_base(model, settings.quantization, dtype, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        make = _ours if way == "ours" else _libraries
        losses_of, trained, micro_batch = make(settings, base, tokenizer, learned, Path(folder))
        weights = [one for one in trained.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
        walls, cpus, losses, tokens = [], [], [], 0
        for _ in range(steps + 1):
            began = time.perf_counter(), time.process_time()
            loss, seen = next(losses_of)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if way == "ours":
                memory.trim()  # as its callback does
            walls.append(time.perf_counter() - began[0])
            cpus.append(time.process_time() - began[1])
            losses.append(round(loss, 4))
            tokens += seen if len(walls) > 1 else 0
    return {
        "way": way, "micro_batch": micro_batch, "wall_s": round(median(walls[1:]), 3),
        "cpu_s": round(median(cpus[1:]), 3), "tokens_per_s": round(tokens / sum(walls[1:]), 1),
        "peak_rss_mib": round(memory.peak_mib("cpu")), "losses": losses,
    }  # fmt: skip


def _ours(settings: Any, base: Any, tokenizer: Any, learned: Any, folder: Path) -> tuple[Any, Any, int]:
    from cartlm.training.examples import IGNORED
    from cartlm.training.trainer import make_trainer

    trainer = make_trainer(settings, base, tokenizer, learned, learned[:16], folder, "cpu")
    parts = settings.batch_size // trainer.split.micro_batch

    def losses() -> Iterator[tuple[float, int]]:
        batches = iter(trainer.get_train_dataloader())
        while True:
            batch = [next(batches) for _ in range(parts)]
            count = sum((one["labels"][:, 1:] != IGNORED).sum() for one in batch)
            seen = sum(int(one["attention_mask"].sum()) for one in batch)
            yield sum(float(trainer.training_step(trainer.model, one, count)) for one in batch), seen

    return losses(), trainer.model, trainer.split.micro_batch


def _libraries(settings: Any, base: Any, tokenizer: Any, learned: Any, folder: Path) -> tuple[Any, Any, int]:
    import peft
    import torch

    from cartlm.training.examples import IGNORED
    from cartlm.training.trainer import epoch_order, lora_targets

    if settings.quantization == "nf4":
        base = peft.prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    torch.manual_seed(settings.seed)
    lora = peft.LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout,
        target_modules=lora_targets(base, settings.lora_targets), task_type="CAUSAL_LM",
    )  # fmt: skip
    model = peft.get_peft_model(base, lora).train()
    order = epoch_order([len(one["input_ids"]) for one in learned], settings.batch_size, settings.seed, 0)

    def losses() -> Iterator[tuple[float, int]]:
        for start in range(0, len(order), settings.batch_size):
            batch = [learned[row] for row in order[start : start + settings.batch_size]]
            width = max(len(one["input_ids"]) for one in batch)
            ids, mask = (torch.zeros((len(batch), width), dtype=torch.long) for _ in range(2))
            labels = torch.full_like(ids, IGNORED)
            for row, one in enumerate(batch):
                length, learnt = len(one["input_ids"]), torch.tensor(one["completion_mask"]).bool()
                ids[row, :length] = torch.tensor(one["input_ids"])
                mask[row, :length] = 1
                labels[row, :length][learnt] = ids[row, :length][learnt]
            first = int((labels != IGNORED).any(dim=0).nonzero()[0])
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.compute_dtype == "bfloat16"):
                kept = torch.arange(first - 1, width - 1)
                logits = model(
                    input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=kept
                ).logits
            loss = torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), labels[:, first:].reshape(-1), ignore_index=IGNORED
            )
            loss.backward()
            yield float(loss), int(mask.sum())

    return losses(), model, settings.batch_size


if __name__ == "__main__":
    main()
