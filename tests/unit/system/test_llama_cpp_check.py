"""Which variants are left out of a portable build that dies, and when a build is proven again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gguf import LlamaFileType

from cartlm.system import llama_cpp_check, llama_cpp_probe

AVX2 = "sse4_2 avx f16c fma bmi2 avx2"


def cpuinfo(flags: str) -> str:
    return f"processor\t: 0\nmodel name\t: Toy 9000\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\n"


def test_the_types_that_are_proven_have_llama_cpp_s_numbers() -> None:
    """The check runs without our package's dependencies, so it has them of its own."""
    listed = {name: LlamaFileType[f"MOSTLY_{name}"] for name in llama_cpp_probe.TYPES}
    assert listed == llama_cpp_probe.TYPES


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
    for text in (cpuinfo(AVX2), cpuinfo(f"{AVX2} avx512f"), "processor: 0\nFeatures: asimd\n"):
        monkeypatch.setattr(llama_cpp_check, "cpuinfo", lambda text=text: text)
        marks.add(llama_cpp_check._mark(tmp_path))
    assert len(marks) == 3
