"""A batch split so that a step stays inside a bound: the same training, decided by shapes alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cartlm.engines.model_dir import load_tokenizer
from cartlm.errors import UserError
from cartlm.task import prompt
from cartlm.task import rows as row_files
from cartlm.training import memory, qlora, trainer
from cartlm.training.examples import examples
from stages import finetune as stage
from tests.component.training.conftest import job, run_stage, stage_folder

GIB = memory.GIB


def test_the_largest_divisor_that_fits_is_taken() -> None:
    cost = memory.Cost(fixed=GIB, row=GIB // 4, held=GIB)
    assert memory.split(cost, 12, 12, None, 9) == (12, True)
    assert memory.split(cost, 12, 5, None, 9) == (4, True)
    assert memory.split(cost, 12, 12, 5.0, 9) == (12, True)
    assert memory.split(cost, 12, 12, 4.9, 9) == (6, True)
    assert memory.split(cost, 12, 12, 2.25, 9) == (1, True)
    assert memory.split(cost, 12, 12, 2.2, 9) == (4, False), "rather more rows than matrices held"
    assert memory.split(cost, 7, 7, 2.2, 9) == (1, False)
    with pytest.raises(UserError, match=r"device_memory_gib=1\.2 .*one row of 9 tokens, about 1\.3 GiB"):
        memory.split(cost, 12, 12, 1.2, 9)


def test_what_autograd_keeps_is_counted_to_the_byte() -> None:
    weight = torch.nn.Parameter(torch.ones((4, 8)))
    x = torch.ones((3, 4), requires_grad=True)
    before = torch.get_rng_state()

    def forward() -> torch.Tensor:
        torch.rand(1)
        return ((x @ weight).exp() * 2).sum()

    found = memory.kept_for_backward(forward, memory.storages([weight]))
    assert found == x.nbytes + 3 * 8 * 4, "the input of the product and the result of exp"
    assert torch.equal(torch.get_rng_state(), before)


def cost(toy_base: Path, folder: Path, **changes: Any) -> memory.Cost:
    import peft

    given = job(folder, toy_base, **changes)
    model = qlora.load_base(toy_base, "nf4", "bfloat16", "cpu")
    lora = peft.LoraConfig(r=8, target_modules=trainer.lora_targets(model, "all-linear"))
    model = peft.get_peft_model(model, lora)
    matrices = trainer.frozen.speed_up(model, torch.bfloat16)
    return trainer.step_cost(given.settings, model, matrices, 64, "cpu")


def test_a_row_s_cost_is_the_same_each_time_and_less_with_checkpointing(
    tmp_path: Path, toy_base: Path
) -> None:
    one = cost(toy_base, tmp_path)
    assert one == cost(toy_base, tmp_path)
    checkpointed = cost(toy_base, tmp_path, gradient_checkpointing=True)
    assert 0 < checkpointed.row < one.row
    assert one.held > 0


def gradients(folder: Path, toy_base: Path, **changes: Any) -> tuple[Any, float, dict[str, torch.Tensor]]:
    """The split, and loss and gradients of the first step."""
    given = job(folder, toy_base, **changes)
    tokenizer = load_tokenizer(toy_base)
    builder = prompt.from_transformers(tokenizer, "\n")
    made = [examples(row_files.read(path), builder, 640) for path in (given.train, given.validation)]
    model = qlora.load_base(toy_base, "nf4", "float32", "cpu")
    found = trainer.make_trainer(given.settings, model, tokenizer, *made, folder / "runs", "cpu")
    for name, weights in found.model.named_parameters():
        if "lora_B" in name:
            torch.manual_seed(len(name))
            torch.nn.init.normal_(weights, std=0.05)
    batches, parts = iter(found.get_train_dataloader()), found.args.gradient_accumulation_steps
    taken, count = found.get_batch_samples(batches, parts, torch.device("cpu"))
    loss = sum(float(found.training_step(found.model, one, count)) for one in taken)
    return (
        found.split,
        loss,
        {name: one.grad for name, one in found.model.named_parameters() if one.requires_grad},
    )


def test_a_split_batch_has_the_loss_and_gradients_of_a_whole_one(
    tmp_path: Path, toy_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"batch_size": 8, "compute_dtype": "float32"}
    monkeypatch.setattr(trainer, "CACHED", 100_000)
    whole = gradients(tmp_path, toy_base, **options)
    monkeypatch.setattr(memory, "LIBRARIES", {"cpu": 0.0})
    monkeypatch.setattr(memory, "HEAD", 0)
    split = gradients(
        tmp_path, toy_base, **options, device_memory_gib=bound(tmp_path, toy_base, monkeypatch, 2)
    )
    assert (whole[0].micro_batch, split[0].micro_batch) == (8, 2)
    assert split[1] == pytest.approx(whole[1], rel=1e-5)
    for name, one in whole[2].items():
        torch.testing.assert_close(split[2][name], one, rtol=1e-3, atol=1e-6)


def bound(folder: Path, toy_base: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> float:
    """GiB in which `rows` rows fit at a time."""
    seen = []
    kept = memory.split

    def see(cost: memory.Cost, *given: Any) -> tuple[int, bool]:
        seen.append(cost)
        return kept(cost, given[0], given[1], None, given[3])

    with monkeypatch.context() as patch:
        patch.setattr(memory, "split", see)
        gradients(folder, toy_base, batch_size=8, compute_dtype="float32", device_memory_gib=99.0)
    return seen[0].gib(rows, True) * 1.0001


def test_a_bound_that_no_row_fits_is_one_line(
    tmp_path: Path, toy_base: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = stage_folder(tmp_path, toy_base, device_memory_gib=0.01)
    code, _, errors = run_stage(stage.main, folder, capfd)
    assert code == 2
    for word in ("finetune.device_memory_gib=0.01", "GiB", "dvc repro finetune"):
        assert word in errors[-1]
    assert not (folder / "models/adapter").exists()


def test_the_record_tells_how_it_was_computed(tmp_path: Path, toy_base: Path) -> None:
    given = job(tmp_path, toy_base, max_steps=2, device_memory_gib=64.0)
    made = qlora.finetune(given, tmp_path / "runs", tmp_path / "adapter")
    record = json.loads((tmp_path / "adapter" / qlora.RECORD).read_text(encoding="utf-8"))
    assert record["micro_batch"] == made.micro_batch <= given.settings.batch_size
    assert given.settings.batch_size % record["micro_batch"] == 0
    assert record["dequantized"] == ("once" if record["device"] == "cpu" else "each step")
    assert made.tokens_per_s > 0
    assert 50 < made.memory_mib < 64 * 1024
    assert not {"tokens_per_s", "memory_mib"} & record.keys(), "the same training gives the same bytes"
    again = qlora.finetune(given, tmp_path / "runs", tmp_path / "adapter")
    assert again.tokens_per_s is None


def test_without_glibc_malloc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    memory.steady_malloc()
    memory.trim()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_glibc_takes_each_setting() -> None:
    libc = memory._glibc()
    if libc is None:
        pytest.skip("no glibc")
    assert all(libc.mallopt(number, value) == 1 for number, value in memory.MALLOPT.values())


def test_checkpointing_changes_no_gradient(tmp_path: Path, toy_base: Path) -> None:
    """What is computed a second time, in the backward pass, is what was computed first."""
    options = {"compute_dtype": "float32"}
    whole = gradients(tmp_path, toy_base, **options)
    again = gradients(tmp_path, toy_base, **options, gradient_checkpointing=True)
    assert again[1] == pytest.approx(whole[1], rel=1e-6)
    for name, one in whole[2].items():
        torch.testing.assert_close(again[2][name], one, rtol=1e-4, atol=1e-7)
