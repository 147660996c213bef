"""Catalogs are kept up to a bound, and prompts share exactly the ids that no message changes."""

from __future__ import annotations

import pytest

from cartlm.decoding.cache import State
from cartlm.decoding.prefix_cache import PrefixCache, catalog_ids
from cartlm.task.prompt import PromptBuilder, render_prompt
from tests.fixtures.baseline import generated
from tests.fixtures.decoding import HARD, HOSTILE, base_builder, byte_level_builder

MIB = 2**20


def state(name: int, mib: float = 1) -> State:
    return State((name,), None, int(mib * MIB))


def test_the_least_recently_used_goes_first() -> None:
    cache = PrefixCache(3)
    for name in (1, 2, 3):
        cache.put(state(name))
    assert cache.get((1,)) is not None
    cache.put(state(4, 1.5))
    assert [cache.get((name,)) is not None for name in (1, 2, 3, 4)] == [True, False, False, True]
    assert (len(cache), cache.size) == (2, 2.5 * MIB)


def test_hits_and_misses_are_counted() -> None:
    cache = PrefixCache(3)
    assert cache.hit_rate is None
    assert cache.get((1,)) is None
    cache.put(state(1))
    for _ in range(3):
        assert cache.get((1,)) is not None
    assert (cache.hits, cache.misses, cache.hit_rate) == (3, 1, 0.75)


def test_what_is_too_large_is_not_kept() -> None:
    cache = PrefixCache(2)
    cache.put(state(1))
    cache.put(state(2, 2.5))
    assert (len(cache), cache.size) == (1, MIB)
    cache.put(state(1, 2))
    assert (len(cache), cache.size) == (1, 2 * MIB)
    cache.put(state(1, 3))
    assert (len(cache), cache.size) == (0, 0)


@pytest.mark.parametrize(
    "builder", [base_builder(), byte_level_builder("gpt2"), byte_level_builder("llama3")]
)
def test_all_prompts_over_a_catalog_begin_with_its_ids(builder: PromptBuilder) -> None:
    rows = generated("decoding", 60)
    for catalog in [rows[0].catalog, rows[1].catalog, list(HARD)]:
        shared = catalog_ids(builder, catalog)
        for message in [*(row.message for row in rows), *HOSTILE]:
            ids = builder.prompt_ids(render_prompt(catalog, message))
            assert tuple(ids[: len(shared)]) == shared, message
        # and these are nearly all that the catalog takes
        assert len(builder.prompt_ids(render_prompt(catalog, ""))) - len(shared) < 8


def test_other_catalogs_have_other_ids() -> None:
    builder = base_builder()
    catalogs = [["Milk"], ["Milk", "Tea"], ["Tea", "Milk"], ["Milk "], ["Milk\n"], ["Milk", "", "User:"]]
    assert len({catalog_ids(builder, catalog) for catalog in catalogs}) == len(catalogs)
