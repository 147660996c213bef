"""params.yaml, the typed sections and the keys tracked in dvc.yaml agree one to one, and every mistake is named."""

from __future__ import annotations

import ast
import copy
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from cartlm import params, yaml_files
from cartlm.errors import UserError
from tests import ROOT
from tests.fixtures import fixed_params

OTHER_CELLS = {
    "base": {
        "gguf",
        "gptq",
    },  # a new variant must not start the graph anew; it is looked at where base runs anyway
    "bench-cpu": {"reference", "gptq", "remote"},  # removes files of those that left
    "eval": {"reference", "gptq", "base.source"},
    "eval-gptq": {"reference", "gguf", "base.source"},
    "eval-reference": {"gguf", "gptq"},
}
"""What a script reads of params that do not change its outputs."""
NOT_TRACKED = {
    "compare": "`cartlm compare` judges finished numbers with it; no stage's output depends on it",
    "cost": "`cartlm cost` prices finished numbers with it",
}


@functools.cache
def load_yaml(name: str) -> Any:
    return yaml_files.parse((ROOT / name).read_bytes())


def values() -> dict[str, Any]:
    """What the user has set. Tests of what is refused begin with the fixed ones instead."""
    return copy.deepcopy(load_yaml("params.yaml"))


def leaves(value: Any, key: str = "") -> Iterator[str]:
    """Dotted keys of everything that is not a mapping."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from leaves(part, f"{key}.{name}".lstrip("."))
    else:
        yield key


@functools.cache
def tracked() -> dict[str, list[str]]:
    """Stage -> the dotted keys it tracks; a foreach cell stands once for each of its keys."""
    found: dict[str, list[str]] = {}
    for pipeline in ("dvc.yaml", "architecture/dvc.yaml", "gpu/dvc.yaml"):
        where = pipeline.removesuffix("dvc.yaml")
        for name, body in load_yaml(pipeline)["stages"].items():
            if "foreach" not in body:
                found[where + name] = body.get("params", [])
                continue
            cells: Any = values()
            for part in body["foreach"].strip("${}").split("."):
                cells = cells[part]
            for key in cells:  # of a mapping its keys, of a list its items
                keys = body["do"].get("params", [])
                found[f"{where}{name}@{key}"] = [k.replace("${key}", key) for k in keys]
    return found


def test_params_yaml_is_sound() -> None:
    params.load(ROOT / "params.yaml")


def test_every_value_is_tracked_by_a_stage() -> None:
    keys = {key for found in tracked().values() for key in found}
    for leaf in leaves(values()):
        parts = leaf.split(".")
        if parts[0] in NOT_TRACKED:
            continue
        prefixes = {".".join(parts[: i + 1]) for i in range(len(parts))}
        assert prefixes & keys, f"no stage of dvc.yaml depends on {leaf}"


def test_every_tracked_key_exists() -> None:
    for name, keys in tracked().items():
        for key in keys:
            value: Any = values()
            for part in key.split("."):
                assert part in value, f"dvc.yaml: {name} tracks {key}, which params.yaml lacks"
                value = value[part]


def test_a_cell_tracks_only_its_own_block() -> None:
    for name, keys in tracked().items():
        if "@" in name:
            cell = name.split("@")[1]
            for key in keys:
                assert key not in ("gguf", "gptq", "reference"), f"{name} would be stale with any other cell"
                if key.split(".")[0] in ("gguf", "gptq", "reference"):
                    assert key.split(".")[1] == cell


def dotted(node: ast.AST) -> tuple[ast.AST, list[str]]:
    """`a.b.c` as the node of `a` and the names after it."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return node, names


def is_params(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node) == "command.params()"


