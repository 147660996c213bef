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
from cartlm.files import sha256
from cartlm.metrics import Outcome, write_metrics, write_outcomes
from cartlm.pipeline.repository import Tree
from cartlm.serving.export import CARD
from cartlm.system import llama_cpp_build
from tests.component.serving.conftest import failed
from tests.fixtures.shared import full_disk
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
    write_metrics(repo / "metrics/quantize/q4_k_m.json", {"quantize": {"bits_per_weight": 4.8, "sha256": sha256(repo / "models/q4_k_m/model.gguf")}})  # fmt: skip
    lock(repo, "metrics/quantize")
    base = {"name": "acme/toy", "source": "hub", "license": "Apache-2.0", "dequantized_from": "Q4_1"}
    write_metrics(repo / "metrics/merge.json", {"base": base})
    monkeypatch.chdir(repo)
    return repo


def lock(repo: Path, read: str) -> None:
    """The benchmark as DVC records it, after it read what is there now."""
    dep = {"path": read, "hash": "md5", "md5": Tree(repo).md5(read)}
    stages = {"bench-cpu": {"cmd": "none", "deps": [dep], "outs": [{"path": "metrics/bench/cpu"}]}}
    (repo / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


def outcomes(repo: Path, model: Path) -> None:
    """F16 and Q4_K_M answered three rows; the evaluation of F16 is of `model`."""
    for variant in ("f16", "q4_k_m"):
        rows = [Outcome(f"test-{n}", "exact", "aa") for n in range(3)]
        write_outcomes(repo / f"metrics/outcomes/{variant}.csv", rows)
    write_metrics(repo / "metrics/eval/f16.json", {"free": FREE, "inputs": {"model": file_digest(model)}})


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
    assert "| messages typed by people (200) | free | 0.80 [0.74, 0.85] |" in card
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


def test_figures_of_another_model_are_left_out(shop: Path) -> None:
    """The benchmark's where DVC does not know that it read this model, the difference's where F16 is another."""
    outcomes(shop, shop / "models/f16/model.gguf")
    assert export("q4_k_m", "out").exit_code == 0
    card = (shop / "out" / CARD).read_text()
    assert "a toy CPU x2" in card
    assert "Against F16 on the same test rows, freely: 0.0" in card
    assert "left out" not in card

    quantized = shop / "metrics/quantize/q4_k_m.json"
    quantized.write_text(quantized.read_text().replace("4.8", "4.9"))  # made anew since
    outcomes(shop, quantized)
    assert export("q4_k_m", "out", "--anew").exit_code == 0
    card = (shop / "out" / CARD).read_text()
    assert "a toy CPU x2" not in card
    assert "Speed and memory are left out" in card
    assert "The difference to F16 is left out" in card
    assert "Against F16" not in card

    lock(shop, "metrics/quantize")
    write_metrics(quantized, {"quantize": {"bits_per_weight": 4.8, "sha256": "0" * 64}})
    lock(shop, "metrics/quantize")  # of another file
    (shop / "models/f16/model.gguf").unlink()
    assert export("q4_k_m", "out", "--anew").exit_code == 0
    card = (shop / "out" / CARD).read_text()
    assert card.count("left out") == 2
    assert "The difference to F16 is left out: F16 is not here." in card


def test_a_variant_made_before_its_source_is_not_compared_with_it(shop: Path) -> None:
    outcomes(shop, shop / "models/f16/model.gguf")
    path = shop / "dvc.lock"
    stages = yaml.safe_load(path.read_text())["stages"]
    for md5, compared in (("aa", True), ("bb", False)):
        stages |= {
            "convert-gguf": {"cmd": "none", "outs": [{"path": "models/f16", "md5": "aa"}]},
            "quantize-gguf@q4_k_m": {
                "cmd": "none",
                "deps": [{"path": "models/f16", "md5": md5}],
                "outs": [{"path": "models/q4_k_m", "md5": "cc"}],
            },
        }
        path.write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
        assert export("q4_k_m", "out", "--anew").exit_code == 0
        assert ("Against F16 on the same" in (shop / "out" / CARD).read_text()) is compared


def test_a_model_that_knows_no_orders_says_so(shop: Path) -> None:
    params, path = shop / "params.yaml", shop / "metrics/eval/q4_k_m.json"
    assert export("q4_k_m", "out").exit_code == 0
    assert "treats every message as an order." in (shop / "out" / CARD).read_text()

    shares = {
        f"{key}{end}": share
        for key, of in (("recall", (0.9, 0.86, 0.93)), ("false_none", (0.01, 0.005, 0.018)))
        for end, share in zip(("", "_low", "_high"), of, strict=True)
    }
    section = {"n": 300, "orders": 1000, **shares}
    write_metrics(path, {**json.loads(path.read_text()), "none": section, "none_constrained": section})
    params.write_text(params.read_text().replace("\n  none: false", "\n  none: true"))
    assert export("q4_k_m", "out", "--anew").exit_code == 0
    card = (shop / "out" / CARD).read_text()
    assert "treats every message" not in card
    assert '`{"action": "none", "product": "", "quantity": 0}`' in card
    assert (
        "Of 300 messages that are no order, 90.0 [86.0, 93.0] % are answered so (constrained decoding)"
        in card
    )
    assert "of the 1,000 orders of the test 1.0 [0.5, 1.8] % are lost" in card
    assert "or empty where `action` is `none`" in card
    assert "none=True" in card

    for limit in ("recall_low", "false_none_high", "n", "orders"):
        without = {name: value for name, value in section.items() if name != limit}
        write_metrics(path, {**json.loads(path.read_text()), "none_constrained": without})
        assert export("q4_k_m", "out", "--anew").exit_code == 0
        assert "messages that are no order, " not in (shop / "out" / CARD).read_text()


def test_a_full_disk_names_the_file_and_leaves_no_folder(shop: Path) -> None:
    with full_disk(40_000):
        failed(
            export("q4_k_m", "out"), "no space left writing out/model.gguf; free some space, then the same"
        )
    assert not [path for path in shop.iterdir() if "out" in path.name]


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
    failed(export("base", "out"), "base is the model before fine-tuning; export f16, merged")
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
    (shop / "mine/notes.txt").touch()
    failed(export("q4_k_m", "mine", "--anew"), "something else", "name another folder")
    assert "--anew" not in export("q4_k_m", "mine", "--anew").stderr
    failed(export("q4_k_m", "params.yaml", "--anew"), "params.yaml", "name another folder")


def test_an_empty_folder_is_filled_unless_it_is_a_link_or_where_one_is(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shop / "out").mkdir()
    (shop / "link").symlink_to(shop / "out")
    failed(export("q4_k_m", "link"), "something else", "name another folder")
    assert export("q4_k_m", "out").exit_code == 0
    monkeypatch.chdir(shop / "out")
    failed(export("q4_k_m", ".", "--anew"), "the folder you are in", "cd ..")
    assert Path("SHA256SUMS").is_file()


@pytest.mark.parametrize("mine", ["notes.txt", ".git/HEAD"])
def test_an_export_is_not_replaced_with_files_that_it_did_not_write(shop: Path, mine: str) -> None:
    """A checkout or a folder of downloads may have a SHA256SUMS too."""
    assert export("q4_k_m", "out").exit_code == 0
    (shop / "out" / mine).parent.mkdir(exist_ok=True)
    (shop / "out" / mine).write_text("mine")
    first = Path(mine).parts[0]
    failed(
        export("q4_k_m", "out", "--anew"), f"out holds {first}, which is not in its SHA256SUMS; move {first}"
    )
    assert (shop / "out" / mine).read_text() == "mine"


def test_a_release_of_something_else_with_checksums_of_all_its_files_is_not_replaced(shop: Path) -> None:
    (shop / "out").mkdir()
    (shop / "out/README.md").write_text("a tool")
    (shop / "out/SHA256SUMS").write_text(f"{'0' * 64}  README.md\n")
    failed(export("q4_k_m", "out", "--anew"), "something else", "name another folder")
    assert (shop / "out/README.md").read_text() == "a tool"
