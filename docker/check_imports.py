"""Import the packages of an image and print their versions; needs no card.

python docker/check_imports.py
"""

from __future__ import annotations

import os
from importlib import import_module, metadata

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # gptqmodel does not import on two cores without it

PACKAGES = {
    "torch": "torch",
    "transformers": "transformers",
    "gptqmodel": "gptqmodel",
    "llama_cpp": "llama-cpp-python",
    "bitsandbytes": "bitsandbytes",
    "peft": "peft",
    "trl": "trl",
    "sklearn": "scikit-learn",
    "dvc": "dvc",
    "cartlm": "cartlm",
}


def main() -> None:
    """Print a version a line; the first failure ends it with its traceback."""
    for module, package in PACKAGES.items():
        import_module(module)
        print(f"{module} {metadata.version(package)}", flush=True)


if __name__ == "__main__":
    main()
