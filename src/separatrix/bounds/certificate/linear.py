"""Operators that are affine in the arguments that depend on the input, bounded by their matrix.

Note [Affine in an argument]
With all other arguments fixed, many operators are affine in one argument: index_add in the added values, a convolution in its
kernel, attention in its values. Their images of a basis form their matrix, and its largest singular value is their factor. If the
matrix is too large, the same operator with the absolute values of its fixed arguments has a nonnegative matrix that dominates it
entry by entry; √(‖A‖₁ ‖A‖∞) of that matrix is a bound. Both are checked against the operator at a random argument.
"""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from separatrix.bounds.certificate.call import Active, Call, NoBoundError
from separatrix.bounds.certificate.factor import ALONE, SUM, Factor, attained, rule
from separatrix.bounds.certificate.rounding import computed, root, times
from separatrix.bounds.operator_norm.dense import by_singular_values

CUBIC = 2  # number of the mode in grid_sampler
ENTRIES, ROWS = 1 << 21, 1024  # limits for an SVD: number of entries, and length of the shorter side
AGREEMENT = 1e-9  # difference allowed between an operator and its matrix, relative to the largest number: float64's sums


linear_in = partial(rule, joined=SUM, is_complex=True)
"""A rule of what is linear in each of its arguments, or in several at a time."""


@linear_in("addcdiv", "self tensor1")
@linear_in("affine_grid_generator", "theta")
@linear_in("cross linalg_cross", "self | other")
@linear_in("cumulative_trapezoid trapezoid", "y")
@linear_in("embedding_bag", "weight")
@linear_in("gradient istft stft", "self")
@linear_in("linalg_solve linalg_solve_triangular", "B")
def affine(call: Call, keep: str | None = None) -> Factor:
    """The norm of an operator's matrix.

    Args:
        call: the operator, with one active argument.
        keep: names of tensors that select positions or signs, and so stay unchanged in the majorant; None if there is no majorant.
    """
    call = call.in_double()
    if any(not torch.isfinite(part).all() for part in call.held if part.is_floating_point() and part.numel()):
        raise NoBoundError("its weights are not finite")
    n, m = _size(call.active[0].shape, call.active[0].dtype), _size(call.shape, call.dtype)
    if n * m <= ENTRIES and min(n, m) <= ROWS:
        return _by_matrix(call)
    if keep is None:
        raise NoBoundError(f"its matrix of {m} × {n} is too large for a decomposition")
    return _by_majorant(call, set(keep.split()))


@linear_in("addbmm baddbmm", "self batch1 | self batch2")
@linear_in("addcmul", "self tensor1 | self tensor2")
@linear_in("addmv", "self mat | self vec")
@linear_in("addr", "self vec1 | self vec2")
@linear_in("bilinear", "input1 bias | input2 bias | weight bias")
@linear_in("diag diag_embed fft_fftshift fft_ifftshift take_along_dim trace", "self")
@linear_in("dot", "self | tensor")
@linear_in("einsum", "tensors", joined=ALONE)
@linear_in("index_add index_copy masked_scatter put", "self source")
@linear_in("index_fill", "self value")
@linear_in("index_put", "self values")
@linear_in("inner kron tensordot vdot", "self | other")
@linear_in("outer", "self | vec2")
@linear_in("scatter", "self src | self value")
@linear_in("scatter_add", "self src")
def majorised(call: Call) -> Factor:
    """The same, of operators whose majorant is known: that of the absolute values of everything that is held."""
    return affine(call, "")


@torch.no_grad()
def matrix(call: Call) -> Tensor:
    """The matrix (inputs, outputs) of an affine operator: images of the unit vectors minus that of 0; complex numbers as pairs."""
    shape, dtype = call.active[0].shape, call.active[0].dtype
    n = _size(shape, dtype)
    eye = torch.eye(n, dtype=torch.float64, device=call.device)
    zero = _flat(call.run(_argument(torch.zeros_like(eye[0]), shape, dtype)))
    return torch.stack([_flat(call.run(_argument(row, shape, dtype))) - zero for row in eye]) if n else zero[None][:0]


