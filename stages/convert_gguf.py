"""convert-gguf: models/merged -> models/f16/model.gguf, by llama.cpp's own converter.

python -m stages.convert_gguf
"""

from __future__ import annotations

from pathlib import Path

from cartlm import command
from cartlm.files import MIB
from cartlm.quantization import gguf


@command.command
def main() -> None:
    """Write models/f16/model.gguf; the converter's output goes to runs/convert.log."""
    made = gguf.convert(Path("models/merged"), Path("models/f16/model.gguf"), Path("runs/convert.log"))
    command.done({"size_mib": made.size_bytes / MIB, "bits_per_weight": made.bits_per_weight})


if __name__ == "__main__":
    main()
