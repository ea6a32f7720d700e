"""Adam with Nesterov's momentum, as `torch.optim.NAdam`."""

import numpy as np
from torch import Tensor

from separatrix.training.optimizers.rule import Rule, Settings, Slots, decayed, root


def slots(o: Settings) -> tuple[str, ...]:
    """The means of the gradient and of its square."""
    return "exp_avg", "exp_avg_sq"


def momentum(o: Settings, t: float | np.ndarray) -> float | np.ndarray:
    """μ_t = β₁ (1 − ½ · 0.96^(t ψ)), with ψ the `momentum_decay`."""
    return o.betas[0] * (1 - 0.5 * 0.96 ** (t * o.momentum_decay))


def momenta(o: Settings) -> float:
    """μ_1 … μ_t, continued from the product that the optimiser had stored when it was read."""
    stored, at = o.scalars.get("mu_product", 1.0), int(o.scalars.get("step", 0))
    return stored * float(np.prod(momentum(o, np.arange(at + 1, o.t + 1))))


def update(p: Tensor, g: Tensor, state: Slots, o: Settings) -> tuple[Tensor, Slots]:
    """As Adam, with  p' = p − η (μ_{t+1} m' / (1 − μ_1 … μ_{t+1}) + (1 − μ_t) g / (1 − μ_1 … μ_t)) / (√v̂ + ε)."""
    one, two = o.betas
    m = one * state["exp_avg"] + (1 - one) * g
    v = two * state["exp_avg_sq"] + (1 - two) * g**2
    now, later, product = momentum(o, o.t), momentum(o, o.t + 1), momenta(o)
    direction = later / (1 - product * later) * m + (1 - now) / (1 - product) * g
    scale = o.scale(root(v / (1 - two**o.t)) + o.eps)
    return decayed(p, o) - o.lr * direction / scale, {"exp_avg": m, "exp_avg_sq": v}


NADAM = Rule(update, slots, counted=lambda o: {"step": o.t, "mu_product": momenta(o)})
