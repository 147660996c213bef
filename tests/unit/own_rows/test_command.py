"""The command with the baseline: what it prints and writes, what it leaves alone, and its errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cartlm import cli, params
from cartlm.baseline.engine import Baseline
from cartlm.engines.answer import Answer
from cartlm.errors import UserError
from cartlm.own_rows import variants
from cartlm.task.prompt import PromptBuilder
from tests.fixtures import fixed_params
from tests.fixtures.baseline import write_baseline
from tests.fixtures.toy import toy_rows
from tests.unit.own_rows.test_labelled import write_foreign

COLUMNS = (
    "--columns",
    "message=text,product=artikel,action=aktion",
    "--columns",
    "quantity=menge,catalog=karte",
)
FOREIGN = (*COLUMNS, "--actions", "add=kaufen,remove=weg")
Run = Callable[..., Result]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: params, a baseline, logs of another shop."""
    fixed_params.write(tmp_path)
    write_baseline(tmp_path / "models/baseline/model.json")
    write_foreign(tmp_path / "logs.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(shop: Path) -> Run:
    def evaluate(*arguments: str, variant: str = "baseline") -> Result:
        return CliRunner().invoke(cli.main, ["evaluate", "logs.csv", "--variant", variant, *arguments])

    return evaluate


def failed(done: Result, *words: str) -> None:
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr.splitlines()[-1]


def test_the_labelled_file_is_not_written_over(run: Run, shop: Path) -> None:
    before = (shop / "logs.csv").read_bytes()
    (shop / "link.csv").symlink_to("logs.csv")
    for name in ("logs.csv", "models/../logs.csv", "link.csv"):
        failed(run(*FOREIGN, "--output", name), "is both --output and FILE")
    assert (shop / "logs.csv").read_bytes() == before


def test_a_word_with_two_actions_is_refused(run: Run) -> None:
    failed(run(*COLUMNS, "--actions", "add=x", "--actions", "remove=X"), "two meanings: add and remove")
    failed(run(*COLUMNS, "--actions", "remove=add"), "two meanings: add and remove")


def test_logs_of_another_shop_are_scored(run: Run, shop: Path) -> None:
    before = {path: path.read_bytes() for path in shop.rglob("*") if path.is_file()}
    done = run(*FOREIGN, "--slice", "Haus", "--json", "--output", "out/wrong.csv")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    baseline = found["variants"]["baseline"]
    assert (found["rows"], found["broken"], baseline["n"]) == (24, [], 24)
    assert 0 < baseline["exact_match"] < 1
    assert baseline["slices"]["Haus"].keys() == {"A", "B"}
    assert baseline["latency_n"] == 24
    assert "decoding" not in baseline["engine"], "the baseline has none"
    wrong = round(24 * (1 - baseline["exact_match"]))
    assert len((shop / "out/wrong.csv").read_text("utf-8").splitlines()) >= 1 + wrong
    new = {
        path.relative_to(shop).parts[0] for path in shop.rglob("*") if path.is_file() and path not in before
    }
    assert new == {"runs", "out"}
    assert all(path.read_bytes() == content for path, content in before.items())


def test_broken_rows_are_named_and_not_scored(run: Run, shop: Path) -> None:
    with (shop / "logs.csv").open("a", encoding="utf-8") as file:
        file.write("24;tea;Unicorn;kaufen;1;Tea;A\n" * 25)
    done = run(*FOREIGN, "--timed", "0")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("logs.csv: 24 rows, 25 broken and left out")
    assert done.stderr.count("product 'Unicorn' is not a catalog line") == 20
    assert "5 more broken rows" in done.stderr
    failed(run(*FOREIGN, "--strict"), "25 of 49 rows in logs.csv are broken", "without --strict")


def test_a_row_with_a_special_token_counts_as_unparseable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    text = toy_rows()[3].prompt

    def builder(_: Baseline, separator: str) -> PromptBuilder:
        return PromptBuilder(lambda given: [1] if given == text + separator else [2], 0, 1, separator)

    monkeypatch.setattr(Baseline, "prompt_builder", builder)
    monkeypatch.setattr(
        Baseline, "answer", lambda *_: Answer(toy_rows()[0].completion, (), "stop", 0, 0, 0, 0.0, 0.0)
    )
    done = run(*FOREIGN, "--json")
    assert "1 rows hold a special token of the model and count as unparseable: logs.csv:" in done.stderr
    baseline = json.loads(done.stdout)["variants"]["baseline"]
    assert (baseline["n"], baseline["latency_n"]) == (24, 23)
    assert baseline["unparseable"] == round(1 / 24, 5)


@pytest.mark.parametrize("load", [0.0, 1e6])
def test_latencies_of_a_busy_machine_have_a_note(
    run: Run, monkeypatch: pytest.MonkeyPatch, load: float
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    assert ("the machine was busy (load average 1e+06" in run(*FOREIGN).stderr) == (load > 0)
    assert "busy" not in run(*FOREIGN, "--timed", "0").stderr


def test_mistakes_are_one_line(run: Run, shop: Path) -> None:
    (shop / "notes").mkdir()
    columns = "it has: Nr, Text, Artikel, Aktion, Menge, Karte, Haus"
    failed(run(), "no column 'message', ", columns, "--columns message=NAME")
    failed(run("--columns", "message=Txt"), "'Txt'", columns)
    failed(run(*FOREIGN, "--slice", "Ort"), "'Ort'", columns)
    failed(run(*COLUMNS), "24 of 24 rows in logs.csv are broken")
    done = CliRunner().invoke(cli.main, ["evaluate", "notes", "--variant", "baseline"])
    failed(done, "notes is a folder; name one file")
    failed(run(*FOREIGN, "--output", "wrong.xlsx"), "neither in .jsonl")
    failed(run(*FOREIGN, "--server", "http://127.0.0.1:1/v1"), "--server and --model")
    failed(run(*FOREIGN, "--server", "ftp://shop", "--model", "m"), "base_url is not like")
    failed(run(*FOREIGN, "--variant", "baseline"), "baseline is given twice")
    failed(run(*FOREIGN, "--catalog", "none.txt"), "none.txt: No such file")
    failed(run(*FOREIGN, variant="q9"), "'q9'", "q8_0")
    failed(run(*FOREIGN, variant="q8_0"), "models/q8_0/model.gguf is missing; dvc repro")
    failed(run(*FOREIGN, variant="notes"), "notes holds no model")
    failed(run(*FOREIGN, variant="logs.csv"), "logs.csv is no model")


def test_a_model_is_named_or_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fixed_params.write(tmp_path)
    settings = params.load(tmp_path / "params.yaml")
    write_baseline(tmp_path / "models/baseline/model.json")
    for name in (
        "models/q4_k_m/model.gguf",
        "hf/config.json",
        "f16",
        "tuned.gguf",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {
        name: variants.find(name, settings, {})
        for name in (
            "q4_k_m",
            "models/q4_k_m",
            "tuned.gguf",
            "hf",
            "models/baseline",
            "models/baseline/model.json",
        )
    }
    kinds = {
        name: (each.model.engine, str(each.model.path))
        for name, each in found.items()
        if isinstance(each, variants.Local)
    }
    assert kinds == {
        "q4_k_m": ("llama.cpp", "models/q4_k_m/model.gguf"),
        "models/q4_k_m": ("llama.cpp", "models/q4_k_m/model.gguf"),
        "tuned.gguf": ("llama.cpp", "tuned.gguf"),
        "hf": ("transformers", "hf"),
        "models/baseline": ("rules", "models/baseline/model.json"),
        "models/baseline/model.json": ("rules", "models/baseline/model.json"),
    }
    with pytest.raises(FileNotFoundError):  # a file of that name is not the variant
        variants.find("f16", settings, {})


def test_a_servers_key_comes_from_its_variable_and_is_not_shown() -> None:
    served = variants.served("http://127.0.0.1:1/v1", "m", "chat", "SHOP_KEY", 96, {"SHOP_KEY": "secret"})
    assert served.key == "secret"
    assert "secret" not in repr(served)
    assert served.server.instruction
    with pytest.raises(UserError, match="not the name of an environment variable") as error:
        variants.served("http://127.0.0.1:1/v1", "m", "chat", "sk-secret", 96, {})
    assert "sk-secret" not in str(error.value)


def test_one_catalog_for_all(run: Run, shop: Path) -> None:
    lines = list(dict.fromkeys(line for row in toy_rows() for line in row.catalog))
    (shop / "catalog.txt").write_text("\n".join(lines), encoding="utf-8")
    done = run(*FOREIGN, "--catalog", "catalog.txt", "--json", "--timed", "0")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["variants"]["baseline"]["slices"]["catalog lines"].keys() == {"9 to 14"}
