"""`cartlm export`: what the folder holds, and that llama-server with the card's commands answers as our engine does."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from cartlm import cli
from cartlm.engines.collect import file_digest
from cartlm.evaluation.answers import open_engine
from cartlm.metrics import write_metrics
from cartlm.serving.export import CARD
from cartlm.system import llama_cpp_build
from tests.component.serving.conftest import failed
from tests.fixtures.toy import toy_rows

FREE = {"n": 200, "exact_match": 0.8, "exact_match_low": 0.739, "exact_match_high": 0.8494}
CPU = {f"{name}{end}": 9.0 for name in ("latency_ms_p50", "queries_per_s") for end in ("", "_low", "_high")}


@pytest.fixture
def shop(repo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose variants q4_k_m and merged were evaluated."""
    for variant, file in (("q4_k_m", "model.gguf"), ("merged", "")):
        inputs = {"model": file_digest(repo / "models" / variant / file), "baseline": "0"}
        found = {"free": FREE, "natural": {**FREE, "rows": "abc"}, "inputs": inputs}
        write_metrics(repo / f"metrics/eval/{variant}.json", found)
    write_metrics(repo / "metrics/bench/cpu/q4_k_m.json", {"machine": {"name": "a toy CPU x2"}, "cpu": CPU})
    base = {"name": "acme/toy", "source": "hub", "license": "Apache-2.0", "dequantized_from": "Q4_1"}
    write_metrics(repo / "metrics/merge.json", {"base": base})
    monkeypatch.chdir(repo)
    return repo


def export(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["export", *arguments])


def test_the_card_has_what_was_measured_and_on_what(shop: Path) -> None:
    done = export("q4_k_m", "out")
    assert done.exit_code == 0, done.output
    card = (shop / "out" / CARD).read_text()
    meta = yaml.safe_load(card.split("---\n")[1])
    assert (meta["base_model"], meta["license"], meta["license_name"]) == ("acme/toy", "other", "Apache-2.0")
    assert meta["language"] == ["en", "hr", "es"]
    (index,) = meta["model-index"]
    assert [one["dataset"]["split"] for one in index["results"]] == ["test", "natural"]
    assert "| messages that people typed (200) | free | 0.80 [0.74, 0.85] |" in card
    for part in ("dequantized from Q4_1", "a toy CPU x2", "GGUF Q4_K_M", "p50"):
        assert part in card
    checked = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=shop / "out", capture_output=True, text=True
    )
    assert checked.returncode == 0
    assert checked.stdout.count(": OK") == len(list((shop / "out").iterdir())) - 1 == 3


def test_a_folder_of_transformers_is_whole_and_has_no_modelfile(shop: Path) -> None:
    assert export("merged", "out").exit_code == 0
    made = {path.name for path in (shop / "out").iterdir()}
    assert made == {path.name for path in (shop / "models/merged").iterdir()} | {CARD, "SHA256SUMS"}
    assert "vllm serve ." in (shop / "out" / CARD).read_text()


@pytest.mark.slow
def test_llama_server_answers_as_our_engine_does(shop: Path) -> None:
    """200 rows, by the commands of the card."""
    assert export("q4_k_m", "out").exit_code == 0
    blocks = re.findall(r"```bash\n(.*?)```", (shop / "out" / CARD).read_text(), re.DOTALL)
    command, curl = (shlex.split(block.replace("\\\n", "")) for block in blocks)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    command = [str(port) if part == "8080" else part for part in command]
    server = [llama_cpp_build.tool(command[0]), *command[1:], "-t", "1"]
    url = "http://" + curl[1].replace("8080", str(port))
    sent: dict[str, Any] = json.loads(curl[-1])
    rows = toy_rows(200)
    running = subprocess.Popen(server, cwd=shop / "out", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(port)
        answers = []
        for row in rows:
            sent["prompt"] = row.prompt + "\n"
            request = urllib.request.Request(
                url, json.dumps(sent).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as reply:
                answers.append(json.load(reply)["choices"][0]["text"])
    finally:
        running.kill()
        running.wait()
    with open_engine("llama.cpp", shop / "models/q4_k_m/model.gguf", 1) as engine:
        builder = engine.prompt_builder("\n")
        wanted = [engine.answer(builder.prompt_ids(row.prompt), sent["max_tokens"]).text for row in rows]
    assert answers == wanted
    assert len(set(wanted)) > 20


def _wait(port: int) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("llama-server does not answer")


def test_what_was_not_measured_is_not_exported(shop: Path) -> None:
    failed(export("f16", "out"), "f16 has no evaluation", "dvc repro")
    model = shop / "models/q4_k_m/model.gguf"
    changed = model.read_bytes() + b"\0"
    model.unlink()
    model.write_bytes(changed)
    failed(export("q4_k_m", "out"), "another model", "dvc repro")
    failed(export("q4", "out"), "'q4' is no variant", "q4_k_m")
    assert not (shop / "out").exists()


def test_nothing_that_is_no_export_is_replaced(shop: Path) -> None:
    assert export("q4_k_m", "out").exit_code == 0
    failed(export("q4_k_m", "out"), "exists already", "--anew")
    assert export("q4_k_m", "out", "--anew").exit_code == 0
    (shop / "mine").mkdir()
    failed(export("q4_k_m", "mine", "--anew"), "something else", "name another folder")
    failed(export("q4_k_m", "params.yaml", "--anew"), "params.yaml", "name another folder")
