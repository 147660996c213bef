"""base: the 16-bit base model, from base/model, the hub, Python packages or a GGUF file.

python -m stages.base
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from cartlm import command
from cartlm.training import base

TARGET, LOG = Path("models/base"), Path("runs/base.log")


@command.command
def main() -> None:
    """Write models/base: weights as they are, tokenizer and configs with one pad, bos and eos."""
    settings = command.params()
    made = base.make(  # dvc.yaml does not track gguf and gptq: a new variant must not start the graph anew
        settings.base, settings.prompt, settings.merge, settings.gguf, settings.gptq, settings.data.languages, TARGET, LOG,
        command.progress,
    )  # fmt: skip
    if made.left_out:
        command.progress(
            f"{made.origin}: left out {', '.join(made.left_out)}; the weights are {', '.join(made.files)}"
        )
    if not made.llama_cpp_checked:
        command.progress(
            "llama.cpp is not installed (make setup): convert-gguf will check whether it takes the tokenizer"
        )
    command.done(asdict(made))


if __name__ == "__main__":
    main()
