"""architecture, convert and quantize: GGUF files of the architecture in params.yaml.

python -m stages.architecture_gguf f16        then: python -m stages.architecture_gguf q4_k_m
"""

from __future__ import annotations

from pathlib import Path

import click

from cartlm import command
from cartlm.errors import UserError
from cartlm.files import MIB
from cartlm.quantization import gguf
from cartlm.system import cpu_limits


@command.command
@click.argument("variant")
def main(variant: str) -> None:
    """Write models/architecture/NAME/VARIANT/model.gguf; what the tools say goes to runs/architecture/."""
    settings = command.params()
    wanted = settings.architecture
    if variant not in ("f16", *wanted.types):
        raise UserError(
            f"params.yaml has no {variant} in architecture.types", f"one of: {', '.join(wanted.types)}"
        )
    folder, log = Path("models/architecture") / wanted.name, Path("runs/architecture") / f"{variant}.log"
    target = folder / variant / "model.gguf"
    if variant == "f16":
        made = gguf.convert(folder / "weights", target, log)
    else:
        source = folder / "f16/model.gguf"
        made = gguf.quantize(source, target, variant.upper(), threads=cpu_limits.threads(), log=log)
    command.done(
        {"variant": variant, "size_mib": made.size_bytes / MIB, "bits_per_weight": made.bits_per_weight}
    )


if __name__ == "__main__":
    main()
