"""trl's SFTTrainer as this project uses it: which loss, which order of rows, what is logged and saved."""

from __future__ import annotations

import csv
import io
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import transformers as hf
import trl
from accelerate import PartialState
from tqdm import tqdm

from cartlm.errors import UserError
from cartlm.metrics import DIGITS
from cartlm.training import checkpoints, frozen, memory
from cartlm.training.config import Finetune
from cartlm.training.label_loss import hidden_states, label_loss

COLUMNS = ["step", "epoch", "loss", "learning_rate", "eval_loss"]
POOL = 16  # batches whose rows are sorted by length together
PADDED_TO = 8  # tokens: few shapes, so that their memory fits the next batch
CACHED = 1024
"""Tokens of a micro batch on a CPU where no bound asks for fewer: its activations stay in the cache."""
Examples = list[dict[str, list[int]]]


@dataclass(frozen=True)
class Split:
    """How a batch is computed: rows at a time, and whether the frozen matrices are kept dequantized."""

    micro_batch: int
    held: bool


def make_trainer(
    settings: Finetune, model: Any, tokenizer: Any, train: Examples, validation: Examples, run: Path, device: str
) -> Any:  # fmt: skip
    """The trainer over both sets of examples; the loss is on the completion mask alone. Checkpoints go to `run`.

    Its `split` tells how a batch is computed. Raises UserError if `finetune.device_memory_gib` is too little.
    """
    datasets.disable_progress_bars()
    hf.set_seed(settings.seed)  # before the adapter's first weights
    if settings.quantization == "nf4":
        model = peft.prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=settings.gradient_checkpointing
        )
    lora = peft.LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout,
        target_modules=lora_targets(model, settings.lora_targets), bias="none", task_type="CAUSAL_LM",
    )  # fmt: skip
    model = peft.get_peft_model(model, lora)
    matrices = []
    if device == "cpu":
        memory.steady_malloc()
        matrices = frozen.speed_up(model, getattr(torch, settings.compute_dtype))
    chosen = split_batch(settings, model, matrices, train, device)
    for matrix in matrices if chosen.held else ():
        matrix.hold()
    memory.trim()
    arguments = trl.SFTConfig(
        output_dir=str(run), seed=settings.seed, data_seed=settings.seed, use_cpu=device == "cpu",
        # On a CPU `frozen` has said what is computed in which dtype.
        bf16=device == "cuda" and settings.compute_dtype == "bfloat16", fp16=settings.compute_dtype == "float16",
        dataloader_pin_memory=device == "cuda",
        learning_rate=settings.learning_rate, lr_scheduler_type=settings.lr_scheduler,
        warmup_steps=min(settings.warmup_ratio, 0.999999), weight_decay=settings.weight_decay,
        num_train_epochs=settings.epochs, max_steps=settings.max_steps,
        per_device_train_batch_size=chosen.micro_batch, per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation * (settings.batch_size // chosen.micro_batch),
        gradient_checkpointing=settings.gradient_checkpointing,
        activation_checkpointing=settings.gradient_checkpointing,  # its new name; trl still reads the old one
        save_strategy="steps", save_steps=settings.save_steps, save_total_limit=2, eval_strategy="no",
        # A step that is saved is logged too, so a resumed run logs the steps of an undisturbed one.
        logging_steps=next(every for every in (10, 5, 2, 1) if settings.save_steps % every == 0),
        max_length=None, packing=False, completion_only_loss=True, shuffle_dataset=False,
        pad_to_multiple_of=PADDED_TO if device == "cpu" else None,
        report_to="none", disable_tqdm=True,
    )  # fmt: skip

    progress = TrainingCallback()

    class Trainer(trl.SFTTrainer):
        split, meter = chosen, progress
        trained_tokens = 0  # of this process, without padding

        def _send_telemetry(self) -> None:
            """Nothing is sent to the hub."""

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """No card in a checkpoint."""

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            """On a CPU trl computes the logits of every position."""
            if model.training:
                self.trained_tokens += int(inputs["attention_mask"].sum())
            if device == "cuda":
                return super().compute_loss(model, inputs, *args, **kwargs)
            found = label_loss(model, inputs, *args, **kwargs)
            if model.training and kwargs.get("num_items_in_batch") is not None:
                # processes count their labels together and average gradients
                found = found * self.accelerator.num_processes
            return found

        def training_step(self, model: Any, *args: Any, **kwargs: Any) -> Any:
            with frozen.rotating(model) if device == "cpu" else nullcontext():
                return super().training_step(model, *args, **kwargs)

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            lengths = [len(example["input_ids"]) for example in train]
            return LengthGroupedSampler(lengths, settings.batch_size, settings.seed)

    trainer: Any = Trainer(
        model=model, args=arguments, processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_list(train), eval_dataset=datasets.Dataset.from_list(validation),
        callbacks=[progress],
    )  # fmt: skip
    trainer.remove_callback(hf.PrinterCallback)
    for weights in trainer.model.parameters():
        if weights.requires_grad:
            # trl makes them bfloat16, where a late step of AdamW is often less than half a unit in the last place.
            weights.data = weights.data.float()
    return trainer


def lora_targets(model: Any, wanted: str | Sequence[str]) -> list[str]:
    """The names of the linear layers that get an adapter, sorted: all but the head ("all-linear", as in peft), or those wanted.

    Raises UserError for a name that no linear layer has.
    """
    # by peft alone, a model of few layers would get the full name of each
    head = model.get_output_embeddings()
    known = {
        name.rpartition(".")[2] for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }  # fmt: skip
    if isinstance(wanted, str):
        return sorted(known)
    if unknown := [name for name in wanted if name not in known]:
        raise UserError(
            f"finetune.lora_targets has {unknown[0]!r}, which is no linear layer of the base model",
            f"set it to all-linear, or to some of {', '.join(sorted(known))}",
        )
    return sorted(set(wanted))


def split_batch(
    settings: Finetune, model: Any, matrices: Sequence[frozen.Frozen], train: Examples, device: str
) -> Split:
    """Decided by shapes and `finetune.device_memory_gib` alone, so that the same params train in the same steps.

    On a CPU a batch is split in any case: what fits the cache is computed faster. Raises UserError if a row does not fit.
    """
    lengths = [len(example["input_ids"]) for example in train]
    longest = max(lengths)
    padded = -(-longest // PADDED_TO) * PADDED_TO
    mean = math.ceil(sum(lengths) / len(lengths))
    most = max(1, CACHED // mean) if device == "cpu" else settings.batch_size
    cost = memory.Cost(0, 0, 0)
    if settings.device_memory_gib is not None:
        cost = step_cost(settings, model, matrices, padded, device)
    rows, held = memory.split(cost, settings.batch_size, most, settings.device_memory_gib, longest)
    return Split(rows, held and bool(matrices))


def step_cost(
    settings: Finetune, model: Any, matrices: Sequence[frozen.Frozen], tokens: int, device: str
) -> memory.Cost:
    """What a step takes on `device`, of which the forward pass of one row of `tokens` tokens tells most."""
    weights = memory.storages([*model.parameters(), *model.buffers()])
    trained = sum(one.nbytes for one in model.parameters() if one.requires_grad)
    ids = torch.ones((1, tokens), dtype=torch.long, device=model.device)
    dtype = getattr(torch, settings.compute_dtype)

    def kept(training: bool) -> int:
        model.train(training)
        with torch.autocast(device, dtype, enabled=device == "cuda" and dtype != torch.float32):
            return memory.kept_for_backward(lambda: hidden_states(model, {"input_ids": ids}), weights)

    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable()
    row = kept(training=True)
    if settings.gradient_checkpointing:  # one layer at a time is computed again, and kept
        row += kept(training=False) // model.config.get_text_config().num_hidden_layers
        model.train()
    largest = max((matrix.size() for matrix in matrices), default=0)
    fixed = (
        sum(weights.values())
        + 3 * trained
        + largest
        + memory.HEAD
        + int(memory.LIBRARIES[device] * memory.GIB)
    )
    return memory.Cost(fixed, int(row * memory.ROW), sum(matrix.extra() for matrix in matrices))


def epoch_order(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[int]:
    """All row numbers in an order whose runs of `batch_size` hold rows of similar length.

    Rows are shuffled, sorted by length within pools of 16 batches, and the batches shuffled; an incomplete batch
    is last. Random batches of catalogs of 5 to 20 lines would be one third padding. Seed and epoch alone decide, so that
    a resumed epoch sees the same batches.
    """
    generator = random.Random(f"{seed} {epoch}")
    rows = list(range(len(lengths)))
    generator.shuffle(rows)
    full = len(rows) - len(rows) % batch_size
    batches = []
    for start in range(0, full, POOL * batch_size):
        pool = sorted(rows[start : min(start + POOL * batch_size, full)], key=lambda row: lengths[row])
        batches += [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
    generator.shuffle(batches)
    return [row for batch in batches for row in batch] + rows[full:]


class LengthGroupedSampler:
    """A sampler over `epoch_order`; transformers calls `set_epoch` before each epoch, a resumed one too."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self.lengths, self.batch_size, self.seed, self.epoch))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class TrainingCallback(hf.TrainerCallback):
    """A progress bar on stderr, an evaluation at each epoch's end, a mark on each complete checkpoint."""

    bar: Any = None
    seconds = 0.0  # of the steps alone
    started = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        every = 0.1 if sys.stderr.isatty() else 10.0
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc="finetune", unit="step", file=sys.stderr,
            mininterval=every, maxinterval=every,
        )  # fmt: skip

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.use_cpu:
            memory.trim()  # else the heap grows from step to step, as lengths change
        self.seconds += time.perf_counter() - self.started
        self.bar.update(state.global_step - self.bar.n)
        # Before the step's checkpoint is written, so that it holds the loss.
        control.should_evaluate = float(state.epoch).is_integer() or state.global_step >= state.max_steps

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        shown = {name: f"{logs[name]:.4g}" for name in ("loss", "eval_loss") if name in (logs or {})}
        self.bar.set_postfix(shown, refresh=False)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()  # each process writes the state of its random numbers
        if state.is_world_process_zero:
            checkpoints.mark_complete(Path(args.output_dir) / f"{checkpoints.PREFIX}{state.global_step}")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def training_curve(log: list[dict[str, Any]]) -> list[dict[str, float]]:
    """One mapping for each logged step, training and validation entries of a step joined."""
    steps: dict[int, dict[str, float]] = {}
    for entry in log:
        if "loss" in entry or "eval_loss" in entry:
            known = {name: entry[name] for name in COLUMNS if name in entry}
            steps.setdefault(entry["step"], {}).update(known)
    return [steps[step] for step in sorted(steps)]


def format_curve(history: list[dict[str, float]]) -> str:
    """CSV with one line for each logged step, for dvc plots; a value that was not measured is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for entry in history:
        figures = {name: f"{value:.{DIGITS}g}" for name, value in entry.items()}
        writer.writerow(figures | {"step": int(entry["step"])})
    return text.getvalue()
