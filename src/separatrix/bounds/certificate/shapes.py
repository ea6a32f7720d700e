"""Several operators that are tighter together than one by one: roots of sums of squares, and gradient steps.

Note [Together tighter]
√(c + w Σ x²) with c ≥ 0 has a gradient of length √w at most, though the square has no bound and the root has none.

x − Vσ(Wx + b) with slopes of σ between −r ≤ 0 and s has the difference quotients  I − VDW,  −r ≤ D ≤ s. For any diagonal T ≥ 0
they are  I − WᵀTDW + (WᵀT − V)DW,  and the eigenvalues of the symmetric WᵀTDW are between −r‖T^½W‖² and s‖T^½W‖². So
max(1 + r‖T^½W‖², s‖T^½W‖² − 1) + max(r, s)‖WᵀT − V‖‖W‖ is a bound. T is taken from V and W; where V = WᵀT, as in layers that
are steps down a convex function, r = 0 and nothing is left of the second term.

Source: Meunier et al. 2022, arXiv:2110.12690, theorem 1, there for V = 2Wᵀ/‖W‖².
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from separatrix.bounds.certificate.affine import CONVOLUTIONS, TRANSPOSED, as_layer
from separatrix.bounds.certificate.call import Active, Call, NoBoundError
from separatrix.bounds.certificate.linear import AGREEMENT, ENTRIES, ROWS
from separatrix.bounds.certificate.rounding import computed, plus, times
from separatrix.bounds.certificate.slopes import GELU, SLOPES
from separatrix.bounds.operator_norm.dense import by_singular_values
from separatrix.bounds.operator_norm.operator_norm import operator_norm
from separatrix.core.errors import ContradictionError, SeparatrixError

MONOTONE = {
    *(
        "arctan",
        "asinh",
        "atan",
        "celu",
        "clamp",
        "clamp_max",
        "clamp_min",
        "erf",
        "hardsigmoid",
        "hardtanh",
        "log_sigmoid",
        "relu",
    ),
    *("relu6", "selu", "sigmoid", "softplus", "tanh"),
}
"""Activations whose slopes are from 0 on, whatever is set."""

UNLIKE = 0.5  # largest ‖V − WᵀT‖ relative to ‖V‖
STRAIGHT = 0.03  # cosine of z and WᵀTWz from which the bound is tried: √(rank/dim) for a projection

DIPS = {"hardswish": 0.5, "mish": 0.1125262, "silu": computed(SLOPES["silu"] - 1)}
"""How steeply activations fall, at most. SiLU and GELU, xF(x) with F(x) + F(−x) = 1, have slopes at x and −x that add up to 1."""

SIGNED = {"leaky_relu": "negative_slope", "elu": "alpha", "prelu": "weight", "rrelu": "lower"}
"""Activations whose slopes are from 0 on where this is."""

LINEAR = {
    *("_unsafe_view", "addmm", "add", "clone", "contiguous", "div", "einsum", "expand", "flatten", "linear", "matmul", "mm", "mul"),
    *("neg", "permute", "reshape", "rsub", "squeeze", "sub", "t", "transpose", "unflatten", "unsqueeze", "view"),
    *("_native_batch_norm_legit_no_training", *CONVOLUTIONS, *TRANSPOSED),
}
"""Operators that may stand before and behind the activation of a gradient step, of one argument each."""


def steepest_fall(call: Call) -> float | None:
    """The steepest descent of an activation: r if its slopes are at least −r; 0 if it never falls; None for other operators."""
    if call.active_names != [next(iter(call.values))]:
        return None
    if call.name in MONOTONE:
        return 0.0
    if call.name in DIPS:
        return DIPS[call.name]
    if call.name == "gelu":
        return computed(GELU[call["approximate"] or "none"] - 1)
    setting = call[SIGNED.get(call.name, "")]
    if setting is None:
        return None
    least = float(torch.as_tensor(setting, dtype=torch.float64).min())
    if call.name in ("leaky_relu", "prelu"):
        return max(0.0, -least)
    is_turned = call.name == "elu" and (float(call["scale"]) < 0 or float(call["input_scale"]) < 0)
    return 0.0 if least >= 0 and not is_turned else None


def gradient_step(before: list[Call], slopes: tuple[float, float], behind: list[Call], sign: float) -> float:
    """The bound of  x + sign · V σ(W x + b),  W and V the linear parts of calls; ∞ if they are too large or do not match.

    Args:
        before: the operators of W, in order.
        slopes: the steepest descent and ascent of σ.
        behind: the operators of V.
        sign: sign and scale of the branch.
    """
    if not _goes_back(before, behind, sign):
        return math.inf
    try:
        pair = _by_kernels(before, behind) or _by_matrices(before, behind)
    except ContradictionError:
        raise
    except (NoBoundError, SeparatrixError):
        return math.inf
    if pair is None:
        return math.inf
    (w, norm), v = pair
    flat_w, flat_v = w.flatten(1), sign * v.flatten(1)
    square = flat_w.square().sum(1)
    steps = (-(flat_w * flat_v).sum(1) / square.clamp(min=torch.finfo(square.dtype).tiny)).clamp(min=0.0)
    by_row = steps.reshape(-1, *[1] * (w.ndim - 1))
    rest = sign * v + by_row * w
    if not bool(torch.linalg.vector_norm(rest) <= UNLIKE * torch.linalg.vector_norm(v)):
        return math.inf
    longest, size = norm(by_row.sqrt() * w), norm(w)
    left = plus(norm(rest), 1e-15 * math.sqrt(rest.numel()) * float(v.abs().max() + (by_row * w).abs().max()))
    falls, rises = (computed(times(slope, times(longest, longest))) for slope in slopes)
    return plus(max(plus(1.0, falls), rises - 1), times(max(slopes), times(left, size)))


@torch.no_grad()
def _goes_back(before: list[Call], behind: list[Call], sign: float) -> bool:
    """Whether −sign · VWz makes a small angle with a random z, as WᵀTWz does; most branches do not."""
    calls = [call.in_double() for call in (*before, *behind)]
    z = torch.randn(calls[0].active[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(calls[0].device)
    ends = []
    for x in (z, torch.zeros_like(z)):
        for call in calls:
            x = call.run(x.reshape(call.active[0].shape))[0]
        ends.append(x)
    moved = -sign * (ends[0] - ends[1]).reshape(z.shape)
    return bool((moved * z).sum() >= STRAIGHT * torch.linalg.vector_norm(moved) * torch.linalg.vector_norm(z))


def _by_matrices(before: list[Call], behind: list[Call]) -> tuple[tuple[Tensor, Callable[[Tensor], float]], Tensor] | None:
    """W and Vᵀ, (hidden, inputs)."""
    w, v = _on_last_axis(before), _on_last_axis(behind)
    if w is None or v is None:
        w, v = _matrix(before), _matrix(behind)
    if w is None or v is None or w.shape != v.mT.shape:
        return None
    return (w, _singular), v.mT


def _on_last_axis(calls: list[Call]) -> Tensor | None:
    """(outputs, inputs) of linear layers, each followed by numbers that multiply it, which act on every token alike."""
    made: Tensor | None = None
    for call in calls:
        if call.name == "linear" and call.active_names == ["input"]:
            weight = call["weight"].detach().double()
            made = weight if made is None else weight @ made
        else:
            scale = _scale(call, behind=True)
            if scale is None or made is None:
                return None
            made = made * scale
    return made


def _matrix(calls: list[Call]) -> Tensor | None:
    """(outputs, inputs) of what several operators compute."""
    calls = [call.in_double() for call in calls]
    shape = calls[0].active[0].shape
    n, m = math.prod(shape), math.prod(calls[-1].shape)
    if n * m > ENTRIES or min(n, m) > ROWS:
        return None

    def run(x: Tensor) -> Tensor:
        for call in calls:
            x = call.run(x)[0]
        return x.reshape(-1)

    with torch.no_grad():
        eye, zero = torch.eye(n, dtype=torch.float64, device=calls[0].device), run(torch.zeros(shape, dtype=torch.float64))
        columns = torch.stack([run(row.reshape(shape)) - zero for row in eye], 1)
        at = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(eye.device)
        made = run(at.reshape(shape))
    size = (columns.abs() @ at.abs()).max() + zero.abs().max()
    return columns if bool((columns @ at + zero - made).abs().max() <= AGREEMENT * size) else None


def _by_kernels(before: list[Call], behind: list[Call]) -> tuple[tuple[Tensor, Callable[[Tensor], float]], Tensor] | None:
    """Kernels of a convolution and of a transposed one with the same places; the second with what scales it or the channels."""
    if len(before) != 1 or before[0].name not in CONVOLUTIONS or before[0].active_names != ["input"]:
        return None
    turned = [n for n, call in enumerate(behind) if call.name in TRANSPOSED]
    first = as_layer(replace(before[0], values={**before[0].values, "bias": None}))
    if len(turned) != 1 or not isinstance(first, nn.modules.conv._ConvNd):
        return None
    second = as_layer(behind[turned[0]])
    places = ("stride", "padding", "dilation", "groups")
    if second is None or any(getattr(first, name) != getattr(second, name) for name in places) or first.padding_mode != "zeros":
        return None
    scale = torch.ones(len(first.weight), dtype=torch.float64)
    for n, call in enumerate(behind):
        if n != turned[0]:
            one = _scale(call, behind=n > turned[0])
            if one is None:
                return None
            scale = scale * one
    v = scale.reshape(-1, *[1] * (first.weight.ndim - 1)) * second.weight
    item = before[0].active[0].shape[1:]
    if first.weight.shape != v.shape or behind[-1].shape[1:] != item or len(item) != first.weight.ndim - 1:
        return None

    def norm(kernel: Tensor) -> float:
        if not kernel.any():
            return 0.0
        first._buffers["weight"] = kernel
        return operator_norm(first, item, budget=before[0].effort.budget, slack=before[0].effort.slack).bound

    return (first.weight.clone(), norm), v


def _scale(call: Call, *, behind: bool) -> Tensor | None:
    """The number that an operator multiplies each channel by, or all of them; None where it does something else."""
    if call.name == "neg":
        return -torch.ones((), dtype=torch.float64)
    if call.name not in ("mul", "div") or call["rounding_mode"] is not None:
        return None
    other = call["other"] if isinstance(call["self"], Active) else call["self"]
    if isinstance(other, Active) or (call.name == "div" and not isinstance(call["self"], Active)):
        return None
    numbers = torch.as_tensor(other).double()
    if numbers.numel() != 1 and (behind or numbers.reshape(-1).shape != (call.shape[1],) or numbers.ndim < len(call.shape) - 1):
        return None
    if numbers.numel() != 1 and numbers.shape[-(len(call.shape) - 1)] != call.shape[1]:
        return None
    numbers = numbers.reshape(-1) if numbers.numel() != 1 else numbers.reshape(())
    return 1 / numbers if call.name == "div" else numbers


def _singular(matrix: Tensor) -> float:
    return by_singular_values(matrix, "SVD").upper


def square_of(call: Call) -> bool:
    """Whether it is x², where the two factors of a product are known to be one."""
    return not call.is_complex and (call.name in ("square", "mul") or _is_power(call, 2.0))


def within_root(call: Call) -> float | None:
    """What an operator between squares and their root multiplies the squares by; None where it may do something else."""
    if call.active_names != ["self"]:
        other = call.active_names == ["other"] and call.name in ("add", "mul")
        if not other:
            return None
    held = call["other"] if call.active_names == ["self"] else call["self"]
    if call.name in ("sum", "mean"):
        return 1.0 if call.name == "sum" else math.prod(call.shape) / max(math.prod(call.active[0].shape), 1)
    if call.name in ("add", "clamp", "clamp_min"):
        held = held if call.name == "add" else call["min"]
        is_shift = held is not None and call["max"] is None and call.shape == call.active[0].shape
        alpha = 1.0 if call["alpha"] is None else float(call["alpha"])
        is_plain = alpha >= 0 if call.active_names == ["self"] else alpha == 1
        return 1.0 if is_shift and is_plain and bool((torch.as_tensor(held) >= 0).all()) else None
    if call.name in ("mul", "div") and isinstance(held, int | float) and held > 0 and call["rounding_mode"] is None:
        return float(held) if call.name == "mul" else computed(1 / held)
    return 1.0 if call.name in ("squeeze", "unsqueeze", "view", "reshape") else None


def is_root(call: Call) -> bool:
    """√x."""
    return call.name == "sqrt" or _is_power(call, 0.5)


def _is_power(call: Call, exponent: float) -> bool:
    given = call["exponent"]
    return call.name == "pow" and call.active_names == ["self"] and isinstance(given, int | float) and given == exponent