def _by_matrix(call: Call) -> Factor:
    columns = matrix(call)
    if not columns.numel():
        return attained(0.0, "it is empty")
    at = _random(len(columns), call)
    made, zero = (_flat(call.run(_argument(x, call.active[0].shape, call.active[0].dtype))) for x in (at, torch.zeros_like(at)))
    size = (at.abs() @ columns.abs()).max() + zero.abs().max()
    if not bool((at @ columns + zero - made).abs().max() <= AGREEMENT * size):
        raise NoBoundError(f"{call.name} is not affine in it")
    if not torch.isfinite(columns).all():
        raise NoBoundError("its weights are not finite")
    return attained(by_singular_values(columns, "SVD").upper, "singular values")


def _by_majorant(call: Call, keep: set[str]) -> Factor:
    if call.is_complex:
        raise NoBoundError("its matrix is too large for a decomposition")
    majorant = replace(call, values={name: value if name in keep else _size_of(name, value) for name, value in call.values.items()})
    ones = torch.ones(call.active[0].shape, dtype=torch.float64, device=call.device, requires_grad=True)
    with torch.enable_grad():
        made = majorant.run(ones)[0]
        (columns,) = torch.autograd.grad(made.sum(), ones)
    zero = majorant.run(torch.zeros_like(ones))[0]
    at = _random(ones.numel(), call).reshape(ones.shape)
    change, most = call.run(at)[0] - call.run(0 * at)[0], majorant.run(at.abs())[0] - zero
    if bool((change.abs() > most * (1 + AGREEMENT) + AGREEMENT * most.abs().max()).any()):
        raise NoBoundError(f"no bound is known for {call.name} in this form")
    value = root(times(float((made.detach() - zero).max()), float(columns.max())))
    return Factor(computed(value), "√(‖A‖₁ ‖A‖∞)")


def _size_of(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_size_of(name, part) for part in value]
    if isinstance(value, Tensor):
        return value.abs() if value.is_floating_point() else value
    return abs(value) if name in ("alpha", "beta", "value") and isinstance(value, int | float) else value


def _random(n: int, call: Call) -> Tensor:
    return torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(call.device)


def _size(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return math.prod(shape) * (2 if dtype.is_complex else 1)


def _argument(row: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.view_as_complex(row.reshape(*shape, 2)) if dtype.is_complex else row.reshape(shape)


def _flat(outputs: list[Tensor]) -> Tensor:
    parts = [torch.view_as_real(part.resolve_conj()) if part.is_complex() else part for part in outputs]
    return torch.cat([part.reshape(-1) for part in parts if part.is_floating_point()])


@rule("diff", "self")
def differences(call: Call) -> Factor:
    """Along one axis, which alone makes up the matrix."""
    n = call.active[0].shape[call["dim"]]
    if n > ROWS:
        return Factor(2.0 ** int(call["n"]), "2 for each difference")
    rim = [None if part is None else torch.zeros(n, part.shape[call["dim"]]).double() for part in (call["prepend"], call["append"])]
    line = torch.diff(torch.eye(n, dtype=torch.float64), int(call["n"]), 1, *rim)
    return attained(by_singular_values(line, "SVD").upper if line.numel() else 0.0, "singular values")


@rule("grid_sampler grid_sampler_2d grid_sampler_3d", "input")
def sampled(call: Call) -> Factor:
    """Every channel alike, at places that do not depend on the input; cubic weights are of both signs, the others of one."""
    batch, _, *axes = call.active[0].shape
    of_one = replace(call, shape=(batch, 1, *call.shape[2:]), values={**call.values, "input": Active((batch, 1, *axes), 1.0)})
    return affine(of_one, "grid" if call["interpolation_mode"] != CUBIC else None)