@functools.cache
def read_keys(script: Path) -> set[str]:
    """Keys of params.yaml that a stage script reads through what `command.params()` returns, as deep as keys go."""
    found: set[str] = set()
    tree = ast.parse(script.read_text(encoding="utf-8"))
    variables: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):  # settings, metrics = ...
                pairs = list(zip(target.elts, value.elts, strict=True))
            else:
                pairs = [(target, value)]
            for name, given in pairs:
                root, names = dotted(given)
                if isinstance(name, ast.Name) and is_params(root):
                    variables[name.id] = names

    def visit(node: ast.AST) -> None:
        root, names = dotted(node)
        known = isinstance(root, ast.Name) and root.id in variables and isinstance(root.ctx, ast.Load)
        if known or is_params(root):
            names = [*(variables[root.id] if isinstance(root, ast.Name) else []), *names]
            if names[:1] == ["variants"]:
                found.update({"reference", "gguf", "gptq", "remote"})
            value: Any = values()
            key = []
            for name in names:
                if not isinstance(value, dict) or name not in value:
                    break
                key.append(name)
                value = value[name]
            if key:
                found.add(".".join(key))
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


@pytest.mark.parametrize("name", tracked())
def test_a_stage_tracks_what_its_script_reads(name: str) -> None:
    where, _, stage = name.split("@")[0].rpartition("/")
    body = load_yaml(f"{where}/dvc.yaml".lstrip("/"))["stages"][stage]
    cmd = body.get("do", body)["cmd"]
    module = (cmd if isinstance(cmd, str) else cmd[-1]).split()[2]
    read, keys = read_keys(ROOT / f"{module.replace('.', '/')}.py"), set(tracked()[name])

    def within(inner: str, outer: str) -> bool:
        return inner == outer or inner.startswith(f"{outer}.")

    def parts(key: str) -> set[str]:
        value: Any = values()
        for part in key.split("."):
            value = value[part]
        return {f"{key}.{leaf}" for leaf in leaves(value)} if isinstance(value, dict) else {key}

    for key in read - OTHER_CELLS.get(name.split("@")[0], set()):
        assert any(within(key, tracked) or within(tracked, key) for tracked in keys), f"{module} reads {key}"
    for key in keys:
        assert all(any(within(leaf, one) for one in read) for leaf in parts(key)), (
            f"{module} does not read all of {key}"
        )


def test_sections_and_file_name_the_same_keys() -> None:
    """Every key of the typed sections stands in params.yaml: nothing has a hidden default."""

    def check(section: type[BaseModel], value: dict[str, Any], where: str) -> None:
        assert section.model_fields.keys() == value.keys(), f"{where}: the same keys"
        for name, field in section.model_fields.items():
            assert field.is_required(), f"{where}.{name} has a default"
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                check(kind, value[name], f"{where}.{name}")

    check(params.Params, values(), "params")


def test_variant_names_are_unique_over_both_sections() -> None:
    found = params.load(ROOT / "params.yaml")
    assert not {name for name, _ in found.reference} & {*found.gguf, *found.gptq}
    assert not set(found.gguf) & set(found.gptq)
    fixed = fixed_params.values()
    with pytest.raises(UserError, match=r"gptq\.q8_0: that name is taken"):
        params.parse({**fixed, "gptq": {"q8_0": fixed["gptq"]["int8"]}}, "params.yaml")


def test_a_server_tracks_its_own_block_and_the_separator() -> None:
    pipeline = load_yaml("remote/dvc.yaml")
    assert pipeline["stages"]["eval-remote"]["do"]["params"] == ["remote.${key}", "prompt.separator"]
    assert read_keys(ROOT / "stages/evaluate_remote.py") == {"remote", "prompt.separator"}


