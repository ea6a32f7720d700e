"""Normalisation, norms and standard deviations."""

import math

import torch
from torch import Tensor

from separatrix.bounds.certificate.call import Call, NoBoundError
from separatrix.bounds.certificate.factor import SUM, Factor, attained, magnitudes, refuse, rule
from separatrix.bounds.certificate.linear import affine
from separatrix.bounds.certificate.rounding import computed

refuse("_native_batch_norm_legit", "it normalises by the statistics of the batch, even in evaluation mode")


@rule("_native_batch_norm_legit_no_training", "input bias | weight bias", SUM)
def batch_norm(call: Call) -> Factor:
    """A running mean and variance, which are held: an affine map, also in its weights."""
    if call.active_names != ["input"]:
        return affine(call)
    scale = _per_channel(call["weight"], call) / (magnitudes(call["running_var"], call, signed=True) + call["eps"]).sqrt()
    if not torch.isfinite(scale).all():
        raise NoBoundError("a running variance is 0 or not finite")
    return attained(computed(float(scale.abs().max())), "largest |γ|/√(σ² + ε)")


@rule("group_norm instance_norm layer_norm rms_norm", "input bias | weight bias", SUM)
def normalised(call: Call) -> Factor:
    r"""(γ/s)(P − x̂x̂ᵀ/n) with s ≥ √ε, P a projection and x̂ in its range with ‖x̂‖² ≤ n: the bracket lies between 0 and 1."""
    if call.active_names != ["input"]:
        return affine(call)
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


def _per_channel(weight: object, call: Call) -> Tensor:
    return torch.ones((), dtype=torch.float64, device=call.device) if weight is None else magnitudes(weight, call)


@rule("linalg_vector_norm norm", is_complex=True)
def vector_norm(call: Call) -> Factor:
    """‖x‖ₚ of groups of n numbers."""
    given = call["ord"] if call["ord"] is not None else call["p"]
    order = 2.0 if given is None else float(given)
    if not order >= 1:
        raise NoBoundError(f"there is no norm of order {order:g}")
    count = math.prod(call.active[0].shape) / max(math.prod(call.shape), 1)
    return attained(computed(count ** max(1 / order - 1 / 2, 0.0)) if order < 2 else 1.0, "‖x‖ₚ ≤ n^(1/p − 1/2) ‖x‖₂")


@rule("std")
def deviation(call: Call) -> Factor:
    """‖Px‖/√(n − δ) with P the projection along 1, of groups of n numbers."""
    count = math.prod(call.active[0].shape) // max(math.prod(call.shape), 1)
    unbiased = 1.0 if call["unbiased"] is None else float(call["unbiased"])
    free = count - (unbiased if call["correction"] is None else float(call["correction"]))
    if free <= 0:
        raise NoBoundError(f"a standard deviation of {count} numbers divides by {free:g}")
    return attained(computed(1 / math.sqrt(free)) if count > 1 else 0.0, "‖Px‖/√(n − 1): a projection along 1")
