"""Where there are too few rows the advice fits all at once: followed, it works, whatever was given."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cartlm import params
from cartlm.data import gates, sampling
from cartlm.errors import UserError
from cartlm.task.intent import Intent
from cartlm.task.rows import Row, make
from tests.fixtures import fixed_params

DATA = fixed_params.load().data.model_copy(update={"source": "file"})
SIZES = ("train", "validation", "calibration", "test")
COUNT = st.integers(1, 5000)
ROW = make("row", "english", ["Tea"], "tea", Intent("add", "Tea", 1), {})


def followed(error: UserError, data: params.Data) -> params.Data:
    """The params as the hint says; all sizes stand in it."""
    told = {name: int(number) for name, number in re.findall(r"data\.(\w+): (\d+)", error.hint)}
    assert sorted(told) == sorted(SIZES)
    return params.Data(**{**data.model_dump(), **told})


@given(
    COUNT,
    COUNT,
    COUNT,
    COUNT,
    st.integers(0, 5000),
    st.integers(0, 5000),
    st.none() | st.integers(0, 400),
    st.none() | COUNT,
)
@example(2700, 300, 300, 1000, 100, 100, None, None)
@example(2700, 300, 300, 1000, 2, 1, None, None)
def test_sizes_that_fit_lack_nothing(
    train: int,
    validation: int,
    calibration: int,
    test: int,
    rows: int,
    free: int,
    held: int | None,
    tested: int | None,
) -> None:
    wanted = DATA.model_copy(
        update={"train": train, "validation": validation, "calibration": calibration, "test": test}
    )
    given = {
        role: [ROW] * count for role, count in (("validation", held), ("test", tested)) if count is not None
    }
    pool = sampling.Pool([ROW] * rows, range(min(rows, free)), given)
    fits = sampling.fitting_sizes(wanted, pool)
    if fits is None:
        assert held == 0 or rows < 1 or (held is None and (rows < 2 or len(pool.free) < 1))
        return
    asked = wanted.model_copy(update=fits)
    assert sampling.shortage(pool, asked, "rows") is None
    assert sampling.fitting_sizes(asked, pool) == fits
    assert all(1 <= fits[name] <= max(getattr(wanted, name), fits["validation"]) for name in SIZES)
    if sampling.shortage(pool, wanted, "rows") is None:
        assert [fits["train"], fits["calibration"]] == [train, calibration]


def rows(count: int, prefix: str = "row", twins: int = 1) -> list[Row]:
    """Rows unlike each other; each wording `twins` times, with another quantity at its end."""
    made = []
    for number in range(count):
        word = "".join(
            f"{(number // twins) * 7919 % 10**6:06d}"[::-1].translate(
                str.maketrans("0123456789", "aeioubdfgk")
            )
            * 4
        )
        said = f"{prefix} {word} {'!' * (number % twins)}"
        language, action = ("english", "croatian", "spanish")[number % 3], ("add", "remove")[number % 2]
        made.append(
            make(
                f"{prefix}-{number:05d}",
                language,
                ["Tea", "Milk"],
                said,
                Intent(action, "Tea", 1 + number % 3),
                {},
            )
        )
    return made


@pytest.mark.parametrize("count", [2, 3, 4, 5, 9, 10, 11, 50, 299, 300, 301])
@pytest.mark.parametrize("held", [{}, {"test": 20}, {"validation": 7}, {"validation": 400, "test": 1}])
def test_following_the_advice_works(count: int, held: dict[str, int]) -> None:
    parts = {"train": rows(count), **{role: rows(size, role) for role, size in held.items()}}
    wanted = DATA.model_copy(update={"train": 3000})
    with pytest.raises(UserError) as caught:
        sampling.draw_splits(parts, wanted, "rows")
    data = followed(caught.value, wanted)
    made = sampling.draw_splits(parts, data, "rows").splits
    assert {name: len(part) for name, part in made.items()} == {name: getattr(data, name) for name in SIZES}
    gates.check(made, data)
    if "validation" in held:
        assert {row.id for row in made["validation"]} <= {row.id for row in parts["validation"]}
        assert data.train == count
    else:
        assert data.train + data.validation == count


@pytest.mark.parametrize(
    ("count", "twins", "leaks"), [(100, 3, 0), (101, 2, 5), (40, 40, 0), (7, 3, 2), (3, 2, 0)]
)
def test_following_the_advice_works_among_near_duplicates(count: int, twins: int, leaks: int) -> None:
    pool = rows(count, twins=twins)
    test = [
        make(f"test-{i}", row.language, row.catalog, row.message + "?", row.intent, {})
        for i, row in enumerate(pool[:leaks])
    ]
    parts = {"train": [*pool, *rows(2, "other")], "test": test}
    with pytest.raises(UserError) as caught:
        sampling.draw_splits(parts, DATA, "rows")
    data = followed(caught.value, DATA)
    drawn = sampling.draw_splits(parts, data, "rows")
    gates.check(drawn.splits, data)
    assert len(drawn.splits["train"]) == data.train
    assert drawn.leaked >= leaks


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"train": rows(1)}, "add rows"),
        ({"train": rows(12, twins=12)}, "unlike each other"),
        ({"test": rows(9)}, "only for test"),
        ({"test": rows(9), "validation": rows(3, "val")}, "only for test and validation"),
        ({"train": rows(9), "test": rows(9)}, "unlike those"),
        (
            {"train": rows(9), "test": rows(5, "held"), "validation": rows(5, "held")},
            "other rows for validation",
        ),
    ],
)
def test_what_no_sizes_can_mend_says_so(parts: dict[str, list[Row]], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        sampling.draw_splits(parts, DATA, "rows")
    assert "data.train" not in caught.value.hint


def by(found: list[Row]) -> dict[tuple[str, str], int]:
    counts: dict[tuple[str, str], int] = {}
    for row in found:
        counts[row.language, row.intent.action] = counts.get((row.language, row.intent.action), 0) + 1
    return counts


@pytest.mark.parametrize("role", ["test", "validation"])
def test_more_than_asked_for_is_sampled_over_languages_and_actions(
    role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sorted by language, as people keep them: today's first rows would be of one language."""
    held = sorted(rows(240, "held"), key=lambda row: (row.language, row.intent.action))
    data = params.Data(**{**DATA.model_dump(), "train": 50, "validation": 12, "calibration": 9, "test": 12})
    parts = {"train": rows(90), role: held}
    made = sampling.draw_splits(parts, data, "rows").splits[role]
    assert by(made) == {(language, action): 2 for language in data.languages for action in ("add", "remove")}
    assert f"{role}: 12 of 240" in capsys.readouterr().err
    assert made == sampling.draw_splits(parts, data, "rows").splits[role]
    assert made != sampling.draw_splits(parts, data.model_copy(update={"seed": 8}), "rows").splits[role]
    assert [held.index(row) for row in made] == sorted(held.index(row) for row in made)
    whole = sampling.draw_splits(parts, data.model_copy(update={role: 240}), "rows").splits[role]
    assert whole == held
    few: dict[str, Any] = {"train": rows(90), role: held[:5]}
    assert sampling.draw_splits(few, data, "rows").splits[role] == held[:5]


def test_the_rows_of_a_small_language_are_all_taken() -> None:
    held = [row for row in rows(240, "held") if row.language != "spanish" or int(row.id[-3:]) < 9]
    data = params.Data(**{**DATA.model_dump(), "train": 50, "validation": 12, "calibration": 9, "test": 40})
    made = sampling.draw_splits({"train": rows(90), "test": held}, data, "rows").splits["test"]
    spanish = [row for row in held if row.language == "spanish"]
    assert len(made) == 40
    assert [row for row in made if row.language == "spanish"] == spanish


def test_more_calibration_than_training_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="calibration 2701, a part of train, is more than train 2700"):
        params.Data(**{**DATA.model_dump(), "train": 2700, "calibration": 2701})
    assert len(sampling.balanced_subset(rows(9), 9, random.Random(1))) == 9
