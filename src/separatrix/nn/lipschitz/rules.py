"""How far each of PyTorch's operators can carry two inputs apart: a proven factor, or the reason why there is none."""

import math
from typing import Any

import torch
from torch import Tensor

from separatrix.nn.lipschitz.call import Active, Call, NoBoundError
from separatrix.nn.lipschitz.factor import Factor, Rule, attained, only_first, schur
from separatrix.nn.lipschitz.pooling import interpolated, max_pool, mean_pool
from separatrix.nn.lipschitz.products import einsum, product
from separatrix.nn.lipschitz.rounding import computed, plus, root, root_of_squares, times
from separatrix.nn.lipschitz.slopes import GELU, JUMP, SELU, SLOPES


def factor_of(call: Call) -> Factor:
    """Of an operator with one active argument.

    Raises:
        NoBoundError: it has none, or none that is known.
    """
    if call.name in SLOPES:
        return attained(SLOPES[call.name], "largest slope")
    if call.name in COPIES:
        return schur(call, "how often a number is used")
    rule = FACTORS.get(call.name)
    if rule is None:
        raise NoBoundError(NAMED_REASONS.get(call.name, f"nothing is known of the operator {call.name}"))
    held = [part for value in call.values.values() for part in (value if isinstance(value, list | tuple) else [value])]
    if any(isinstance(part, Tensor) and bool(part.isnan().any()) for part in held):
        raise NoBoundError("its weights are not finite")
    return rule(call)


def joined(call: Call) -> tuple[float, str]:
    """The bound behind an operator with several active arguments, and how it is proven.

    Raises:
        NoBoundError: it has none, or none that is known.
    """
    bounds = [part.bound for part in call.active]
    if call.name in ("add", "sub", "rsub"):
        scale = abs(float(call["alpha"] if call["alpha"] is not None else 1.0))
        scaled = (1.0, scale) if call.name != "rsub" else (scale, 1.0)
        terms = [times(times(_broadcast(call, part), by), part.bound) for part, by in zip(call.active, scaled, strict=True)]
        return plus(*terms), "sum of both"
    if call.name in ("cat", "stack", "concat", "concatenate", "select_scatter", "slice_scatter"):
        return root_of_squares(bounds), "root of the sum of squares"
    if call.name == "copy":
        return times(_broadcast(call, call.active[1]), call.active[1].bound), "the same numbers"
    if call.name in ("maximum", "minimum", "max", "min") or (call.name == "where" and not isinstance(call["condition"], Active)):
        return root_of_squares([times(_broadcast(call, part), part.bound) for part in call.active]), "root of the sum of squares"
    raise NoBoundError(
        {
            "linear": "its weights depend on the input",
            "conv1d": "its weights depend on the input",
            "conv2d": "its weights depend on the input",
            "conv3d": "its weights depend on the input",
            "mul": "it multiplies two things that both depend on the input",
            "div": "it divides by what depends on the input",
            "matmul": "it multiplies two things that both depend on the input",
            "bmm": "it multiplies two things that both depend on the input",
            "where": "it switches by what depends on the input",
        }.get(call.name, NAMED_REASONS.get(call.name, f"nothing is known of the operator {call.name} of several things"))
    )


NAMED_REASONS = {
    "mul": "it multiplies by what depends on the input",
    "scaled_dot_product_attention": "dot-product attention is not Lipschitz on all inputs",
    "_native_multi_head_attention": "dot-product attention is not Lipschitz on all inputs",
    "_transformer_encoder_layer_fwd": "dot-product attention is not Lipschitz on all inputs",
    "embedding": "it looks whole numbers up, which have no Lipschitz factor",
    "pow": "powers are not Lipschitz on all inputs",
    "exp": "the exponential function is not Lipschitz on all inputs",
    "log": "the logarithm is not Lipschitz on all inputs",
    "sqrt": "the root has an infinite slope at 0",
    "reciprocal": "it divides by what depends on the input",
    "glu": "it multiplies two things that both depend on the input",
    "lstm": "gates multiply what depends on the input",
    "gru": "gates multiply what depends on the input",
    "rnn_tanh": "recurrent layers are not unrolled",
    "rnn_relu": "recurrent layers are not unrolled",
    "hardshrink": "it jumps",
    "sign": "it jumps",
    "round": "it jumps",
    "floor": "it jumps",
    "_native_batch_norm_legit": "it normalises by the statistics of the batch, even in evaluation mode",
    "native_dropout": "it draws at random, even in evaluation mode",
}

