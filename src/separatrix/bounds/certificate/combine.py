"""Sums, products and selections of two arguments: the factor in each of them while the other is held fixed."""

import math

import torch
from torch import Tensor

from separatrix.bounds.certificate.call import DRAWS, Active, Call, NoBoundError
from separatrix.bounds.certificate.factor import SQUARES, SUM, Factor, attained, broadcast, magnitudes, refuse, rule
from separatrix.bounds.certificate.linear import affine
from separatrix.bounds.certificate.rounding import computed, root, times

DIVIDES = "it divides by a value that depends on the input"
POWERS = "powers are not Lipschitz on all inputs"
ATTENTION = "dot-product attention is not Lipschitz on all inputs"

refuse("reciprocal", DIVIDES)
refuse("glu", "it multiplies two values that both depend on the input")
refuse("gru lstm", "its gates multiply values that depend on the input")
refuse("rnn_relu rnn_tanh", "recurrent layers are not unrolled")
refuse("_native_multi_head_attention _transformer_encoder_layer_fwd", ATTENTION)


@rule("add rsub sub", "self other", SUM, is_complex=True)
def shifted(call: Call) -> Factor:
    """x + c and c − αx."""
    is_scaled = call.active_names == ["self" if call.name == "rsub" else "other"]
    scale = abs(float(call["alpha"])) if is_scaled and call["alpha"] is not None else 1.0
    return attained(times(broadcast(call), scale), "a constant is added")


@rule("mul", "self | other", is_complex=True)
def scaled(call: Call) -> Factor:
    """c x, elementwise: √ of the largest Σ c² over the places to which a number is broadcast."""
    return attained(
        _largest(call, magnitudes(call["other" if isinstance(call["self"], Active) else "self"], call)), "largest entry"
    )


@rule("div", "self", is_complex=True, why=DIVIDES)
def divided(call: Call) -> Factor:
    """x / c, elementwise."""
    if call["rounding_mode"] is not None:
        raise NoBoundError("it rounds, which is discontinuous")
    return attained(_largest(call, 1 / magnitudes(call["other"], call)), "largest entry")


@rule("lerp", "self end | weight", SUM)
def weighed(call: Call) -> Factor:
    """a + w (b − a), in any one of the three."""
    name, weight = call.active_names[0], call["weight"]
    if name == "weight":
        return attained(_largest(call, (_real(call["end"], call) - _real(call["self"], call)).abs()), "largest entry")
    numbers = _real(weight, call)
    return attained(_largest(call, (numbers if name == "end" else 1 - numbers).abs()), "largest entry")


def _real(value: object, call: Call) -> Tensor:
    return magnitudes(value, call, signed=True)


def _largest(call: Call, slopes: Tensor) -> float:
    if not torch.isfinite(slopes).all():
        raise NoBoundError("it divides by 0, or multiplies by a number that is not finite")
    shape = call.active[0].shape
    if not slopes.numel() or 0 in call.shape:
        return 0.0
    if shape == call.shape:
        return float(slopes.max())
    return computed(float(slopes.square().expand(call.shape).sum_to_size(shape).max().sqrt()))


@rule("complex", "real imag", SQUARES, is_complex=True)
@rule("masked_fill", "self value", SQUARES)
@rule("where", "self other", SQUARES, is_complex=True, why="it switches by a value that depends on the input")
def chosen(call: Call) -> Factor:
    """Entries of x where a mask that does not depend on it says so, others elsewhere."""
    return Factor(broadcast(call), "a part of it")


@rule("copy", "self src", SUM, is_complex=True)
def copied(call: Call) -> Factor:
    """`src` is written over `self`."""
    return attained(0.0 if call.active_names == ["self"] else broadcast(call), "the same numbers")


@rule("pow", why=POWERS)
def power(call: Call) -> Factor:
    """x¹."""
    exponent = call["exponent"]
    if isinstance(exponent, int | float) and float(exponent) == 1.0:
        return attained(1.0, "the same numbers")
    raise NoBoundError(POWERS)


@rule("embedding", "weight", why="it looks up integers, which have no Lipschitz factor")
def looked_up(call: Call) -> Factor:
    """Rows of a table that depends on the input, at places that do not: √ of how often a row is read."""
    places = call["indices"].flatten()
    return attained(root(float(places.bincount().max())) if len(places) else 0.0, "how often a number is used")


@rule("scatter_reduce", "self src", SUM)
def scattered(call: Call) -> Factor:
    """Sums and means by places are linear; of the largest or smallest at a place each number is in one."""
    kind = call["reduce"] or "sum"
    if kind in ("sum", "mean"):
        return affine(call, "self" if call.active_names == ["src"] else "src")
    if kind in ("amax", "amin"):
        return Factor(1.0, "the largest is 1-Lipschitz")
    raise NoBoundError("it multiplies two values that both depend on the input")


@rule("huber_loss l1_loss smooth_l1_loss", "self target", SUM)
def loss(call: Call) -> Factor:
    """|x − y| and Huber's, number by number: slopes up to δ, or up to 1; summed over n numbers √n times, as a mean 1/√n times."""
    if any(call[name].shape != call.active[0].shape for name in ("self", "target")):
        raise NoBoundError(f"no bound is known for {call.name} with two shapes")
    width = 1.0 if call.name == "l1_loss" else float(call["delta" if call.name == "huber_loss" else "beta"])
    if width < 0 or (width == 0 and call.name == "huber_loss"):
        raise NoBoundError(f"its width is {width:g}")
    slope = width if call.name == "huber_loss" else 1.0
    n = float(math.prod(call.active[0].shape))
    if not n:
        return attained(0.0, "it is empty")
    of_all = {0: 1.0, 1: computed(1 / root(n)), 2: root(n)}[int(call["reduction"])]
    return attained(computed(slope * of_all), "largest slope")


@rule("scaled_dot_product_attention", "value", why=ATTENTION)
def attention(call: Call) -> Factor:
    """Of values alone: queries and keys, and so the weights, do not depend on the input."""
    if call["dropout_p"]:
        raise NoBoundError(DRAWS)
    return affine(call, "query key attn_mask")
