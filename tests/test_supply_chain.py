"""What comes from outside is pinned, hashed and never run as code: the locks' hashes, weights and checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("data", "train", "cpu", "dev", "gpu")
HASHES = (ROOT / "docker/hashes.txt").read_text(encoding="utf-8")


def pinned() -> set[str]:
    lines = [line for name in LOCKS for line in (ROOT / f"docker/{name}.txt").read_text().splitlines()]
    return {line for line in lines if line and not line.startswith("#")}


def test_every_pinned_version_but_torch_has_a_hash() -> None:
    """torch: a CPU's build of it comes from another index; llama-cpp-python: docker/llama_cpp.sh checks it itself."""
    blocks = re.findall(
        r"^(\S+==\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", HASHES, flags=re.M
    )
    hashed = {name for name, _ in blocks}
    uv = {name for name in hashed if name.startswith("uv==")}
    without = {pin for pin in pinned() if pin.startswith("torch==")}
    assert len(uv) == 1
    assert hashed - uv == pinned() - without, "stale: python docker/lock.py --hashes"
    assert len(blocks) == HASHES.count("==")
    assert re.search(r"^SHA256=[0-9a-f]{64}$", (ROOT / "docker/llama_cpp.sh").read_text(), flags=re.M)
