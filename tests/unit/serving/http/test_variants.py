"""Which variants answer, and one that takes another's place while it is asked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cartlm.errors import UserError
from cartlm.serving.http import variants as module
from cartlm.serving.http.variants import known_variant, name_of
from cartlm.serving.reader import Reader
from tests.fixtures import fixed_params
from tests.fixtures.http_service import CATALOG, Engine, reader, served
from tests.unit.serving.http.conftest import Serve, ask, client, message

BODY = {"message": "tea", "catalog": CATALOG}


@pytest.fixture(autouse=True)
def any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "known_variant", lambda name: name)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("q4_k_m", "q4_k_m"),
        ("models/q4_k_m", "q4_k_m"),
        ("models/q4_k_m/", "q4_k_m"),
        ("models/q4_k_m/model.gguf", "q4_k_m"),
        ("/srv/Shop model (2).gguf", "Shop-model-2-"),
        ("models/baseline/model.json", "baseline"),
        ("qwen2.5-0.5b", "qwen2.5-0.5b"),
    ],
)
def test_a_path_is_called_after_its_folder_or_file(source: str, name: str) -> None:
    assert name_of(source) == name


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="two variants are called 'first'"),
        served(tmp_path, ["first", "x/first"]),
    ):
        pass


def test_the_first_is_the_default_and_each_can_be_named(serve: Serve) -> None:
    app = serve().app
    names = [
        ask(app, "POST", "/v1/intents", json=BODY | more).json()["variant"]
        for more in ({}, {"variant": "second"})
    ]
    assert names == ["first", "second"]
    unknown = ask(app, "POST", "/v1/intents", json=BODY | {"variant": "third"})
    assert unknown.status_code == 404
    assert "first, second" in message(unknown)


def test_a_swap_loses_no_request(serve: Serve) -> None:
    """Four are accepted by the old variant, others come while the new one is loaded and after it: all are answered."""
    made = serve(is_open=False)
    old = made.engines[0]

    async def run() -> None:
        async with client(made.app) as asking:
            before = [asyncio.create_task(asking.post("/v1/intents", json=BODY)) for _ in range(4)]
            while made.service.variants.get(None).waiting < 3:
                await asyncio.sleep(0)
            swap = asyncio.create_task(asking.post("/v1/models/third"))
            while made.service.variants.names[0] != "third":
                await asyncio.sleep(0.001)
            busy = await asking.post("/v1/models/fourth")
            assert busy.status_code == 409
            after = await asyncio.gather(*(asking.post("/v1/intents", json=BODY) for _ in range(3)))
            assert [each.json()["variant"] for each in after] == ["third"] * 3
            assert not old.closed
            assert not swap.done()
            old.gate.set()
            found = await asyncio.gather(*before)
            assert [(each.status_code, each.json()["variant"]) for each in found] == [(200, "first")] * 4
            card = (await swap).json()
            assert (card["id"], card["default"]) == ("third", True)

    asyncio.run(run())
    assert old.closed
    assert made.service.variants.names == ["third", "second"]


def test_a_variant_that_answers_is_loaded_anew_in_its_place(serve: Serve) -> None:
    made = serve()
    card = ask(made.app, "POST", "/v1/models/second").json()
    assert (card["id"], card["default"]) == ("second", False)
    assert [engine.closed for engine in made.engines] == [False, True, False]
    assert ask(made.app, "POST", "/v1/models/third?place=second").json()["id"] == "third"
    assert made.service.variants.names == ["first", "third"]
    assert ask(made.app, "POST", "/v1/models/third?place=first").status_code == 409
    assert ask(made.app, "POST", "/v1/models/third?place=none").status_code == 404
    assert made.service.variants.names == ["first", "third"]


def test_what_cannot_be_loaded_changes_nothing(serve: Serve) -> None:
    closed: list[Engine] = []

    def load(source: str) -> Reader:
        match source:
            case "broken":
                raise UserError("model.gguf is cut short", "dvc repro")
            case "missing":
                raise FileNotFoundError(2, "No such file", "models/missing/model.gguf")
        engine = Engine(source)
        if source == "dies":
            closed.append(engine)
            engine.answer = lambda *_: 1 / 0  # type: ignore[method-assign, assignment]
        engine.gate.set()
        return reader(engine)

    made = serve(load=load, names=["first"])
    for name, status, word in (
        ("broken", 409, "cut short"),
        ("missing", 404, "missing"),
        ("dies", 500, "failed"),
    ):
        refused = ask(made.app, "POST", f"/v1/models/{name}")
        assert (refused.status_code, word in message(refused)) == (status, True)
        assert ask(made.app, "POST", "/v1/intents", json=BODY).json()["variant"] == "first"
    assert closed[0].closed


def test_a_request_names_variants_of_params_yaml_and_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(fixed_params.write(tmp_path).parent)
    (tmp_path / "docs").mkdir()
    assert known_variant("q8_0") == "q8_0"
    for name in ("../q8_0", "models/q8_0", "docs", "q9", ""):
        with pytest.raises(module.Refused) as caught:
            known_variant(name)
        assert caught.value.status == 404