COPIES = {
    *(
        "_unsafe_view",
        "expand",
        "broadcast_to",
        "flatten",
        "movedim",
        "permute",
        "reshape",
        "squeeze",
        "swapaxes",
        "t",
        "transpose",
    ),
    *("unflatten", "unsqueeze", "view", "channel_shuffle", "pixel_shuffle", "pixel_unshuffle", "flip", "roll", "rot90"),
    *("diagonal", "narrow", "select", "slice", "split", "split_with_sizes", "chunk", "unbind", "tril", "triu", "unfold", "im2col"),
    *("repeat", "repeat_interleave", "tile", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
    *("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d"),
    *("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d"),
    *("replication_pad1d", "replication_pad2d", "replication_pad3d", "col2im", "cumsum", "mean", "sum"),
}
"""Linear operators, up to a constant, whose matrices have no negative entries: copies, cuts, sums."""


def _broadcast(call: Call, part: Active) -> float:
    """√ of how often each number of an argument is used where it is broadcast."""
    if part.shape == call.shape:
        return 1.0
    ones = torch.ones(1, dtype=torch.float64).expand(call.shape)
    return root(float(ones.sum_to_size(part.shape).max()))


def _shifted(call: Call) -> Factor:
    """X + c and c − αx."""
    is_scaled = isinstance(call["self" if call.name == "rsub" else "other"], Active)
    scale = abs(float(call["alpha"])) if is_scaled and call["alpha"] is not None else 1.0
    return attained(times(_broadcast(call, call.active[0]), scale), "a constant is added")


def _scaled(call: Call) -> Factor:
    """C x, elementwise: √ of the largest Σ c² over the places to which a number is broadcast."""
    other = call["other"] if isinstance(call.first, Active) else call.first
    return attained(_largest(call, _numbers(other, call)), "largest entry")


def _divided(call: Call) -> Factor:
    if not isinstance(call.first, Active):
        raise NoBoundError("it divides by what depends on the input")
    if call["rounding_mode"] is not None:
        raise NoBoundError("it rounds, which jumps")
    return attained(_largest(call, 1 / _numbers(call["other"], call)), "largest entry")


def _largest(call: Call, slopes: Tensor) -> float:
    if not torch.isfinite(slopes).all():
        raise NoBoundError("it divides by 0, or multiplies by what is not finite")
    shape = call.active[0].shape
    if shape == call.shape:
        return float(slopes.detach().abs().max())
    return computed(float(slopes.square().expand(call.shape).sum_to_size(shape).max().sqrt()))


def _numbers(value: Any, call: Call) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device=call.device)


def _leaky(call: Call) -> Factor:
    return attained(max(1.0, abs(float(call["negative_slope"]))), "largest slope")


def _prelu(call: Call) -> Factor:
    return attained(max(1.0, float(_numbers(call["weight"], call).abs().max())), "largest slope")


def _rrelu(call: Call) -> Factor:
    if call["training"]:
        raise NoBoundError("it draws at random, even in evaluation mode")
    return attained(max(1.0, abs(float(call["lower"]) + float(call["upper"])) / 2), "largest slope")


def _elu(call: Call) -> Factor:
    alpha, scale, inner = (float(call[name]) for name in ("alpha", "scale", "input_scale"))
    if inner < 0:
        raise NoBoundError("it grows like an exponential function")
    alpha, scale = abs(alpha), abs(scale)
    return attained(times(scale, max(1.0, times(alpha, inner))), "largest slope")


def _celu(call: Call) -> Factor:
    if float(call["alpha"]) <= 0:
        raise NoBoundError("a CELU with a negative α grows like an exponential function")
    return attained(1.0, "largest slope")


