"""A piece of a flow as a layer: the map from the state at time 0 to that at time T."""

import torch
from torch import Tensor

from separatrix.flows.flow import Flow
from separatrix.nn.block import Block


class TimedFlow(Flow):
    """A flow that goes through a time T when it is called: a layer of networks, and a flow of steps dt for analyses.

    A subclass defines `forward`, the layer, and `pushed`, its derivative. Composed with other layers, as in `sx.nn.Sequential`,
    it is the layer; everything else that takes a `System` takes the flow.
    """

    end: float

    def pushed(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """What the layer makes of flat states, and its derivative along the tangents v, rows of shape (*batch, k, dim)."""
        raise NotImplementedError(f"{type(self).__name__} defines no pushed(x, v).")

    def as_layer(self) -> "FlowLayer":
        """The layer  x(0) ↦ x(T)  as a system of its own, whose step is what calling this module gives."""
        return FlowLayer(self)


class FlowLayer(Block):
    """The layer  x(0) ↦ x(T)  that a flow is when it is called, on flat states: a map whose step is that call.

    A `NeuralODE` or `ContinuousDepth` gives it by `as_layer()`. Tangents are the derivative of the very steps that the call takes;
    where these are chosen by tolerance, they are held as they were chosen.

    Args:
        flow: a `NeuralODE` or `ContinuousDepth`, which is kept as it is.
    """

    def __init__(self, flow: TimedFlow) -> None:
        super().__init__(flow.dim, dt=flow.end)
        self.flow = flow

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The state a time T later."""
        return self.flow.pack(self.flow(self.flow.unpack(x)))

    @property
    def clock(self) -> str:
        """The flow's."""
        return self.flow.clock

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The state a time T later, and the tangents through the same steps: NaN where the state has left the finite numbers."""
        x, v = self.flow.pushed(x, v)
        return x, v.where(torch.isfinite(x).all(-1)[..., None, None], torch.nan)

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        """The flow's."""
        return self.flow.initial_state(batch, seed)

    def check_start(self, x: Tensor) -> None:
        """Refuse a field that the flow's method cannot follow."""
        self.flow.check_start(x)
