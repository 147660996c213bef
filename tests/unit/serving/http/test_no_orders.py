"""A message that is no order: described and answered so where a variant knows that."""

from __future__ import annotations

import pytest

from cartlm.task.intent import NO_ORDER
from tests.fixtures.http_service import CATALOG
from tests.unit.serving.http.conftest import Serve, ask


@pytest.mark.parametrize(
    ("names", "actions"),
    [(["first"], ["add", "remove"]), (["first", "none"], ["add", "remove", "none"])],
)
def test_the_description_has_the_actions_of_the_variants(
    serve: Serve, names: list[str], actions: list[str]
) -> None:
    app = serve(names=names).app
    for _ in range(2):  # FastAPI keeps what it made
        body = ask(app, "GET", "/openapi.json").json()["components"]["schemas"]["IntentBody"]
        assert body["properties"]["action"]["enum"] == actions
        assert ("description" in body) == ("none" in actions)


def test_both_ways_of_asking_answer_so(serve: Serve) -> None:
    app = serve(names=["none", "first"]).app
    question = {"message": "hello", "catalog": CATALOG}
    found = ask(app, "POST", "/v1/intents", json=question)
    assert found.status_code == 200
    assert found.json()["intent"] == {"action": "none", "product": "", "quantity": 0}
    prompt = "Catalog:\n" + "\n".join(CATALOG) + "\n\nUser:\nhello"
    chat = ask(
        app,
        "POST",
        "/v1/chat/completions",
        json={"model": "none", "messages": [{"role": "user", "content": prompt}]},
    )
    assert chat.json()["choices"][0]["message"]["content"] == NO_ORDER.canonical()
    assert ask(app, "POST", "/v1/intents", json={**question, "variant": "first"}).status_code == 422
