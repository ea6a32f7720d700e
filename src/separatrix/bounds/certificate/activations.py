"""Activations: their largest slope, which is their factor."""

import math

from separatrix.bounds.certificate.call import DRAWS, Call, NoBoundError
from separatrix.bounds.certificate.factor import Factor, attained, magnitudes, refuse, rule
from separatrix.bounds.certificate.linear import affine
from separatrix.bounds.certificate.rounding import root, times
from separatrix.bounds.certificate.slopes import GELU, JUMP, SLOPES

refuse("exp", "the exponential function is not Lipschitz on all inputs")
refuse("log", "the logarithm is not Lipschitz on all inputs")
refuse("sqrt", "the root has an infinite slope at 0")
refuse("square", "powers are not Lipschitz on all inputs")
refuse("floor hardshrink round sign", "it jumps")
refuse("native_dropout", DRAWS)


@rule("abs neg", is_complex=True)
@rule("arctan asinh atan cos hardtanh log_sigmoid relu relu6 sin tanh")
def straight(call: Call) -> Factor:
    """Slopes up to 1, in size."""
    return attained(1.0, "largest slope")


@rule("erf hardsigmoid hardswish mish selu sigmoid silu")
def curved(call: Call) -> Factor:
    """Slopes up to that at one point: see `slopes`."""
    return attained(SLOPES[call.name], "largest slope")


@rule("leaky_relu")
def leaky(call: Call) -> Factor:
    """Slopes 1 and a."""
    return attained(max(1.0, abs(float(call["negative_slope"]))), "largest slope")


@rule("rrelu")
def rrelu(call: Call) -> Factor:
    """Slopes 1 and the mean of the two limits, in evaluation mode."""
    if call["training"]:
        raise NoBoundError(DRAWS)
    return attained(max(1.0, abs(float(call["lower"]) + float(call["upper"])) / 2), "largest slope")


@rule("elu")
def elu(call: Call) -> Factor:
    """Slopes 1 and up to αβ, times a scale."""
    alpha, scale, inner = (float(call[name]) for name in ("alpha", "scale", "input_scale"))
    if inner < 0:
        raise NoBoundError("it grows like an exponential function")
    alpha, scale = abs(alpha), abs(scale)
    return attained(times(scale, max(1.0, times(alpha, inner))), "largest slope")


@rule("celu")
def celu(call: Call) -> Factor:
    """Slopes up to 1."""
    if float(call["alpha"]) <= 0:
        raise NoBoundError("a CELU with a negative α grows like an exponential function")
    return attained(1.0, "largest slope")


@rule("softplus")
def softplus(call: Call) -> Factor:
    """Slopes up to 1."""
    beta, threshold = float(call["beta"]), float(call["threshold"])
    if beta <= 0 or threshold <= 0 or math.log1p(math.exp(-threshold)) > JUMP * threshold:
        raise NoBoundError(f"it jumps where it switches to x, at a threshold of {threshold:g}")
    jump = math.log1p(math.exp(-threshold)) / beta
    return attained(1.0, f"largest slope of log(1 + exp βx)/β; PyTorch's jumps by {jump:.0e} at {threshold / beta:g}")


@rule("threshold")
def threshold(call: Call) -> Factor:
    """Slopes 0 and 1."""
    if float(call["threshold"]) != float(call["value"]):
        raise NoBoundError("it jumps at its threshold")
    return attained(1.0, "largest slope")


@rule("gelu")
def gelu(call: Call) -> Factor:
    """The largest slope of its two forms."""
    return attained(GELU[call["approximate"] or "none"], "largest slope")


@rule("prelu", "self | weight")
def prelu(call: Call) -> Factor:
    """Slopes 1 and a; in a, the places where x is negative."""
    if call.active_names == ["weight"]:
        return affine(call)
    return attained(max(1.0, float(magnitudes(call["weight"], call).max())), "largest slope")


@rule("_softmax softmax")
def softmax(call: Call) -> Factor:
    """J = diag(p) − ppᵀ has rows with Σ|J_ij| = 2 p_i (1 − p_i) ≤ ½."""
    return Factor(0.5, "½ by Gershgorin's circles")


@rule("_log_softmax log_softmax")
def log_softmax(call: Call) -> Factor:
    """J = I − 1pᵀ is a projection along 1 with norm ‖1‖ ‖p‖ ≤ √n."""
    dim = call["dim"]
    return Factor(root(float(call.shape[dim])), "√n: a projection along 1")


@rule("alpha_dropout dropout feature_dropout")
def dropout(call: Call) -> Factor:
    """The identity, in evaluation mode."""
    if call["train"]:
        raise NoBoundError(DRAWS)
    return attained(1.0, "off in evaluation mode")
