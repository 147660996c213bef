"""The stages eval and parity on the toy model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from cartlm.evaluation.answers import open_engine
from cartlm.metrics import read_metrics, read_outcomes
from cartlm.system import machine
from cartlm.task import rows as row_files
from cartlm.task.intent import NO_ORDER
from stages import evaluate, parity
from tests import ROOT
from tests.fixtures import fixed_params
from tests.fixtures.baseline import write_baseline
from tests.fixtures.killed import killed_at_the_tenth
from tests.fixtures.toy import TRAINED, toy_rows

REFERENCE = {"baseline": "rules", "base": "transformers", "merged": "transformers", "f16": "llama.cpp"}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, toy_model: Path, toy_gguf: Path) -> Path:
    """A folder with params.yaml, test rows and the models `base` (= merged), `merged`, `f16` and `q8_0` (= f16)."""
    folder = tmp_path_factory.mktemp("workshop")
    params: dict[str, Any] = fixed_params.values()
    params["base"]["source"] = "hub"  # no header run
    params["prompt"]["separator"] = "\n"
    params["reference"] = {name: {"engine": engine} for name, engine in REFERENCE.items()}
    params["parity"] = {"min_agreement": 0.995, "rows": 1000}
    params["gguf"] = {"q8_0": {"type": "Q8_0", "imatrix": False}}
    params["gptq"] = {}
    params["eval"] = {"max_new_tokens": 40, "batch_size": 7, "flip_rows": 6, "natural_rows": 0}
    params["eval"]["shots"] = {"count": 2, "seed": 7, "rows": 0}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    for split, count in (("test", 24), ("train", 24), ("validation", 48)):
        row_files.write(folder / "data" / f"{split}.jsonl", toy_rows(count))
    write_baseline(folder / "models/baseline/model.json")
    for empty in ("published", "none"):
        (folder / "data" / f"{empty}.jsonl").touch()
    for name in ("base", "merged"):
        shutil.copytree(toy_model, folder / "models" / name, copy_function=os.link)
    for name in ("f16", "q8_0"):
        (folder / "models" / name).mkdir()
        os.link(toy_gguf, folder / "models" / name / "model.gguf")
    return folder


@pytest.fixture
def shop(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `workshop` as the working directory; one thread, as two wait for each other on so small a model."""
    shutil.copytree(workshop, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(machine, "threads", lambda: 1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: Any, *arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


def change(shop: Path, section: str, **values: Any) -> None:
    params = yaml.safe_load((shop / "params.yaml").read_text())
    params[section] |= values
    (shop / "params.yaml").write_text(yaml.safe_dump(params))


def test_eval_of_a_gguf_variant(shop: Path) -> None:
    done = run(evaluate.main, "q8_0")
    assert done.exit_code == 0, done.output
    share = TRAINED / 24
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "variant": "q8_0",
        "n": 24,
        "exact_match": round(share, 4),
    }
    found = read_metrics(shop / "metrics/eval/q8_0.json")
    assert set(found) == SECTIONS
    assert found["free"]["n"] == 24
    assert found["free"]["exact_match"] == round(share, 4)
    assert found["free_slices"]["language_croatian_n"] == 8
    assert found["free_slices"]["clean_full_n"] == 6
    assert found["engine"]["name"] == "llama.cpp"
    outcomes = read_outcomes(shop / "metrics/outcomes/q8_0.csv")
    assert [one.id for one in outcomes] == [row.id for row in toy_rows()]
    assert [one.outcome for one in outcomes[:TRAINED]] == ["exact"] * TRAINED
    assert sorted(path.name for path in (shop / "runs/eval").iterdir()) == [
        "q8_0.jsonl",
        "q8_0.validation.jsonl",
    ]


def test_eval_of_the_base_reports_how_batches_disagree(shop: Path) -> None:
    done = run(evaluate.main, "base")
    assert done.exit_code == 0, done.output
    found = read_metrics(shop / "metrics/eval/base.json")
    assert set(found) == {"free", "free_slices", "batching", "machine", "engine"}
    assert found["batching"] == {"batch_size": 7, "flip_rows": 6, "flips": 0}
    assert found["free"]["exact_match"] == round(TRAINED / 24, 4)
    assert found["engine"]["name"] == "transformers"
    assert sorted(path.name for path in (shop / "runs/eval").iterdir()) == ["base.jsonl"]


def test_eval_of_messages_that_are_no_order(shop: Path) -> None:
    """The toy knows no such answer: legal ones are compared with it all the same, and the test rows have theirs."""
    assert run(evaluate.main, "q8_0").exit_code == 0
    before = read_metrics(shop / "metrics/eval/q8_0.json")
    change(shop, "decoding", none=True)
    chats = [
        row_files.make(f"none-{n}", row.language, row.catalog, "hello there", NO_ORDER, {"kind": "chat"})
        for n, row in enumerate(toy_rows(6))
    ]
    row_files.write(shop / "data/none.jsonl", chats)
    done = run(evaluate.main, "q8_0")
    assert done.exit_code == 0, done.output
    found = read_metrics(shop / "metrics/eval/q8_0.json")
    assert set(found) == SECTIONS | {"none", "none_constrained", "none_ensemble"}
    assert found["free"] == before["free"]
    for way in ("none", "none_constrained", "none_ensemble"):
        assert (found[way]["n"], found[way]["orders"]) == (6, 24)
        assert found[way]["recall_chat"] == found[way]["recall"]
    assert found["none"]["recall"] == found["none"]["false_none"] == 0
    assert (shop / "runs/eval/q8_0.none.jsonl").read_text().count("\n") == 6


WAYS = ("constrained", "ensemble")
OF_WAYS = {f"{way}{end}" for way in WAYS for end in ("", "_slices", "_calibration", "_reliability")}
SECTIONS = {"free", "free_slices", "inputs", "machine", "engine"} | OF_WAYS


def test_labels_as_drafts_make_no_answer_right(shop: Path) -> None:
    """merged is asked with the labels as drafts, at batch 1: the answers are those that it gives without them."""
    done = run(evaluate.main, "merged")
    assert done.exit_code == 0, done.output
    found = read_metrics(shop / "metrics/eval/merged.json")
    assert set(found) == SECTIONS
    with open_engine("transformers", shop / "models/merged", 1) as engine:
        builder = engine.prompt_builder("\n")
        wanted = [engine.answer(builder.prompt_ids(row.prompt), 40) for row in toy_rows()]
    lines = [json.loads(line) for line in (shop / "runs/eval/merged.jsonl").read_text().splitlines()]
    assert [line["answer"]["token_ids"] for line in lines] == [list(one.token_ids) for one in wanted]
    outcomes = [one.outcome for one in read_outcomes(shop / "metrics/outcomes/merged.csv")]
    assert outcomes.count("exact") == TRAINED < 24, "rows that it was not trained on stay wrong"


def test_natural_messages_have_their_own_section(shop: Path) -> None:
    rows = row_files.read(ROOT / evaluate.NATURAL)
    (shop / evaluate.NATURAL).parent.mkdir(parents=True)
    row_files.write(
        shop / evaluate.NATURAL, [*toy_rows()[:3], *rows[:5]]
    )  # three that it answers, and others
    change(shop, "eval", natural_rows=400)
    assert run(evaluate.main, "q8_0").exit_code == 0
    found = read_metrics(shop / "metrics/eval/q8_0.json")
    assert found["natural"]["n"] == 8
    assert found["natural"]["exact_match"] == round(3 / 8, 4)
    assert found["free"]["n"] == 24
    assert len(read_outcomes(shop / "metrics/outcomes/q8_0.csv")) == 24
    change(shop, "eval", natural_rows=4)
    assert run(evaluate.main, "q8_0").exit_code == 0
    assert read_metrics(shop / "metrics/eval/q8_0.json")["natural"]["n"] == 4


def test_a_published_test_has_its_own_section(shop: Path) -> None:
    row_files.write(shop / "data/published.jsonl", toy_rows()[TRAINED - 2 : TRAINED + 2])
    assert run(evaluate.main, "q8_0").exit_code == 0
    found = read_metrics(shop / "metrics/eval/q8_0.json")
    assert (found["published"]["n"], found["published"]["exact_match"]) == (4, 0.5)
    (shop / "data/published.jsonl").unlink()
    done = run(evaluate.main, "q8_0")
    assert done.exit_code == 2
    assert "data/published.jsonl is missing; dvc repro data" in done.output


def test_the_base_is_also_asked_with_its_header(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "FORMAT_HEADER", "JSON\n\n")
    change(shop, "base", source="embedded")
    done = run(evaluate.main, "base")
    assert done.exit_code == 0, done.output
    found = read_metrics(shop / "metrics/eval/base.json")
    assert found["header"]["n"] == found["free"]["n"] == 24
    plain, headed = (
        [
            json.loads(line)["answer"]["prompt_tokens"]
            for line in (shop / "runs/eval" / name).read_text().splitlines()
        ]
        for name in ("base.jsonl", "base.header.jsonl")
    )
    assert all(b > a for a, b in zip(plain, headed, strict=True))


@pytest.mark.parametrize("variant", ["f16", "merged"])
def test_constrained_answers_are_legal_and_lose_nothing(shop: Path, variant: str) -> None:
    row_files.write(shop / "data/published.jsonl", toy_rows()[TRAINED - 2 : TRAINED + 2])
    assert run(evaluate.main, variant).exit_code == 0
    found = read_metrics(shop / f"metrics/eval/{variant}.json")
    for free, constrained in (("free", "constrained"), ("published", "published_constrained")):
        assert found[constrained]["n"] == found[free]["n"]
        assert found[constrained]["unparseable"] == found[constrained]["truncated"] == 0
        assert found[constrained]["exact_match"] >= found[free]["exact_match"]
    assert found["constrained"]["changed"] > 0, "nothing was tested"
    assert found["constrained_slices"].keys() == found["free_slices"].keys()


def test_kill_9_then_again_gives_the_metrics_of_an_undisturbed_run(shop: Path) -> None:
    assert run(evaluate.main, "f16").exit_code == 0
    files = [shop / name for name in ("metrics/eval/f16.json", "metrics/outcomes/f16.csv")]
    wanted = [path.read_bytes() for path in files]
    for path in (*files, shop / "runs/eval/f16.jsonl"):
        path.unlink()

    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = killed_at_the_tenth('from stages.evaluate import main; main(["f16"])')
    died = subprocess.run(command, cwd=shop, env=environ, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    part = shop / "runs/eval/f16.part.jsonl"
    kept = part.read_text().splitlines()
    assert 1 <= len(kept) <= 9  # what is written follows what is asked at a distance
    assert not any(path.exists() for path in files)

    part.write_text("\n".join(kept[:-1]) + "\n" + kept[-1][:50])
    done = run(evaluate.main, "f16")
    assert done.exit_code == 0, done.output
    assert f"{len(kept) - 1}/24" in done.stderr
    assert [path.read_bytes() for path in files] == wanted
    assert not part.exists()


def test_parity_holds_and_takes_the_answers_of_eval(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(parity.main)
    assert done.exit_code == 0, done.output
    found = read_metrics(shop / "metrics/parity.json")
    assert (found["agreement"], found["n"]) == (1.0, 24)
    assert (found["engine"]["name"], found["engine_merged"]["name"]) == ("llama.cpp", "transformers")
    assert "f16: 100%" in done.stderr
    assert "merged: 100%" in done.stderr
    assert not list((shop / "runs").glob("*.part.jsonl"))

    assert run(evaluate.main, "f16").exit_code == 0
    assert run(evaluate.main, "merged").exit_code == 0
    again = run(parity.main)
    assert again.exit_code == 0, again.output
    assert "100%" not in again.stderr
    assert read_metrics(shop / "metrics/parity.json") == found

    change(shop, "eval", max_new_tokens=39)  # other answers than eval's
    assert "f16: 100%" in run(parity.main).stderr


def test_parity_below_the_least_stops_and_leaves_committed_numbers(shop: Path) -> None:
    (shop / "metrics").mkdir()
    (shop / "metrics/parity.json").write_text('{"agreement": 1.0}\n')
    raw = shop / "runs/eval/f16.jsonl"
    assert run(evaluate.main, "f16").exit_code == 0
    lines = [json.loads(line) for line in raw.read_text().splitlines()]
    for line in lines[3:10]:
        line["answer"]["text"] = "{}"
    raw.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run(parity.main)
    assert done.exit_code == 2
    assert "agree" not in done.stdout
    assert done.stderr.count("  f16:    '{}'") == 5
    assert "row toy-0003" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "cartlm: error: merged and f16 answer 0.7083 of 24 rows alike"
    )
    assert (shop / "metrics/parity.json").read_text() == '{"agreement": 1.0}\n'
    assert len(json.loads((shop / "runs/parity.json").read_text())["divergences"]) == 7


def test_parity_refuses_a_gguf_with_another_tokenizer(shop: Path) -> None:
    """The commonest loss: the GGUF's tokenizer puts a space in front of every text."""
    from gguf import GGUFReader

    reader = GGUFReader(shop / "models/f16/model.gguf", "r+")
    field = reader.fields["tokenizer.ggml.add_space_prefix"]
    field.parts[field.data[0]][0] = True
    reader.data.flush()
    done = run(parity.main)
    assert done.exit_code == 2
    assert "row toy-0000: model and GGUF tokenize it differently from token 1" in done.stderr
    assert not (shop / "metrics/parity.json").exists()


@pytest.mark.parametrize(
    ("command", "damage", "said"),
    [
        (("evaluate", "q9"), None, "no variant 'q9'"),
        (("evaluate", "q8_0"), "models/q8_0/model.gguf", "model.gguf is missing; dvc repro"),
        (("evaluate", "q8_0"), "data/test.jsonl", "data/test.jsonl is missing; dvc repro data"),
        (("evaluate", "merged"), "models/merged/model.safetensors", "model.safetensors"),
        (("parity",), "models/merged", "models/merged is missing; dvc repro merge"),
        (("parity",), "models/f16/model.gguf", "models/f16/model.gguf is missing; dvc repro convert-gguf"),
    ],
)  # fmt: skip
def test_what_is_missing_is_one_line_and_exit_code_2(
    shop: Path, command: tuple[str, ...], damage: str | None, said: str
) -> None:
    if damage:
        path = shop / damage
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = run({"evaluate": evaluate.main, "parity": parity.main}[command[0]], *command[1:])
    assert done.exit_code == 2
    assert done.stderr.startswith("cartlm: error: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (shop / "metrics").exists()
