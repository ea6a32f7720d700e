"""Adam, its variant AMSGrad, and AdamW, as `torch.optim.Adam` and `torch.optim.AdamW`."""

import torch
from torch import Tensor

from separatrix.training.optimizers.rule import Rule, Settings, Slots, decayed, root


def slots(o: Settings) -> tuple[str, ...]:
    """The means of the gradient and of its square, and the largest of the latter."""
    return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if o.amsgrad else ("exp_avg", "exp_avg_sq")


def update(p: Tensor, g: Tensor, state: Slots, o: Settings) -> tuple[Tensor, Slots]:
    """m' = β₁ m + (1 − β₁) g,  v' = β₂ v + (1 − β₂) g²,  p' = (1 − ηλ) p − η m̂ / (√v̂ + ε)  with  m̂ = m' / (1 − β₁ᵗ)  and
    v̂ = v' / (1 − β₂ᵗ); λ is the weight decay if it is decoupled, else 0.
    """
    one, two = o.betas
    m = one * state["exp_avg"] + (1 - one) * g
    v = two * state["exp_avg_sq"] + (1 - two) * g**2
    after = {"exp_avg": m, "exp_avg_sq": v}
    if o.amsgrad:
        v = after["max_exp_avg_sq"] = torch.maximum(state["max_exp_avg_sq"], v)
    scale = o.scale(root(v) / (1 - two**o.t) ** 0.5 + o.eps)
    return decayed(p, o) - o.lr / (1 - one**o.t) * m / scale, after


ADAM = Rule(update, slots)
