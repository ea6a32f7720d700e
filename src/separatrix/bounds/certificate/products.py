"""Products with weights, as an operator of one argument: matrices, batches of them, and convolutions."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from separatrix.bounds.certificate.affine import affine_norm
from separatrix.bounds.certificate.call import Call, NoBoundError
from separatrix.bounds.certificate.factor import Factor, attained, broadcast
from separatrix.bounds.certificate.linear import affine
from separatrix.bounds.certificate.rounding import computed, root_of_squares, times
from separatrix.bounds.operator_norm.dense import by_singular_values

SMALL = 1 << 22  # entries of a matrix that is decomposed

PRODUCTS = {
    "linear": ("input", "weight", "bias"),
    "matmul": ("self", "other", ""),
    "mm": ("self", "mat2", ""),
    "mv": ("self", "vec", ""),
    "bmm": ("self", "mat2", ""),
    "addmm": ("mat1", "mat2", "self"),
    "_sparse_mm": ("sparse", "dense", ""),
}
"""The two things that each operator multiplies, and what it adds."""


def product(call: Call) -> Factor:
    """W x or x W for one matrix W, or a batch of them: √(Σ ‖W_b‖²); or what is added to it."""
    active, pair = call.active_names[0], PRODUCTS[call.name][:2]
    if active not in pair:
        scale = 1.0 if call["beta"] is None else abs(float(call["beta"]))
        return attained(times(scale, broadcast(call)), "a constant is added")
    weight = call[pair[active == pair[0]]]
    if weight.is_complex() or call.active[0].dtype.is_complex:
        return affine()(call)
    weight = weight.double()
    if not torch.isfinite(weight).all():
        raise NoBoundError("its weights are not finite")
    if 0 in (*weight.shape, *call.shape):
        return attained(0.0, "it is empty")
    weight = weight[None] if weight.ndim == 1 else weight
    if call.name == "linear" and active == "weight":
        weight = weight.reshape(1, -1, weight.shape[-1])[0]
    norms = [_norm(one) for one in weight.reshape(-1, *weight.shape[-2:])]
    is_blocks = call.active[0].shape[:-2] == weight.shape[:-2]
    norm = max(norms) if is_blocks else root_of_squares(norms)
    scale = abs(float(call["alpha"])) if call["alpha"] is not None else 1.0
    is_exact = (is_blocks or len(norms) == 1) and weight.shape[-1] * weight.shape[-2] <= SMALL
    return (attained if is_exact else Factor)(times(scale, norm), "singular values" if is_exact else "√(‖A‖₁ ‖A‖∞)")


def convolved(call: Call) -> Factor:
    """A convolution, in its input, its kernel or its bias."""
    if call.active_names == ["input"]:
        found = affine_norm([replace(call, values={**call.values, "bias": None})])
        if found is not None:
            return Factor(found.bound, found.method, found.lower)
    return affine("")(call)


def _norm(weight: Tensor) -> float:
    if weight.numel() <= SMALL:
        return by_singular_values(weight, "SVD").upper
    size = weight.abs()
    return computed(math.sqrt(float(size.sum(-1).amax(-1) * size.sum(-2).amax(-1))))
