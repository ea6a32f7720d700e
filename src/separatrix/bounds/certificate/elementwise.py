"""Activations, normalisation and order statistics: their factors as operators of one argument."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from separatrix.bounds.certificate.call import Call, NoBoundError
from separatrix.bounds.certificate.factor import Factor, attained
from separatrix.bounds.certificate.rounding import computed, root, times
from separatrix.bounds.certificate.slopes import GELU, JUMP


def leaky(call: Call) -> Factor:
    """Slopes 1 and a."""
    return attained(max(1.0, abs(float(call["negative_slope"]))), "largest slope")


def rrelu(call: Call) -> Factor:
    """Slopes 1 and the mean of the two limits, in evaluation mode."""
    if call["training"]:
        raise NoBoundError("it draws random numbers, even in evaluation mode")
    return attained(max(1.0, abs(float(call["lower"]) + float(call["upper"])) / 2), "largest slope")


def elu(call: Call) -> Factor:
    """Slopes 1 and up to αβ, times a scale."""
    alpha, scale, inner = (float(call[name]) for name in ("alpha", "scale", "input_scale"))
    if inner < 0:
        raise NoBoundError("it grows like an exponential function")
    alpha, scale = abs(alpha), abs(scale)
    return attained(times(scale, max(1.0, times(alpha, inner))), "largest slope")


def celu(call: Call) -> Factor:
    """Slopes up to 1."""
    if float(call["alpha"]) <= 0:
        raise NoBoundError("a CELU with a negative α grows like an exponential function")
    return attained(1.0, "largest slope")


def softplus(call: Call) -> Factor:
    """Slopes up to 1."""
    beta, threshold = float(call["beta"]), float(call["threshold"])
    if beta <= 0 or threshold <= 0 or math.log1p(math.exp(-threshold)) > JUMP * threshold:
        raise NoBoundError(f"it jumps where it switches to x, at a threshold of {threshold:g}")
    jump = math.log1p(math.exp(-threshold)) / beta
    return attained(1.0, f"largest slope of log(1 + exp βx)/β; PyTorch's jumps by {jump:.0e} at {threshold / beta:g}")


def threshold(call: Call) -> Factor:
    """Slopes 0 and 1."""
    if float(call["threshold"]) != float(call["value"]):
        raise NoBoundError("it jumps at its threshold")
    return attained(1.0, "largest slope")


def dropout(call: Call) -> Factor:
    """The identity, in evaluation mode."""
    if call["train"]:
        raise NoBoundError("it draws random numbers, even in evaluation mode")
    return attained(1.0, "off in evaluation mode")


def gelu(call: Call) -> Factor:
    """The largest slope of its two forms."""
    return attained(GELU[call["approximate"] or "none"], "largest slope")


def softmax(call: Call) -> Factor:
    """J = diag(p) − ppᵀ has rows with Σ|J_ij| = 2 p_i (1 − p_i) ≤ ½."""
    return Factor(0.5, "½ by Gershgorin's circles")


def log_softmax(call: Call) -> Factor:
    """J = I − 1pᵀ is a projection along 1 with norm ‖1‖ ‖p‖ ≤ √n."""
    dim = call["dim"]
    return Factor(root(float(call.shape[dim])), "√n: a projection along 1")


def slope(value: float) -> Callable[[Call], Factor]:
    """The rule of an activation with nothing that can be set."""
    return lambda call: attained(value, "largest slope")


def one(method: str) -> Callable[[Call], Factor]:
    """The rule of what is 1-Lipschitz, and carries some two inputs apart by as much as they were."""
    return lambda call: attained(1.0, method)


def prelu(call: Call) -> Factor:
    """Slopes 1 and a."""
    return attained(max(1.0, float(magnitudes(call["weight"], call).max())), "largest slope")


def batch_norm(call: Call) -> Factor:
    """A running mean and variance, which are held: an affine map."""
    scale = _per_channel(call["weight"], call) / (magnitudes(call["running_var"], call, signed=True) + call["eps"]).sqrt()
    if not torch.isfinite(scale).all():
        raise NoBoundError("a running variance is 0 or not finite")
    return attained(computed(float(scale.abs().max())), "largest |γ|/√(σ² + ε)")


def normalised(call: Call) -> Factor:
    r"""(γ/s)(P − x̂x̂ᵀ/n) with s ≥ √ε, P a projection and x̂ in its range with ‖x̂‖² ≤ n: the bracket lies between 0 and 1."""
    if call["use_input_stats"] is False:
        return batch_norm(call)
    eps = _epsilon(call)
    if eps <= 0:
        without = "without an ε" if eps == 0 else f"with ε = {eps:g}, which is negative,"
        where = "are 0" if call.name == "rms_norm" else "are equal"
        raise NoBoundError(f"{without} it divides by 0 where its inputs {where if eps == 0 else 'are small or nearly equal'}")
    if call.name != "rms_norm" and _together(call) == 1:
        return attained(0.0, "one number less its own mean is 0")
    gamma = float(_per_channel(call["weight"], call).abs().max())
    note = f", ε = {eps:.1g} by default: steep at 0" if call["eps"] is None else ""
    return Factor(computed(gamma / math.sqrt(eps)), f"largest |γ|/√ε{note}")


def _epsilon(call: Call) -> float:
    """The ε of a normalisation; PyTorch's own, the round-off of the numbers that it computes with, where none is given."""
    if call["eps"] is not None:
        return float(call["eps"])
    is_double = call.active[0].dtype == torch.float64
    return torch.finfo(torch.float64 if is_double else torch.float32).eps if call.name == "rms_norm" else 0.0


