"""Dockerfile.gpu, built for real and run without a card."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.container.conftest import ARCHITECTURE, KERNELS, Inside
from tests.unit.docker.test_locks import pins

pytestmark = [pytest.mark.container, pytest.mark.slow, pytest.mark.timeout(3 * 3600)]


@pytest.fixture
def inside(docker: Path, gpu_image: str) -> Inside:
    return Inside(docker, gpu_image)


def test_everything_is_imported_without_a_card(inside: Inside) -> None:
    versions = inside.versions()
    assert versions["torch"] == pins("gpu")["torch"]
    assert versions["gptqmodel"] == pins("gpu")["gptqmodel"]
    assert {"llama_cpp", "bitsandbytes", "dvc", "cartlm"} <= versions.keys()


def test_the_health_check_names_the_missing_driver(inside: Inside) -> None:
    done = inside.health()
    assert done.returncode == 2
    assert done.stderr.startswith(
        "cartlm: error: CUDA card is missing: no NVIDIA driver in this container: libcuda.so.1 is missing: "
    )
    assert done.stderr.endswith("; docker run --gpus all cartlm:gpu\n")
    assert done.stderr.count("\n") == 1


def test_a_benchmark_of_the_other_target_is_refused(inside: Inside) -> None:
    assert inside.refuses("stages.bench_cpu", "gpu", "cpu")


def test_a_card_would_find_its_kernels_built(inside: Inside) -> None:
    done = inside("python", "docker/gptq_kernels.py", "--check", *KERNELS)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in KERNELS:
        assert f"{name} on sm_{ARCHITECTURE.replace('.', '')}: built ahead" in done.stdout


def test_its_settings(inside: Inside) -> None:
    config = inside.config()
    environ = dict(line.split("=", 1) for line in config["Env"])
    assert config["User"] == "1000:1000"
    assert environ["CARTLM_IMAGE"] == "gpu"
    assert environ["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert environ["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert config["Labels"]["org.opencontainers.image.revision"] == "test"


def test_tools_of_the_chain_are_there(inside: Inside) -> None:
    script = "touch ~/here; dvc --version; git --version; gcc --version; $CUDA_HOME/bin/nvcc --version; ls /opt/llama.cpp/bin"
    done = inside("sh", "-ec", script)
    assert done.returncode == 0, done.stderr
    assert {"llama-quantize", "llama-imatrix", "llama-bench"} <= set(done.stdout.split())
