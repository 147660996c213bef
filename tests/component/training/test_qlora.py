"""Fine-tuning for real on a toy: what is trained, what a kill leaves, what is written."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cartlm.engines.model_dir import load_tokenizer
from cartlm.errors import UserError
from cartlm.task import prompt
from cartlm.task import rows as row_files
from cartlm.task.intent import Intent
from cartlm.training import checkpoints, qlora
from cartlm.training.examples import examples
from cartlm.training.label_loss import label_loss
from cartlm.training.trainer import lora_targets, make_trainer
from stages import finetune as stage
from tests.component.training.conftest import ROOT, job, run_stage, stage_folder, start
from tests.fixtures.shared import full_disk
from tests.fixtures.toy import toy_rows

TARGETS = {"down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"}


def test_the_loss_falls_and_only_the_adapter_trains(trained: tuple[Path, qlora.Finetuned, qlora.Job]) -> None:
    adapter, made, _ = trained
    losses = [entry["loss"] for entry in made.history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert made.steps == 6
    assert made.resumed_at == 0
    weights = load_file(adapter / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) == made.trainable
    assert {name.rsplit(".", 3)[1] for name in weights} == TARGETS
    assert all(tensor.dtype == torch.float32 for tensor in weights.values()), "bfloat16 loses small updates"
    assert all(tensor.abs().max() > 0 for name, tensor in weights.items() if "lora_B" in name), (
        "all of them learn"
    )


def test_the_adapter_names_no_machine(trained: tuple[Path, qlora.Finetuned, qlora.Job]) -> None:
    adapter, _, _ = trained
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "models/base"
    assert (config["r"], config["lora_alpha"], config["bias"]) == (8, 16, "none")
    record = json.loads((adapter / qlora.RECORD).read_text())
    assert record["device"] in ("cpu", "cuda")
    assert (record["quantization"], record["compute_dtype"]) == (
        "nf4",
        qlora.available_dtype("bfloat16", record["device"]),
    )
    for path in adapter.glob("*.json"):
        assert str(adapter.parent.parent) not in path.read_text(encoding="utf-8")
    assert {"tokenizer.json", "tokenizer.model"} <= {path.name for path in adapter.iterdir()}


@pytest.mark.parametrize("counted", [None, 37])
def test_the_loss_on_a_cpu_is_trl_s(tmp_path: Path, toy_base: Path, counted: int | None) -> None:
    """Loss and gradients of ragged rows, as trl 1.16 computes them over all positions."""
    import trl

    given = job(tmp_path, toy_base, compute_dtype="float32")
    tokenizer = load_tokenizer(toy_base)
    builder = prompt.from_transformers(tokenizer, "\n")
    made = [examples(row_files.read(path), builder, 640) for path in (given.train, given.validation)]
    model = qlora.load_base(toy_base, "nf4", "float32", "cpu")
    trainer = make_trainer(given.settings, model, tokenizer, *made, tmp_path / "runs", "cpu")
    for name, weights in trainer.model.named_parameters():
        if "lora_B" in name:  # zero at the start, and with them the gradients of lora_A
            torch.nn.init.normal_(weights, std=0.05)
    batch = next(iter(trainer.get_train_dataloader()))
    assert len({int((row != -100).nonzero()[0]) for row in batch["labels"]}) > 1, "ragged"

    def asked(compute: Any) -> tuple[float, list[torch.Tensor]]:
        trainer.model.zero_grad()
        loss = compute(trainer.model, dict(batch), num_items_in_batch=counted)
        loss.backward()
        found = [weights.grad.clone() for weights in trainer.model.parameters() if weights.grad is not None]
        return float(loss), found

    ours, theirs = asked(trainer.compute_loss), asked(partial(trl.SFTTrainer.compute_loss, trainer))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert len(ours[1]) == len(theirs[1]) > 0
    for one, other in zip(ours[1], theirs[1], strict=True):
        assert one.norm() > 0
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_a_batch_without_labels_is_no_error(toy_base: Path) -> None:
    model = qlora.load_base(toy_base, "none", "float32", "cpu")
    ids = torch.ones((2, 5), dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": ids, "labels": torch.full((2, 5), -100)}
    assert float(label_loss(model, batch)) == 0


def test_the_curve_has_every_epoch_s_validation_loss(tmp_path: Path, toy_base: Path) -> None:
    given = job(tmp_path, toy_base, max_steps=-1, epochs=2.0, batch_size=16, save_steps=50)
    made = qlora.finetune(given, tmp_path / "runs", tmp_path / "adapter")
    assert made.steps == 6
    assert [entry["step"] for entry in made.history if "eval_loss" in entry] == [3, 6]
    assert made.eval_loss == made.history[-1]["eval_loss"]


def test_rows_are_never_cut(tmp_path: Path, toy_base: Path) -> None:
    with pytest.raises(UserError, match=r"longer than prompt\.max_tokens=80"):
        qlora.finetune(job(tmp_path, toy_base, max_tokens=80), tmp_path / "runs", tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("where", ["message", "product"])
@pytest.mark.parametrize("split", ["train", "validation", "calibration", "test", "published"])
def test_a_special_token_in_a_row_stops_before_training(
    split: str, where: str, tmp_path: Path, toy_base: Path, capfd: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """llama-imatrix and llama-server would read it as the end of the text, long after training."""
    folder = stage_folder(tmp_path / "run", toy_base)
    path = folder / f"data/{split}.jsonl"
    every = row_files.read(path) if path.exists() else toy_rows(3)
    product = "Tea </s> bags" if where == "product" else "Tea"
    said = "add tea</s>" if where == "message" else "add tea"
    odd = row_files.make("odd-0001", "english", ["Coffee", product], said, Intent("add", product, 1), {})
    row_files.write(path, [every[0], odd, *every[2:]])
    code, _, errors = run_stage(stage.main, folder, capfd)
    assert code == 2
    for word in (f"data/{split}.jsonl", "row odd-0001", "</s>"):
        assert word in errors[-1]
    assert not (folder / "models/adapter").exists()
    assert not (folder / "runs/finetune").exists()


def test_evaluating_does_not_change_training(toy_base: Path) -> None:
    """bitsandbytes repacks weights in eval mode on some CPUs; gradients after that would be wrong."""
    import peft

    base = qlora.load_base(toy_base, "nf4", "bfloat16", "cpu")
    base = peft.prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    torch.manual_seed(0)
    lora = peft.LoraConfig(r=4, target_modules=sorted(TARGETS), init_lora_weights=False)
    model = peft.get_peft_model(base, lora)
    ids = torch.arange(10, 60)[None]

    def gradients() -> list[torch.Tensor]:
        model.train()
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            model(input_ids=ids, labels=ids).loss.backward()
        return [weights.grad.clone() for weights in model.parameters() if weights.grad is not None]

    before = gradients()
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(input_ids=ids)
    assert all(torch.equal(one, two) for one, two in zip(before, gradients(), strict=True))


def test_the_base_computes_what_transformers_computes(toy_base: Path) -> None:
    """Left, right and no padding, against float32 without any of ours; NF4 is near and not the same."""
    import transformers

    plain = transformers.AutoModelForCausalLM.from_pretrained(toy_base, dtype=torch.float32)
    ours = qlora.load_base(toy_base, "none", "bfloat16", "cpu")
    quantized = qlora.load_base(toy_base, "nf4", "bfloat16", "cpu")
    ids = torch.arange(10, 130).reshape(4, 30)
    for mask in (torch.ones_like(ids), torch.ones_like(ids).tril(20), torch.ones_like(ids).triu(-2)):
        with torch.no_grad():
            wanted = plain(input_ids=ids, attention_mask=mask).logits[mask.bool()]
            found = ours(input_ids=ids, attention_mask=mask).logits[mask.bool()]
            near = quantized(input_ids=ids, attention_mask=mask).logits[mask.bool()]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        assert 0 < (near - wanted).abs().mean() < 0.3 * wanted.abs().mean()


@pytest.mark.parametrize(
    ("instructions", "ratio", "found"),
    [(True, 0.5, "bfloat16"), (True, 1.9, "float32"), (False, 0.5, "float32")],
)
def test_a_cpu_without_fast_bfloat16_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch, instructions: bool, ratio: float, found: str
) -> None:
    """The CPU's answer is a mock: one machine has one kind of CPU."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: instructions)
    monkeypatch.setattr(qlora, "bfloat16_time", lambda: ratio)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert qlora.available_dtype("bfloat16", "cpu") == found
    assert qlora.available_dtype("bfloat16", "cuda") == "bfloat16"
    assert qlora.available_dtype("float32", "cpu") == "float32"


