"""docker/llama_cpp.sh: the portable build, with the CPU variant that a Python process chooses, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cartlm.engines import llama_cpp
from cartlm.system import llama_cpp_check, llama_cpp_probe
from tests import ROOT
from tests.fixtures import planted
from tests.fixtures.toy import toy_rows

SCRIPT = ROOT / "docker/llama_cpp.sh"
ANSWER = """
import json, sys
from pathlib import Path
from cartlm.engines import llama_cpp
from cartlm.system import llama_cpp_probe
with llama_cpp.load(Path(sys.argv[1]), threads=1) as engine:
    ids = engine.prompt_builder("\\n").prompt_ids(sys.argv[2])
    text = engine.answer(ids, 64).text
    print(json.dumps({"variant": llama_cpp_probe.cpu_variant(), "text": text, "engine": engine.describe()}))
"""


def script(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, env={**os.environ, **environ})


@pytest.fixture(scope="module")
def portable() -> Path:
    """The portable libraries, which `make test` built before; made here (some minutes) if it did not."""
    done = script("--quiet", "--portable", "--libraries")
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(script("--portable", "--libraries", "--where").stdout.strip())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_python_process_chooses_a_cpu_variant(
    portable: Path, toy_gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = {
        path.name[len("libggml-cpu-") : -len(".so")] for path in portable.glob("lib/libggml-cpu-*.so")
    }
    assert len(variants) > 5, variants
    prompt = toy_rows()[0].prompt
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, str(toy_gguf), prompt], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "CARTLM_LLAMA_CPP": str(portable), "LLAMA_CPP_LIB_PATH": str(portable / "lib")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    with capsys.disabled():
        print(
            f"\nportable llama.cpp chose the CPU variant {found['variant']} of {', '.join(sorted(variants))}"
        )
    assert found["variant"] in variants
    assert found["engine"]["kernel"] == found["variant"]
    with llama_cpp.load(toy_gguf, threads=1) as engine:
        native = engine.answer(engine.prompt_builder("\n").prompt_ids(prompt), 64).text
    assert llama_cpp_probe.cpu_variant() == "native"
    assert found["text"] == native == toy_rows()[0].completion


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_variant_for_amx_keeps_its_tile_configuration(portable: Path) -> None:
    """Its columns (byte 16) and rows (byte 48) are stored before the CPU reads them, whichever compiler built it."""
    library = portable / "lib/libggml-cpu-sapphirerapids.so"
    if not library.exists():
        pytest.skip("not a build for x86-64, or one that left it out")
    assert {16, 48} <= planted.stored(library)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_variant_that_dies_is_left_out(
    portable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARTLM_CACHE", str(tmp_path / "cache"))
    prefix = planted.copy(portable, tmp_path / "prefix")
    best = llama_cpp_check.check(prefix).variant
    if os.uname().machine != "x86_64" or best == "x64":
        pytest.skip("there is no other variant to fall back on, or no x86-64 to plant in")
    planted.plant(prefix / f"lib/libggml-cpu-{best}.so", "ggml_vec_dot_q3_K_q8_K", planted.LACKING)
    llama_cpp_check.settle(prefix)
    info = json.loads((prefix / "build.json").read_text())
    assert info["without"] == [best]
    assert "Q3_K_M" in info["reason"]
    assert not (prefix / f"lib/libggml-cpu-{best}.so").exists()
    assert llama_cpp_check.check(prefix).variant not in ("", best)


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = script("--prefix", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("llama_cpp.sh: ")
    assert "holds other files" in done.stderr
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--portabel"], "unknown option --portabel"),
        (["--prefix"], "--prefix needs a folder"),
        (["--venv", "/no/such/place"], "no virtual environment at /no/such/place"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], word: str) -> None:
    done = script(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert word in done.stderr


def test_where_tells_what_to_run_when_nothing_is_built(tmp_path: Path) -> None:
    done = script("--portable", "--where", CARTLM_CACHE=str(tmp_path))
    assert done.returncode == 2
    assert "make it: docker/llama_cpp.sh --portable" in done.stderr
