"""The cache of fixed size gives the answers of the growing one; its CUDA graph needs a card."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cartlm.engines import stepping, transformers
from cartlm.engines.transformers import Transformers
from tests.fixtures.toy import toy_rows


@pytest.fixture(scope="module")
def engine(toy_model: Path) -> Transformers:
    return transformers.load(toy_model, device="cpu", threads=1)


@pytest.fixture(scope="module")
def prompts(engine: Transformers) -> list[list[int]]:
    builder = engine.prompt_builder("\n")
    return [builder.prompt_ids(row.prompt) for row in toy_rows()]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_it_answers_as_the_growing_cache_does(
    toy_model: Path, engine: Transformers, prompts: list[list[int]], batch_size: int
) -> None:
    """The last batch is smaller, and every one after the first finds the former one's keys in its places."""
    fixed = transformers.load(toy_model, device="cpu", threads=1, fixed=max(map(len, prompts)) + 40)
    wanted = engine.answers(prompts, 40, batch_size)
    found = fixed.answers(prompts, 40, batch_size)
    assert [(one.token_ids, one.finish_reason) for one in found] == [
        (one.token_ids, one.finish_reason) for one in wanted
    ]
    about = fixed.describe()
    assert about["cache"] == f"fixed, {fixed.fixed} tokens"
    assert about["graphs"] == "no CUDA graphs on cpu"
    assert about["attention"] == "sdpa"
    assert "cache" not in engine.describe()


@torch.inference_mode()
def test_padding_changes_no_logit(engine: Transformers, prompts: list[list[int]]) -> None:
    def likeliest(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(map(len, rows))
        ids = torch.tensor([[7] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        fixed = stepping.FixedCache(engine.model, len(rows), longest + 4)
        first = fixed.prefill(ids, mask)
        return first, fixed.step([int(token) for token in first[1]])

    short, long = sorted(prompts, key=len)[0], sorted(prompts, key=len)[-1]
    together, alone = likeliest([short, long]), likeliest([short])
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one[:, :1], other, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_full_cache_is_refused(engine: Transformers, prompts: list[list[int]]) -> None:
    ids = torch.tensor([prompts[0]])
    fixed = stepping.FixedCache(engine.model, 1, ids.shape[1] + 1)
    fixed.prefill(ids, torch.ones_like(ids))
    fixed.step([5])
    with pytest.raises(ValueError, match="the cache holds"):
        fixed.step([5])
    with pytest.raises(ValueError, match="1 rows of"):
        stepping.FixedCache(engine.model, 1, ids.shape[1]).prefill(ids, torch.ones_like(ids))


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA card: records and replays a CUDA graph"
)
def test_a_replayed_graph_answers_as_single_launches_do(toy_model: Path, prompts: list[list[int]]) -> None:
    growing = transformers.load(toy_model, "float32", "cuda")
    fixed = transformers.load(toy_model, "float32", "cuda", fixed=max(map(len, prompts)) + 40)
    wanted = [one.token_ids for one in growing.answers(prompts, 40, 4)]
    assert [one.token_ids for one in fixed.answers(prompts, 40, 4)] == wanted
    assert fixed.describe()["graphs"] == "CUDA graph of a step"
