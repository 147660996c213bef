"""A missing card is named: each thing that can be missing, by its own line."""

from __future__ import annotations

from typing import Any

import pytest

from cartlm.errors import UserError
from cartlm.system import cuda_driver


class Driver:
    """libcuda, as far as the check goes."""

    def __init__(self, version: int, init: int = 0, cards: int = 0) -> None:
        self.version, self.init, self.cards = version, init, cards

    def cuDriverGetVersion(self, found: Any) -> int:
        found._obj.value = self.version
        return 0

    def cuInit(self, flags: int) -> int:
        return self.init

    def cuDeviceGetCount(self, found: Any) -> int:
        found._obj.value = self.cards
        return 0


def absent(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


def test_a_card_is_told_in_one_line() -> None:
    line = cuda_driver.check("2.13.0", "13.0", environ={}, load=lambda name: Driver(13020, cards=2))
    assert line == "2 CUDA card(s), driver for CUDA 13.2, torch 2.13.0 for CUDA 13.0"


@pytest.mark.parametrize(
    ("cuda", "image", "environ", "load", "said"),
    [
        (None, None, {}, absent, "torch 2.13.0 is built without CUDA; pip install -r docker/gpu.txt"),
        ("13.0", None, {}, absent, "no NVIDIA driver on this machine: libcuda.so.1 is missing; nvidia-smi"),
        (
            "13.0",
            "gpu",
            {},
            absent,
            "no NVIDIA driver in this container: libcuda.so.1 is missing; docker run --gpus all cartlm:gpu",
        ),
        (
            "13.0",
            None,
            {},
            lambda name: Driver(12080, cards=1),
            "the NVIDIA driver is too old: it runs CUDA 12.8, torch 2.13.0 needs 13.0; "
            "install a newer driver on the host, then nvidia-smi",
        ),
        (
            "13.0",
            None,
            {"CUDA_VISIBLE_DEVICES": ""},
            lambda name: Driver(13000, init=100),
            "the NVIDIA driver shows no card; set here: CUDA_VISIBLE_DEVICES=; nvidia-smi -L",
        ),
        (
            "13.0",
            None,
            {},
            lambda name: Driver(13000, init=803),
            "the NVIDIA driver shows no card (cuInit: error 803); nvidia-smi -L",
        ),
    ],
)
def test_what_is_missing_is_named(
    cuda: str | None, image: str | None, environ: dict[str, str], load: Any, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        cuda_driver.check("2.13.0", cuda, image, environ, load)
    assert str(caught.value) == said
