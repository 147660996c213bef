"""What comes from outside is never run as code: models, weights, checkpoints."""

from __future__ import annotations

import ast
import re

from tests import ROOT

CODE = [
    path for name in ("cartlm", "stages", "base", "gpu", "docker") for path in (ROOT / name).rglob("*.py")
]
NODES = [
    (path.relative_to(ROOT).as_posix(), node)
    for path in CODE
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
]
CALLS = [(path, node) for path, node in NODES if isinstance(node, ast.Call)]
UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
# Optimizers' state while the base model is made: written and read on one machine, tensors and plain values alone
OWN_STATE = "base/pretraining/trainer.py"


def constant(call: ast.Call, name: str) -> object:
    """The constant that a call passes under a name; None where it passes none."""
    values = [each.value for each in call.keywords if each.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


def test_no_code_of_a_model_is_ever_run() -> None:
    """Wherever a model or tokenizer is loaded, also by way of a dictionary, a default or a file."""
    pattern = re.compile(r"trust_remote_code\W*(\w+)")
    files = [*CODE, *(ROOT / "presets").glob("*.yaml"), ROOT / "params.yaml"]
    values = [value for path in files for value in pattern.findall(path.read_text(encoding="utf-8"))]
    assert set(values) == {"False"}


def test_weights_are_loaded_and_saved_as_safetensors_alone() -> None:
    models = [
        (path, call)
        for path, call in CALLS
        if re.search(r"AutoModel\w*\.from_pretrained", ast.unparse(call.func))
    ]
    assert len(models) >= 2
    for path, call in models:
        assert constant(call, "use_safetensors") is True, path
        assert constant(call, "trust_remote_code") is False, path
    assert not [path for path, call in CALLS if constant(call, "safe_serialization") is False]


def test_nothing_unpickles() -> None:
    for path, node in NODES:
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not UNPICKLING & {name.split(".")[0] for name in names}, path
    for path, call in CALLS:
        function = ast.unparse(call.func)
        assert constant(call, "allow_pickle") is not True, path
        assert function not in ("torch.load", "torch.save") or path == OWN_STATE
        assert function != "torch.load" or constant(call, "weights_only") is True