def server(**other: Any) -> dict[str, Any]:
    paper = load_yaml("presets/paper.yaml")
    return {**paper["remote"]["gpt-4-1"], **other}


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("base", {}, "remote.base: that name is taken"), ("machine", {}, "remote.machine: that name is taken"),
        ("q8_0", {}, "remote.q8_0: that name is taken"), ("gpt-4.1", {}, "remote.gpt-4.1"),
        ("m", {"engine": "vllm"}, "remote.m.engine = 'vllm'"), ("m", {"model": ""}, "remote.m.model"),
        ("m", {"api": "responses"}, "remote.m.api = 'responses'"), ("m", {"concurrency": 0}, "remote.m.concurrency = 0"),
        ("m", {"max_retries": -1}, "remote.m.max_retries = -1"), ("m", {"timeout_s": 0.0}, "remote.m.timeout_s = 0.0"),
        ("m", {"input_price": -2.0}, "remote.m.input_price = -2.0"), ("m", {"port": 1}, "remote.m.port = 1: unknown key"),
        ("m", {"input_price": 2.0}, "remote.m: set input_price, output_price and price_source together"),
        ("m", {"input_price": 2.0, "output_price": 8.0}, "price_source together"),
        ("m", {"api": "completions"}, "remote.m: instruction is the system prompt of api: chat"),
        ("m", {"base_url": "127.0.0.1:8080"}, "remote.m: base_url is not like"),
        ("m", {"base_url": "file:///etc/passwd"}, "remote.m: base_url is not like"),
    ],
)  # fmt: skip
def test_a_wrong_server_is_named(name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as error:
        params.parse({**fixed_params.values(), "remote": {name: server(**changes)}}, "params.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"api_key_env": "sk-secret"}, {"api_key_env": "SECRETsk"}, {"api_key": "sk-secret"}, {"key": "sk-secret"},
        {"base_url": "https://user:sk-secret@host/v1"}, {"base_url": "https://host/v1?key=sk-secret"},
    ],
)  # fmt: skip
def test_a_key_put_into_params_is_refused_and_not_shown(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError) as error:
        params.parse({**fixed_params.values(), "remote": {"m": server(**changes)}}, "params.yaml")
    assert "secret" not in str(error.value).lower()


BROKEN = [
    ("finetune.learning_rate", "2e-4", "finetune.learning_rate = '2e-4'"),
    ("finetune.learning_rate", 0.0, "finetune.learning_rate = 0.0"),
    ("finetune.learning_rate", -1.0, "greater than 0"),
    ("finetune.lora_rank", 8.5, "finetune.lora_rank = 8.5"),
    ("finetune.lora_rank", True, "finetune.lora_rank = True"),
    ("finetune.lora_rank", 0, "finetune.lora_rank = 0"),
    ("finetune.quantization", "int4", "finetune.quantization = 'int4'"),
    ("finetune.epochs", None, "finetune.epochs = None"),
    ("finetune.gradient_checkpointing", "on", "finetune.gradient_checkpointing = 'on'"),
    ("data.train", "2700", "data.train = '2700'"),
    ("data.languages", ["english", "german"], "data.languages.1 = 'german'"),
    ("data.noise.typo", 1.5, "data.noise.typo = 1.5"),
    ("data.catalog.max_lines", 2, "data.catalog"),
    ("data.gates", [], "data.gates"),
    ("gguf.q8_0.type", "Q9_0", "gguf.q8_0.type = 'Q9_0'"),
    ("gguf.q8_0.typ", "Q8_0", "gguf.q8_0.typ = 'Q8_0': unknown key"),
    ("gguf...q4.1", {"type": "Q8_0", "imatrix": False}, "gguf...q4.1"),
    ("gguf.../evil", {"type": "Q8_0", "imatrix": False}, "gguf"),
    (
        "gguf.f16",
        {"type": "Q8_0", "imatrix": False},
        "params.yaml: (top level): gguf.f16: that name is taken",
    ),
    ("gguf.machine", {"type": "Q8_0", "imatrix": False}, "gguf.machine: that name is taken"),
    ("gptq.int8.bits", 5, "gptq.int8.bits = 5"),
    ("gptq.int8.group_size", 100, "gptq.int8.group_size = 100"),
    ("gptq.int8.damp", 1.0, "gptq.int8.damp = 1.0"),
    ("gptq.int8.act_order", "no", "gptq.int8.act_order = 'no'"),
    ("gptq.int8.sym", True, "gptq.int8.sym = True: unknown key"),
    ("data.languages", [], "data.languages = []"),
    ("data.languages", ["english", "english"], "names one twice"),
    (
        "data.train_languages",
        ["english", "english"],
        "train_languages ['english', 'english'] names one twice",
    ),
    ("data.train_languages", [], "data.train_languages = []"),
    ("data.wording.polite", 1.0, "data.wording: polite + rambling + correcting = 1.27 is more than 1"),
    ("data.seed", -1, "data.seed = -1"),
    ("finetune.max_steps", 0, "finetune.max_steps"),
    ("finetune.epochs", float("inf"), "finetune.epochs = inf"),
    ("reference.f16.engine", "transformers", "reference.f16.engine = 'transformers'"),
    ("eval.max_new_tokens", 100_000_000, "eval.max_new_tokens = 100000000"),
    ("bench_cpu.threads", 5000, "bench_cpu.threads = 5000"),
    ("bench_cpu.max_spread", float("nan"), "bench_cpu.max_spread = nan"),
    ("eval.flip_rows", -3, "eval.flip_rows = -3"),
    ("bench_cpu.threads", -1, "bench_cpu.threads"),
    ("bench_decoding.variant", "q9", "bench_decoding.variant q9 is not in section gguf"),
    ("bench_decoding.messages", 1, "bench_decoding.messages = 1"),
    ("gguf", None, "gguf = None"),
    ("bench_cpu.warmups", 3, "bench_cpu.warmups = 3"),
    ("bench_cpu.idle_w", 20.0, "bench_cpu: idle_w and load_w are given together, or both null"),
    ("bench_cpu.load_w", "100 W", "bench_cpu.load_w = '100 W'"),
    ("parity.min_agreement", "high", "parity.min_agreement = 'high'"),
    ("compare.speed", "15 %", "compare.speed = '15 %'"),
    ("compare.accuracy", 1.5, "compare.accuracy = 1.5"),
    ("compare.speeds", 0.1, "compare.speeds = 0.1: unknown key"),
    ("extra", 1, "extra = 1: unknown key"),
]


