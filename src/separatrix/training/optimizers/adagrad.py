"""Adagrad, as `torch.optim.Adagrad`."""

from torch import Tensor

from separatrix.training.optimizers.rule import Rule, Settings, Slots, root


def update(p: Tensor, g: Tensor, state: Slots, o: Settings) -> tuple[Tensor, Slots]:
    """s' = s + g²,  p' = p − η / (1 + (t − 1) κ) · g / (√s' + ε),  with κ the `lr_decay`."""
    total = state["sum"] + g**2
    rate = o.lr / (1 + (o.t - 1) * o.lr_decay)
    return p - rate * g / o.scale(root(total) + o.eps), {"sum": total}


ADAGRAD = Rule(
    update,
    slots=lambda o: ("sum",),
    start=lambda o: o.initial_accumulator_value,
    timed=lambda o: o.lr_decay != 0,
)
