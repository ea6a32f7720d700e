"""Pooling and interpolation: factors of operators that are products over the axes of an image."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from separatrix.bounds.certificate.call import Call, NoBoundError
from separatrix.bounds.certificate.copies import schur
from separatrix.bounds.certificate.factor import Factor, attained, rule
from separatrix.bounds.certificate.rounding import root, times
from separatrix.bounds.operator_norm.dense import by_singular_values

PLANAR = "upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa"
"""Interpolations that PyTorch has of images alone."""


@rule("max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices")
@rule("adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d")
def max_pool(call: Call) -> Factor:
    """√ of the largest number of windows that a number lies in: each output moves by at most the largest change in its window."""
    axes = int(call.name.split("pool")[1][0])
    inside, outside = call.active[0].shape[-axes:], call.shape[-axes:]
    if call.name.startswith("adaptive"):
        counts = [_visits(n, _adaptive_windows(n, m)) for n, m in zip(inside, outside, strict=True)]
    else:
        kernel, stride, pad, spread = (_each(call[name], axes) for name in ("kernel_size", "stride", "padding", "dilation"))
        steps = [s or k for s, k in zip(stride, kernel, strict=True)]
        counts = [_visits(*one) for one in _sliding(inside, outside, kernel, steps, pad, spread)]
    return attained(root(float(math.prod(counts))), "√ of the windows that share a number")


@rule("avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d")
def mean_pool(call: Call) -> Factor:
    """A product over axes: the norm is that of the matrices of the axes, multiplied."""
    if call["divisor_override"] is not None:
        positive = replace(call, values={**call.values, "divisor_override": abs(int(call["divisor_override"]))})
        return Factor(schur(positive).value, "√(‖A‖₁ ‖A‖∞)")
    axes = int(call.name.split("pool")[1][0])
    inside, outside = call.active[0].shape[-axes:], call.shape[-axes:]
    norm = 1.0
    for axis, (n, m) in enumerate(zip(inside, outside, strict=True)):
        line = torch.eye(n, dtype=torch.float64, device=call.device)[:, None]
        norm = times(norm, _norm(_pooled_line(call, line, axis, axes, m)))
    return attained(norm, "singular values, axis by axis")


@rule(f"upsample_linear1d upsample_bilinear2d upsample_trilinear3d {PLANAR}")
def interpolated(call: Call) -> Factor:
    """A product over axes, as above."""
    if call.op._overloadname != "vec":
        raise NoBoundError(f"no bound is known for {call.name} in this form")
    axes = len(call.shape) - 2
    scales, norm = call["scale_factors"], 1.0
    for axis, (n, m) in enumerate(zip(call.active[0].shape[2:], call.shape[2:], strict=True)):
        line = torch.eye(n, dtype=torch.float64, device=call.device)[:, None]
        given = ([m], None) if scales is None else (None, [scales[axis] if axes > 1 else scales[0]])
        if call.name in PLANAR.split():
            made = _on_one_axis(call.op, line, given, bool(call["align_corners"]))
        else:
            made = torch.ops.aten.upsample_linear1d.vec(line, given[0], bool(call["align_corners"]), given[1])
        norm = times(norm, _norm(made))
    return attained(norm, "singular values, axis by axis")


def _on_one_axis(op: Any, line: Tensor, given: tuple[Any, Any], align_corners: bool) -> Tensor:
    """Lines (n, 1, n) as images of one row, to (n, 1, m): the axes of an image are treated alike.

    Rows, not columns: PyTorch's antialiased kernels give other numbers on images of one column.
    """
    sizes, scales = given
    sizes, scales = None if sizes is None else [1, *sizes], None if scales is None else [1.0, float(scales[0])]
    return op(line[:, :, None], sizes, align_corners, scales)[:, :, 0]


def _sliding(inside: Any, outside: Any, kernel: Any, stride: Any, pad: Any, spread: Any) -> list[tuple[int, list[range]]]:
    """For each axis its length and its windows."""
    return [
        (n, [range(i * s - p, i * s - p + d * (k - 1) + 1, d) for i in range(m)])
        for n, m, k, s, p, d in zip(inside, outside, kernel, stride, pad, spread, strict=True)
    ]


def _adaptive_windows(n: int, m: int) -> list[range]:
    return [range(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]


def _visits(n: int, windows: list[range]) -> int:
    """Windows that the most visited of n places lies in."""
    counts = [0] * n
    for window in windows:
        for place in window:
            if 0 <= place < n:
                counts[place] += 1
    return max(counts)


def _each(value: Any, axes: int) -> list[int | None]:
    given = list(value) if isinstance(value, list | tuple) else [value]
    return (given or [None]) * (axes if len(given) < 2 else 1)


def _pooled_line(call: Call, line: Tensor, axis: int, axes: int, m: int) -> Tensor:
    if "adaptive" in call.name:
        return torch.nn.functional.adaptive_avg_pool1d(line, m)
    kernel, stride, pad = (_each(call[name], axes)[axis] for name in ("kernel_size", "stride", "padding"))
    counted = call["count_include_pad"]
    pooled = torch.nn.functional.avg_pool1d(line, kernel, stride or kernel, pad, bool(call["ceil_mode"]), bool(counted))
    return pooled[..., :m]


def _norm(matrix: Tensor) -> float:
    """The largest singular value of a matrix (rows, 1, columns)."""
    return by_singular_values(matrix.squeeze(1), "SVD").upper
