"""Which instruction sets are left out of a build that dies, and in which order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cartlm import params
from cartlm.quantization.gguf_types import GGUF_TYPES
from cartlm.system import llama_cpp_check, llama_cpp_probe
from tests import ROOT

AVX2 = "sse4_2 avx f16c fma bmi2 avx2"


AVX512 = f"{AVX2} avx512f avx512cd avx512vl avx512dq avx512bw avx512_vnni"


AMX = f"{AVX512} avx512vbmi avx512_bf16 avx_vnni amx_tile amx_int8 amx_bf16"


def cpuinfo(flags: str) -> str:
    return f"processor\t: 0\nmodel name\t: Toy 9000\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\n"


def test_every_type_of_params_is_proven() -> None:
    """The check runs without our package's dependencies, so it has llama.cpp's numbers of its own."""
    listed = {variant.type for variant in params.load(ROOT / "params.yaml").gguf.values()}
    assert {name: llama_cpp_probe.TYPES[name] for name in listed} == {
        name: GGUF_TYPES[name].number for name in listed
    }


@pytest.mark.parametrize(
    ("flags", "order"),
    [
        (AMX, ["amx", "avx512", "avx2", "avx", "sse42", ""]),
        (AVX512, ["avx512", "avx2", "avx", "sse42", ""]),
        (AVX2, ["avx2", "avx", "sse42", ""]),
        ("", [""]),
    ],
)
def test_amx_is_left_out_first(flags: str, order: list[str]) -> None:
    without: list[str] = []
    for wanted in order:
        assert llama_cpp_check.next_set(without, llama_cpp_check.cpu_flags(cpuinfo(flags))) == wanted
        without.append(wanted)


def test_a_cpu_without_a_table_loses_all_at_once() -> None:
    arm = llama_cpp_check.cpu_flags("processor\t: 0\nFeatures\t: fp asimd sve\n")
    assert llama_cpp_check.next_set([], arm) == "native"
    assert llama_cpp_check.next_set(["native"], arm) == ""
    assert not [each for each in llama_cpp_check.native_flags(["native"], arm) if each.endswith("=ON")]


def test_the_flags_are_those_of_this_cpu_but_for_what_is_left_out() -> None:
    flags = dict(each.split("=") for each in llama_cpp_check.native_flags(["amx"], set(AMX.split())))
    assert flags["GGML_NATIVE"] == "OFF"
    assert {name for name, on in flags.items() if on == "ON"} == {
        "GGML_SSE42", "GGML_AVX", "GGML_F16C", "GGML_AVX2", "GGML_FMA", "GGML_BMI2", "GGML_AVX_VNNI",
        "GGML_AVX512", "GGML_AVX512_VBMI", "GGML_AVX512_VNNI", "GGML_AVX512_BF16",
    }  # fmt: skip
    assert {flags[f"GGML_AMX_{name}"] for name in ("TILE", "INT8", "BF16")} == {"OFF"}
    few = llama_cpp_check.native_flags(["avx512", "avx2"], set(AVX512.split()))
    assert {each for each in few if each.endswith("=ON")} == {"GGML_SSE42=ON", "GGML_AVX=ON", "GGML_F16C=ON"}


@pytest.mark.parametrize(
    ("best", "dies", "stays"),
    [
        (["sapphirerapids", "zen4", "icelake", "haswell", "x64"], ["sapphirerapids"], "zen4"),
        (["sapphirerapids", "zen4", "icelake", "haswell", "x64"], ["sapphirerapids", "zen4", "icelake"], "haswell"),
        (["armv8.6_2", "x64"], ["armv8.6_2"], "x64"),
    ],
)  # fmt: skip
def test_a_portable_build_loses_what_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: list[str], dies: list[str], stays: str
) -> None:
    (tmp_path / "lib").mkdir()
    for name in best:
        (tmp_path / f"lib/libggml-cpu-{name}.so").touch()
    (tmp_path / "build.json").write_text(json.dumps({"kind": "portable", "without": [], "reason": ""}))

    def check(prefix: Path) -> llama_cpp_check.Verdict:
        runs = next(name for name in best if (prefix / f"lib/libggml-cpu-{name}.so").exists())
        return llama_cpp_check.Verdict(f"{runs} died" if runs in dies else "", runs in dies, runs)

    monkeypatch.setattr(llama_cpp_check, "check", check)
    llama_cpp_check.settle(tmp_path)
    info = json.loads((tmp_path / "build.json").read_text())
    assert info["without"] == dies
    assert info["reason"] == f"{dies[0]} died"
    assert check(tmp_path).variant == stays
    dies += best
    with pytest.raises(SystemExit) as error:
        llama_cpp_check.settle(tmp_path)
    assert error.value.code == llama_cpp_check.HOPELESS
    assert list((tmp_path / "lib").iterdir())


def test_another_cpu_proves_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "build.json").write_text("{}")
    marks = set()
    for text in (cpuinfo(AMX), cpuinfo(AVX512), "processor: 0\nFeatures: asimd\n"):
        monkeypatch.setattr(llama_cpp_check, "cpuinfo", lambda text=text: text)
        marks.add(llama_cpp_check._mark(tmp_path))
    assert len(marks) == 3