def _together(call: Call) -> int:
    """How many numbers are normalised together."""
    shape = call.active[0].shape
    if call.name == "layer_norm":
        return math.prod(call["normalized_shape"])
    return math.prod(shape[1:]) // int(call["num_groups"]) if call.name == "group_norm" else math.prod(shape[2:])


def vector_norm(call: Call) -> Factor:
    """‖x‖ₚ of groups of n numbers."""
    given = call["ord"] if call["ord"] is not None else call["p"]
    order = 2.0 if given is None else float(given)
    if not order >= 1:
        raise NoBoundError(f"there is no norm of order {order:g}")
    count = math.prod(call.active[0].shape) / max(math.prod(call.shape), 1)
    return attained(computed(count ** max(1 / order - 1 / 2, 0.0)) if order < 2 else 1.0, "‖x‖ₚ ≤ n^(1/p − 1/2) ‖x‖₂")


def deviation(call: Call) -> Factor:
    """‖Px‖/√(n − δ) with P the projection along 1, of groups of n numbers."""
    count = math.prod(call.active[0].shape) // max(math.prod(call.shape), 1)
    unbiased = 1.0 if call["unbiased"] is None else float(call["unbiased"])
    free = count - (unbiased if call["correction"] is None else float(call["correction"]))
    if free <= 0:
        raise NoBoundError(f"a standard deviation of {count} numbers divides by {free:g}")
    return attained(computed(1 / math.sqrt(free)) if count > 1 else 0.0, "‖Px‖/√(n − 1): a projection along 1")


def running(call: Call) -> Factor:
    """Each output moves by at most the largest change among the n numbers up to its own."""
    return Factor(root(float(call.shape[call["dim"]])) if call.shape else 1.0, "√n: each is 1-Lipschitz")


def median(call: Call) -> Factor:
    """One of the sorted numbers."""
    return attained(1.0, "sorting is 1-Lipschitz")


def quantile(call: Call) -> Factor:
    """Between two of the sorted numbers, with weights that add up to 1; of several quantiles each is."""
    count = call["q"].numel() if isinstance(call["q"], Tensor) else 1
    return Factor(root(float(count)), "each is 1-Lipschitz")


def distances(call: Call) -> Factor:
    """‖x − c‖ to each of k points: each is 1-Lipschitz."""
    order = 2.0 if call["p"] is None else float(call["p"])
    if order < 2:
        raise NoBoundError(f"no bound is known for distances of order {order:g}")
    count = math.prod(call.shape) / max(math.prod(call.active[0].shape[:-1]), 1) if call.name == "cdist" else 1.0
    return Factor(root(max(count, 1.0)), "√ of the points that it is held against")


def cast(call: Call) -> Factor:
    """Real numbers in another precision; whole ones, or the real part of complex ones, are not the same numbers."""
    if not (call.dtype.is_floating_point or call.dtype.is_complex):
        raise NoBoundError(f"it rounds to {call.dtype}".replace("torch.", ""))
    return attained(1.0, "the same numbers")


def magnitudes(value: object, call: Call, *, signed: bool = False) -> Tensor:
    """|c| of what is held, in float64; c itself where it is asked for, and real."""
    dtype = None if isinstance(value, Tensor | complex) else torch.float64
    numbers = torch.as_tensor(value, dtype=dtype, device=call.device).detach()
    numbers = numbers.to(torch.complex128 if numbers.is_complex() else torch.float64)
    return numbers if signed else numbers.abs()


def _per_channel(weight: object, call: Call) -> Tensor:
    return torch.ones((), dtype=torch.float64, device=call.device) if weight is None else magnitudes(weight, call)
