"""A real server on a port of this machine, with two real readers: the toy as a GGUF, and a baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

import cartlm
from cartlm.serving.http.limits import Limits
from tests.fixtures.baseline import write_baseline
from tests.fixtures.http_service import running, served


@dataclass
class Server:
    """`reader` is another one of the first variant's model."""

    url: str
    client: httpx2.Client
    reader: cartlm.Reader


@pytest.fixture(scope="module")
def server(toy_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    (folder / "models/toy").mkdir(parents=True)
    (folder / "models/toy/model.gguf").symlink_to(toy_gguf)
    write_baseline(folder / "models/baseline/model.json")
    names = [str(folder / "models/toy"), str(folder / "models/baseline")]

    def load(source: str) -> cartlm.Reader:
        return cartlm.load(source, threads=1)

    with (
        served(folder, names, Limits(queue=64, timeout_s=120), load=load) as made,
        running(made.app) as url,
        httpx2.Client(base_url=url, timeout=120, trust_env=False) as client,
        load(names[0]) as reader,
    ):
        yield Server(url, client, reader)
