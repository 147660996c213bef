"""cartlm search-quantization with the real tools on a toy that answers most of its rows: the result, kill, mistakes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from cartlm import cli
from cartlm.evaluation.reading import open_asked
from cartlm.quantization import gguf
from cartlm.quantization.config import Gguf
from cartlm.quantization_search import trials
from cartlm.system import cpu_limits
from cartlm.task import rows as row_files
from tests import ROOT
from tests.fixtures import fixed_params
from tests.fixtures.gguf_files import rewrite
from tests.fixtures.killed import killed_in
from tests.fixtures.shared import full_disk
from tests.fixtures.toy import TRAINED, toy_rows

Search = Callable[..., Result]
WORK = Path("runs/search-quantization")
KILLED = killed_in(
    "cartlm.quantization_search.trials",
    "Trials",
    "_judge",
    4,
    'from cartlm.cli import main; main(["search-quantization"])',
)


def steepen(name: str, data: Any) -> Any:
    """The same model, whose MLPs four bits cannot hold: a channel of each block is forty times the others in ffn_down."""
    scale = np.where(np.arange(128) % 32 == 0, np.float16(40), np.float16(1))
    if "ffn_up" in name:
        return (data / scale[:, None]).astype(np.float16)
    return (data * scale).astype(np.float16) if "ffn_down" in name else data


@pytest.fixture(scope="module")
def steep(toy_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rewrite(toy_gguf, tmp_path_factory.mktemp("steep") / "model.gguf", weights=steepen)


@pytest.fixture
def shop(tmp_path: Path, steep: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; it has no test rows."""
    fixed_params.write(tmp_path)
    (tmp_path / "models/f16").mkdir(parents=True)
    (tmp_path / "models/f16/model.gguf").symlink_to(steep)
    row_files.write(tmp_path / "data/validation.jsonl", toy_rows())
    row_files.write(tmp_path / "data/calibration.jsonl", toy_rows()[:6])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cpu_limits, "threads", lambda: 1)
    return tmp_path


@pytest.fixture
def search(shop: Path) -> Search:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli.main, ["search-quantization", *arguments])

    return run


