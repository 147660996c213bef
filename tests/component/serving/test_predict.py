"""cartlm predict on a real model: a toy that answers its training rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.component.serving.conftest import Predict, failed
from tests.fixtures.toy import LINES, toy_rows


def catalog(repo: Path, lines: list[str], end: str = "\n") -> str:
    path = repo / "catalog.txt"
    path.write_bytes("".join(line + end for line in lines).encode())
    return str(path)


@pytest.mark.parametrize("variant", [None, "f16", "q4_k_m", "merged"])
def test_a_message_becomes_the_json_of_its_intent(predict: Predict, repo: Path, variant: str | None) -> None:
    row = toy_rows()[0]
    asked = [] if variant is None else ["--variant", variant]
    done = predict("--catalog", catalog(repo, row.catalog), row.message, *asked)
    assert (done.exit_code, done.stdout) == (0, row.completion + "\n"), done.output


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_standard_input_are_messages(predict: Predict, repo: Path, end: str) -> None:
    first = toy_rows()[0]
    same = [row for row in toy_rows()[:18] if row.catalog == first.catalog]
    sent = "".join(row.message + "\r\n" for row in same).encode()
    done = predict("--catalog", catalog(repo, first.catalog, end), "-", stdin=sent)
    assert done.stdout.splitlines() == [row.completion for row in same]
    assert done.exit_code == 0


def test_each_line_gets_a_line_and_what_was_not_read_says_why(predict: Predict, repo: Path) -> None:
    row = toy_rows()[0]
    sent = [row.message.encode(), b"", b"\xe8okolada", b"add 1 unicorn, and fast", row.message.encode()]
    done = predict("--catalog", catalog(repo, row.catalog), "-", stdin=b"\n".join(sent))
    lines = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    assert len(lines) == 5
    assert lines[0] == lines[4] == json.loads(row.completion)
    assert "blank" in lines[1]["error"]
    assert "U+FFFD" in lines[2]["error"]
    assert done.exit_code == 1


def test_only_free_decoding_names_what_the_catalog_lacks(predict: Predict, repo: Path) -> None:
    rows, outside = toy_rows()[:6], 0
    for row in rows:
        others = [line for line in row.catalog if line != row.intent.product]
        free = predict("--catalog", catalog(repo, others), row.message, "--decoding", "free")
        answer = json.loads(free.stdout)
        assert set(answer) == {"error", "answer"} or answer["product"] in others
        assert free.exit_code == (1 if "error" in answer else 0)
        outside += "error" in answer
        done = predict("--catalog", catalog(repo, others), row.message)
        assert (done.exit_code, json.loads(done.stdout)["product"] in others) == (0, True), done.output
    assert outside > 0


def test_details_are_confidence_latency_and_work(predict: Predict, repo: Path) -> None:
    row = toy_rows()[0]
    done = predict("--catalog", catalog(repo, row.catalog), row.message, "--details")
    found = json.loads(done.stdout)
    assert found["confidence"] > 0.5
    assert found["calibrated"] is False
    assert found["latency_ms"] > 0
    assert found["work"]["decoding"] == "constrained"
    assert {name: found[name] for name in ("action", "product", "quantity")} == json.loads(row.completion)


def test_a_path_needs_no_repository(predict: Predict, repo: Path, toy_gguf: Path) -> None:
    row = toy_rows()[0]
    path = catalog(repo, row.catalog)
    (repo / "params.yaml").unlink()
    done = predict("--catalog", path, row.message, "--variant", toy_gguf)
    assert (done.exit_code, done.stdout) == (0, row.completion + "\n"), done.output
    failed(predict("--catalog", path, row.message), "no params.yaml", "--variant")


def test_options_that_do_not_go_together_are_one_line(predict: Predict, repo: Path) -> None:
    path = catalog(repo, list(LINES))
    failed(predict("--catalog", path), "a message, or both --input and --output")
    failed(predict("tea"), "no catalog")
    failed(
        predict("--catalog", path, "tea", "milk"),
        "one message at a time, not 2: 'milk'; ",
        "- reads many, one per line",
    )
    failed(predict("tea", "--catalog", path, "--input", "rows.csv", "--output", "out.csv"), "either")
    failed(predict("--input", "rows.csv", "--catalog", path), "--output")
    failed(predict("tea", "--catalog", path, "--columns", "message=text"), "--columns")


def test_a_model_that_is_not_made_yet_names_the_command_that_makes_it(predict: Predict, repo: Path) -> None:
    path = catalog(repo, list(LINES))
    failed(
        predict("--catalog", path, "tea", "--variant", "q8_0"), "models/q8_0/model.gguf is missing; dvc repro"
    )
    failed(predict("--catalog", path, "tea", "--variant", "q9"), "'q9'", "q8_0")
    (repo / "models/q4_k_m/model.gguf").unlink()
    failed(predict("--catalog", path, "tea"), "models/q4_k_m/model.gguf is missing; dvc repro")
