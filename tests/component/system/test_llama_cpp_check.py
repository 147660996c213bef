"""A build of llama.cpp proves itself on this CPU: planted instructions, what is left out then, what is remembered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cartlm.system import doctor, llama_cpp_build, llama_cpp_check
from tests import ROOT
from tests.fixtures import planted
from tests.fixtures.planted import native

__all__ = ["native"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is planted here must not be remembered for the real build, which has the same build.json."""
    monkeypatch.setenv("CARTLM_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_the_build_that_the_tests_run_with_is_sound() -> None:
    verdict = llama_cpp_check.check(llama_cpp_build.prefix())
    assert (verdict.reason, verdict.fault) == ("", False)
    prefix = llama_cpp_build.prefix()
    assert verdict.variant == "native" or (prefix / f"lib/libggml-cpu-{verdict.variant}.so").exists()


@pytest.mark.parametrize(
    ("function", "code", "words", "fault"),
    [
        ("ggml_vec_dot_q3_K_q8_K", planted.LACKING, ["SIG", "asking a model in Q3_K_M"], True),
        ("ggml_vec_dot_q3_K_q8_K", bytes.fromhex("0f0b"), ["SIGILL", "asking a model in Q3_K_M"], True),
        ("ggml_vec_dot_q3_K_q8_K", bytes.fromhex("31c08b00"), ["SIGSEGV", "Q3_K_M"], True),
        ("ggml_vec_dot_q3_K_q8_K", planted.NOTHING, ["a model in Q3_K_M"], True),
        ("ggml_vec_dot_q3_K_q8_K", planted.HANGS_UP, ["SIGKILL", "Q3_K_M"], False),
        ("ggml_vec_dot_f16", bytes.fromhex("0f0b"), ["SIGILL", "asking a model in F16"], True),
    ],
)
def test_what_is_planted_is_found(
    native: Path, tmp_path: Path, function: str, code: bytes, words: list[str], fault: bool
) -> None:
    prefix = planted.copy(native, tmp_path / "planted")
    planted.plant(prefix / "lib/libggml-cpu.so", function, code)
    verdict = llama_cpp_check.check(prefix)
    assert all(word in verdict.reason for word in words), verdict
    assert verdict.fault is fault
    assert verdict.variant == "native"


def test_a_library_that_is_not_there_is_no_fault_of_the_cpu(native: Path, tmp_path: Path) -> None:
    prefix = planted.copy(native, tmp_path / "cut")
    (prefix / "lib/libllama.so").resolve().unlink()
    verdict = llama_cpp_check.check(prefix)
    assert verdict.reason
    assert not verdict.fault


def test_llama_bench_is_run_too(native: Path, tmp_path: Path) -> None:
    prefix = planted.copy(native, tmp_path / "planted")
    (prefix / "bin").mkdir()
    tool = prefix / "bin/llama-bench"
    tool.write_text('#!/bin/sh\ncase "$2" in */Q5_K_M.gguf) kill -SEGV $$ ;; esac\n')
    tool.chmod(0o755)
    verdict = llama_cpp_check.check(prefix)
    assert "llama-bench was killed by SIGSEGV" in verdict.reason
    assert "Q5_K_M" in verdict.reason
    assert verdict.fault


def script(prefix: Path, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", ROOT / "cartlm/system/llama_cpp_check.py", *options, prefix],
        capture_output=True, text=True, env={**os.environ, **environ},
    )  # fmt: skip


def test_it_is_proven_once_and_forgotten_when_it_dies(
    native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = planted.copy(native, tmp_path / "prefix")
    cache = {"CARTLM_CACHE": str(tmp_path / "cache")}
    assert script(prefix, "--proven", **cache).returncode == 1
    assert script(prefix, **cache).returncode == 0
    assert script(prefix, "--proven", **cache).returncode == 0
    planted.plant(prefix / "lib/libggml-cpu.so", "ggml_vec_dot_q3_K_q8_K", planted.LACKING)
    assert script(prefix, **cache).returncode == 0, "not looked at again"
    monkeypatch.setenv("CARTLM_CACHE", cache["CARTLM_CACHE"])
    assert llama_cpp_check.check(prefix).reason
    assert script(prefix, "--proven", **cache).returncode == 1
    done = script(prefix, **cache)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Q3_K_M" in done.stderr
    assert done.stderr.endswith("; make doctor\n")


def test_doctor_tells_of_a_build_that_dies(native: Path, tmp_path: Path) -> None:
    prefix = planted.copy(native, tmp_path / "prefix")
    planted.plant(prefix / "lib/libggml-cpu.so", "ggml_vec_dot_q3_K_q8_K", planted.LACKING)
    environ = {
        "CARTLM_LLAMA_CPP": str(prefix),
        "CARTLM_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    for image, command in (("", "make setup"), ("cpu", "make image TARGET=cpu ARGS=--no-cache")):
        done = subprocess.run(
            [sys.executable, "-m", "cartlm.cli", "doctor"],
            cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environ, "CARTLM_IMAGE": image},
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.startswith("cartlm: error: llama.cpp is broken: ")
        assert "Q3_K_M" in done.stderr
        assert f"; {command}" in done.stderr
        assert done.stderr.count("\n") == 1
        assert "NO  llama.cpp        broken: " in done.stdout


def test_doctor_says_what_was_left_out(native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = planted.copy(native, tmp_path / "prefix")
    info = json.loads((prefix / "build.json").read_text()) | {"without": ["amx"], "reason": "SIGILL"}
    (prefix / "build.json").write_text(json.dumps(info))
    monkeypatch.setenv("CARTLM_LLAMA_CPP", str(prefix))
    found = doctor.llama_cpp("make setup").found
    assert "without amx" in found
    assert "proven on this CPU" in found


@pytest.mark.slow
def test_a_build_that_dies_is_made_again_of_every_variant(native: Path, tmp_path: Path) -> None:
    """The whole script; only the compiler is a stand-in, and plants what this CPU lacks in a native build."""
    shop = planted.Workshop(tmp_path / "shop", flag="-DGGML_NATIVE=ON")
    done = shop.run("--quiet")
    assert done.returncode == 0, done.stderr
    assert "building again with every CPU variant" in done.stderr
    (prefix,) = shop.builds
    made_again(prefix)
    info = json.loads((prefix / "build.json").read_text())
    assert "SIG" in info["reason"]
    assert "Q3_K_M" in info["reason"]
    calls = [json.loads(line) for line in shop.record.read_text().splitlines()]
    assert ["-DGGML_NATIVE=ON" in call for call in calls] == [True, False]
    assert f"-DGGML_BACKEND_DIR={prefix}/lib" in calls[1], "where a Python process looks for the variants"
    again = shop.run("--quiet")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert len(shop.record.read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_build_that_dies_later_is_made_again_too(native: Path, tmp_path: Path) -> None:
    """As after a move to another kind of CPU."""
    shop = planted.Workshop(tmp_path / "shop")
    assert shop.run("--quiet").returncode == 0
    (prefix,) = shop.builds
    assert json.loads((prefix / "build.json").read_text())["kind"] == "native"
    planted.plant(prefix / "lib/libggml-cpu.so", "ggml_vec_dot_q3_K_q8_K", planted.LACKING)
    for mark in shop.folder.glob("cache/llama.cpp/proven/*"):
        mark.unlink()
    done = shop.run("--quiet")
    assert done.returncode == 0, done.stderr
    made_again(prefix)


def made_again(prefix: Path) -> None:
    info = json.loads((prefix / "build.json").read_text())
    assert (info["kind"], info["without"]) == ("portable", ["native"])
    assert {"GGML_NATIVE=OFF", "GGML_CPU_ALL_VARIANTS=ON"} <= set(info["flags"])
    assert "GGML_NATIVE=ON" not in info["flags"]


@pytest.mark.slow
def test_where_nothing_helps_it_is_one_line(native: Path, tmp_path: Path) -> None:
    shop = planted.Workshop(tmp_path / "shop", flag="-DCMAKE_BUILD_TYPE=Release")
    done = shop.run("--quiet")
    assert done.returncode == 2
    fallback, last = done.stderr.splitlines()
    assert "building again with every CPU variant" in fallback
    assert last.startswith("llama.cpp does not work on this CPU even without ")
    assert last.endswith("CC=clang CXX=clang++ docker/llama_cpp.sh")
    assert shop.builds == []


@pytest.mark.slow
def test_the_tile_configuration_reaches_the_cpu(native: Path, tmp_path: Path) -> None:
    """Its columns (byte 16) and rows (byte 48) are stored with the mend, and with this compiler not without it."""
    shop = planted.Workshop(tmp_path / "shop")
    assert shop.run("--libraries").returncode == 0
    mended = Path(f"{shop.record}.mmq.cpp")
    plain = tmp_path / "plain.cpp"
    plain.write_text(planted.TILES)
    found = {}
    for source in (plain, mended):
        made = source.with_suffix(".o")
        subprocess.run(
            ["c++", "-O3", "-std=c++17", "-mavx512f", "-mamx-tile", "-mamx-int8", "-c", source, "-o", made],
            check=True,
        )
        found[source] = planted.stored(made)
    assert {16, 48} <= found[mended]
    info = json.loads((shop.builds[0] / "build.json").read_text())
    if info["mended"]:
        assert not {16, 48} & found[plain]
    else:
        assert mended.read_text() == planted.TILES
        assert {16, 48} <= found[plain]


GCC = """#!/bin/sh
case "$*" in
    *-E*) exec c++ {defines} "$@" ;;
    *) exec c++ "$@" ;;
esac
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "mended"),
    [((11, 4), True), ((12, 4), False), ((13, 2), True), ((14, 1), False), (None, False)],
)
def test_the_mend_is_chosen_by_the_compiler(
    native: Path, tmp_path: Path, version: tuple[int, int] | None, mended: bool
) -> None:
    shop = planted.Workshop(tmp_path / "shop")
    defines = "-D__clang__=1"
    if version:
        defines = f"-U__GNUC__ -U__GNUC_MINOR__ -D__GNUC__={version[0]} -D__GNUC_MINOR__={version[1]}"
    compiler = shop.tool("some-gcc", GCC.format(defines=defines))
    done = shop.run("--libraries", CXX=str(compiler))
    assert done.returncode == 0, done.stderr
    assert ('"memory"' in Path(f"{shop.record}.mmq.cpp").read_text()) is mended
    assert bool(json.loads((shop.builds[0] / "build.json").read_text())["mended"]) is mended


@pytest.mark.parametrize("tiles", ["", planted.TILES.replace("(&tc)", "(tc)"), 2 * planted.TILES])
def test_a_source_without_the_place_of_the_mend_is_refused(tmp_path: Path, tiles: str) -> None:
    shop = planted.Workshop(tmp_path / "shop", tiles=tiles)
    compiler = shop.tool(
        "some-gcc",
        GCC.format(defines="-U__GNUC__ -U__clang__ -D__GNUC__=12 -U__GNUC_MINOR__ -D__GNUC_MINOR__=2"),
    )
    done = shop.run("--libraries", CXX=str(compiler))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "_tile_loadconfig(&tc)" in done.stderr
    assert shop.builds == []
