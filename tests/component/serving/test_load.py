"""cartlm.load on real models: the same answers with drafts, caches and threads, and never outside the catalog."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import cartlm
from cartlm.engines import llama_cpp, transformers
from cartlm.engines.collect import file_digest
from cartlm.errors import UserError
from cartlm.evaluation import reading
from cartlm.metrics import write_metrics
from cartlm.system import cpu_limits
from cartlm.task.intent import Intent
from cartlm.task.rows import Row, make
from tests import ROOT
from tests.fixtures.base_gguf import base_gguf
from tests.fixtures.baseline import generated, write_baseline
from tests.fixtures.decoding import HARD, HOSTILE
from tests.fixtures.toy import TRAINED, toy_rows

__all__ = ["base_gguf"]
Load = Callable[..., cartlm.Reader]
ASKED = [*toy_rows()[:20:2], *generated("serving", 12)]


@pytest.fixture
def load() -> Iterator[Load]:
    """`cartlm.load` with one thread, unless a test says otherwise; the readers are closed."""
    opened: list[cartlm.Reader] = []

    def run(model: Path, **options: Any) -> cartlm.Reader:
        opened.append(cartlm.load(model, **{"threads": 1, **options}))
        return opened[-1]

    yield run
    for reader in opened:
        reader.close()


def outcome(reader: cartlm.Reader, row: Row) -> cartlm.Prediction | cartlm.Unreadable:
    try:
        return reader.predict(row.catalog, row.message)
    except cartlm.Unreadable as error:
        return error


def intents(reader: cartlm.Reader) -> list[Intent]:
    return [reader.predict(row.catalog, row.message).intent for row in ASKED]


def test_three_lines_answer_the_rows_that_the_toy_learned(
    load: Load, toy_gguf: Path, toy_model: Path
) -> None:
    for model in (toy_gguf, toy_gguf.parent, toy_model):
        reader = load(model)
        for row in toy_rows()[:TRAINED]:
            found = reader.predict(row.catalog, row.message)
            assert found.intent == row.intent
            assert 0.5 < (found.confidence or 0) <= 1
            assert found.latency_ms > 0
            assert found.work.decided_tokens + found.work.forced_tokens > 20


def test_free_decoding_says_what_the_engine_says(load: Load, toy_gguf: Path, toy_model: Path) -> None:
    """As before constrained decoding: the engine's text, or an error that shows it."""
    for module, model in ((llama_cpp, toy_gguf), (transformers, toy_model)):
        with module.load(model, threads=1) as engine:
            builder, reader = engine.prompt_builder("\n"), load(model, decoding="free")
            for row in ASKED[::2]:
                said = engine.answer(builder.prompt_ids(row.prompt), 96).text
                found = outcome(reader, row)
                assert said == (
                    found.intent.canonical() if isinstance(found, cartlm.Prediction) else found.answer
                )


@pytest.mark.parametrize("decoding", ["constrained", "free"])
def test_no_setting_makes_a_prompt_longer_than_the_model_was_made_for(
    load: Load, toy_gguf: Path, toy_model: Path, decoding: str
) -> None:
    for model in (toy_gguf, toy_model):
        reader = load(model, decoding=decoding, max_tokens=8192)
        with pytest.raises(cartlm.Unreadable, match=r"102[34] are allowed"):
            reader.predict(["Tea"], "two teas " * 400)


@pytest.mark.parametrize("which", ["toy", "base"])
def test_drafts_and_caches_change_no_answer(
    load: Load, toy_gguf: Path, base_gguf: Path, tmp_path: Path, which: str
) -> None:
    model = toy_gguf if which == "toy" else base_gguf
    write_baseline(tmp_path / "baseline.json")
    alone = load(model, drafts=False, cache_mib=0)
    wanted = intents(alone)
    drafted = load(model, drafts=tmp_path / "baseline.json")
    assert intents(drafted) == wanted
    assert intents(drafted) == wanted  # all catalogs are cached now
    assert (alone.prefixes.hits, drafted.prefixes.hits > 20) == (0, True)  # type: ignore[union-attr]
    works = [drafted.predict(row.catalog, row.message).work for row in ASKED]
    assert any(work.drafted for work in works)
    assert all(work.cached_tokens > 0 for work in works)


def test_a_baseline_beside_the_model_drafts_by_itself(load: Load, toy_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "models/toy").mkdir(parents=True)
    (tmp_path / "models/toy/model.gguf").symlink_to(toy_gguf)
    write_baseline(tmp_path / "models/baseline/model.json")
    row = toy_rows()[0]
    for drafts, proposes in ((True, True), (False, False)):
        reader = load(tmp_path / "models/toy", drafts=drafts)
        assert (reader.predict(row.catalog, row.message).work.drafted > 0) == proposes
    found = load(tmp_path / "models/baseline").predict(row.catalog, "add two flash drive")
    assert (found.work.decoding, found.confidence) == ("rules", None)
    with pytest.raises(UserError, match="no baseline"):
        load(toy_gguf, drafts=toy_gguf)


