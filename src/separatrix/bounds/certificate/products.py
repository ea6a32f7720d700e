"""Products with weights, as an operator of one argument: matrices, batches of them, and convolutions."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from separatrix.bounds.certificate.affine import affine_norm
from separatrix.bounds.certificate.call import Call, NoBoundError
from separatrix.bounds.certificate.factor import SUM, Factor, attained, broadcast, rule
from separatrix.bounds.certificate.linear import affine
from separatrix.bounds.certificate.rounding import computed, root_of_squares, times
from separatrix.bounds.operator_norm.dense import by_singular_values

SMALL = 1 << 22  # entries of a matrix that is decomposed

ADDED = {"addmm": "self", "linear": "bias"}
"""What is added to a product."""


@rule("_sparse_mm", "sparse | dense", SUM, is_complex=True)
@rule("addmm", "mat1 self | mat2 self", SUM, is_complex=True)
@rule("bmm mm", "self | mat2", SUM, is_complex=True)
@rule("linear", "input bias | weight bias", SUM, is_complex=True)
@rule("matmul", "self | other", SUM, is_complex=True)
@rule("mv", "self | vec", SUM, is_complex=True)
def product(call: Call) -> Factor:
    """W x or x W for one matrix W, or a batch of them: √(Σ ‖W_b‖²); or what is added to it."""
    active, added = call.active_names[0], ADDED.get(call.name)
    if active == added:
        scale = 1.0 if call["beta"] is None else abs(float(call["beta"]))
        return attained(times(scale, broadcast(call)), "a constant is added")
    first, second = [name for name in call.values if name != added][:2]
    weight = call[second if active == first else first]
    if weight.is_complex() or call.active[0].dtype.is_complex:
        return affine(call)
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


@rule("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d", "input bias | weight bias", SUM)
def convolved(call: Call) -> Factor:
    """A convolution, in its input, its kernel or its bias."""
    if call.active_names == ["input"]:
        found = affine_norm([replace(call, values={**call.values, "bias": None})])
        if found is not None:
            return Factor(found.bound, found.method, found.lower)
    return affine(call, "")


def _norm(weight: Tensor) -> float:
    if weight.numel() <= SMALL:
        return by_singular_values(weight, "SVD").upper
    size = weight.abs()
    return computed(math.sqrt(float(size.sum(-1).amax(-1) * size.sum(-2).amax(-1))))
