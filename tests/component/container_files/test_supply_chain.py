"""What comes from outside is never run as code: models, weights, checkpoints (tests/test_docker.py has the locks' hashes)."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
from pathlib import Path

from tests import ROOT
from tests.component.container_files.test_docker import LOCKS, pins


def test_what_is_audited_is_every_pinned_version_and_llama_cpp_python() -> None:
    locks = [str(ROOT / f"docker/{name}.txt") for name in LOCKS]
    done = subprocess.run([str(ROOT / ".github/scripts/pins.sh"), *locks], capture_output=True, text=True)
    built = re.search(r"^VERSION=(\S+)$", (ROOT / "docker/llama_cpp.sh").read_text(), flags=re.M)
    assert built
    pinned = [f"{name}=={version}" for lock in LOCKS for name, version in pins(lock).items()]
    assert sorted(done.stdout.split()) == sorted({*pinned, f"llama-cpp-python=={built[1]}"})


CODE = [
    path for name in ("cartlm", "stages", "base", "gpu", "docker") for path in (ROOT / name).rglob("*.py")
]
CALLS = [
    (path.relative_to(ROOT).as_posix(), node)
    for path in CODE
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.Call)
]
# Optimizers' state while the base model is made: written and read on one machine, tensors and plain values alone
OWN_STATE = "cartlm/pretraining/trainer.py"


def given(call: ast.Call, name: str) -> object:
    """The constant that a call passes under a name; None where it passes none."""
    values = [each.value for each in call.keywords if each.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


def test_no_code_of_a_model_is_ever_run() -> None:
    """Wherever a model or tokenizer is loaded, and in whatever says so in a dictionary, a default or a file."""
    told = re.compile(r"trust_remote_code\W*(\w+)")
    files = [*CODE, *(ROOT / "presets").glob("*.yaml"), ROOT / "params.yaml"]
    said = [word for path in files for word in told.findall(path.read_text(encoding="utf-8"))]
    assert said
    assert set(said) == {"False"}


def test_weights_are_loaded_and_saved_as_safetensors_alone() -> None:
    models = [
        (path, call)
        for path, call in CALLS
        if re.search(r"AutoModel\w*\.from_pretrained", ast.unparse(call.func))
    ]
    assert len(models) >= 2
    for path, call in models:
        assert given(call, "use_safetensors") is True, path
        assert given(call, "trust_remote_code") is False, path
    assert not [path for path, call in CALLS if given(call, "safe_serialization") is False]


def test_nothing_unpickles() -> None:
    unpickling = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for file in CODE:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not unpickling & {each.name.split(".")[0] for each in node.names}, file
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in unpickling, file
    for path, call in CALLS:
        assert given(call, "allow_pickle") is not True, path
        if ast.unparse(call.func) == "torch.load":
            assert path == OWN_STATE
            assert given(call, "weights_only") is True
        if ast.unparse(call.func) == "torch.save":
            assert path == OWN_STATE


def test_the_trainer_reads_its_checkpoints_without_unpickling() -> None:
    """A checkpoint of fine-tuning holds optimizer.pt and the like: transformers, at the locked version, loads them."""
    found = importlib.util.find_spec("transformers")
    assert found
    assert found.origin
    source = (Path(found.origin).parent / "trainer.py").read_text(encoding="utf-8")
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    loads = [call for call in calls if ast.unparse(call.func) == "torch.load"]
    assert loads
    assert all(given(call, "weights_only") is True for call in loads)
