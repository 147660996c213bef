"""QLoRA (arXiv 2305.14314): trl's SFTTrainer, peft's LoRA on a bitsandbytes NF4 base, on CUDA or the CPU."""

from __future__ import annotations

import errno
import logging
import math
import os
import sys
import time
import warnings
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import bitsandbytes
import peft
import torch
import transformers as hf
from accelerate import PartialState
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from cartlm.engines import model_dir
from cartlm.errors import UserError
from cartlm.files import replacing
from cartlm.task import prompt
from cartlm.task import rows as row_files
from cartlm.task.config import Prompt
from cartlm.training import checkpoints, memory, origin
from cartlm.training.config import Finetune
from cartlm.training.examples import check, check_text, examples
from cartlm.training.trainer import TrainingCallback, make_trainer, training_curve

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # advises a download of CPU kernels from the hub
warnings.filterwarnings(  # peft's old name
    "ignore", message=".*gradient_checkpointing.*", category=FutureWarning
)

LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes")
ATTENTION = "float32_attention"
SLOWER = 1.2  # times a float32 product: 1.9 on an Intel Xeon without AMX, 90 with AVX2 alone
RECORD = "training.json"
"""In the adapter's folder: where and with what it was trained."""


@dataclass(frozen=True)
class Job:
    """What is trained on what. `base_name` is how the adapter names its base, never a machine's path.

    `others` are rows that later stages read: checked where they exist, never learned.
    """

    base: Path
    base_name: str
    train: Path
    validation: Path
    settings: Finetune
    prompt: Prompt
    others: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Finetuned:
    """How a run ended. `history` has a mapping a logged step: step, epoch, loss, learning_rate, eval_loss."""

    device: str
    steps: int
    resumed_at: int  # 0: from the start
    trainable: int
    eval_loss: float
    micro_batch: int  # rows computed at a time
    dequantized: str | None  # NF4 matrices: "once" or "each step"
    seconds: float  # of this process alone
    # trained on, without padding, in the steps of this process; None where it made none
    tokens_per_s: float | None
    memory_mib: float  # at the peak: resident, or on CUDA reserved by torch
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


def available_dtype(compute_dtype: str, device: str) -> str:
    """`compute_dtype`, or float32 in place of bfloat16 on a CPU that multiplies float32 matrices faster.

    With AVX2 alone torch multiplies bfloat16 one number at a time, some ninety times slower; some CPUs have instructions
    for bfloat16 that do half of what their float32 ones do (docs/decisions/training.md). RECORD has the one that was used.
    """
    if compute_dtype != "bfloat16" or device != "cpu":
        return compute_dtype
    has_instructions = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bfloat16" if has_instructions and bfloat16_time() < SLOWER else "float32"


@cache
def bfloat16_time() -> float:
    """Time of a product of bfloat16 matrices over that of float32 ones on this CPU, by turns: the shortest of 50 each.

    On one thread, so that at least some products are not interrupted by another program.
    """
    threads, shortest = torch.get_num_threads(), {torch.float32: math.inf, torch.bfloat16: math.inf}
    torch.set_num_threads(1)
    given = {
        dtype: (torch.ones(128, 640, dtype=dtype), torch.ones(640, 640, dtype=dtype)) for dtype in shortest
    }
    for _ in range(50):  # at the first, oneDNN makes its program
        for dtype, (rows, weights) in given.items():
            started = time.perf_counter()
            torch.nn.functional.linear(rows, weights)
            shortest[dtype] = min(shortest[dtype], time.perf_counter() - started)
    torch.set_num_threads(threads)
    return shortest[torch.bfloat16] / shortest[torch.float32]


def in_available_dtype(job: Job, device: str, runs: Path) -> Job:
    """The job in the type that this machine has (`available_dtype`), or in the other one if only that was begun in `runs`.

    So a time taken on a busy machine restarts nothing.
    """
    wanted = job.settings.compute_dtype
    first = available_dtype(wanted, device)
    types = [first, "bfloat16", "float32"] if (wanted, device) == ("bfloat16", "cpu") else [first]
    jobs = [
        replace(job, settings=job.settings.model_copy(update={"compute_dtype": dtype}))
        for dtype in dict.fromkeys(types)
    ]
    begun = (
        each for each in jobs if len(jobs) > 1 and checkpoints.last_complete(runs / run_key(each, device))
    )
    chosen = next(begun, jobs[0])
    if chosen.settings.compute_dtype != wanted:
        print(
            "finetune: in float32, which this CPU multiplies faster than bfloat16",
            file=sys.stderr,
            flush=True,
        )
    return chosen


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
    # accelerate launch starts one process a card and numbers them
    own_device = f"cuda:{PartialState().local_process_index}" if device == "cuda" else device
    model = hf.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=config, device_map={"": own_device}, use_safetensors=True,
        local_files_only=True, trust_remote_code=False,
        attn_implementation=ATTENTION if device == "cpu" else None,
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            # On CPUs with AVX512-BF16 bitsandbytes 0.50.2 repacks a layer's weights at the first forward in eval mode,
            # with coarser scales and without a gradient: every training step after an evaluation would be wrong.
            module.support_avx512bf16_for_cpu = False
    return model


def float32_attention(
    module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any
) -> tuple[Any, Any]:
    """torch's attention in float32 even under bfloat16 autocast: on a CPU faster (a step by a fifth) and more precise."""
    with torch.autocast("cpu", enabled=False):
        return sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **options)


