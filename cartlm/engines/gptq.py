"""GPTQ checkpoints for the transformers engine, run by a kernel of gptqmodel or dequantized.

Importing gptqmodel takes seconds, prints, and starts thread pools: it is imported only to load a checkpoint.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from cartlm.errors import UserError


def load(folder: Path, dtype: torch.dtype, device: str, kernel: str | None) -> tuple[Any, str]:
    """The model of a checkpoint on `device`, and the class of the kernel that multiplies its weights.

    `kernel` is one of gptqmodel's (its GPTQ_MARLIN and so on): marlin, machete, exllama_v2, triton for CUDA, torch for
    every device, torch_aten, torch_fused, torch_int8 for CPUs. None dequantizes the weights at load to `dtype`: the checkpoint's own numbers on any
    device, without a kernel's rounding. Raises UserError for a kernel that cannot run the checkpoint here.
    """
    with _captured_output() as output:
        os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # with one it does not start
        from gptqmodel import BACKEND, GPTQModel
        from gptqmodel.nn_modules.qlinear import BaseQuantLinear

        try:
            model = GPTQModel.load(
                str(folder), backend=getattr(BACKEND, f"GPTQ_{(kernel or 'torch').upper()}"), trust_remote_code=False,
                device=device if kernel else "cpu", dtype=dtype if kernel else torch.float16,
                attn_implementation="sdpa",  # as for the unquantized model; it takes another where one is installed
            ).model  # fmt: skip
        except Exception as error:  # each kernel refuses devices, dtypes and shapes in its own way
            if kernel is None:
                raise
            what = str(error) or output()
            raise UserError(f"GPTQ kernel {kernel} does not run here: {what:.200}") from None
        names = {type(module).__name__ for module in model.modules() if isinstance(module, BaseQuantLinear)}
        if kernel is None:
            return _dequantize(model, dtype).to(device).eval(), "dequantized"
    if device.startswith("cuda"):
        from accelerate.hooks import remove_hook_from_module

        # gptqmodel puts one on each layer, the unquantized model has none
        remove_hook_from_module(model, recurse=True)
    return model.eval(), ", ".join(sorted(names))


def _dequantize(model: Any, dtype: torch.dtype) -> Any:
    """The model with plain matrices in place of the quantized ones, computed in float32."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    for name, module in list(model.named_modules()):
        if isinstance(module, TorchLinear):
            module.float()  # scales: the product of scale and integer is not rounded to 16 bits
            plain = torch.nn.Linear(
                module.in_features, module.out_features, bias=module.bias is not None, device="meta"
            )
            # of the class: the instance's own is wrapped for torch.compile, which takes longer than this
            weight = TorchLinear.dequantize_weight(module).T.contiguous().to(dtype)
            plain.weight = torch.nn.Parameter(weight, requires_grad=False)
            if module.bias is not None:
                plain.bias = torch.nn.Parameter(module.bias.to(dtype), requires_grad=False)
            model.set_submodule(name, plain)
    for weights in model.parameters():  # not the buffers: rotary frequencies stay in float32
        weights.data = weights.data.to(dtype)
    return model


@contextmanager
def _captured_output() -> Iterator[Callable[[], str]]:
    """Keep stdout and stderr of this process, C++ included, in a file; yields a function that returns its end."""
    with tempfile.TemporaryFile() as file, ExitStack() as undo:
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            stream.flush()
            saved = os.dup(number)
            undo.callback(os.close, saved)
            undo.callback(os.dup2, saved, number)
            undo.callback(stream.flush)
            os.dup2(file.fileno(), number)

        def tail() -> str:
            file.seek(0)
            return file.read().decode("utf-8", errors="replace")[-500:]

        yield tail