@pytest.mark.parametrize("decoding", ["constrained", "free"])
def test_eight_threads_get_the_answers_of_one(
    load: Load, base_gguf: Path, tmp_path: Path, decoding: str
) -> None:
    """Two workers share the caches of the catalogs, each of which comes twice."""
    write_baseline(tmp_path / "baseline.json")
    rows = 2 * ASKED[:: 2 if decoding == "constrained" else 4]

    def ask(reader: cartlm.Reader, row: Row) -> tuple[Any, ...]:
        found = outcome(reader, row)
        if isinstance(found, cartlm.Prediction):
            return (found.intent, found.confidence)
        return (str(found), found.answer)

    one = load(base_gguf, decoding=decoding, drafts=tmp_path / "baseline.json")
    wanted = [ask(one, row) for row in rows]
    many = load(base_gguf, decoding=decoding, drafts=tmp_path / "baseline.json", workers=2)
    assert many.workers == 2
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda row: ask(many, row), rows)) == wanted


@pytest.mark.parametrize(
    ("workers", "threads", "machine", "each"), [(4, 1, 8, 1), (4, None, 2, 1), (2, 5, 8, 2), (None, None, 6, 2)]
)  # fmt: skip
def test_workers_share_the_threads_and_each_has_one(
    load: Load, toy_gguf: Path, monkeypatch: pytest.MonkeyPatch, workers: int | None, threads: int | None,
    machine: int, each: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(cpu_limits, "threads", lambda: machine)
    reader = load(toy_gguf, workers=workers, threads=threads)
    assert [replica.threads for replica in reader._engine.replicas] == (workers or 3) * [each]


def test_hostile_messages_get_an_answer_of_the_catalog_or_one_refusal(load: Load, toy_gguf: Path) -> None:
    reader, answered = load(toy_gguf, max_tokens=1024), 0
    catalog = [line for line in HARD if line.strip() == line and not line.startswith(("</s>", "<|", "cafe"))]
    catalog = [line for line in catalog if "\t" not in line]
    for message in (*HOSTILE, "two teas " * 1200):
        for lines in (catalog, ASKED[0].catalog):
            found = outcome(
                reader, make("hostile", "english", lines, message, Intent("add", lines[0], 1), {})
            )
            if isinstance(found, cartlm.Prediction):
                assert found.intent.product in lines
                answered += 1
            else:
                assert "\n" not in str(found)
    assert answered >= 2 * (len(HOSTILE) - 3)


def test_using_the_package_imports_nothing_heavy_until_it_loads() -> None:
    code = """
        import sys, cartlm
        assert not {m.split(".")[0] for m in sys.modules} & {"torch", "transformers", "llama_cpp", "pydantic", "numpy"}
        cartlm.load
        assert not {m.split(".")[0] for m in sys.modules} & {"torch", "transformers", "llama_cpp"}
    """
    lines = "\n".join(line.strip() for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_evaluation_gives_the_margin_and_the_calibration(repo: Path, load: Load) -> None:
    """Of the variant of that name in the same repository, and of no other model."""
    write_baseline(repo / "models/baseline/model.json")
    path = repo / "models/q4_k_m"
    with pytest.raises(UserError, match="no margin"):
        load(path, decoding="ensemble")
    assert not load(path).calibrated
    weights = {"intercept": -1.0, "log_odds": 0.5, "agrees": 2.0, "gap": -0.3}
    sections = {f"{way}_calibration": {"n": 300, **weights} for way in ("constrained", "ensemble")}
    sections["ensemble_calibration"]["margin"] = 1000.0
    within = reading.Within(1000, repo / "models/baseline/model.json")
    inputs = reading.inputs(file_digest(path / "model.gguf"), "\n", within)
    # a model or a baseline that was made again since is another, and so is another way of asking
    other = {"model": "0", "baseline": "0", "separator": "", "max_quantity": 5, "none": True}
    assert other.keys() == inputs.keys()
    for name, value in other.items():
        changed = {**sections, "inputs": {**inputs, name: value}}
        write_metrics(repo / "metrics/eval/q4_k_m.json", changed)
        assert not load(path).calibrated
    sections["inputs"] = inputs
    write_metrics(repo / "metrics/eval/q4_k_m.json", sections)
    together, alone = load(path, decoding="ensemble"), load(path)
    assert together.calibrated
    assert alone.calibrated
    assert not load(repo / "models/f16").calibrated
    assert not load(path, max_quantity=5).calibrated
    rules, differ = load(repo / "models/baseline", decoding="ensemble"), 0
    for row in ASKED:
        found = together.predict(row.catalog, row.message)
        assert found.intent == rules.predict(row.catalog, row.message).intent
        assert 0 < (found.confidence or 0) < 1
        assert found.work.decoding == "ensemble"
        differ += found.intent != alone.predict(row.catalog, row.message).intent
    assert differ
    # a margin or a baseline of one's own is not what the calibration was learned with
    strict = load(path, decoding="ensemble", margin=0.0)
    assert intents(strict) == intents(alone)
    write_baseline(repo / "other/model.json")
    for options in ({"drafts": repo / "other"}, {"drafts": False}, {"decoding": "ensemble", "margin": 0.0}):
        assert not load(path, **options).calibrated
    with pytest.raises(UserError, match="needs drafts"):
        load(path, decoding="ensemble", drafts=False)


def test_an_ensemble_needs_a_baseline(repo: Path, load: Load) -> None:
    with pytest.raises(UserError, match="no baseline"):
        load(repo / "models/q4_k_m", decoding="ensemble", margin=1.0)
