"""trl's SFTTrainer as this project uses it: which loss, which order of rows, what is logged and saved."""

from __future__ import annotations

import csv
import io
import random
import sys
from collections.abc import Iterator, Sequence
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
from cartlm.training import checkpoints
from cartlm.training.config import Finetune
from cartlm.training.examples import IGNORED

COLUMNS = ["step", "epoch", "loss", "learning_rate", "eval_loss"]
POOL = 16  # batches whose rows are sorted by length together
Examples = list[dict[str, list[int]]]


def make_trainer(
    settings: Finetune, model: Any, tokenizer: Any, train: Examples, validation: Examples, run: Path, device: str
) -> Any:  # fmt: skip
    """The trainer over both sets of examples; the loss is on the completion mask alone. Checkpoints go to `run`."""
    datasets.disable_progress_bars()
    if settings.quantization == "nf4":
        model = peft.prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=settings.gradient_checkpointing
        )
    lora = peft.LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout,
        target_modules=lora_targets(model, settings.lora_targets), bias="none", task_type="CAUSAL_LM",
    )  # fmt: skip
    arguments = trl.SFTConfig(
        output_dir=str(run), seed=settings.seed, data_seed=settings.seed,
        use_cpu=device == "cpu", bf16=settings.compute_dtype == "bfloat16", fp16=settings.compute_dtype == "float16",
        dataloader_pin_memory=device == "cuda",
        learning_rate=settings.learning_rate, lr_scheduler_type=settings.lr_scheduler,
        warmup_steps=min(settings.warmup_ratio, 0.999999), weight_decay=settings.weight_decay,
        num_train_epochs=settings.epochs, max_steps=settings.max_steps,
        per_device_train_batch_size=settings.batch_size, per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        gradient_checkpointing=settings.gradient_checkpointing,
        activation_checkpointing=settings.gradient_checkpointing,  # its new name; trl still reads the old one
        save_strategy="steps", save_steps=settings.save_steps, save_total_limit=2, eval_strategy="no",
        # A step that is saved is logged too, so a resumed run logs the steps of an undisturbed one.
        logging_steps=next(every for every in (10, 5, 2, 1) if settings.save_steps % every == 0),
        max_length=None, packing=False, completion_only_loss=True, shuffle_dataset=False,
        report_to="none", disable_tqdm=True,
    )  # fmt: skip

    class Trainer(trl.SFTTrainer):
        def _send_telemetry(self) -> None:
            """Nothing is sent to the hub."""

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """No card in a checkpoint."""

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            """On a CPU trl computes the logits of every position, `completion_loss` those after the prompts."""
            compute = super().compute_loss if device == "cuda" else completion_loss
            return compute(model, inputs, *args, **kwargs)

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            lengths = [len(example["input_ids"]) for example in train]
            return LengthGroupedSampler(lengths, settings.batch_size, settings.seed)

    trainer: Any = Trainer(
        model=model, args=arguments, processing_class=tokenizer, peft_config=lora,
        train_dataset=datasets.Dataset.from_list(train), eval_dataset=datasets.Dataset.from_list(validation),
        callbacks=[TrainingCallback()],
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


def completion_loss(
    model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
) -> Any:
    """Mean cross-entropy of the labels that are not -100, over `num_items_in_batch` of them (None: this batch's).

    `inputs`: ids, mask and labels, [rows, tokens]. Logits are computed from the first label's position on.
    """
    labels = inputs["labels"]
    learned = (labels != IGNORED).any(dim=0).nonzero()
    first = max(1, int(learned[0])) if len(learned) else labels.shape[1] - 1
    positions = torch.arange(first - 1, labels.shape[1] - 1, device=labels.device)
    others = {name: value for name, value in inputs.items() if name != "labels"}
    outputs = model(**others, use_cache=False, logits_to_keep=positions)
    targets = labels[:, first:].reshape(-1)
    loss = torch.nn.functional.cross_entropy(
        outputs.logits.float().flatten(0, 1), targets, ignore_index=IGNORED, reduction="sum"
    )
    if num_items_in_batch is None:
        num_items_in_batch = (targets != IGNORED).sum().clamp(min=1)
    loss = loss / num_items_in_batch
    return (loss, outputs) if return_outputs else loss


class TrainingCallback(hf.TrainerCallback):
    """A progress bar on stderr, an evaluation at each epoch's end, a mark on each complete checkpoint."""

    bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        every = 0.1 if sys.stderr.isatty() else 10.0
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc="finetune", unit="step", file=sys.stderr,
            mininterval=every, maxinterval=every,
        )  # fmt: skip

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
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
