"""Flows as layers: the map from the state at time 0 to the state at time T."""

import torch
from torch import Tensor

from separatrix.flows.flow import Flow
from separatrix.nn.block import Block


class TimedFlow(Flow):
    """A flow that, when called, maps states over a time T: a layer in networks, and a flow with steps of dt in analyses.

    A subclass defines `forward`, the layer, and `pushed`, its derivative. Composed with other layers, as in `sx.nn.Sequential`, it
    acts as the layer; wherever else a `System` is expected, it acts as the flow.
    """

    end: float

    def pushed(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The layer applied to flat states, and its derivative along the tangents v, shape (*batch, k, dim)."""
        raise NotImplementedError(f"{type(self).__name__} does not define pushed(x, v).")

    def as_layer(self) -> "FlowLayer":
        """The layer  x(0) ↦ x(T)  as a system, one step of which equals a call of this module."""
        return FlowLayer(self)


class FlowLayer(Block):
    """The layer  x(0) ↦ x(T)  of a flow, on flat states, as a map: one step equals a call of the flow.

    `NeuralODE` and `ContinuousDepth` create it by `as_layer()`. Tangents are the exact derivative of the steps that the call takes;
    adaptive steps are held fixed.

    Args:
        flow: a `NeuralODE` or `ContinuousDepth`, which is not changed.
    """

    def __init__(self, flow: TimedFlow) -> None:
        super().__init__(flow.dim, dt=flow.end)
        self.flow = flow

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The state after a time T."""
        return self.flow.pack(self.flow(self.flow.unpack(x)))

    @property
    def clock(self) -> str:
        return self.flow.clock

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The state after a time T, and the tangents through the same steps; NaN where the state is not finite."""
        x, v = self.flow.pushed(x, v)
        return x, v.where(torch.isfinite(x).all(-1)[..., None, None], torch.nan)

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        return self.flow.initial_state(batch, seed)

    def check_start(self, x: Tensor) -> None:
        """Refuse a field that the flow's method cannot follow."""
        self.flow.check_start(x)