@pytest.mark.parametrize(("key", "value", "said"), BROKEN, ids=[f"{key}={value}" for key, value, _ in BROKEN])
def test_a_wrong_value_is_named(key: str, value: Any, said: str) -> None:
    broken = fixed_params.values()
    section, _, rest = key.partition(".")
    if section == "gguf" and (rest.startswith("..") or rest in params.RESERVED):
        broken["gguf"][rest] = value
    else:
        *path, last = key.split(".")
        inner = broken
        for part in path:
            inner = inner[part]
        inner[last] = value
    with pytest.raises(UserError) as error:
        params.parse(broken, "params.yaml")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert "cartlm params check" in str(error.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            {"languages": ["english"], "train_languages": ["english", "spanish"]},
            "train_languages has spanish, which languages ['english'] lacks",
        ),
        ({"source": "file", "path": "rows", "train_languages": ["english"]}, "file has its own rows"),
    ],
)
def test_languages_that_cannot_be_trained_on_are_named(data: dict[str, Any], said: str) -> None:
    broken = fixed_params.values()
    broken["data"] |= data
    with pytest.raises(UserError) as error:
        params.parse(broken, "params.yaml")
    assert said in str(error.value)


@pytest.mark.parametrize(
    "key",
    [
        "finetune",
        "finetune.seed",
        "reference.merged",
        "data.noise.clean",
        "gguf.q8_0.type",
        "eval.batch_size",
        "compare",
        "compare.energy",
    ],
)
def test_a_missing_key_is_named(key: str) -> None:
    broken = fixed_params.values()
    *path, last = key.split(".")
    inner = broken
    for part in path:
        inner = inner[part]
    del inner[last]
    with pytest.raises(UserError, match=re.escape(f"{key}: missing key")):
        params.parse(broken, "params.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [", "is not YAML"), ("", "top level"), ("- 1\n- 2\n", "top level"), ("a: b: c", "is not YAML")],
)
def test_a_broken_file_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said) as error:
        params.load(path)
    assert "\n" not in str(error.value)


def test_a_binary_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not YAML"):
        params.load(tmp_path / "params.yaml")
