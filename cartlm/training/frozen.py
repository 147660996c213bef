"""A frozen model with LoRA, computed for training on a CPU: the numbers of peft, bitsandbytes and transformers in fewer passes.

As those libraries come, most of a step on a CPU goes into copies, casts and small products around the large ones. Here each
linear layer with its LoRA is one autograd node that keeps its input once, in the compute dtype; each norm is another. The residual
stream stays in float32.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import bitsandbytes
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from cartlm.training.label_loss import causal_model


class Frozen:
    """A frozen matrix [outputs, inputs] in the compute dtype, made of a linear layer's weights.

    It is made anew at each use until `hold` keeps it. NF4 gives the numbers that bitsandbytes multiplies by.
    """

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        self.layer, self.dtype, self.held = layer, dtype, None

    def __call__(self) -> Tensor:
        return self.made() if self.held is None else self.held

    def made(self) -> Tensor:
        weight = self.layer.weight
        if not isinstance(self.layer, bitsandbytes.nn.Linear4bit):
            return weight.data.to(self.dtype)
        state = copy.copy(weight.quant_state)
        state.dtype = self.dtype
        return bitsandbytes.functional.dequantize_4bit(weight.data.view(-1, 1), state)

    def hold(self) -> None:
        """Keep the matrix. Of a layer that is not quantized the other copy is let go."""
        self.held = self.made()
        if not isinstance(self.layer, bitsandbytes.nn.Linear4bit):
            self.layer.weight.data = self.held

    def size(self) -> int:
        """Bytes of the matrix."""
        return int(self.layer.out_features * self.layer.in_features * self.dtype.itemsize)

    def extra(self) -> int:
        """Bytes that holding adds to what is there already (negative where a wider copy is let go)."""
        kept = isinstance(self.layer, bitsandbytes.nn.Linear4bit)
        return self.size() - (0 if kept else self.layer.weight.nbytes)


class Product(torch.autograd.Function):
    """x W' + scaling (d A') B', with d the input after dropout (None: x itself); W is frozen, and A and B may be None.

    x and d [..., inputs] in any dtype; W [outputs, inputs] and the result in the compute dtype; A [rank, inputs] and
    B [outputs, rank] in float32, as their gradients. All products are in the compute dtype.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dropped: Tensor | None, frozen: Frozen, a: Tensor | None, b: Tensor | None, scaling: float
    ) -> Tensor:  # fmt: skip
        dtype, bias = frozen.dtype, frozen.layer.bias
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        result = nn.functional.linear(rows, frozen(), None if bias is None else bias.to(dtype))
        ctx.frozen, ctx.scaling, ctx.shape, ctx.dtypes = frozen, scaling, x.shape, (x.dtype, None)
        if a is None or b is None:
            ctx.save_for_backward()
            return result.view(*x.shape[:-1], -1)
        inner = rows if dropped is None else dropped.reshape(rows.shape).to(dtype)
        a, b = a.to(dtype), (b * scaling).to(dtype)
        low = inner @ a.t()
        result.addmm_(low, b.t())
        ctx.dtypes = (x.dtype, None if dropped is None else dropped.dtype)
        ctx.save_for_backward(inner, low, a, b)
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        grad = grads[0].reshape(-1, grads[0].shape[-1]).to(ctx.frozen.dtype)
        needed, (x_dtype, dropped_dtype) = ctx.needs_input_grad, ctx.dtypes
        grad_x = grad @ ctx.frozen() if needed[0] else None
        grad_dropped = grad_a = grad_b = None
        if ctx.saved_tensors:
            inner, low, a, b = ctx.saved_tensors
            grad_low = grad @ b
            if dropped_dtype is not None and needed[1]:
                grad_dropped = (grad_low @ a).view(ctx.shape).to(dropped_dtype)
            elif grad_x is not None:
                grad_x.addmm_(grad_low, a)
            grad_a = (grad_low.t() @ inner).float()
            grad_b = (grad.t() @ low).float() * ctx.scaling
        if grad_x is not None:
            grad_x = grad_x.view(ctx.shape).to(x_dtype)
        return grad_x, grad_dropped, None, grad_a, grad_b, None


