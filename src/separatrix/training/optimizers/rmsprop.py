"""RMSprop, centred or not, with or without momentum, as `torch.optim.RMSprop`."""

from torch import Tensor

from separatrix.training.optimizers.rule import Rule, Settings, Slots, root


def slots(o: Settings) -> tuple[str, ...]:
    """The mean of the gradient's square, the mean of the gradient if it is subtracted, and the buffer of a momentum."""
    return "square_avg", *(["grad_avg"] if o.centered else []), *(["momentum_buffer"] if o.momentum > 0 else [])


def update(p: Tensor, g: Tensor, state: Slots, o: Settings) -> tuple[Tensor, Slots]:
    """v' = α v + (1 − α) g²,  b' = μ b + g / (√v' + ε),  p' = p − η b';  centred: √(v' − m'²),  m' = α m + (1 − α) g."""
    v = o.alpha * state["square_avg"] + (1 - o.alpha) * g**2
    after = {"square_avg": v}
    if o.centered:
        mean = after["grad_avg"] = o.alpha * state["grad_avg"] + (1 - o.alpha) * g
        v = v - mean**2
    direction = g / o.scale(root(v) + o.eps)
    if o.momentum > 0:
        direction = after["momentum_buffer"] = o.momentum * state["momentum_buffer"] + direction
    return p - o.lr * direction, after


RMSPROP = Rule(update, slots, timed=lambda o: False)