def judged(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The mixes that are asked from now on."""
    judge, asked = trials.Trials._judge, list[dict[str, str]]()

    def counting(self: trials.Trials, path: Path, made: gguf.GgufFile, types: dict[str, str]) -> trials.Try:
        asked.append(types)
        return judge(self, path, made, types)

    monkeypatch.setattr(trials.Trials, "_judge", counting)
    return asked


def one_line(done: Result) -> str:
    assert done.exit_code == 2, done.output
    lines = done.stderr.strip().splitlines()
    assert "Traceback" not in done.output
    assert [line for line in lines if "error:" in line] == lines[-1:]
    return lines[-1]


def test_the_mix_found_is_the_smallest_that_loses_nothing(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = judged(monkeypatch)
    done = search("--tolerance", "4.5")  # a row of 24
    assert done.exit_code == 0, done.output
    result = json.loads((WORK / "result.json").read_text())
    first, *others = result["tries"]
    assert first["exact_match"] == pytest.approx(TRAINED / 24, abs=1.5 / 24)
    assert (first["types"], first["lost"], first["size_mib"]) == ({}, 0, max(each["size_mib"] for each in result["tries"]))  # fmt: skip
    kept = [each for each in others if 100 * (each["lost"] - each["won"]) / 24 <= 4.5]
    assert 0 < len(kept) < len(others)  # the toy has a cliff
    assert result["found"]["types"] == min(kept, key=lambda each: each["size_mib"])["types"]
    assert len(asked) == len(result["tries"])
    assert not (WORK / "model.gguf").exists()
    lines = done.stdout.strip().splitlines()
    assert len([line for line in lines if line.endswith((", kept", ", loses"))]) == len(others)

    low = result["found"]["low_points"]
    assert lines[-3].startswith(f"these rows do not exclude a loss of {-low:.1f} points")
    wanted = Gguf.model_validate(yaml.safe_load("\n".join(lines[-2:]))["gguf"]["mix"])
    assert wanted.tensor_types == result["found"]["types"]
    made = gguf.quantize(
        Path("models/f16/model.gguf"), Path("again.gguf"), wanted.type, threads=1, log=Path("log"),
        imatrix=next((WORK / "imatrix").glob("*.gguf")), types=wanted.tensor_types,
    )  # fmt: skip
    assert made.size_bytes / 2**20 == pytest.approx(result["found"]["size_mib"], abs=1e-4)
    assert made.bits_per_weight < 8.5


def test_a_killed_search_goes_on(search: Search, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(KILLED, cwd=shop, env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    journal = WORK / "tries.jsonl"
    assert len(journal.read_text().splitlines()) == 3
    with journal.open("a") as file:
        file.write('{"key": "cut by a ki')
    asked = judged(monkeypatch)
    assert search().exit_code == 0
    result = json.loads((WORK / "result.json").read_text())
    assert len(asked) == len(result["tries"]) - 3

    asked.clear()
    assert search().exit_code == 0
    assert (asked, json.loads((WORK / "result.json").read_text())) == ([], result)
    assert search("--decoding", "free", "--types", "Q8_0", "--tolerance", "100").exit_code == 0
    assert len(asked) == 2  # other answers: F16 and the one mix again


def test_no_order_is_as_legal_as_in_evaluations(
    search: Search, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changes answers, so what was tried without it is asked again."""
    once, legal = ("--limit", "2", "--types", "Q8_0", "--tolerance", "100", "--no-imatrix"), list[bool]()

    def noting(*arguments: Any) -> Any:
        legal.append(arguments[-1].none)
        return open_asked(*arguments)

    monkeypatch.setattr(trials, "open_asked", noting)
    params = (shop / "params.yaml").read_text()
    assert "\n  none: false" in params
    for text in (params, params.replace("\n  none: false", "\n  none: true"), params):
        (shop / "params.yaml").write_text(text)
        assert search(*once).exit_code == 0
    assert legal == [False, False, True, True]  # F16 and the mix, twice
    assert len((WORK / "tries.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--types", "Q8_0,Q9_K"], "--types: Q9_K is no type of a tensor; choose of: F16"),
        (["--types", "Q6_K"], "none of Q6_K fits token_embd, of 64 weights a row; add Q8_0 to --types"),
        (["--limit", "25"], "--limit 25: there are 24 validation rows"),
        (["--limit", "0"], "Invalid value for '--limit'"),
        (["--model", "none.gguf"], "none.gguf is missing"),
        (["--model", "cut.gguf"], "cut.gguf is not a whole GGUF file"),
        (["--model", "small.gguf"], "the model is quantized already: it has"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(search: Search, shop: Path, toy_gguf: Path, arguments: list[str], said: str) -> None:  # fmt: skip
    Path("cut.gguf").write_bytes(toy_gguf.read_bytes()[:5000])
    if "small.gguf" in arguments:
        gguf.quantize(toy_gguf, Path("small.gguf"), "Q8_0", threads=1, log=Path("log"))
    assert said in one_line(search(*arguments))
    assert not (WORK / "tries.jsonl").exists()


def test_a_missing_model_names_the_command_that_makes_it(search: Search) -> None:
    Path("models/f16/model.gguf").unlink()
    assert "models/f16/model.gguf is missing; dvc repro convert-gguf" in one_line(search())


def test_a_full_disk_is_one_line_and_keeps_what_was_tried(search: Search) -> None:
    with full_disk(60_000):
        line = one_line(search("--no-imatrix"))
    assert "no space left writing runs/search-quantization/model.gguf; free some space, then the same" in line
    assert len((WORK / "tries.jsonl").read_text().splitlines()) == 1  # F16
    assert sorted(os.listdir(WORK)) == ["quantize.log", "tries.jsonl"]


def test_even_the_largest_types_may_lose(search: Search) -> None:
    line = one_line(search("--types", "Q4_0", "--tolerance", "0", "--no-imatrix"))
    assert re.search(r"even Q4_0 everywhere differs by −\d", line)
    assert "a larger --tolerance" in line