class Normalized(torch.autograd.Function):
    """x / sqrt(mean of x squared + eps) * gain, RMSNorm (arXiv 1910.07467), computed in float32.

    x [..., width]; gain [width] in float32, frozen; the result in `dtype`.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = (length.square_() / x.shape[-1] + eps).rsqrt_()
        ctx.save_for_backward(x, scale)
        ctx.gain = gain
        return torch.mul(x, scale).mul_(gain).to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, scale = ctx.saved_tensors
        unit = x * scale
        grad = grads[0] * ctx.gain
        inner = (grad * unit).mean(-1, keepdim=True)
        return grad.addcmul_(unit, inner, value=-1).mul_(scale).to(x.dtype), None, None, None


class Rotated(torch.autograd.Function):
    """x turned by its position (RoPE, arXiv 2104.09864): x cos + (-second half, first half) sin.

    x [rows, heads, tokens, size] and the result, in float32 where cos and sin [rows, 1, tokens, size] are.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _turned(x, cos, sin, -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos, sin, 1).to(ctx.dtype), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """`sign` 1 turns back: cos and sin of both halves are the same."""
    half = x.shape[-1] // 2
    result = x * cos
    result[..., :half].addcmul_(x[..., half:], sin[..., :half], value=sign)
    result[..., half:].addcmul_(x[..., :half], sin[..., half:], value=-sign)
    return result


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """In place of the `apply_rotary_pos_emb` of an architecture."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return Rotated.apply(q, cos, sin), Rotated.apply(k, cos, sin)


@contextmanager
def rotating(model: Any) -> Iterator[None]:
    """While it lasts, `model`'s architecture turns queries and keys by `rotate`, if that gives the same numbers."""
    module: Any = sys.modules[type(causal_model(model)).__module__]
    before = getattr(module, "apply_rotary_pos_emb", None)
    if before is None or not _turns_alike(before):
        yield
        return
    module.apply_rotary_pos_emb = rotate
    try:
        yield
    finally:
        module.apply_rotary_pos_emb = before


@cache
def _turns_alike(other: Any) -> bool:
    q, k = (_probe(8)[None].expand(2, heads, 5, 8) for heads in (4, 2))
    angles = torch.arange(5.0)[None, :, None] * torch.tensor([1.0, 0.1, 0.02, 0.003]).repeat(2)
    try:
        wanted = other(q, k, angles.cos(), angles.sin())
    except TypeError:
        return False
    return all(
        _near(one, two, 1e-5)
        for one, two in zip(rotate(q, k, angles.cos(), angles.sin()), wanted, strict=True)
    )


def speed_up(model: Any, dtype: torch.dtype) -> list[Frozen]:
    """Replace, in place, what `model` (peft's, one LoRA adapter) computes in its layers; returns the frozen matrices.

    Linear layers but the head, and RMSNorm; one that computes anything else than this module expects is left as it is: its
    result on random numbers decides. The head's weights become `dtype`.
    """
    head = model.get_output_embeddings()
    if head.weight.dtype != dtype:  # where it is tied, the embedding stays as it is
        head.weight = nn.Parameter(head.weight.data.to(dtype), requires_grad=False)
    found = []
    inside: set[int] = {id(head)}
    for module in model.modules():
        if isinstance(module, LoraLayer):
            inside |= {id(child) for child in module.modules() if child is not module}
            found.append(Frozen(module.get_base_layer(), dtype))
            module.forward = partial(_with_lora, module, found[-1])
        elif isinstance(module, nn.Linear) and id(module) not in inside:
            found.append(Frozen(module, dtype))
            module.forward = partial(_without_lora, found[-1])
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            _replace_norm(module, dtype)
    return found


def _with_lora(layer: Any, frozen: Frozen, x: Tensor) -> Tensor:
    (name,) = layer.active_adapters
    dropout = layer.lora_dropout[name]
    dropped = dropout(x) if isinstance(dropout, nn.Dropout) and dropout.p and layer.training else None
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    result: Tensor = Product.apply(x, dropped, frozen, a, b, layer.scaling[name])
    return result


def _without_lora(frozen: Frozen, x: Tensor) -> Tensor:
    result: Tensor = Product.apply(x, None, frozen, None, None, 1.0)
    return result


def _replace_norm(module: Any, dtype: torch.dtype) -> None:
    """Llama's gain is the weight, Gemma's one more."""
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    weight = getattr(module, "weight", None)
    if not isinstance(eps, float) or weight is None or weight.dim() != 1:
        return
    probe = _probe(weight.shape[0])
    with torch.no_grad():
        wanted = module(probe)
        for gain in (weight.float(), 1 + weight.float()):
            if _near(Normalized.apply(probe, gain, eps, torch.float32), wanted, 1e-4):
                module.forward = partial(_normalize, gain.clone(), eps, dtype)
                return


def _normalize(gain: Tensor, eps: float, dtype: torch.dtype, x: Tensor) -> Tensor:
    result: Tensor = Normalized.apply(x, gain, eps, dtype)
    return result


def _near(found: Tensor, wanted: Tensor, share: float) -> bool:
    return bool((found.float() - wanted.float()).norm() <= share * wanted.float().norm())


def _probe(width: int) -> Tensor:
    return torch.randn((1, 5, width), generator=torch.Generator().manual_seed(1))
