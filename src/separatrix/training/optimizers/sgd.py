"""Stochastic gradient descent with momentum, as `torch.optim.SGD`."""

from torch import Tensor

from separatrix.training.optimizers.rule import Rule, Settings, Slots


def slots(o: Settings) -> tuple[str, ...]:
    """The buffer of a momentum."""
    return ("momentum_buffer",) if o.momentum else ()


def update(p: Tensor, g: Tensor, state: Slots, o: Settings) -> tuple[Tensor, Slots]:
    """b' = μ b + (1 − τ) g,  p' = p − η b',  or  p' = p − η (g + μ b')  (Nesterov); the first step is not dampened."""
    if not o.momentum:
        return p - o.lr * g, {}
    dampening = o.dampening if o.t > 1 else 0.0
    buffer = o.momentum * state["momentum_buffer"] + (1 - dampening) * g
    direction = g + o.momentum * buffer if o.nesterov else buffer
    return p - o.lr * direction, {"momentum_buffer": buffer}


SGD = Rule(update, slots, counted=lambda o: {}, timed=lambda o: bool(o.momentum and o.dampening and o.t == 1))