def _softplus(call: Call) -> Factor:
    beta, threshold = float(call["beta"]), float(call["threshold"])
    if beta <= 0 or threshold <= 0 or math.log1p(math.exp(-threshold)) > JUMP * threshold:
        raise NoBoundError(f"it jumps where it goes over to x, at a threshold of {threshold:g}")
    jump = math.log1p(math.exp(-threshold)) / beta
    return attained(1.0, f"largest slope of log(1 + exp βx)/β; PyTorch's jumps by {jump:.0e} at {threshold / beta:g}")


def _threshold(call: Call) -> Factor:
    if float(call["threshold"]) != float(call["value"]):
        raise NoBoundError("it jumps at its threshold")
    return attained(1.0, "largest slope")


def _clamped(call: Call) -> Factor:
    """Values between limits, which do not depend on the input."""
    only_first(call)
    return Factor(_broadcast(call, call.active[0]), "largest slope")


def _extreme(call: Call) -> Factor:
    """max(x, c), elementwise, or the largest along an axis."""
    if call["other"] is None:
        return attained(1.0, "the largest is 1-Lipschitz")
    return Factor(_broadcast(call, call.active[0]), "largest slope")


def _chosen(call: Call) -> Factor:
    """Entries of x where a mask that does not depend on it says so, constants elsewhere."""
    if isinstance(call["condition"], Active) or isinstance(call["mask"], Active):
        raise NoBoundError("it switches by what depends on the input")
    return Factor(_broadcast(call, call.active[0]), "a part of it")


def _indexed(call: Call) -> Factor:
    """Entries of x at places that do not depend on it."""
    only_first(call)
    return schur(call, "how often a number is used")


def _dropout(call: Call) -> Factor:
    if call["train"]:
        raise NoBoundError("it draws at random, even in evaluation mode")
    return attained(1.0, "off in evaluation mode")


def _cast(call: Call) -> Factor:
    if not call.dtype.is_floating_point:
        raise NoBoundError(f"it rounds to {call.dtype}".replace("torch.", ""))
    return attained(1.0, "the same numbers")


def _gelu(call: Call) -> Factor:
    return attained(GELU[call["approximate"] or "none"], "largest slope")


def _softmax(call: Call) -> Factor:
    """J = diag(p) − ppᵀ has rows with Σ|J_ij| = 2 p_i (1 − p_i) ≤ ½."""
    return Factor(0.5, "½ by Gershgorin's circles")


def _log_softmax(call: Call) -> Factor:
    """J = I − 1pᵀ is a projection along 1 with norm ‖1‖ ‖p‖ ≤ √n."""
    dim = call["dim"]
    return Factor(root(float(call.shape[dim])), "√n: a projection along 1")


def _batch_norm(call: Call) -> Factor:
    scale = _per_channel(call["weight"], call) / (_numbers(call["running_var"], call) + call["eps"]).sqrt()
    if not torch.isfinite(scale).all():
        raise NoBoundError("a running variance is 0 or not finite")
    return attained(computed(float(scale.abs().max())), "largest |γ|/√(σ² + ε)")


def _normalised(call: Call) -> Factor:
    r"""(γ/s)(P − x̂x̂ᵀ/n) with s ≥ √ε, P a projection and x̂ in its range with ‖x̂‖² ≤ n: the bracket lies between 0 and 1."""
    eps = call["eps"]
    if call["use_input_stats"] is False:
        return _batch_norm(call)
    if eps is None or eps <= 0:
        raise NoBoundError("without an ε it divides by 0 where its inputs are equal")
    gamma = float(_per_channel(call["weight"], call).abs().max())
    return Factor(computed(gamma / math.sqrt(eps)), "largest |γ|/√ε")


def _per_channel(weight: Any, call: Call) -> Tensor:
    return torch.ones((), dtype=torch.float64, device=call.device) if weight is None else _numbers(weight, call)


def _vector_norm(call: Call) -> Factor:
    order = 2.0 if call["ord"] is None and call["p"] is None else float(call["ord"] if call["ord"] is not None else call["p"])
    if not order >= 1:
        raise NoBoundError(f"there is no norm of order {order:g}")
    count = math.prod(call.active[0].shape) / max(math.prod(call.shape), 1)
    return attained(computed(count ** max(1 / order - 1 / 2, 0.0)) if order < 2 else 1.0, "‖x‖ₚ ≤ n^(1/p − 1/2) ‖x‖₂")


