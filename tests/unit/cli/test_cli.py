"""The command line in a small folder: what it does, and its errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import Result
from safetensors.numpy import save_file

from tests.fixtures import fixed_params
from tests.fixtures.baseline import write_baseline

Run = Callable[..., Result]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    fixed_params.write(tmp_path)
    (tmp_path / ".dvc").mkdir()
    return tmp_path


def failed(done: Result, *words: str) -> None:
    assert done.exit_code == 2, done.output
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("cartlm: error: ")
    for word in words:
        assert word in done.stderr


def edit(repo: Path, old: str, new: str) -> None:
    path = repo / "params.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_params_check_passes(cartlm: Run) -> None:
    done = cartlm("params", "check")
    assert done.exit_code == 0, done.stderr
    assert "sound" in done.stdout


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("lora_rank: 8", "lora_rank: 1e1", ["finetune.lora_rank = 10.0"]),
        ("gradient_checkpointing: false", "gradient_checkpointing: off", ["gradient_checkpointing = 'off'"]),
        ("  q8_0: {type: Q8_0", "  architecture: {type: Q8_0", ["gguf.architecture: that name is taken"]),
        (
            "lora_rank: 8",
            "lora_rank: 8\n  lora_rank: 9",
            ["params.yaml is not YAML: ", 'found duplicate key "lora_rank", line'],
        ),
        ("lora_rank: 8", "lora_rank: [8", ["is not YAML"]),
        ("lora_rank: 8", "lora_rank: '8'", ["finetune.lora_rank = '8'"]),
        ("lora_rank: 8", "lora_ranks: 8", ["lora_rank"]),
        ("max_spread: 0.3", "max_spread: .nan", ["bench_cpu.max_spread = nan"]),
    ],
)
def test_params_check_names_the_mistake(
    cartlm: Run, repo: Path, old: str, new: str, words: list[str]
) -> None:
    edit(repo, old, new)
    failed(cartlm("params", "check"), *words)


def test_params_check_without_a_file(cartlm: Run, repo: Path) -> None:
    (repo / "params.yaml").unlink()
    failed(cartlm("params", "check"), "params.yaml is missing; git checkout params.yaml")


@pytest.mark.parametrize("command", [["params", "check"], ["table"], ["preset", "paper"], ["recommend"]])
def test_a_folder_below_the_repository_is_not_it(
    cartlm: Run, repo: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    below = repo / "a b"
    below.mkdir()
    monkeypatch.chdir(below)
    failed(cartlm(*command), "in this folder", f"cd '{repo}'" if " " in str(repo) else f"cd {repo}")
    monkeypatch.chdir("/")
    failed(cartlm(*command), "cd into a checkout of cartlm")


def test_table_names_every_variant(cartlm: Run) -> None:
    done = cartlm("table")
    assert done.exit_code == 0, done.stderr
    listed = fixed_params.values()
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == [
        *listed["reference"],
        *listed["gguf"],
        *listed["gptq"],
    ]


def weights(folder: Path, config: str = "config.json", numbers: int = 8) -> None:
    folder.mkdir(parents=True)
    (folder / config).write_text("{}", encoding="utf-8")
    save_file({"w": np.zeros(numbers, np.float16)}, folder / "model.safetensors")


def gguf(path: Path) -> None:
    from gguf import GGUFWriter

    path.parent.mkdir(parents=True)
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def models(repo: Path) -> Path:
    for name in ("base", "merged"):
        weights(repo / "models" / name)
    weights(repo / "models" / "adapter", "adapter_config.json")
    listed = yaml.safe_load((repo / "params.yaml").read_text(encoding="utf-8"))
    for name in listed["gptq"]:
        weights(repo / "models" / name, "config.json")
    for name in ("f16", *listed["gguf"]):
        gguf(repo / "models" / name / "model.gguf")
    write_baseline(repo / "models/baseline/model.json")
    return repo / "models"


def test_check_models_passes(cartlm: Run, models: Path) -> None:
    done = cartlm("check-models")
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda m: shutil.rmtree(m / "adapter"), ["models/adapter is missing", "dvc repro finetune"]),
        (
            lambda m: (m / "merged/model.safetensors").unlink(),
            ["models/merged is missing, or has no", "dvc repro merge"],
        ),
        (
            lambda m: (m / "base/model.safetensors").write_bytes(b"abc"),
            ["models/base/model.safetensors does not load"],
        ),
        (
            lambda m: (m / "baseline/model.json").unlink(),
            ["models/baseline/model.json is missing", "dvc repro baseline"],
        ),
        (
            lambda m: (m / "baseline/model.json").write_text("{}"),
            ["models/baseline/model.json is no baseline", "dvc repro -f -s baseline"],
        ),
        (lambda m: (m / "q8_0/model.gguf").unlink(), ["models/q8_0/model.gguf is missing", "dvc repro"]),
        (
            lambda m: (m / "q6_k/model.gguf").write_bytes(b"GGUF"),
            ["models/q6_k/model.gguf is not a whole GGUF file", "rm models/q6_k/model.gguf, then dvc repro"],
        ),
        (
            lambda m: (m / "q6_k/model.gguf").write_bytes(b""),
            ["models/q6_k/model.gguf is not a whole GGUF file", "rm models/q6_k/model.gguf, then dvc repro"],
        ),
        (
            lambda m: (m / "f16/model.gguf").write_bytes((m / "f16/model.gguf").read_bytes()[:-100]),
            ["models/f16/model.gguf"],
        ),
        (
            lambda m: (m / "base/model.safetensors").write_bytes(
                (m / "base/model.safetensors").read_bytes()[:-1]
            ),
            ["models/base/model.safetensors does not load"],
        ),
    ],
)
def test_check_models_names_the_first_bad_one(
    cartlm: Run, models: Path, spoil: Callable[[Path], object], words: list[str]
) -> None:
    spoil(models)
    failed(cartlm("check-models"), *words)


@pytest.fixture
def build(repo: Path) -> Path:
    folder = repo / "base" / "build" / "model"
    weights(folder)
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        (folder / name).write_text("{}", encoding="utf-8")
    return folder


def test_accept_base_replaces_the_embedded_model(cartlm: Run, repo: Path, build: Path) -> None:
    (repo / "base/model").mkdir()
    (repo / "base/model/old.safetensors").write_text("old", encoding="utf-8")
    done = cartlm("accept-base")
    assert done.exit_code == 0, done.stderr
    assert {path.name for path in (repo / "base/model").iterdir()} == {path.name for path in build.iterdir()}
    assert {path.name for path in (repo / "base").iterdir()} == {"build", "model"}


def test_accept_base_refuses_what_is_too_large(cartlm: Run, repo: Path, build: Path) -> None:
    save_file({"w": np.zeros(8_100_000, np.float16)}, build / "model.safetensors")
    failed(cartlm("accept-base"), "16.2 MB, more than 16")
    assert not (repo / "base/model").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.model"])
def test_accept_base_names_what_is_missing(cartlm: Run, repo: Path, build: Path, name: str) -> None:
    (build / name).unlink()
    failed(cartlm("accept-base"), f"lacks {name}", "make base")
    assert not (repo / "base/model").exists()


LOCK = """schema: '2.0'
stages:
  data:
    cmd: python -m stages.data
  quantize-gguf@q8_0:
    cmd: a
    outs:
    - path: models/q8_0
  quantize-gguf@gone:
    cmd: b
    outs:
    - path: models/gone
  eval@gone:
    cmd: c
  summarize:
    cmd: d
