"""QLoRA (arXiv 2305.14314): trl's SFTTrainer, peft's LoRA on a bitsandbytes NF4 base, on CUDA or the CPU."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import time
import warnings
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from accelerate import PartialState
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from cartlm.engines import model_dir
from cartlm.engines.model_dir import load_tokenizer
from cartlm.errors import UserError
from cartlm.files import replacing
from cartlm.task import prompt
from cartlm.task import rows as row_files
from cartlm.task.config import Prompt
from cartlm.training import checkpoints
from cartlm.training.config import Finetune
from cartlm.training.examples import check, check_text, examples
from cartlm.training.length_grouped_sampler import EpochOrder

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # advises a download of CPU kernels from the hub
warnings.filterwarnings(
    "ignore", message=".*gradient_checkpointing.*", category=FutureWarning
)  # peft's old name

LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes")
TARGETS = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
"""All linear layers of a Llama but the head."""
ATTENTION = "float32_attention"
IGNORED = -100  # the label of a token that is not learned
RECORD = "training.json"
"""In the adapter's folder: where and with what it was trained."""


@dataclass(frozen=True)
class Job:
    """What is trained on what. Paths; `base_name` is how the adapter names its base, never a machine's path."""

    base: Path
    base_name: str
    train: Path
    validation: Path
    settings: Finetune
    prompt: Prompt
    others: tuple[
        Path, ...
    ] = ()  # rows that later stages read: looked at where they are there, never learned


@dataclass(frozen=True)
class Finetuned:
    """How a run ended. `history` has a mapping a logged step: step, epoch, loss, learning_rate, eval_loss."""

    device: str
    steps: int
    resumed_at: int  # 0: from the start
    trainable: int
    eval_loss: float
    seconds: float  # of this process alone
    history: list[dict[str, float]]


def pick_device(compute_dtype: str) -> str:
    """ "cuda" where there is a card, else "cpu". Raises UserError if it cannot compute in `compute_dtype`."""
    if torch.cuda.is_available():
        if compute_dtype == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise UserError(
                f"{torch.cuda.get_device_name()} has no bfloat16",
                "set finetune.compute_dtype: float16 in params.yaml",
            )
        return "cuda"
    if compute_dtype == "float16":
        raise UserError(
            "finetune.compute_dtype=float16 needs a CUDA card", "set it to bfloat16 or float32 in params.yaml"
        )
    return "cpu"


def computed_in(compute_dtype: str, device: str) -> str:
    """The dtype that is really computed in: float32 in place of bfloat16 on a CPU without fast bfloat16 products.

    There (AVX2 alone) torch multiplies bfloat16 matrices one number at a time, some ninety times slower than
    float32, which is also the finer of the two. RECORD says which it was.
    """
    if compute_dtype != "bfloat16" or device != "cpu":
        return compute_dtype
    fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bfloat16" if fast else "float32"


def load_base(folder: Path, quantization: str, compute_dtype: str, device: str) -> Any:
    """The frozen base: matrices in NF4 with double quantization ("nf4") or float32 ("none"), the rest in float32."""
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    config = None
    if quantization == "nf4":
        config = hf.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, compute_dtype),
        )  # fmt: skip
    model = hf.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=config, device_map={"": own_device(device)}, use_safetensors=True,
        local_files_only=True, trust_remote_code=False,
        attn_implementation=ATTENTION if device == "cpu" else None,
    )  # fmt: skip
    keep_nf4(model)
    return model


def own_device(device: str) -> str:
    """The card of this process: `accelerate launch` starts one process a card and numbers them."""
    return f"cuda:{PartialState().local_process_index}" if device == "cuda" else device


def float32_attention(
    module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any
) -> tuple[Any, Any]:
    """torch's attention in float32 even under bfloat16 autocast: on a CPU faster (a step by a fifth), and finer."""
    with torch.autocast("cpu", enabled=False):
        return sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **options)