hf.AttentionInterface.register(ATTENTION, float32_attention)
hf.AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def finetune(job: Job, runs: Path, adapter: Path) -> Finetuned | None:
    """Train, and write `adapter`: adapter weights, their config, the tokenizer, and RECORD.

    Of several processes under `accelerate launch` the first one writes, the others return None.

    Checkpoints go to `runs`/<key of params, data and base>; a run that was killed resumes from its last complete
    checkpoint, and other keys' checkpoints are removed once this run is done. `adapter` is replaced at the
    end. Raises UserError for rows that are too long, a base that cannot be trained, a device that is missing.
    """
    device = pick_device(job.settings.compute_dtype)
    job = in_available_dtype(job, device, runs)
    settings = job.settings
    train, validation = row_files.read(job.train), row_files.read(job.validation)
    tokenizer = model_dir.load_tokenizer(job.base)
    builder = prompt.from_transformers(tokenizer, job.prompt.separator)
    for path in (job.train, job.validation, *job.others):
        if path.exists() and path.stat().st_size:  # published.jsonl is empty without data.held_out
            check_text(row_files.read(path), tokenizer, path.as_posix())
    validation.sort(key=lambda row: len(row.prompt), reverse=True)
    learned, held_out = (examples(rows, builder, job.prompt.max_tokens) for rows in (train, validation))

    run = runs / run_key(job, device)
    last = checkpoints.last_complete(run)
    model = load_base(job.base, settings.quantization, settings.compute_dtype, device)
    trainer = make_trainer(settings, model, tokenizer, learned, held_out, run, device)
    check(train, list(trainer.train_dataset), builder, tokenizer)
    check(validation, list(trainer.eval_dataset), builder, tokenizer)

    started = time.perf_counter()
    resumed_at = train_from(trainer, last)
    seconds = time.perf_counter() - started
    curve = training_curve(trainer.state.log_history)
    in_steps = trainer.meter.seconds
    result = Finetuned(
        device, trainer.state.global_step, resumed_at,
        sum(weights.numel() for weights in trainer.model.parameters() if weights.requires_grad),
        next(entry["eval_loss"] for entry in reversed(curve) if "eval_loss" in entry),
        trainer.split.micro_batch,
        ("once" if trainer.split.held else "each step") if settings.quantization == "nf4" else None,
        seconds, trainer.trained_tokens / in_steps if in_steps else None, memory.peak_mib(device), curve,
    )  # fmt: skip
    if not trainer.is_world_process_zero():
        return None
    save_adapter(trainer.accelerator.unwrap_model(trainer.model), job, result, adapter)
    checkpoints.remove_other_runs(runs, run.name)
    return result


def train_from(trainer: Any, last: Path | None) -> int:
    """Train from checkpoint `last` (None: from the start) to the end; returns the step that it started at."""
    state = hf.TrainerState.load_from_json(str(last / "trainer_state.json")) if last else None
    if state and state.global_step >= state.max_steps:
        # It is done. The trainer would go one step too far where the last step is not an epoch's end.
        peft.set_peft_model_state_dict(trainer.model, peft.load_peft_weights(str(last), device="cpu"))
        trainer.state = state
        return int(state.global_step)
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    except RuntimeError as error:
        if "inline_container" in str(error):  # torch.save's writer, which hides the system's error
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), trainer.args.output_dir) from None
        raise
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TrainingCallback):
                callback.close()
    return int(state.global_step) if state else 0


def run_key(job: Job, device: str) -> str:
    """The run's name: settings, rows, base model, device, library versions, and the code that trains."""
    plain: dict[str, Any] = {
        "finetune": job.settings.model_dump(), "prompt": job.prompt.model_dump(), "device": device, **versions()
    }  # fmt: skip
    if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        plain["processes"] = processes  # each takes a batch of its own: other steps
    # a licence that is filled in later is no other base model
    base = sorted(path for path in job.base.iterdir() if path.is_file() and path.name != origin.ORIGIN)
    modules = ("qlora.py", "trainer.py", "examples.py", "frozen.py", "label_loss.py", "memory.py")
    code = [Path(__file__).with_name(name) for name in modules]
    return checkpoints.run_key(plain, [job.train, job.validation, *base, *code, Path(prompt.__file__)])


def versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in LIBRARIES}


def save_adapter(model: Any, job: Job, result: Finetuned, target: Path) -> None:
    """`target` in peft's layout, the same bytes for the same weights: nothing that was timed is in it."""
    with replacing(target, folder=True) as temporary:
        model.save_pretrained(temporary, safe_serialization=True, save_embedding_layers=False)
        (temporary / "README.md").unlink(missing_ok=True)
        path = temporary / "adapter_config.json"
        config = model_dir.read_json(path)
        config["base_model_name_or_path"] = job.base_name
        config["target_modules"] = sorted(config["target_modules"])  # a set: another order in each process
        model_dir.write_json(path, config, sort_keys=True)
        model_dir.copy(job.base, temporary, model_dir.TOKENIZER)
        record = {
            "device": result.device, "quantization": job.settings.quantization,
            "compute_dtype": job.settings.compute_dtype, "steps": result.steps,
            "trainable_parameters": result.trainable, "eval_loss": result.eval_loss,
            "micro_batch": result.micro_batch, "dequantized": result.dequantized, **versions(),
        }  # fmt: skip
        known = {name: value for name, value in record.items() if value is not None}
        model_dir.write_json(temporary / RECORD, known)
