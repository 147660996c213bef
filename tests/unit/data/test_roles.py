"""Which file becomes what, by its name alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from cartlm.data import roles
from cartlm.errors import UserError

SUFFIXES = (".jsonl", ".csv")


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("train", "train"), ("Training", "train"), ("shop-train-2024", "train"), ("TRAINSET", "train"),
        ("val", "validation"), ("Valid", "validation"), ("validation", "validation"), ("DEV", "validation"),
        ("devel", "validation"), ("shop_val_2024", "validation"), ("validation-00000-of-00001", "validation"),
        ("test", "test"), ("Test", "test"), ("TESTING", "test"), ("my-test", "test"), ("test.v2", "test"),
        ("myTestRows", "test"), ("test1", "test"), ("eval", "test"), ("tests", "test"), ("evals", "test"), ("Evaluation", "test"), ("eval_test", "test"),
        ("heldout", "test"), ("held_out", "test"), ("Held-Out", "test"), ("held out", "test"), ("holdout", "test"),
        ("hold_out_rows", "test"), ("heldOut", "test"),
        ("validate", "validation"), ("evaluations", "test"), ("testfile", "test"), ("tst", "test"), ("ｔｅｓｔ", "test"),
        ("latest", ""), ("contest", ""), ("attestation", ""), ("pretrained", ""), ("interval", ""), ("devices", ""),
        ("upheld_outcome", ""), ("medieval", ""), ("rows", ""), ("2024", ""), ("", ""), ("trainé", ""),
    ],
)  # fmt: skip
def test_a_role_is_a_whole_word_in_any_case(name: str, role: str) -> None:
    assert roles.roles_in_name(name) == ({role} if role else set())


@pytest.mark.parametrize("name", ["train_test", "TrainVal", "dev-test", "held_out_train", "valid.training"])
def test_a_name_of_two_roles_is_a_problem(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.csv").touch()
    (tmp_path / "rows.jsonl").touch()
    found = roles.survey(tmp_path, SUFFIXES)
    assert [file.name for file in found.files] == ["rows.jsonl"]
    assert len(found.problems) == 1
    assert f"{name}.csv" in found.problems[0]
    with pytest.raises(UserError, match=name):
        roles.role_of_split(name, "a dataset")


def test_a_folder_is_surveyed(tmp_path: Path) -> None:
    for name in (
        "a.jsonl", "B.CSV", "val.jsonl", "Test.jsonl", "._a.jsonl", ".hidden/test.csv", ".ipynb_checkpoints/a.jsonl",
        "~$a.csv", "notes.txt", "old/a.jsonl", "dev/one.csv", "dev/.two.csv", "dev/readme.md", "Eval/part/x.csv",
        "train/test.csv",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    found = roles.survey(tmp_path, SUFFIXES)
    assert {file.name: (file.role, file.named) for file in found.files} == {
        "B.CSV": ("train", False), "a.jsonl": ("train", False), "val.jsonl": ("validation", True),
        "Test.jsonl": ("test", True), "dev/one.csv": ("validation", True),
    }  # fmt: skip
    assert found.left_out == ["Eval/part/", "dev/readme.md", "notes.txt", "old/"]
    assert len(found.problems) == 1
    assert "train/test.csv" in found.problems[0]
    notes = found.notes()
    assert len(notes) == 6
    assert all(any(note.startswith(f"{file.name}: {file.role}") for note in notes) for file in found.files)
    assert all(name in notes[-1] for name in found.left_out)
