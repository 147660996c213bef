"""Conversion and quantization with the real tools: what a file holds, and every way in which making one fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gguf import LlamaFileType

from cartlm.errors import UserError
from cartlm.metrics import read_metrics
from cartlm.quantization import gguf
from cartlm.quantization.gguf_types import BLOCKS, NEED_IMATRIX
from cartlm.quantization.imatrix import build_imatrix
from cartlm.system import llama_cpp_build
from tests.component.quantization.in_process import stage
from tests.fixtures.shared import full_disk
from tests.fixtures.toy import toy_rows
from tests.fixtures.toy256 import ROOT, one_line, set_params


def quantize(source: Path, target: Path, kind: str) -> gguf.GgufFile:
    return gguf.quantize(source, target, kind, threads=1, log=target.with_suffix(".log"))


@pytest.fixture(scope="module")
def imatrix(toy256: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = [(row.prompt, row.completion) for row in toy_rows(24)]
    folder = tmp_path_factory.mktemp("imatrix")
    return build_imatrix(toy256 / "models/f16/model.gguf", pairs, "\n", folder, threads=1)


@pytest.mark.parametrize(
    ("kind", "bits", "types"),
    [
        ("Q8_0", (8.5, 8.6), {"q8_0"}),
        ("Q6_K", (6.5, 6.7), {"q6_k"}),
        ("Q5_K_M", (5.5, 6), {"q5_k", "q6_k"}),
        ("Q5_K_S", (5.5, 5.7), {"q5_k", "q6_k"}),
        ("Q4_K_M", (4.5, 5.2), {"q4_k", "q6_k"}),
        ("IQ4_XS", (4.2, 4.6), {"iq4_xs", "q6_k"}),
        ("Q3_K_M", (3.4, 4.4), {"q3_k", "q4_k", "q5_k", "q6_k"}),
        ("Q2_K", (2.6, 3.5), {"q2_k", "q3_k", "q6_k"}),
    ],
)
def test_what_a_type_makes(
    toy256: Path, tmp_path: Path, kind: str, bits: tuple[float, float], types: set[str]
) -> None:
    path = tmp_path / "model.gguf"
    made = quantize(toy256 / "models/f16/model.gguf", path, kind)
    assert made == gguf.inspect_gguf(path)
    assert made.header_bytes + made.padding_bytes + sum(made.bytes_by_group.values()) == path.stat().st_size
    assert set(made.bytes_by_group) == {"token_embd", "attention", "ffn", "norm"}  # tied: no output
    assert set(made.tensors_by_type) == types | {"f32"}
    assert made.tensors_by_type["f32"] == 5
    assert sum(made.tensors_by_type.values()) == 20
    assert bits[0] < made.bits_per_weight < bits[1]
    assert made.fallback_tensors(kind) == []
    log = re.findall(r"quant size .*\((.+) BPW\)", path.with_suffix(".log").read_text())
    assert float(log[0]) == pytest.approx(made.bits_per_weight, abs=0.006)


@pytest.mark.parametrize(
    "kind",
    [kind if kind in ("Q4_0", "IQ2_XS") else pytest.param(kind, marks=pytest.mark.nightly) for kind in BLOCKS],
)  # fmt: skip
def test_llama_quantize_knows_every_type_of_the_table(
    toy256: Path, imatrix: Path, tmp_path: Path, kind: str
) -> None:
    """By its name and by its number, and it needs an importance matrix where the table says so."""
    source, path = toy256 / "models/f16/model.gguf", tmp_path / "model.gguf"
    made = gguf.quantize(source, path, kind, threads=1, log=tmp_path / "log", imatrix=imatrix)
    assert sum(made.tensors_by_type.values()) == 20
    fields = gguf.open_gguf(path).fields
    assert int(fields["general.file_type"].contents()) == LlamaFileType[f"MOSTLY_{kind}"]
    if kind in NEED_IMATRIX:
        with pytest.raises(UserError):
            quantize(source, path, kind)
    else:
        quantize(source, path, kind)


def test_narrow_rows_fall_back(toy_gguf: Path, tmp_path: Path) -> None:
    made = quantize(toy_gguf, tmp_path / "model.gguf", "Q4_K_M")
    said = re.search(r"(\d+) of 20 tensor\(s\) required fallback", (tmp_path / "model.log").read_text())
    assert said
    assert (
        len(made.fallback_tensors("Q4_K_M")) == 15 == int(said[1]) + 1
    )  # the tied embedding falls back unsaid
    assert not {"q4_k", "q6_k"} & made.tensors_by_type.keys()
    assert quantize(toy_gguf, tmp_path / "model.gguf", "Q8_0").fallback_tensors("Q8_0") == []


def test_cut_files_are_refused(toy256: Path, tmp_path: Path) -> None:
    data = (toy256 / "models/f16/model.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    for size in (0, 3, 20, 500, 5000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match=r"cut\.gguf"):
            gguf.inspect_gguf(path)


@pytest.mark.usefixtures("cold_converter")
def test_converted_file_is_the_model(repo: Path, toy256: Path) -> None:
    before = (repo / "models/f16/model.gguf").read_bytes()
    (repo / "models/f16/model.gguf").unlink()
    done = stage(repo, "convert_gguf", NO_LOCAL_GGUF="1")
    assert done.returncode == 0, done.stderr
    assert (repo / "models/f16/model.gguf").read_bytes() == before
    assert os.listdir(repo / "models/f16") == ["model.gguf"]
    assert json.loads(done.stdout.splitlines()[-1])["bits_per_weight"] > 16
    assert "successfully exported" in (repo / "runs/convert.log").read_text()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda m: shutil.rmtree(m), ["models/merged/config.json is missing; dvc repro merge"]),
        (
            lambda m: (m / "model.safetensors").write_bytes(b"\0" * 64),
            ["convert_hf_to_gguf.py failed", "ValueError: Failed to parse", "runs/convert.log"],
        ),
        (
            lambda m: (m / "model.safetensors").unlink(),
            ["models/merged gave no whole GGUF file: it holds 0 tensors"],
        ),
    ],
)
def test_converting_what_is_broken(repo: Path, spoil: object, words: list[str]) -> None:
    before = (repo / "models/f16/model.gguf").read_bytes()
    spoil(repo / "models/merged")  # type: ignore[operator]
    line = one_line(stage(repo, "convert_gguf"))
    assert all(word in line for word in words), line
    assert (repo / "models/f16/model.gguf").read_bytes() == before
    assert os.listdir(repo / "models/f16") == ["model.gguf"]


def test_stage(repo: Path) -> None:
    done = stage(repo, "quantize_gguf", "q4_k_m")
    assert done.returncode == 0, done.stderr
    path = repo / "models/q4_k_m/model.gguf"
    assert os.listdir(path.parent) == ["model.gguf"]
    found = read_metrics(repo / "metrics/quantize/q4_k_m.json")
    assert list(found) == ["machine", "engine", "quantize", "bytes"]
    assert {"name", "hash", "build"} == found["machine"].keys()
    assert found["engine"]["name"] == "llama-quantize"
    values = found["quantize"]
    assert (values["type"], values["imatrix"], values["fallback_tensors"]) == ("Q4_K_M", False, 0)
    assert (values["tensors_q4_k"], values["tensors_q6_k"], values["tensors_f32"]) == (12, 3, 5)
    assert sum(found["bytes"].values()) == path.stat().st_size
    first = path.read_bytes()
    assert stage(repo, "quantize_gguf", "q4_k_m").returncode == 0
    assert path.read_bytes() == first


def prefix(folder: Path, **tools: str) -> dict[str, str]:
    """An environment whose llama.cpp has only the given tools, as shell scripts."""
    (folder / "bin").mkdir(parents=True)
    shutil.copy(llama_cpp_build.prefix() / "build.json", folder)
    for name, script in tools.items():
        path = folder / "bin" / name.replace("_", "-")
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o755)
    return {"CARTLM_LLAMA_CPP": str(folder)}


def test_failures_leave_the_previous_model(repo: Path, tmp_path: Path) -> None:
    assert stage(repo, "quantize_gguf", "q4_k_m").returncode == 0
    target, source = repo / "models/q4_k_m/model.gguf", repo / "models/f16/model.gguf"
    good = target.read_bytes()
    whole = source.read_bytes()

    def failing(**environ: str) -> str:
        line = one_line(stage(repo, "quantize_gguf", "q4_k_m", **environ))
        assert target.read_bytes() == good
        assert os.listdir(target.parent) == ["model.gguf"]
        return line

    source.write_bytes(whole[: len(whole) // 2])
    line = failing()
    assert "corrupted or incomplete" in line
    assert "rm models/f16/model.gguf, then dvc repro" in line
    source.write_bytes(b"no model at all")
    assert "llama-quantize failed" in failing()
    source.unlink()
    assert "models/f16/model.gguf is missing; dvc repro convert-gguf" in failing()
    source.write_bytes(whole)

    assert "llama-quantize is missing" in failing(**prefix(tmp_path / "none"))
    assert "make setup" in failing(CARTLM_LLAMA_CPP=str(tmp_path))
    half = prefix(tmp_path / "half", llama_quantize='head -c 9999 "$1" > "$2"')  # exits with 0
    assert "models/f16/model.gguf gave no whole GGUF file" in failing(**half)
    full = prefix(
        tmp_path / "full",
        llama_quantize="echo 'failed to quantize: basic_ios::clear: iostream error'; exit 1",
    )
    assert "no space left writing models/q4_k_m/model.gguf" in failing(**full)
    killed = prefix(tmp_path / "killed", llama_quantize="kill -9 $$")
    assert "killed by SIGKILL" in failing(**killed)

    parity = repo / "metrics/parity.json"
    parity.write_text(json.dumps({"agreement": 0.99, "n": 100}))
    line = failing()
    assert "0.99" in line
    assert "parity.min_agreement=0.995" in line
    parity.write_text("{}")
    assert "dvc repro parity" in failing()
    parity.unlink()
    assert "metrics/parity.json is missing" in failing()


def test_full_disk(repo: Path) -> None:
    """A real limit on the size of files: the real tool dies of it, the previous model stays."""
    target = repo / "models/q4_k_m/model.gguf"
    target.parent.mkdir()
    target.write_bytes(b"previous")
    with full_disk(300_000):
        done = stage(repo, "quantize_gguf", "q4_k_m")
    assert "no space left writing models/q4_k_m/model.gguf; free some space, then dvc repro" in one_line(done)
    assert target.read_bytes() == b"previous"
    assert os.listdir(target.parent) == ["model.gguf"]
    with full_disk(300_000):
        done = stage(repo, "convert_gguf")
    assert "no space left writing models/f16/model.gguf" in one_line(done)
    assert gguf.inspect_gguf(repo / "models/f16/model.gguf").parameters > 1e6


def test_unknown_variant(repo: Path) -> None:
    line = one_line(stage(repo, "quantize_gguf", "q9_k"))
    assert "params.yaml has no gguf.q9_k; one of: q4_k_m, q4_imatrix" in line


def test_killed_stage_takes_the_tool_along(repo: Path, tmp_path: Path) -> None:
    """kill -9 of a stage must not leave llama-quantize writing; the next run removes what it left."""
    slow = prefix(
        tmp_path / "slow", llama_quantize=f'echo half > "$2"; echo $$ > {tmp_path}/pid; exec sleep 60'
    )
    running = subprocess.Popen(
        [sys.executable, "-m", "stages.quantize_gguf", "q4_k_m"], cwd=repo,
        env={**os.environ, "PYTHONPATH": str(ROOT), **slow},
    )  # fmt: skip
    pid = 0
    for _ in range(600):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip():
            pid = int((tmp_path / "pid").read_text())
            break
        time.sleep(0.1)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    for _ in range(50):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().split()[2] == "Z":
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"the tool, process {pid}, outlived the stage")
    assert len(os.listdir(repo / "models/q4_k_m")) == 1
    assert stage(repo, "quantize_gguf", "q4_k_m").returncode == 0
    assert os.listdir(repo / "models/q4_k_m") == ["model.gguf"]


def test_fallback_is_told(repo: Path, toy_gguf: Path) -> None:
    set_params(repo, gguf={"q4_k_m": {"type": "Q4_K_M", "imatrix": False}})
    shutil.copy(toy_gguf, repo / "models/f16/model.gguf")
    done = stage(repo, "quantize_gguf", "q4_k_m")
    assert done.returncode == 0
    assert "warning: row sizes that Q4_K_M cannot take" in done.stderr
    assert read_metrics(repo / "metrics/quantize/q4_k_m.json")["quantize"]["fallback_tensors"] == 15


def test_groups_of_tensors_get_their_own_types(repo: Path) -> None:
    """An importance matrix and the types by group reach the tool; the metrics say what was asked for."""
    own = {"token_embedding": "Q5_K", "tensors": {"attention": "Q3_K", "attn_v": "Q8_0", "ffn_up": "IQ3_XXS"}}
    set_params(repo, gguf={"mix": {"type": "Q4_K_M", "imatrix": True, **own}})
    done = stage(repo, "quantize_gguf", "mix")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    made = gguf.inspect_gguf(repo / "models/mix/model.gguf").matrices
    kinds = {name.removesuffix(".weight").rpartition(".")[2]: kind for name, (kind, _) in made.items()}
    assert kinds == {
        "token_embd": "q5_k", "attn_q": "q3_k", "attn_k": "q3_k", "attn_v": "q8_0", "attn_output": "q3_k",
        "ffn_gate": "q4_k", "ffn_up": "iq3_xxs", "ffn_down": "q6_k",
    }  # fmt: skip
    values = read_metrics(repo / "metrics/quantize/mix.json")["quantize"]
    assert values["tensor_types"] == "token_embd=Q5_K attention=Q3_K attn_v=Q8_0 ffn_up=IQ3_XXS"
    assert values["fallback_tensors"] == 0  # q8_0 was asked for
    set_params(repo, gguf={"mix": {"type": "Q4_K_M", "imatrix": True}})
    assert stage(repo, "quantize_gguf", "mix").returncode == 0
    assert "tensor_types" not in read_metrics(repo / "metrics/quantize/mix.json")["quantize"]


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"output": "Q6_K"}, "its embedding is the head; set token_embedding"),
        ({"tensors": {"attn_qkv": "Q6_K"}}, "attn_qkv = Q6_K: the model has no such tensors; it has token_embd, attn_q"),
        ({"token_embedding": "Q6_K"}, "token_embd.weight has 64 weights a row, no multiple of the 256 of Q6_K"),
        ({"tensors": {"ffn": "Q4_K"}}, "these fit: F16, BF16, Q8_0"),
    ],
)  # fmt: skip
def test_types_that_do_not_fit_the_model_are_refused(
    repo: Path, toy_gguf: Path, own: dict[str, object], said: str
) -> None:
    """llama-quantize would ignore the first two, abort in the third, and take other types in the last."""
    set_params(repo, gguf={"mix": {"type": "Q8_0", "imatrix": False, **own}})
    shutil.copy(toy_gguf, repo / "models/f16/model.gguf")
    assert said in one_line(stage(repo, "quantize_gguf", "mix"))
    assert not (repo / "models/mix/model.gguf").exists()


def test_a_tool_that_makes_other_types_is_noticed(repo: Path, tmp_path: Path) -> None:
    set_params(repo, gguf={"mix": {"type": "Q8_0", "imatrix": False, "tensors": {"ffn_up": "Q4_K"}}})
    deaf = prefix(
        tmp_path / "deaf",
        llama_quantize=f'exec "{llama_cpp_build.tool("llama-quantize")}" "$3" "$4" "$5" "$6"',
    )
    assert "llama-quantize made Q8_0 of blk.0.ffn_up.weight, not Q4_K" in one_line(
        stage(repo, "quantize_gguf", "mix", **deaf)
    )
