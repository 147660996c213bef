"""Each quality gate stops, and names the offender."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from cartlm.data import gates, offline
from cartlm.data.config import Data
from cartlm.errors import UserError
from cartlm.task import rows
from tests.fixtures import fixed_params

Splits = dict[str, list[rows.Row]]


@pytest.fixture(scope="module")
def data() -> Data:
    loaded = fixed_params.load().data
    return loaded.model_copy(update={"train": 300, "validation": 30, "test": 60, "calibration": 30})


@pytest.fixture(scope="module")
def good(data: Data) -> Splits:
    return offline.splits(data).splits


def test_good_rows_pass_and_are_measured(good: Splits, data: Data) -> None:
    metrics = gates.check(good, data)
    assert metrics["train"]["n"] == 300
    assert 0 < metrics["train"]["template_share"] <= 0.03
    assert abs(metrics["test_shares"]["novel"] - 1 / 3) < 0.02


def test_rows_of_some_languages_train_and_all_are_tested(good: Splits, data: Data) -> None:
    english = data.model_copy(update={"train_languages": ["english"]})
    made = offline.splits(english).splits
    assert made["test"] == good["test"]
    fitted = [row for name in ("train", "validation", "calibration") for row in made[name]]
    assert {row.language for row in fitted} == {"english"}
    assert gates.check(made, english)["train_shares"]["language_english"] == 1
    with pytest.raises(UserError, match="from an equal share"):
        gates.check(made, data)


def _leak(made: Splits) -> Splits:
    return made | {"test": [replace(made["train"][0], id="test-x"), *made["test"][1:]]}


def _twice(made: Splits) -> Splits:
    return made | {"train": [made["train"][1], *made["train"][1:]]}


def _one_language(made: Splits) -> Splits:
    return made | {
        "train": [row for row in made["train"] if row.language != "croatian" or row.id.endswith("1")]
    }


def _one_template(made: Splits) -> Splits:
    same = [replace(row, tags={**row.tags, "template": "t"}) for row in made["train"][:20]]
    return made | {"train": [*same, *made["train"][20:]]}


def _novel_in_training(made: Splits) -> Splits:
    row = next(row for row in made["train"] if row.tags["noise"] == "clean")
    novel = replace(
        row, id="test-y", message="Something entirely different", tags={**row.tags, "novel": True}
    )
    return made | {"test": [*made["test"][1:], novel]}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_leak, "near-duplicate"),
        (_twice, "occurs twice"),
        (_one_language, "croatian is"),
        (_one_template, "template 't' has"),
        (_novel_in_training, "novel product"),
    ],
)
def test_a_spoiled_set_is_stopped(
    good: Splits, data: Data, spoil: Callable[[Splits], Splits], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        gates.check(
            spoil(good), data.model_copy(update={"gates": data.gates.model_copy(update={"balance": 0.2})})
        )


def test_catalogs_without_near_twins_are_stopped(data: Data) -> None:
    none = data.model_copy(update={"catalog": data.catalog.model_copy(update={"twins": 0.0})})
    with pytest.raises(UserError, match="have near-twins"):
        gates.check(offline.splits(none).splits, none)


def test_an_empty_split_is_named(good: Splits, data: Data) -> None:
    with pytest.raises(UserError, match="test holds no usable row"):
        gates.check({**good, "test": []}, data)


@pytest.mark.parametrize(
    ("key", "value", "says"), [("distinct_2", 0.99, "distinct-2"), ("twins", 1.0, "near-twins")]
)
def test_a_stricter_gate_stops(good: Splits, data: Data, key: str, value: float, says: str) -> None:
    strict = data.model_copy(update={"gates": data.gates.model_copy(update={key: value})})
    with pytest.raises(UserError, match=says):
        gates.check(good, strict)


def test_the_published_data_is_not_held_to_the_gates_of_our_wording(good: Splits, data: Data) -> None:
    published = data.model_copy(update={"source": "hub"})
    assert gates.check(_one_language(good), published)["train"]["n"] < 300