"""


def test_prune_forgets_variants_that_are_gone(cartlm: Run, repo: Path) -> None:
    (repo / "dvc.lock").write_text(LOCK, encoding="utf-8")
    for name in (
        "eval/q8_0.json",
        "eval/gone.json",
        "outcomes/gone.csv",
        "bench/cpu/machine.json",
        "bench/cpu/gone.json",
    ):
        path = repo / "metrics" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({}), encoding="utf-8")
    (repo / "architecture").mkdir(exist_ok=True)
    types = "stages:\n  quantize@q8_0:\n    cmd: a\n  bench:\n    cmd: c\n"
    for name in ("q8_0", "gone"):
        (repo / "models" / name).mkdir(parents=True)
    gone = "  quantize@iq4_xs:\n    cmd: b\n"
    (repo / "architecture/dvc.lock").write_text(types + gone, encoding="utf-8")
    done = cartlm("prune")
    assert done.exit_code == 0, done.stderr
    assert "quantize@iq4_xs" in done.stdout
    assert (repo / "architecture/dvc.lock").read_text(encoding="utf-8") == types
    assert (repo / "dvc.lock").read_text(encoding="utf-8") == LOCK.replace(
        "  quantize-gguf@gone:\n    cmd: b\n    outs:\n    - path: models/gone\n  eval@gone:\n    cmd: c\n",
        "",
    )
    left = {path.relative_to(repo / "metrics").as_posix() for path in (repo / "metrics").rglob("*.*")}
    assert left == {"eval/q8_0.json", "bench/cpu/machine.json"}
    assert (repo / "models/gone").is_dir()  # without its hash in dvc.lock
    assert "models/gone" in done.stderr
    assert cartlm("prune").stdout == "nothing to remove\n"


def test_wrong_use_is_one_line(cartlm: Run) -> None:
    failed(cartlm("prset", "paper"), "prset", "--help")
    failed(cartlm("preset"), "NAME")