hf.AttentionInterface.register(ATTENTION, float32_attention)
hf.AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def keep_nf4(model: Any) -> None:
    """Make the base compute in eval mode what it computes in training.

    On CPUs with AVX512-BF16 bitsandbytes 0.50.2 repacks a layer's weights at the first forward in eval mode,
    with coarser scales and without a gradient: every training step after an evaluation would be wrong.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def finetune(job: Job, runs: Path, adapter: Path) -> Finetuned | None:
    """Train, and write `adapter`: adapter weights, their config, the tokenizer, and RECORD.

    Of several processes under `accelerate launch` the first one writes, the others return None.

    Checkpoints go to `runs`/<key of params, data and base>; a run that was killed goes on from its last whole
    checkpoint, and another key's checkpoints are removed once this run is done. `adapter` is replaced at the
    end. Raises UserError for rows that are too long, a base that cannot be trained, a device that is not there.
    """
    device = pick_device(job.settings.compute_dtype)
    settings = job.settings.model_copy(
        update={"compute_dtype": computed_in(job.settings.compute_dtype, device)}
    )
    if settings != job.settings:
        print("finetune: in float32, this CPU has no fast bfloat16 (no AVX-512)", file=sys.stderr, flush=True)
    job = replace(job, settings=settings)
    train, validation = row_files.read(job.train), row_files.read(job.validation)
    tokenizer = load_tokenizer(job.base)
    builder = prompt.from_transformers(tokenizer, job.prompt.separator)
    for rows, path in ((train, job.train), (validation, job.validation)):
        check_text(rows, tokenizer, path.as_posix())
    for path in job.others:
        if path.exists() and path.stat().st_size:  # published.jsonl is empty without data.held_out
            check_text(row_files.read(path), tokenizer, path.as_posix())
    validation.sort(key=lambda row: len(row.prompt), reverse=True)
    given = [examples(rows, builder, job.prompt.max_tokens) for rows in (train, validation)]

    key = run_key(job, device)
    last = checkpoints.last_complete(runs / key)
    model = load_base(job.base, settings.quantization, settings.compute_dtype, device)
    trainer = make_trainer(job, model, tokenizer, given, runs / key, device)
    for rows, held in ((train, trainer.train_dataset), (validation, trainer.eval_dataset)):
        check(rows, list(held), builder, tokenizer, job.prompt.max_tokens)

    started = time.perf_counter()
    resumed_at = resume(trainer, last)
    seconds = time.perf_counter() - started
    made = Finetuned(
        device, trainer.state.global_step, resumed_at,
        sum(weights.numel() for weights in trainer.model.parameters() if weights.requires_grad),
        next(entry["eval_loss"] for entry in reversed(trainer.state.log_history) if "eval_loss" in entry),
        seconds, history(trainer.state.log_history),
    )  # fmt: skip
    if not trainer.is_world_process_zero():
        return None
    save_adapter(trainer.accelerator.unwrap_model(trainer.model), job, made, adapter)
    checkpoints.forget_others(runs, key)
    return made


def resume(trainer: Any, last: Path | None) -> int:
    """Train from checkpoint `last` (None: from the start) to the end; returns the step that it started at."""
    import peft

    state = hf.TrainerState.load_from_json(str(last / "trainer_state.json")) if last else None
    if state and state.global_step >= state.max_steps:
        # It is done. The trainer would go one step too far where the last step is not an epoch's end.
        peft.set_peft_model_state_dict(trainer.model, peft.load_peft_weights(str(last), device="cpu"))
        trainer.state = state
        return int(state.global_step)
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    except RuntimeError as error:
        if "inline_container" in str(error):  # torch.save's writer, which does not tell the system's error
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), trainer.args.output_dir) from None
        raise
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, Watch):
                callback.close()
    return int(state.global_step) if state else 0


def run_key(job: Job, device: str) -> str:
    """The run's name: settings, rows, base model, device, library versions, and the code that trains."""
    plain: dict[str, Any] = {
        "finetune": job.settings.model_dump(), "prompt": job.prompt.model_dump(), "device": device, **versions()
    }  # fmt: skip
    if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        plain["processes"] = processes  # each takes a batch of its own: other steps
    base = sorted(path for path in job.base.iterdir() if path.is_file())
    code = [
        Path(__file__),
        *(Path(__file__).with_name(name) for name in ("examples.py", "length_grouped_sampler.py")),
    ]
    return checkpoints.run_key(plain, [job.train, job.validation, *base, *code, Path(prompt.__file__)])


def versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in LIBRARIES}