def test_products_are_timed_once_in_both_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 products are made to take longer, whatever this CPU is."""
    linear, threads = torch.nn.functional.linear, torch.get_num_threads()

    def slow(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        if rows.dtype == torch.bfloat16:
            time.sleep(0.02)
        return linear(rows, weights)

    qlora.bfloat16_time.cache_clear()
    monkeypatch.setattr(torch.nn.functional, "linear", slow)
    assert qlora.bfloat16_time() > 2
    monkeypatch.undo()
    assert qlora.bfloat16_time() > 2, "timed again"
    assert torch.get_num_threads() == threads
    qlora.bfloat16_time.cache_clear()


def test_a_run_goes_on_in_the_type_that_it_began_in(
    tmp_path: Path, toy_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine may time otherwise when the killed run is started again."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    given = job(tmp_path, toy_base, compute_dtype="bfloat16")
    for began, later in ((1.9, 0.5), (0.5, 1.9)):
        runs = tmp_path / f"runs{began}"
        monkeypatch.setattr(qlora, "bfloat16_time", lambda ratio=began: ratio)
        begun = qlora.in_available_dtype(given, "cpu", runs)
        checkpoint = runs / qlora.run_key(begun, "cpu") / "checkpoint-2"
        checkpoint.mkdir(parents=True)
        checkpoints.mark_complete(checkpoint)
        monkeypatch.setattr(qlora, "bfloat16_time", lambda ratio=later: ratio)
        assert qlora.in_available_dtype(given, "cpu", runs) == begun
        other = qlora.in_available_dtype(given, "cpu", tmp_path / "none")
        assert other.settings.compute_dtype != begun.settings.compute_dtype


def test_float16_needs_a_card(tmp_path: Path, toy_base: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    with pytest.raises(UserError, match=r"finetune\.compute_dtype=float16 needs a CUDA card"):
        qlora.finetune(
            job(tmp_path, toy_base, compute_dtype="float16"), tmp_path / "runs", tmp_path / "adapter"
        )


@pytest.mark.slow
def test_a_full_disk_is_one_line(tmp_path: Path, toy_base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """120 KiB a file hold the adapter's weights, not the optimizer's: torch.save has an error of its own."""
    folder = stage_folder(tmp_path, toy_base, max_steps=4, save_steps=1)
    with full_disk(120 * 1024):
        code, _, errors = run_stage(stage.main, folder, capfd)
    assert code == 2, errors
    assert errors[-1].startswith("cartlm: error: no space left writing runs/finetune")
    assert not (folder / "models/adapter").exists()


@pytest.mark.slow
def test_a_killed_run_resumes_and_ends_as_an_undisturbed_one(
    tmp_path: Path, toy_base: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = {"max_steps": 30, "save_steps": 3, "batch_size": 8, "lora_dropout": 0.05}
    given = job(tmp_path / "whole", toy_base, **options)
    whole = qlora.finetune(given, tmp_path / "whole/runs", tmp_path / "whole/adapter")

    folder = stage_folder(tmp_path / "killed", toy_base, **options)
    process = start(folder, "finetune")
    runs = folder / "runs/finetune"
    while not (found := list(runs.glob("*/checkpoint-6/complete.json"))):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "models/adapter").exists()
    run_folder = found[0].parents[1]
    steps = [int(path.name.removeprefix("checkpoint-")) for path in run_folder.glob("checkpoint-*")]
    assert max(steps) < 30, "it was killed in the middle"
    half = run_folder / "checkpoint-29"  # as a kill in the middle of saving leaves it
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    other = runs / "0123456789abcdef/checkpoint-27"
    other.mkdir(parents=True)

    code, last, errors = run_stage(stage.main, folder, capfd)
    assert code == 0, errors
    result = json.loads(last)
    assert 6 <= result["resumed_at"] < 30
    assert result["steps"] == 30
    assert [path.name for path in runs.iterdir()] == [run_folder.name], "another key's checkpoints are gone"

    ours = load_file(folder / "models/adapter/adapter_model.safetensors")
    theirs = load_file(tmp_path / "whole/adapter/adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    # a CPU that computes in float32 instead does not round alike in two processes
    exact = qlora.available_dtype("bfloat16", "cpu") == "bfloat16"
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=0.0 if exact else 1e-5)
    with (folder / "metrics/finetune.csv").open(encoding="utf-8") as file:
        curve = list(csv.DictReader(file))
    assert [int(line["step"]) for line in curve] == [int(entry["step"]) for entry in whole.history]
    assert curve[-1]["eval_loss"] == f"{whole.eval_loss:.4g}"
    assert any("step/s" in line or "s/step" in line for line in errors), "progress"


def test_another_run_never_resumes(tmp_path: Path, toy_base: Path) -> None:
    given = job(tmp_path, toy_base, max_steps=2)
    keys = {qlora.run_key(given, "cpu")}
    keys.add(qlora.run_key(job(tmp_path, toy_base, max_steps=3), "cpu"))
    keys.add(qlora.run_key(job(tmp_path, toy_base, max_steps=2, max_tokens=600), "cpu"))
    keys.add(qlora.run_key(given, "cuda"))
    given.train.write_text("".join(reversed(given.train.read_text().splitlines(keepends=True))))
    keys.add(qlora.run_key(given, "cpu"))
    assert len(keys) == 5
    assert all(len(key) == 16 for key in keys)


def test_a_finished_run_is_not_trained_twice(tmp_path: Path, toy_base: Path) -> None:
    given = job(tmp_path, toy_base, max_steps=2)
    first = qlora.finetune(given, tmp_path / "runs", tmp_path / "adapter")
    weights = (tmp_path / "adapter/adapter_model.safetensors").read_bytes()
    again = qlora.finetune(given, tmp_path / "runs", tmp_path / "adapter")
    assert (again.resumed_at, again.steps) == (2, 2)
    assert again.history == first.history
    assert (tmp_path / "adapter/adapter_model.safetensors").read_bytes() == weights
    (run,) = (tmp_path / "runs").iterdir()
    last = checkpoints.last_complete(run)
    assert last is not None
    assert last.name == "checkpoint-2"


def test_accelerate_launch_starts_several_processes_and_one_writes(tmp_path: Path, toy_base: Path) -> None:
    """README's line for several GPUs on two CPU processes, by torch.distributed.run as accelerate does on cards."""
    folder = stage_folder(tmp_path / "two", toy_base, max_steps=4, save_steps=2)
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "stages.finetune",
        ],
        cwd=folder, capture_output=True, text=True, timeout=500,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["steps"] for line in lines] == [4], "the second process prints nothing"
    run_folder = next((folder / "runs/finetune").iterdir())
    assert checkpoints.last_complete(run_folder) == run_folder / "checkpoint-4"
    assert {path.name for path in (run_folder / "checkpoint-4").glob("rng_state*")} == {
        "rng_state_0.pth", "rng_state_1.pth",
    }  # fmt: skip
    assert load_file(folder / "models/adapter/adapter_model.safetensors")


def test_the_layers_that_get_an_adapter(toy_base: Path, tmp_path: Path) -> None:
    model = qlora.load_base(toy_base, "nf4", "float32", "cpu")
    assert lora_targets(model, "all-linear") == sorted(TARGETS)
    assert lora_targets(model, ["v_proj", "q_proj", "v_proj"]) == ["q_proj", "v_proj"]
    with pytest.raises(
        UserError, match=r"finetune\.lora_targets has 'lm_head'.*some of down_proj, gate_proj"
    ):
        lora_targets(model, ["q_proj", "lm_head"])
    made = qlora.finetune(
        job(tmp_path, toy_base, max_steps=1, lora_targets=["v_proj"]), tmp_path / "runs", tmp_path / "adapter"
    )
    assert made is not None
    weights = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert {name.rsplit(".", 3)[1] for name in weights} == {"v_proj"}
