"""Products with weights, as an operator of one argument: matrices, batches of them, and Einstein's sums."""

import math

import torch
from torch import Tensor

from separatrix.nn.lipschitz.call import Active, Call, NoBoundError
from separatrix.nn.lipschitz.factor import Factor, attained
from separatrix.nn.lipschitz.rounding import computed, root, root_of_squares, times
from separatrix.nn.norms.dense import by_singular_values

SMALL = 1 << 22  # entries of a matrix that is decomposed


def product(call: Call) -> Factor:
    """W x or x W for one matrix W, or a batch of them: √(Σ ‖W_b‖²)."""
    weight = next(value for name, value in call.values.items() if name != "alpha" and name != "beta" and isinstance(value, Tensor))
    if call.name == "addmm":
        if isinstance(call["self"], Active):
            raise NoBoundError("nothing is known of addmm of that argument")
        weight = call["mat2"] if isinstance(call["mat1"], Active) else call["mat1"]
        if isinstance(weight, Active):
            raise NoBoundError("it multiplies two things that both depend on the input")
    weight = weight.double()
    if not torch.isfinite(weight).all():
        raise NoBoundError("its weights are not finite")
    weight = weight[None] if weight.ndim == 1 else weight
    if weight.shape[-1] * weight.shape[-2] > SMALL:
        return Factor(computed(float(_schur_norm(weight))), "√(‖A‖₁ ‖A‖∞)")
    norms = [by_singular_values(one, "SVD").upper for one in weight.reshape(-1, *weight.shape[-2:])]
    is_blocks = call.active[0].shape[:-2] == weight.shape[:-2]
    norm = max(norms) if is_blocks else root_of_squares(norms)
    scale = abs(float(call["alpha"])) if call["alpha"] is not None else 1.0
    return (attained if is_blocks or len(norms) == 1 else Factor)(times(scale, norm), "singular values")


def einsum(call: Call) -> Factor:
    """Linear in the one operand that depends on the input; bounded by the same sum of absolute values."""
    held = [part for part in call["tensors"] if isinstance(part, Tensor)]
    values = {**call.values, "tensors": [part.abs() if isinstance(part, Tensor) else part for part in call["tensors"]]}
    majorant = Call(call.name, call.op, values, call.shape, call.dtype, call.device)
    inputs, outputs = math.prod(call.active[0].shape), math.prod(call.shape)
    if inputs * outputs > SMALL or not held:
        return _schur_of(majorant)
    basis = torch.eye(inputs, dtype=torch.float64, device=call.device).reshape(inputs, *call.active[0].shape)
    columns = torch.stack([call.run(one)[0].flatten() for one in basis])
    return attained(by_singular_values(columns, "SVD").upper, "singular values")


def _schur_norm(weight: Tensor) -> Tensor:
    size = weight.abs()
    return (size.sum(-1).amax(-1) * size.sum(-2).amax(-1)).sum().sqrt()


def _schur_of(call: Call) -> Factor:
    ones = torch.ones(call.active[0].shape, dtype=torch.float64, device=call.device, requires_grad=True)
    with torch.enable_grad():
        (made,) = call.run(ones)
        (columns,) = torch.autograd.grad(made.sum(), ones)
    return Factor(computed(root(times(float(made.max()), float(columns.max())))), "√(‖A‖₁ ‖A‖∞)")
