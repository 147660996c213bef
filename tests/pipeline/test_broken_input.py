"""What a user can break, one at a time in a finished repository: one clear line from the stage, exit code 2."""

from __future__ import annotations

import importlib
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests import ROOT
from tests.pipeline import toy_repo
from tests.pipeline.conftest import Run
from tests.pipeline.toy_repo import Repo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
Spoil = Callable[[Repo], object]
KB = 1024


def rewrite(path: Path, data: bytes) -> None:
    """Write a file anew: models are hard links to those of the finished repository."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def text(name: str, old: str, new: str) -> Spoil:
    """Replace the first `old` in a file."""

    def spoil(repo: Repo) -> None:
        before = (repo.path / name).read_text(encoding="utf-8")
        assert old in before, f"{name} lacks {old!r}"
        rewrite(repo.path / name, before.replace(old, new, 1).encode())

    return spoil


def content(name: str, data: bytes) -> Spoil:
    return lambda repo: rewrite(repo.path / name, data)


def cut(name: str, bytes_: int) -> Spoil:
    """Cut the last bytes of a file off."""
    return lambda repo: rewrite(repo.path / name, (repo.path / name).read_bytes()[:-bytes_])


def remove(name: str) -> Spoil:
    def spoil(repo: Repo) -> None:
        path = repo.path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


def row(**changes: object) -> Spoil:
    """Change fields of the first test row; None removes one."""

    def spoil(repo: Repo) -> None:
        path = repo.path / "data/test.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines()
        values = {**json.loads(lines[0]), **changes}
        lines[0] = json.dumps({name: value for name, value in values.items() if value is not None})
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    return spoil


def agreement(share: float) -> Spoil:
    def spoil(repo: Repo) -> None:
        path = repo.path / "metrics/parity.json"
        path.write_text(
            json.dumps({**json.loads(path.read_text("utf-8")), "agreement": share}), encoding="utf-8"
        )

    return spoil


def without_llama_cpp(part: str) -> Spoil:
    """A llama.cpp folder in the repository without one part; CARTLM_LLAMA_CPP points there."""

    def spoil(repo: Repo) -> None:
        source, copy = (Path(sys.prefix) / "llama.cpp").resolve(), repo.path / "llama.cpp"
        shutil.copytree(source, copy, symlinks=True)
        (copy / part).unlink()

    return spoil


def nothing(repo: Repo) -> None:
    pass


PARAMS, TEST = "params.yaml", "data/test.jsonl"
CASES: dict[str, tuple[Spoil, list[str], list[str], int | None]] = {
    # name: what is spoilt, the stage's command, words of the line, limit of a file's size in bytes
    "params: unknown key": (text(PARAMS, "lora_rank:", "lora_ranks:"), ["data"], ["finetune.lora_rank", "params check"], None),
    "params: text for a number": (text(PARAMS, "test: 24", "test: many"), ["data"], ["data.test = 'many'"], None),
    "params: a quoted number": (
        text(PARAMS, "weight_decay: 0.0", "weight_decay: '2e-4'"), ["finetune"], ["finetune.weight_decay = '2e-4'"], None,
    ),
    "params: out of range": (text(PARAMS, "typo: 0.5", "typo: 1.5"), ["data"], ["data.noise.typo = 1.5"], None),
    "params: missing": (remove(PARAMS), ["evaluate", "q8_0"], ["params.yaml is missing", "git checkout params.yaml"], None),
    "params: not YAML": (text(PARAMS, "base:", "base: ["), ["summarize"], ["params.yaml is not YAML"], None),
    "data: more calibration than training rows": (
        text(PARAMS, "calibration: 12", "calibration: 99"), ["data"], ["calibration 99", "train 60"], None,
    ),
    "data: a quality gate": (
        text(PARAMS, "template_share: 1.0", "template_share: 0.0001"), ["data"], ["template", "of train"], None,
    ),
    "data: disk full": (nothing, ["data"], ["no space left", "data/", "free some space"], 8 * KB),
    "rows: missing": (remove(TEST), ["evaluate", "q8_0"], ["data/test.jsonl is missing", "dvc repro data"], None),
    "rows: empty": (content(TEST, b""), ["evaluate", "q8_0"], ["data/test.jsonl holds no rows"], None),
    "rows: not JSON": (content(TEST, b"{oops\n"), ["evaluate", "q8_0"], ["data/test.jsonl:1: ", "Invalid JSON"], None),
    "rows: not UTF-8": (content(TEST, b"\xff\xfe\n"), ["evaluate", "q8_0"], ["data/test.jsonl:1: ", "Invalid JSON"], None),
    "rows: a field is missing": (row(language=None), ["evaluate", "q8_0"], ["data/test.jsonl:1: language: "], None),
    "rows: tags are a number": (row(tags=3), ["evaluate", "q8_0"], ["data/test.jsonl:1: tags = 3"], None),
    "rows: product is no catalog line": (
        row(completion='{"action": "add", "product": "Moon", "quantity": 1}'), ["evaluate", "q8_0"], ["'Moon'"], None,
    ),
    "rows: completion is no intent": (
        row(completion='{"action": "buy"}'), ["bench_cpu"], ["data/test.jsonl:1: completion"], None,
    ),
    "rows: calibration missing": (
        remove("data/calibration.jsonl"), ["quantize_gguf", "q4_k_m"], ["data/calibration.jsonl is missing"], None,
    ),
    "eval: unknown variant": (nothing, ["evaluate", "q9_0"], ["q9_0", "q8_0"], None),
    "eval: no variant": (nothing, ["evaluate"], ["Missing argument 'VARIANT'"], None),
    "eval: model missing": (
        remove("models/q8_0"), ["evaluate", "q8_0"], ["models/q8_0/model.gguf is missing", "dvc repro"], None,
    ),
    "eval: model cut short": (
        cut("models/q8_0/model.gguf", 1000), ["evaluate", "q8_0"], ["models/q8_0/model.gguf", "dvc repro"], None,
    ),
    "eval: model is no GGUF": (
        content("models/q8_0/model.gguf", b"garbage"), ["evaluate", "q8_0"],
        ["models/q8_0/model.gguf", "rm models/q8_0/model.gguf, then dvc repro"], None,
    ),
    "baseline: rows missing": (remove("data/train.jsonl"), ["baseline"], ["data/train.jsonl is missing", "dvc repro data"], None),
    "baseline: disk full": (nothing, ["baseline"], ["no space left", "models/baseline/model.json"], 2 * KB),
    "eval: baseline missing": (
        remove("models/baseline"), ["evaluate", "baseline"], ["models/baseline/model.json is missing", "dvc repro baseline"], None,
    ),
    "base: model missing": (remove("base/model"), ["base"], ["base/model"], None),
    "base: weights cut short": (cut("base/model/model.safetensors", 100), ["base"], ["model.safetensors"], None),
    "base: config is no JSON": (content("base/model/config.json", b"{"), ["base"], ["config.json is not JSON"], None),
    "finetune: base missing": (remove("models/base"), ["finetune"], ["models/base is missing", "dvc repro base"], None),
    "finetune: a row is too long": (
        text(PARAMS, "max_tokens: 640", "max_tokens: 40"), ["finetune"], ["prompt.max_tokens=40"], None,
    ),
    "merge: adapter missing": (remove("models/adapter"), ["merge"], ["models/adapter is missing", "dvc repro finetune"], None),
    "merge: disk full": (nothing, ["merge"], ["no space left", "free some space"], 500 * KB),
    "convert: merged missing": (remove("models/merged"), ["convert_gguf"], ["models/merged", "dvc repro merge"], None),
    "convert: disk full": (nothing, ["convert_gguf"], ["no space left", "models/f16/model.gguf"], 500 * KB),
    "quantize: parity missing": (
        remove("metrics/parity.json"), ["quantize_gguf", "q8_0"], ["metrics/parity.json is missing", "dvc repro"], None,
    ),
    "quantize: parity failed": (agreement(0.9), ["quantize_gguf", "q8_0"], ["0.9", "parity"], None),
    "quantize: llama-quantize missing": (
        without_llama_cpp("bin/llama-quantize"), ["quantize_gguf", "q8_0"], ["llama-quantize is missing", "make setup"], None,
    ),
    "quantize: llama.cpp missing": (
        without_llama_cpp("build.json"), ["quantize_gguf", "q8_0"], ["no llama.cpp", "make setup"], None,
    ),
    "quantize: source is corrupt": (
        cut("models/f16/model.gguf", 1000), ["quantize_gguf", "q8_0"], ["models/f16/model.gguf"], None,
    ),
    "quantize: disk full": (
        nothing, ["quantize_gguf", "q8_0"], ["no space left", "models/q8_0/model.gguf"], 500 * KB,
    ),
    "bench: a model missing": (remove("models/q4_k_m"), ["bench_cpu"], ["models/q4_k_m/model.gguf is missing"], None),
    "bench: no threads": (text(PARAMS, "threads: null", "threads: 0"), ["bench_cpu"], ["bench_cpu.threads"], None),
    "summarize: a broken metrics file": (
        content("metrics/eval/q8_0.json", b"{"), ["summarize"], ["metrics/eval/q8_0.json is not JSON"], None,
    ),
}  # fmt: skip


# What stages read; the code is that of the checkout.
COPIED = ("params.yaml", "README.md", "data", "models", "metrics", "base")
LINKED = ("cartlm", "stages", "docker", "presets")


@pytest.fixture
def repo(first: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """The finished repository without git, DVC and raw files; the working directory."""
    for name in COPIED:
        source = first.repo.path / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, copy_function=toy_repo.link_large)
        else:
            shutil.copy2(source, tmp_path)
    for name in LINKED:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    return Repo(tmp_path)


def sizes(repo: Repo) -> dict[str, int]:
    """Files of results and their sizes."""
    files = (path for folder in ("models", "data", "metrics") for path in (repo.path / folder).rglob("*"))
    return {path.relative_to(repo.path).as_posix(): path.stat().st_size for path in files if path.is_file()}


def run_limited(stage: str, arguments: list[str], limit: int) -> tuple[int, str]:
    """Run a stage in a process that writes no file larger than `limit` bytes, as on a full disk."""

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-m", f"stages.{stage}", *arguments],
        env=toy_repo.environment(), capture_output=True, text=True, preexec_fn=lower,
    )  # fmt: skip
    return done.returncode, done.stderr


def run_here(stage: str, arguments: list[str]) -> tuple[int, str]:
    """Run a stage in this process."""
    result = CliRunner().invoke(importlib.import_module(f"stages.{stage}").main, arguments)
    return result.exit_code, result.stderr


@pytest.mark.parametrize("name", CASES)
def test_one_clear_line_and_exit_code_2(repo: Repo, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil, (stage, *arguments), words, limit = CASES[name]
    spoil(repo)
    if (repo.path / "llama.cpp").exists():
        monkeypatch.setenv("CARTLM_LLAMA_CPP", str(repo.path / "llama.cpp"))
    before = sizes(repo)
    code, stderr = run_limited(stage, arguments, limit) if limit else run_here(stage, arguments)
    assert code == 2, stderr
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line.startswith("cartlm: error: ")]
    assert len(lines) == 1, stderr
    assert stderr.splitlines()[-1] == lines[0], "the error is not the last line"
    assert "unexpected" not in lines[0]
    assert len(lines[0]) < 500
    for word in words:
        assert word in lines[0]
    assert sizes(repo) == before, "a failing stage changed or left files"
