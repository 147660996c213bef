"""The plan of a benchmark: order, prompts, kinds of measurement and jobs."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

from cartlm.bench.config import Architecture, BenchCpu, Gpu
from cartlm.bench.plan import Model, Plan
from cartlm.bench.worker import query, rates
from cartlm.config import Section
from cartlm.engines.answer import Answer
from cartlm.task.config import Prompt
from tests.fixtures import fixed_params

PLAN = Plan(
    seed=7, rounds=5, warmups=4, queries=6, threads=1, max_new_tokens=8, context_tokens=512, separator="\n"
)


def test_order_is_random_seeded_and_complete() -> None:
    names = ["f16", "q8_0", "q6_k", "q4_k_m"]
    orders = [PLAN.order(names, round) for round in range(PLAN.rounds)]
    assert all(sorted(order) == sorted(names) for order in orders)
    assert len({tuple(order) for order in orders}) > 2
    assert orders == [PLAN.order(names[::-1], round) for round in range(PLAN.rounds)]


def test_prompts_differ_between_rounds_only() -> None:
    prompts = [f"prompt {i}" for i in range(50)]
    drawn = [PLAN.draw(prompts, round) for round in range(PLAN.rounds)]
    assert all((len(warm), len(measured)) == (4, 6) for warm, measured in drawn)
    assert sorted(itertools.chain(*itertools.chain(*drawn))) == sorted(prompts)
    assert drawn == [PLAN.draw(prompts, round) for round in range(PLAN.rounds)]
    warm, measured = PLAN.draw(prompts[:3], 2)  # few prompts come again
    assert set(warm + measured) == set(prompts[:3])


def test_rates() -> None:
    made = [
        query(Answer("", (), "stop", 100, 10, 0, 0.2, 0.7), 1.0, 0.1, None),
        query(Answer("", (), "length", 300, 40, 0, 0.6, 0.3), 3.0, 0.1, None),
    ]
    assert rates(made) == {
        "prefill_tokens_per_s": 500.0,
        "decode_tokens_per_s": 49.0,  # the answer that was cut had one pass fewer than tokens
        "queries_per_s": 0.5,
    }
    empty = query(Answer("", (), "stop", 100, 0, 0, 0.2, 0.0), 1.0, 0.1, None)
    assert "decode_tokens_per_s" not in rates([empty])
    without_tokens = query(Answer("{}", (), "stop", 0, 0, 0, 0.0, 0.0), 0.5, 0.1, None)
    assert rates([without_tokens]) == {"queries_per_s": 2.0}


def test_a_plan_is_its_section_of_params() -> None:
    params = fixed_params.values()
    prompt = Prompt.model_validate(params["prompt"])
    sections: dict[str, type[Section]] = {"bench_cpu": BenchCpu, "architecture": Architecture, "gpu": Gpu}
    plans = {
        name: Plan.of(section.model_validate(params[name]), prompt, 2, 24)
        for name, section in sections.items()
    }
    for name, plan in plans.items():
        shared = vars(plan).keys() & params[name].keys() - {"threads"}
        assert {"seed", "rounds", "warmups", "queries"} <= shared
        assert all(getattr(plan, key) == params[name][key] for key in shared)
        assert (plan.threads, plan.max_new_tokens) == (2, 24)
        assert plan.context_tokens == params["prompt"]["max_tokens"] + 24
    assert plans["bench_cpu"].in_flight == params["bench_cpu"]["in_flight"]
    assert plans["gpu"].batches == params["gpu"]["batches"]


def test_what_is_measured_depends_on_engine_and_round() -> None:
    plan = replace(PLAN, served_rounds=1, harness_rounds=2, batches=(1, 8), accuracy_batch=4)
    gguf, folder = Model(Path("a.gguf")), Model(Path("a"), "transformers", "float16")
    assert [plan.kinds(Model(Path("a.json"), "rules"), round) for round in range(2)] == [["queries"]] * 2
    assert [plan.kinds(gguf, round) for round in range(3)] == [
        ["queries", "served", "harness"], ["queries", "harness"], ["queries"],
    ]  # fmt: skip
    assert [plan.kinds(folder, round) for round in range(2)] == [
        ["queries", "batched", "accuracy"], ["queries", "batched"],
    ]  # fmt: skip
    prompts = [(f"prompt {i}", None) for i in range(3)]
    assert len(plan.job(folder, "batched", prompts, 0)["prompts"]) == 8  # prompts come again in a large batch
    assert plan.job(folder, "accuracy", prompts, 0)["prompts"] == prompts


def test_a_model_with_prompts_of_its_own_gets_the_same_ones_in_every_round() -> None:
    plan = replace(PLAN, served_rounds=5, harness_rounds=5, warmup_tokens=2)
    model = Model(Path("a.gguf"), prompts=tuple((i, 5, 6) for i in range(10)), new_tokens=3)
    assert plan.kinds(model, 0) == ["queries"]
    jobs = [plan.job(model, "queries", [("other", None)], round) for round in range(2)]
    assert jobs[0] == {**jobs[1], "round": 0}
    assert jobs[0]["warmups"] == [((i, 5, 6), None) for i in range(4)]
    assert jobs[0]["prompts"] == [((i, 5, 6), None) for i in range(4, 10)]
    assert (jobs[0]["max_new_tokens"], jobs[0]["warmup_tokens"], jobs[0]["context_tokens"]) == (3, 3, 6)
