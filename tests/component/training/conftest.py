"""A toy base model, toy rows on disk, and an adapter trained on them, once for all tests here."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import torch
import yaml

from cartlm import params
from cartlm.quantization import tokenizer_check
from cartlm.task import rows
from cartlm.training import base, qlora
from tests import ROOT
from tests.fixtures import fixed_params
from tests.fixtures.toy import toy_rows


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Sums in one order, and no fighting over cores that other tests use."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def without_llama_cpp(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base stage asks llama.cpp's converter, which takes seconds, only in tests that use `llama_cpp`."""
    if "llama_cpp" not in request.fixturenames:
        monkeypatch.setattr(tokenizer_check, "check_gguf", lambda *_: True)


@pytest.fixture
def llama_cpp() -> None:
    """Ask llama.cpp's converter."""


def settings(**changes: Any) -> params.Finetune:
    """Fine-tuning that moves the toy within some steps."""
    found = fixed_params.load().finetune.model_dump()
    small = {"batch_size": 4, "max_steps": 6, "save_steps": 2, "learning_rate": 0.01}
    return params.Finetune(**{**found, **small, **changes})


def job(folder: Path, toy_base: Path, max_tokens: int = 640, **changes: Any) -> qlora.Job:
    """60 toy rows under `folder`/data, 48 of them for training."""
    every = toy_rows(60)
    rows.write(folder / "data/train.jsonl", every[:48])
    rows.write(folder / "data/validation.jsonl", every[48:])
    prompt = params.Prompt(separator="\n", max_tokens=max_tokens, pad_token=None)
    return qlora.Job(
        toy_base, "models/base", folder / "data/train.jsonl", folder / "data/validation.jsonl", settings(**changes), prompt
    )  # fmt: skip


def make_base(
    source: str, path: str, revision: str | None, pad: str | None, target: Path, **more: Any
) -> base.BaseModel:
    """models/base by the settings of params.yaml, without variants."""
    found = fixed_params.load()
    prompt = found.prompt.model_copy(update={"pad_token": pad, "max_tokens": 640})
    unset = {"license": None, "download_mb": None, "package": None}
    origin = params.Base.model_validate(
        {**unset, "source": source, "path": path, "revision": revision, **more}
    )
    log = target.with_suffix(".log")
    return base.make(origin, prompt, found.merge, {}, {}, found.data.languages, target, log)


@pytest.fixture(scope="session")
def toy_base(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/base made from the toy model."""
    target = tmp_path_factory.mktemp("base") / "models/base"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_check, "check_gguf", lambda *_: True)
        make_base("embedded", str(toy_model), None, None, target)
    return target


@pytest.fixture(scope="session")
def trained(
    toy_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, qlora.Finetuned, qlora.Job]:
    """(adapter, how it went, the job): NF4, bfloat16, 6 steps."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained")
    given = job(folder, toy_base)
    made = qlora.finetune(given, folder / "runs", folder / "models/adapter")
    return folder / "models/adapter", made, given


def stage_folder(folder: Path, toy_base: Path, **finetune: Any) -> Path:
    """A working directory for the stage commands: params.yaml, data, models/base."""
    given = job(folder, toy_base, **finetune)
    values = fixed_params.values()
    values["finetune"] = given.settings.model_dump()
    values["merge"]["check_rows"] = 8
    values["eval"]["max_new_tokens"] = 40
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    (folder / "models").mkdir()
    (folder / "models/base").symlink_to(toy_base)
    return folder


def start(folder: Path, name: str) -> subprocess.Popen[str]:
    """A stage command in `folder`, on one core so that sums come in one order."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    pin = [] if not hasattr(os, "sched_getaffinity") else ["taskset", "-c", str(core)]
    return subprocess.Popen(
        [*pin, sys.executable, "-m", f"stages.{name}"], cwd=folder, env=environ, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run_stage(command: click.Command, folder: Path, capfd: Any) -> tuple[int, str, list[str]]:
    """A stage in this process and `folder`: exit code, the last line of stdout, the lines of stderr."""
    capfd.readouterr()
    with contextlib.chdir(folder), pytest.raises(SystemExit) as ended:
        command.main([])
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), out.strip().rpartition("\n")[2], err.strip().splitlines() or [""]
