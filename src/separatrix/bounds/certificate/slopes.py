r"""The largest slope of activations, |φ'(x)| over all x: its Lipschitz constant.

Closed forms: a sigmoid's slope σ(1 − σ) is largest at 0; GELU's, Φ(x) + xφ(x), where its derivative (2 − x²)φ(x) is 0, at √2:
½(1 + erf 1) + e⁻¹/√π; hardswish's, (2x + 3)/6 on [−3, 3], at 3; erf's at 0. Hardsigmoid's is 1/6, in PyTorch that of float32.
SiLU's is largest where x tanh(x/2) = 2; that, Mish's and that of GELU's tanh form have no closed form and are rounded upwards in
the seventh digit. The second derivatives of these slopes are below 1, so that the largest value on a grid of spacing h is right
to h²/8.
"""

import math

from separatrix.bounds.certificate.rounding import computed

SLOPES: dict[str, float] = {
    "erf": 2 / math.sqrt(math.pi),
    "hardsigmoid": 0.1666667,
    "hardswish": 1.5,
    "mish": 1.0884982,
    "selu": computed(1.0507009873554804934193349852946 * 1.6732632423543772848170429916717),  # λα, at 0 from below
    "sigmoid": 0.25,
    "silu": 1.0998394,
}
"""By operator, where nothing can be set; other activations have slopes up to 1."""

GELU = {"none": 0.5 * (1 + math.erf(1)) + math.exp(-1) / math.sqrt(math.pi), "tanh": 1.1289931}
JUMP = 1e-8  # of a softplus where it goes over to x, relative to x: log(1 + e⁻²⁰)/20 = 1e-10 in PyTorch, below float32's rounding
