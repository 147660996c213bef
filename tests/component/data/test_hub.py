"""Published datasets: what is read, drawn, refused."""

from __future__ import annotations

import contextlib
import importlib
import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml

from cartlm import params
from cartlm.data import gates, hub, near_duplicates, offline
from cartlm.errors import UserError
from cartlm.task.rows import Row
from tests import ROOT
from tests.fixtures import fixed_params
from tests.fixtures.llama3 import write_dataset


def settings(path: Path | str, **changes: Any) -> params.Data:
    found = fixed_params.load(fixed_params.PAPER).data.model_dump()
    small = {"train": 40, "validation": 12, "calibration": 12, "test": 12, "path": str(path)}
    return params.Data(**{**found, **small, **changes})


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset")


def records(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (folder / "training_data.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def rewrite(folder: Path, found: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in found)
    (folder / "training_data.jsonl").write_text(text, encoding="utf-8")


def test_splits_are_seeded_disjoint_and_byte_for_byte(dataset: Path) -> None:
    made = hub.splits(settings(dataset)).splits
    assert {name: len(rows) for name, rows in made.items()} == {
        "train": 40, "validation": 12, "test": 12, "calibration": 12
    }  # fmt: skip
    published = {(one["prompt"], one["completion"], one["language"]) for one in records(dataset)}
    assert {(row.prompt, row.completion, row.language) for row in made["train"]} <= published
    assert not {row.id for row in made["train"]} & {row.id for row in made["validation"]}
    assert made["test"] == made["validation"]
    assert made == hub.splits(settings(dataset)).splits
    assert made["validation"] != hub.splits(settings(dataset, seed=8)).splits["validation"]
    languages = [row.language for row in made["calibration"]]
    assert {languages.count(language) for language in set(languages)} == {4}
    assert {row.id for row in made["calibration"]} <= {row.id for row in made["train"]}


def write_published(folder: Path, count: int) -> list[Row]:
    """Rows of ours in the published dataset's form."""
    given = fixed_params.load().data
    made = offline.rows("row", count, 0, given, random.Random(5))
    columns = [{"prompt": row.prompt, "completion": row.completion, "language": row.language} for row in made]
    folder.mkdir()
    rewrite(folder, columns)
    return made


SMALL = {"train": 270, "validation": 30, "test": 30, "calibration": 30}


@pytest.mark.nightly
@pytest.mark.slow
def test_rows_in_the_published_form_train(tmp_path: Path) -> None:
    """The stages themselves, on the embedded base; two steps, all rows checked and tokenized."""
    write_published(tmp_path / "hub", 300)
    settings = fixed_params.values()
    settings["base"]["path"] = str(ROOT / "base/model")
    settings["data"] |= {"source": "hub", "path": str(tmp_path / "hub")} | SMALL
    settings["finetune"]["max_steps"] = 2
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with contextlib.chdir(tmp_path):
        for name in ("base", "data", "finetune"):
            importlib.import_module(f"stages.{name}").main([], standalone_mode=False)
    record = json.loads((tmp_path / "models/adapter/training.json").read_text(encoding="utf-8"))
    assert record["steps"] == 2
    assert 0 < record["eval_loss"] < 5
    assert len((tmp_path / "data/train.jsonl").read_text(encoding="utf-8").splitlines()) == 270


def test_three_thousand_rows_in_the_published_form_load_and_split(tmp_path: Path) -> None:
    """2,700 and 300 as in the paper, every text byte for byte."""
    made = write_published(tmp_path / "hub", 3000)
    paper = fixed_params.load(fixed_params.PAPER).data.model_copy(update={"path": str(tmp_path / "hub")})
    found = hub.splits(paper).splits
    assert {name: len(rows) for name, rows in found.items()} == {
        "train": 2700, "validation": 300, "test": 300, "calibration": 300
    }  # fmt: skip
    gates.check(found, paper)
    assert {(row.prompt, row.completion) for row in (*found["train"], *found["validation"])} == {
        (row.prompt, row.completion) for row in made
    }


def test_a_dataset_held_out_is_read_apart(dataset: Path, tmp_path: Path) -> None:
    given = settings(dataset)
    assert hub.held_out(given.model_copy(update={"held_out": None})) == []
    other = write_dataset(tmp_path / "other", 9)
    found = hub.held_out(given.model_copy(update={"held_out": str(other)}))
    assert [row.id for row in found] == [f"published-train-{i:05d}" for i in range(1, 10)]
    train = hub.splits(given).splits["train"]
    counted = gates.held_out_figures(found, train, 0.95)
    assert counted["n"] == 9
    same = {(row.prompt, row.completion) for row in found} & {(row.prompt, row.completion) for row in train}
    assert counted["near_duplicates_in_train"] == len(same) > 0


def test_a_test_file_is_the_test(dataset: Path) -> None:
    found = records(dataset)
    rewrite(dataset, found[:54])
    (dataset / "test.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in found[54:]), encoding="utf-8"
    )
    drawn = hub.splits(settings(dataset))
    assert [row.prompt for row in drawn.splits["test"]] == [one["prompt"] for one in found[54:]]
    assert (len(drawn.splits["validation"]), drawn.leaked) == (12, 0)


def test_rows_that_leak_a_test_are_refused_and_counted(dataset: Path) -> None:
    found = records(dataset)
    leaks = [{**one, "prompt": one["prompt"] + "!"} for one in found[54:57]]
    rewrite(dataset, [*found[:54], *leaks, found[57]])
    (dataset / "test.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in found[54:]), encoding="utf-8"
    )
    given = settings(dataset)
    drawn = hub.splits(given)
    assert drawn.leaked == 4
    assert [row.prompt for row in drawn.splits["test"]] == [one["prompt"] for one in found[54:]]
    used = {row.prompt for name in ("train", "validation", "calibration") for row in drawn.splits[name]}
    assert not used & {one["prompt"] for one in [*leaks, *found[54:]]}
    gates.check(drawn.splits, given)
    with pytest.raises(UserError, match=r"54 usable rows \(4 more have a near-duplicate in the test\)"):
        hub.splits(settings(dataset, train=45))


def test_parquet_is_read_alike(dataset: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    wanted = hub.splits(settings(dataset)).splits
    (dataset / "data").mkdir()
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(records(dataset)), dataset / "data/training_data.parquet"
    )
    (dataset / "training_data.jsonl").unlink()
    assert hub.splits(settings(dataset)).splits == wanted


def test_csv_and_named_splits_are_read_as_datasets_reads_them(dataset: Path) -> None:
    """README.md says which file is which split, as on the hub."""
    import csv

    found = records(dataset)
    wanted = hub.splits(settings(dataset))
    with (dataset / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "completion", "language"])
        writer.writeheader()
        writer.writerows(found)
    (dataset / "training_data.jsonl").unlink()
    assert hub.splits(settings(dataset)) == wanted
    with (dataset / "held.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "completion", "language"])
        writer.writeheader()
        writer.writerows(found[:3])
    front = "configs: [{config_name: default, data_files: [{split: train, path: rows.csv}, {split: test, path: held.csv}]}]"
    (dataset / "README.md").write_text(f"---\n{front}\n---\n", encoding="utf-8")
    drawn = hub.splits(settings(dataset))
    assert [row.prompt for row in drawn.splits["test"]] == [one["prompt"] for one in found[:3]]
    assert drawn.leaked == 3


def test_a_file_changed_in_place_is_read_anew(dataset: Path) -> None:
    hub.splits(settings(dataset))
    found = records(dataset)
    rewrite(dataset, [{**one, "language": "croatian"} for one in found])
    assert {row.language for row in hub.splits(settings(dataset)).splits["train"]} == {"croatian"}


def test_near_duplicates_stay_in_training(dataset: Path) -> None:
    found = records(dataset)
    twins = [{**one, "prompt": one["prompt"] + "!"} for one in found[:20]]
    rewrite(dataset, found + twins)
    made = hub.splits(settings(dataset, train=60)).splits
    drawn = {row.prompt for row in made["validation"]}
    assert not drawn & {one["prompt"] for one in found[:20] + twins}
    best, _ = near_duplicates.nearest(made["validation"], made["train"], 0.95)
    assert best.max() < 0.95
    rewrite(dataset, [*found[:20], *twins, *[{**one} for one in found[20:]] * 2])
    with pytest.raises(UserError, match=r"120 usable rows.*0 of them unlike all others"):
        hub.splits(settings(dataset, train=60))


def test_broken_rows_are_left_out_and_counted(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = records(dataset)
    found[3]["completion"] = '{"action": "add", "product": "Nothing", "quantity": 1}'
    found[4]["prompt"] = "add two apples"
    found[5]["language"] = "german"
    found[6]["completion"] = "{"
    rewrite(dataset, found)
    made = hub.splits(settings(dataset)).splits
    assert len(made["train"]) == 40
    said = capsys.readouterr().err
    assert "left out 4 broken rows" in said
    assert "dataset: train row 4: product 'Nothing' is not a catalog line" in said
    with pytest.raises(
        UserError,
        match=r"56 usable rows.*data.train=45, .* do not fit; set data.train: 45, data.validation: 11",
    ):
        hub.splits(settings(dataset, train=45))


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (
            {"train.jsonl": "train", "validation.jsonl": "validation", "test.jsonl": "test"},
            "datasets' own names",
        ),
        ({"train.jsonl": "train", "dev.jsonl": "validation", "eval.jsonl": "test"}, "other words"),
        ({"Train.jsonl": "train", "VAL.jsonl": "validation", "Test.jsonl": "test"}, "other cases"),
        (
            {"train[1].jsonl": "train", "Dev (2).jsonl": "validation", "test é.jsonl": "test"},
            "signs of patterns",
        ),
        (
            {"rows-train.jsonl": "train", "data/held_out.jsonl": "test", "data/devel.jsonl": "validation"},
            "in data/",
        ),
    ],
)
def test_splits_are_taken_by_their_names(
    dataset: Path, names: dict[str, str], roles: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = records(dataset)
    (dataset / "training_data.jsonl").unlink()
    (dataset / "data").mkdir()
    parts = {"train": found[:44], "validation": found[44:52], "test": found[52:]}
    for name, role in names.items():
        (dataset / name).write_text("".join(json.dumps(one) + "\n" for one in parts[role]), encoding="utf-8")
    (dataset / "extra.jsonl").write_text(json.dumps(found[0]) + "\n", encoding="utf-8")
    made = hub.splits(settings(dataset)).splits
    for role in ("validation", "test"):
        assert [row.prompt for row in made[role]] == [one["prompt"] for one in parts[role]], roles
    assert {row.prompt for row in made["train"]} <= {one["prompt"] for one in parts["train"]}
    told = capsys.readouterr().err
    assert "extra.jsonl" in told
    assert all(f"({len(part)} rows): {role}" in told for role, part in parts.items())


def test_splits_that_a_readme_names_are_taken_by_those_names(dataset: Path) -> None:
    found = records(dataset)
    rewrite(dataset, found[:50])
    (dataset / "b.jsonl").write_text("".join(json.dumps(one) + "\n" for one in found[50:]), encoding="utf-8")
    front = "configs: [{config_name: default, data_files: [{split: train, path: training_data.jsonl}, {split: eval, path: b.jsonl}]}]"
    (dataset / "README.md").write_text(f"---\n{front}\n---\n", encoding="utf-8")
    made = hub.splits(settings(dataset, train=30)).splits
    assert [row.prompt for row in made["test"]] == [one["prompt"] for one in found[50:]]


@pytest.mark.parametrize("name", ["train_test.jsonl", "train/test.jsonl"])
def test_a_split_of_two_roles_is_one_line(dataset: Path, name: str) -> None:
    (dataset / name).parent.mkdir(exist_ok=True)
    (dataset / "training_data.jsonl").rename(dataset / name)
    with pytest.raises(UserError, match="is named for test and train"):
        hub.splits(settings(dataset))


def test_rows_that_contradict_each_other_are_left_out(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both of a split; across splits the one of training, though its product makes it no near-duplicate."""
    found = records(dataset)

    def other(one: dict[str, Any]) -> dict[str, Any]:
        catalog = one["prompt"].split("\n\nUser:\n")[0].split("\n")[1:]
        label = json.loads(one["completion"])
        label["product"] = next(line for line in catalog if line != label["product"])
        return {**one, "completion": json.dumps(label, ensure_ascii=False)}

    rewrite(dataset, [*found[:54], other(found[1]), other(found[55])])
    (dataset / "test.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in found[54:]), encoding="utf-8"
    )
    given = settings(dataset)
    made = hub.splits(given).splits
    assert [row.prompt for row in made["test"]] == [one["prompt"] for one in found[54:]]
    assert not {found[1]["prompt"], found[55]["prompt"]} & {
        row.prompt for row in (*made["train"], *made["validation"])
    }
    told = capsys.readouterr().err
    assert "left out 3 rows" in told
    assert "train-00055 has the catalog and message of train-00002" in told or "train-00056" in told
    held = hub.held_out(given.model_copy(update={"held_out": str(dataset)}))
    assert len(held) == 60 - 2
    assert not {row.prompt for row in held} & {found[1]["prompt"], found[55]["prompt"]}


def test_a_product_in_another_normal_form_gets_its_catalogs_bytes(dataset: Path) -> None:
    found = records(dataset)
    changed = [{**one, "completion": unicodedata.normalize("NFD", one["completion"])} for one in found]
    assert changed != found
    rewrite(dataset, changed)
    made = hub.splits(settings(dataset)).splits
    wanted = {(one["prompt"], one["completion"]) for one in found}
    assert {(row.prompt, row.completion) for row in (*made["train"], *made["validation"])} <= wanted


WRONG = {
    "no column": ({"completion": None}, "no text in column completion"),
    "a number": ({"language": 3}, "no text in column language"),
}


@pytest.mark.parametrize("name", WRONG)
def test_other_columns_are_one_line(name: str, dataset: Path) -> None:
    change, said = WRONG[name]
    rewrite(dataset, [{**one, **change} for one in records(dataset)])
    with pytest.raises(UserError, match=said) as error:
        hub.splits(settings(dataset))
    assert "dataset: train row 1" in str(error.value)
    assert "\n" not in str(error.value)


def test_broken_files_are_one_line(dataset: Path) -> None:
    path = dataset / "training_data.jsonl"
    path.write_text('{"prompt": \n', encoding="utf-8")
    with pytest.raises(UserError, match=r"training_data\.jsonl:1: not JSON"):
        hub.splits(settings(dataset))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="0 usable rows"):
        hub.splits(settings(dataset))
    path.unlink()
    with pytest.raises(UserError, match=r"does not load: .* any data files"):
        hub.splits(settings(dataset))
    (dataset / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"train\.parquet:1: not Parquet"):
        hub.splits(settings(dataset))


@pytest.mark.parametrize("path", ["/nowhere", "nowhere", "./a/b"])
def test_what_is_neither_folder_nor_hub_id_is_named(path: str) -> None:
    with pytest.raises(UserError, match="neither a folder nor a hub id"):
        hub.splits(settings(path))


def test_without_network_the_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the hub does not send the dataset"):
        hub.splits(settings("jtlicardo/ecommerce-intent-3k"))


def test_a_csv_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("prompt,completion,language,language\na,b,english,spanish\n")
    with pytest.raises(UserError, match=r"train\.csv:1: the column 'language' occurs twice"):
        hub.load_dataset(str(tmp_path), None)