def _copied(call: Call) -> Factor:
    """Src is written over self."""
    return attained(0.0 if isinstance(call.first, Active) else _broadcast(call, call.active[0]), "the same numbers")


def _one(method: str) -> Rule:
    def rule(call: Call) -> Factor:
        only_first(call)
        return attained(1.0, method)

    return rule


def _power(call: Call) -> Factor:
    if isinstance(call.first, Active) and isinstance(call["exponent"], int | float) and float(call["exponent"]) == 1.0:
        return attained(1.0, "the same numbers")
    raise NoBoundError(NAMED_REASONS["pow"])


def _one_part(call: Call) -> Factor:
    """One part of what is put together; the others are constants."""
    return Factor(1.0, "a part of it")


FACTORS: dict[str, Rule] = {
    "_native_batch_norm_legit_no_training": _batch_norm,
    "_softmax": _softmax,
    "_log_softmax": _log_softmax,
    "_to_copy": _cast,
    "to": _cast,
    "adaptive_avg_pool1d": mean_pool,
    "adaptive_avg_pool2d": mean_pool,
    "adaptive_avg_pool3d": mean_pool,
    "adaptive_max_pool1d": max_pool,
    "adaptive_max_pool2d": max_pool,
    "adaptive_max_pool3d": max_pool,
    "add": _shifted,
    "addmm": product,
    "alpha_dropout": _dropout,
    "amax": _one("the largest is 1-Lipschitz"),
    "amin": _one("the smallest is 1-Lipschitz"),
    "avg_pool1d": mean_pool,
    "avg_pool2d": mean_pool,
    "avg_pool3d": mean_pool,
    "alias": _one("the same numbers"),
    "bmm": product,
    "cat": _one_part,
    "celu": _celu,
    "clamp": _clamped,
    "clamp_max": _clamped,
    "clamp_min": _clamped,
    "clone": _one("the same numbers"),
    "concat": _one_part,
    "contiguous": _one("the same numbers"),
    "copy": _copied,
    "detach": _one("the same numbers"),
    "div": _divided,
    "dropout": _dropout,
    "einsum": einsum,
    "elu": _elu,
    "feature_dropout": _dropout,
    "gather": _indexed,
    "gelu": _gelu,
    "group_norm": _normalised,
    "hardtanh": _one("largest slope"),
    "index": _indexed,
    "index_select": _indexed,
    "instance_norm": _normalised,
    "lift_fresh_copy": _one("the same numbers"),
    "linear": product,
    "layer_norm": _normalised,
    "leaky_relu": _leaky,
    "linalg_vector_norm": _vector_norm,
    "log_softmax": _log_softmax,
    "logsumexp": _one("its gradient is a distribution"),
    "masked_fill": _chosen,
    "matmul": product,
    "max": _extreme,
    "max_pool1d": max_pool,
    "max_pool2d": max_pool,
    "max_pool3d": max_pool,
    "max_pool2d_with_indices": max_pool,
    "maximum": _extreme,
    "min": _extreme,
    "minimum": _extreme,
    "mm": product,
    "mul": _scaled,
    "mv": product,
    "norm": _vector_norm,
    "pow": _power,
    "prelu": _prelu,
    "rms_norm": _normalised,
    "rrelu": _rrelu,
    "rsub": _shifted,
    "selu": lambda call: attained(computed(SELU), "largest slope"),
    "softmax": _softmax,
    "softplus": _softplus,
    "select_scatter": _one_part,
    "slice_scatter": _one_part,
    "stack": _one_part,
    "sort": _one("sorting is 1-Lipschitz"),
    "sub": _shifted,
    "take": _indexed,
    "threshold": _threshold,
    "topk": _one("sorting is 1-Lipschitz"),
    "upsample_bilinear2d": interpolated,
    "upsample_linear1d": interpolated,
    "upsample_trilinear3d": interpolated,
    "where": _chosen,
}
"""By operator, where what it acts on is the only thing that depends on the input."""