def make_trainer(
    job: Job, model: Any, tokenizer: Any, given: list[list[dict[str, list[int]]]], run: Path, device: str
) -> Any:
    """The trainer over `given` = training and validation examples; the loss is on the completion mask alone."""
    import datasets
    import peft
    import trl

    datasets.disable_progress_bars()
    settings = job.settings
    if settings.quantization == "nf4":
        model = peft.prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=settings.gradient_checkpointing
        )
    lora = peft.LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout,
        target_modules=list(TARGETS), bias="none", task_type="CAUSAL_LM",
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
            """Nothing is told to the hub."""

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """No card in a checkpoint."""

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            """On a CPU trl scores every position of every row, here those after the prompts."""
            if device == "cuda":
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            return completion_loss(model, inputs, return_outputs, num_items_in_batch)

        def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
            return EpochOrder([len(one["input_ids"]) for one in given[0]], settings.batch_size, settings.seed)

    trainer: Any = Trainer(
        model=model, args=arguments, processing_class=tokenizer, peft_config=lora,
        train_dataset=datasets.Dataset.from_list(given[0]), eval_dataset=datasets.Dataset.from_list(given[1]),
        callbacks=[Watch()],
    )  # fmt: skip
    trainer.remove_callback(hf.PrinterCallback)
    for weights in trainer.model.parameters():
        if weights.requires_grad:
            # trl makes them bfloat16, where a late step of AdamW is often less than half a unit in the last place.
            weights.data = weights.data.float()
    return trainer


def completion_loss(
    model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
) -> Any:
    """Mean cross-entropy of the labels that are not -100, over `num_items_in_batch` of them (None: this batch's).

    `inputs`: ids, mask and labels, [rows, tokens]. Logits are made from the first label's position on.
    """
    labels = inputs["labels"]
    learned = (labels != IGNORED).any(dim=0).nonzero()
    first = max(1, int(learned[0])) if len(learned) else labels.shape[1] - 1
    places = torch.arange(first - 1, labels.shape[1] - 1, device=labels.device)
    given = {name: value for name, value in inputs.items() if name != "labels"}
    outputs = model(**given, use_cache=False, logits_to_keep=places)
    wanted = labels[:, first:].reshape(-1)
    loss = torch.nn.functional.cross_entropy(
        outputs.logits.float().flatten(0, 1), wanted, ignore_index=IGNORED, reduction="sum"
    )
    loss = loss / (
        (wanted != IGNORED).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    )
    return (loss, outputs) if return_outputs else loss


class Watch(hf.TrainerCallback):
    """A progress bar on stderr, an evaluation at each epoch's end, a mark on each whole checkpoint."""

    bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        from tqdm import tqdm

        every = 0.1 if sys.stderr.isatty() else 10.0
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc="finetune", unit="step", file=sys.stderr,
            mininterval=every, maxinterval=every,
        )  # fmt: skip

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)
        # Before the step's checkpoint is written, so that the loss is in it.
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


def history(log: list[dict[str, Any]]) -> list[dict[str, float]]:
    """One mapping a step of the trainer's log, training and validation entries of a step joined."""
    found: dict[int, dict[str, float]] = {}
    for entry in log:
        known: dict[str, float] = {
            name: entry[name] for name in ("epoch", "loss", "learning_rate", "eval_loss") if name in entry
        }
        if "loss" in known or "eval_loss" in known:
            found.setdefault(entry["step"], {"step": entry["step"]}).update(known)
    return [found[step] for step in sorted(found)]


def save_adapter(model: Any, job: Job, made: Finetuned, target: Path) -> None:
    """`target` in peft's layout, the same bytes for the same weights."""
    with replacing(target, folder=True) as temporary:
        model.save_pretrained(temporary, safe_serialization=True, save_embedding_layers=False)
        (temporary / "README.md").unlink(missing_ok=True)
        path = temporary / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = job.base_name
        config["target_modules"] = sorted(config["target_modules"])  # a set: another order in each process
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        model_dir.copy(job.base, temporary, model_dir.TOKENIZER)
        record = {
            "device": made.device, "quantization": job.settings.quantization,
            "compute_dtype": job.settings.compute_dtype, "steps": made.steps, "trainable_parameters": made.trainable,
            "eval_loss": made.eval_loss, **versions(),
        }  # fmt: skip
        (temporary / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def as_plain(made: Finetuned) -> dict[str, Any]:
    """The result without its history, for the stage's last line."""
    return {name: value for name, value in asdict(made).items() if name != "history"}
