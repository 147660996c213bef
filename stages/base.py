"""base: the 16-bit base model, from base/model or from the hub.

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
    origin = settings.base
    later = base.LaterStages(  # gguf and gptq are not tracked: a new variant must not start the graph anew
        separator=settings.prompt.separator,
        max_tokens=settings.prompt.max_tokens,
        merge_dtype=settings.merge.dtype,
        gptq_bits={name: one.bits for name, one in settings.gptq.items()},
        imatrix=any(one.imatrix for one in settings.gguf.values()),
        languages=settings.data.languages,
        log=LOG,
    )
    made = base.make(origin.source, origin.path, origin.revision, settings.prompt.pad_token, TARGET, later)
    if made.left_out:
        command.progress(
            f"{origin.path}: left out {', '.join(made.left_out)}; the weights are {', '.join(made.files)}"
        )
    if not made.llama_cpp_checked:
        command.progress(
            "llama.cpp is not installed (make setup): convert-gguf will check whether it takes the tokenizer"
        )
    command.done(asdict(made))


if __name__ == "__main__":
    main()
