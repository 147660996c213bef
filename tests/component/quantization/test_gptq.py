"""GPTQ with the real gptqmodel on a small model: what a checkpoint holds, who can load it, and how making one fails."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cartlm import command as stage_module
from cartlm.errors import UserError
from cartlm.metrics import read_metrics
from cartlm.quantization import gptq
from cartlm.quantization.config import Gptq
from tests.component.quantization.in_process import stage
from tests.fixtures.toy256 import ROOT, make, one_line, set_params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CELLS = {
    "int4-g128": {"bits": 4, "group_size": 128, "symmetric": True, "act_order": False, "damp": 0.05},
    "int4-act": {"bits": 4, "group_size": 32, "symmetric": False, "act_order": True, "damp": 0.01},
    "int8": {"bits": 8, "group_size": -1, "symmetric": True, "act_order": False, "damp": 0.05},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy checkout with all CELLS quantized; do not write there."""
    folder = make(tmp_path_factory.mktemp("gptq") / "repo")
    set_params(folder, gptq=CELLS)
    for name in CELLS:
        done = stage(folder, "quantize_gptq", name)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["variant"] == name, "gptqmodel's own words stay in the log"
    return folder


@pytest.mark.parametrize("name", CELLS)
def test_the_files_are_those_of_the_format(made: Path, name: str) -> None:
    """The names and shapes that auto-gptq wrote and vLLM, transformers and gptqmodel read."""
    folder, cell = made / "models" / name, CELLS[name]
    assert set(os.listdir(folder)) == {
        "config.json", "quantize_config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json",
    }, "and no sampling generation config of gptqmodel's"  # fmt: skip
    assert not [path for path in folder.iterdir() if path.stat().st_mode & 0o044 != 0o044]
    config = json.loads((folder / "config.json").read_text())
    how = json.loads((folder / "quantize_config.json").read_text())
    assert config["quantization_config"] == how
    assert (how["bits"], how["group_size"], how["desc_act"], how["sym"]) == (
        cell["bits"], cell["group_size"], cell["act_order"], cell["symmetric"],
    )  # fmt: skip
    assert (how["quant_method"], how["checkpoint_format"], how["lm_head"]) == ("gptq", "gptq", False)
    assert how["meta"]["damp_percent"] == cell["damp"]
    assert str(made) not in json.dumps(config), "no path of this machine"
    assert config["dtype"] == "float16"
    assert config["tie_word_embeddings"] is True
    source = made / "models/merged"
    assert (folder / "tokenizer.model").read_bytes() == (source / "tokenizer.model").read_bytes()

    tensors = load_file(folder / "model.safetensors")
    group = 256 if cell["group_size"] == -1 else cell["group_size"]
    part = "model.layers.1.mlp.gate_proj"  # 256 inputs, 512 outputs
    assert tensors[f"{part}.qweight"].shape == (256 * cell["bits"] // 32, 512)
    assert tensors[f"{part}.qzeros"].shape == (256 // group, 512 * cell["bits"] // 32)
    assert tensors[f"{part}.scales"].shape == (256 // group, 512)
    assert tensors[f"{part}.scales"].dtype == np.float16
    order = tensors[f"{part}.g_idx"]
    assert order.shape == (256,)
    assert (list(order) != sorted(order)) == cell["act_order"]
    assert not [key for key in tensors if key.startswith("lm_head")], "the output stays tied"
    assert tensors["model.embed_tokens.weight"].dtype == np.float16
    assert f"{part}.weight" not in tensors


@pytest.mark.parametrize("name", CELLS)
def test_metrics_say_what_was_made(made: Path, name: str) -> None:
    found = read_metrics(made / f"metrics/gptq/{name}.json")
    assert list(found) == ["machine", "engine", "quantize", "bytes", "loss"]
    path = made / "models" / name / "model.safetensors"
    assert sum(found["bytes"].values()) == path.stat().st_size
    assert set(found["bytes"]) == {"token_embd", "attention", "ffn", "norm", "header"}
    values = found["quantize"]
    source = load_file(made / "models/merged/model.safetensors")
    assert values["parameters"] == sum(tensor.size for tensor in source.values())
    assert values["calibration_rows"] == 12
    assert values["quantized_matrices"] == 14 == len(found["loss"])
    assert {"layer_0_q_proj", "layer_1_down_proj"} <= set(found["loss"])
    assert values["loss_max"] == max(found["loss"].values()) > 0
    assert found["engine"]["name"] == "gptqmodel"
    assert found["engine"]["device"] == "cpu"
    assert (made / f"runs/quantize/{name}/log").stat().st_size > 0
    assert os.listdir(made / f"runs/quantize/{name}") == ["log"], "what was kept for resuming is gone"
    assert sorted(os.listdir(made)) == ["data", "metrics", "models", "params.yaml", "runs"]


LOAD = """
import json, sys, torch
from pathlib import Path
from cartlm.engines import transformers
from transformers import AutoModelForCausalLM
ids = json.loads(sys.argv[1])
apart = lambda one, other: float((one - other).norm() / other.norm())
def logits(model):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0].float()
def look(folder, engine, ours):
    source = logits(transformers.load(folder.parent / "merged", device="cpu", threads=1).model)
    kernel = transformers.load(folder, "float16", "cpu", 1, kernel="torch")
    with_kernel = logits(kernel.model)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16, device_map="cpu")
    tied = theirs.lm_head.weight.data_ptr() == theirs.model.embed_tokens.weight.data_ptr()
    hf = logits(theirs)
    refused = []
    for name in ("marlin", "none"):
        try:
            transformers.load(folder, "float16", "cpu", 1, kernel=name)
        except transformers.UserError as error:
            refused.append(str(error))
    return {
        "kernel": apart(with_kernel, ours), "hf": apart(hf, ours), "source": apart(ours, source), "tied": tied,
        "names": [engine.describe()["kernel"], kernel.describe()["kernel"]], "refused": refused,
        "packed": type(theirs.model.layers[0].mlp.up_proj).__name__,
    }
folders = list(map(Path, sys.argv[2:]))
engines = [transformers.load(folder, device="cpu", threads=1) for folder in folders]
ours = [logits(engine.model) for engine in engines]
print(json.dumps({folder.name: look(folder, *each) for folder, *each in zip(folders, engines, ours)}))
"""


@pytest.fixture(scope="module")
def loaded(made: Path) -> dict[str, Any]:
    """What one fresh process finds of each of CELLS."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps([1, *range(20, 60)]), *(made / "models" / name for name in CELLS)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.nightly
@pytest.mark.parametrize("name", CELLS)
def test_a_fresh_process_loads_it_and_so_does_transformers_alone(loaded: dict[str, Any], name: str) -> None:
    """Dequantized by us, by gptqmodel's kernel and through AutoModelForCausalLM: the same logits but for rounding."""
    found = loaded[name]
    assert found["kernel"] < 0.03
    assert found["hf"] < 0.03
    assert found["source"] < (0.1 if name == "int8" else 0.75), "the quantized model is still that model"
    assert found["source"] > found["kernel"], "and it is quantized"
    assert found["tied"]
    assert found["packed"] == "TorchLinear" or "Linear" in found["packed"] != "Linear"
    assert found["names"] == ["dequantized, float32 on cpu", "TorchLinear, float16 on cpu"]
    assert "GPTQ kernel marlin does not run" in found["refused"][0]
    assert "GPTQ kernel none does not run" in found["refused"][1]


@pytest.mark.nightly
def test_kill_9_of_the_stage_then_again_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    """Killed after gptqmodel's first checkpoint: the worker dies with the stage, the next run goes on from there."""
    repo = Path(shutil.copytree(made, tmp_path / "repo"))
    wanted = (repo / "models/int4-act/model.safetensors").read_bytes()
    running = subprocess.Popen(
        [sys.executable, "-m", "stages.quantize_gptq", "int4-act"], cwd=repo,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    runs = repo / "runs/quantize/int4-act"
    deadline = time.monotonic() + 300
    while not list(runs.glob("*/checkpoint/CURRENT")):
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert (repo / "models/int4-act/model.safetensors").read_bytes() == wanted, "the former model stays"
    kept = next(runs.glob("*/checkpoint"))
    time.sleep(1)
    assert not subprocess.run(["pgrep", "-f", str(kept.parent / "job.json")], capture_output=True).stdout
    shutil.rmtree(repo / "models/int4-act")
    again = stage(repo, "quantize_gptq", "int4-act")
    assert again.returncode == 0, again.stderr
    assert "Quantizing layer 0" in (made / "runs/quantize/int4-act/log").read_text(errors="replace")
    assert "Quantizing layer 0" not in (runs / "log").read_text(errors="replace"), "it went on after layer 0"
    assert (repo / "models/int4-act/model.safetensors").read_bytes() == wanted
    assert sorted(path.name for path in (repo / "models").iterdir()) == [
        "f16",
        "int4-act",
        "int4-g128",
        "int8",
        "merged",
    ]


def test_what_is_wrong_is_one_line_and_leaves_the_former_model(made: Path, tmp_path: Path) -> None:
    repo = Path(shutil.copytree(made, tmp_path / "repo"))
    former = (repo / "models/int8/model.safetensors").read_bytes()

    def line(variant: str = "int8") -> str:
        return one_line(stage(repo, "quantize_gptq", variant))

    assert "params.yaml has no gptq.int3; one of: int4-g128, int4-act, int8" in line("int3")
    weights = repo / "models/merged/model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    said = line()
    assert "gptq_worker" in said
    assert "runs/quantize/int8/log" in said
    assert "dvc repro quantize-gptq@int8" in said
    weights.write_bytes(whole)
    (repo / "data/calibration.jsonl").unlink()
    assert "data/calibration.jsonl is missing; dvc repro data" in line()
    shutil.rmtree(repo / "models/merged")
    assert "models/merged is missing; dvc repro merge" in line()
    assert (repo / "models/int8/model.safetensors").read_bytes() == former
    assert os.listdir(repo / "models/int8") == os.listdir(made / "models/int8")


def test_full_disk(made: Path, tmp_path: Path) -> None:
    """A real limit on the size of files: the real gptqmodel meets it, the former model stays."""
    repo = Path(shutil.copytree(made, tmp_path / "repo"))
    former = (repo / "models/int8/model.safetensors").read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "stages.quantize_gptq", "int8"], cwd=repo, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)),
    )  # fmt: skip
    assert "no space left writing models/int8" in one_line(done)
    assert (repo / "models/int8/model.safetensors").read_bytes() == former


def test_a_checkpoint_that_lacks_something_is_refused(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made / "models/int4-g128", tmp_path / "int4-g128"))
    how = Gptq(bits=4, group_size=128, symmetric=True, act_order=False, damp=0.01)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in tensors.items() if "layers.1.mlp" not in name},
        folder / "model.safetensors",
    )
    with pytest.raises(UserError, match=r"gptqmodel left out 3 tensors such as model\.layers\.1\.mlp"):
        gptq.metrics_sections(made / "models/merged", folder, how, [], {})
    twice = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
    save_file(twice, folder / "model.safetensors")
    with pytest.raises(UserError, match="tied output a second time"):
        gptq.metrics_sections(made / "models/merged", folder, how, [], {})
    save_file({"model.norm.weight": tensors["model.norm.weight"]}, folder / "model.safetensors")
    with pytest.raises(UserError, match="holds no quantized weight"):
        gptq.metrics_sections(made / "models/merged", folder, how, [], {})
    (folder / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(UserError, match="not a whole safetensors file") as caught:
        gptq.metrics_sections(made / "models/merged", folder, how, [], {})
    assert stage_module.explain(caught.value) is caught.value
