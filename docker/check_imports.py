"""Import what the image is made of, and print the versions; a card is not needed.

python docker/check_imports.py
"""

from __future__ import annotations

import os
from importlib import import_module, metadata

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # it does not import on two cores otherwise

PACKAGES = {
    "torch": "torch",
    "transformers": "transformers",
    "gptqmodel": "gptqmodel",
    "llama_cpp": "llama-cpp-python",
    "bitsandbytes": "bitsandbytes",
    "peft": "peft",
    "trl": "trl",
    "dvc": "dvc",
    "cartlm": "cartlm",
}


def main() -> None:
    """Stops with the traceback of the first that fails."""
    for module, package in PACKAGES.items():
        import_module(module)
        print(f"{module} {metadata.version(package)}", flush=True)


if __name__ == "__main__":
    main()
