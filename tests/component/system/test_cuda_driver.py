"""Driver and torch of this machine."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from cartlm.system import cuda_driver


def test_torch_is_asked_without_being_imported() -> None:
    code = "import sys; from cartlm.system import cuda_driver; print(cuda_driver.built_for(), 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    import torch

    assert found.strip() == f"{(torch.__version__, torch.version.cuda)} False"


def has_driver() -> bool:
    try:
        ctypes.CDLL(cuda_driver.LIBRARY)
    except OSError:
        return False
    return True


@pytest.mark.skipif(
    has_driver(), reason="an NVIDIA driver is here: the line about a missing one cannot be had"
)
def test_this_machine_says_what_it_lacks() -> None:
    """In one line, by exit code 2: what the image's health check shows where the driver is missing."""
    import torch

    environ = {**os.environ, "CARTLM_IMAGE": "gpu"}
    done = subprocess.run(
        [sys.executable, "-m", "cartlm.cli", "check-gpu"], capture_output=True, text=True, env=environ
    )
    missing = "no NVIDIA driver in this container" if torch.version.cuda else "is built without CUDA"
    assert done.returncode == 2
    assert done.stderr.startswith("cartlm: error: ")
    assert missing in done.stderr
    assert done.stderr.count("\n") == 1
