r"""How a solution is differentiated: three ways, which differ in memory, in what they are exact for, and in how often they serve.

| gradient | of what | memory | again |
|---|---|---|---|
| "backpropagation" | the discrete solution, exactly | all that every step computes | as often as wanted |
| "checkpoint" | the discrete solution, exactly | the state before every step | once |
| "adjoint" | the equation's solution, but for the tolerance | the state before every step | once |
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.autograd import forward_ad

from separatrix.core.errors import InputError
from separatrix.flows.field import Field
from separatrix.flows.gradients.mapped import lane_by_lane
from separatrix.flows.steps.discrete import Discrete
from separatrix.flows.steps.tensors import Tensors, as_at_first

GRADIENTS = ("backpropagation", "checkpoint", "adjoint")

# Note [Which gradient]
# Steps by tolerance are found without a graph, and nobody knows beforehand how many there will be: "checkpoint" gives the gradient
# of backpropagation to rounding, from the states alone and, as all steps are done at once, faster. Equal steps are taken once, with
# their graph, which is what every other layer does, and what second derivatives, forward AD and torch.compile go through.


def way(asked: str | None, field: Field, x0: Tensor, first: Tensor, *, hidden: bool, by_tolerance: bool) -> str | None:
    """The way to differentiate; None where nothing asks for a derivative. See Note [Which gradient].

    Args:
        asked: one of `GRADIENTS`, or None for the default.
        field: a twin, with its gradients.
        x0: where a run begins.
        first: the velocity there.
        hidden: whether the field depends on a tensor with a gradient that it does not own; see Note [Hidden tensors].
        by_tolerance: whether its steps are.
    """
    if asked is not None and asked not in GRADIENTS:
        raise InputError(f"there is no gradient {asked!r}; choose one of {', '.join(GRADIENTS)}.")
    if any(map(functorch.is_functorch_wrapped_tensor, (x0, first))):
        return "backpropagation"  # as the transforms of torch.func go through the steps themselves
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in (x0, first, *field.parameters(), *field.buffers())):
        return "backpropagation"  # and forward AD
    if not torch.is_grad_enabled():
        return None
    if hidden and asked in ("checkpoint", "adjoint"):
        raise InputError(
            f'gradient="{asked}" needs to see every tensor that the field depends on, but not all of this one\'s are its own.\n'
            'Make the field an nn.Module that owns them; or pass gradient="backpropagation".'
        )
    if not (hidden or x0.requires_grad or Tensors.of(field).values):
        return None
    return asked or ("checkpoint" if by_tolerance and not hidden else "backpropagation")


Sweep = Callable[[Discrete, Tensors, Sequence[Tensor], Tensor], list[Tensor]]


def apart_from_graph(run: Discrete, x0: Tensor, tensors: Tensors, sweep: Sweep) -> Tensor:
    """The states at the asked times, (times, items, dim), of a run whose nodes have no graph, differentiable once.

    Args:
        run: the steps and their states.
        x0: where they began, (items, dim).
        tensors: of the field, by which it is differentiated.
        sweep: from the run, those tensors, their values and the cotangents of the states, the cotangents of x0 and of the tensors.
    """
    field = run.together.field
    held = (*field.parameters(), *field.buffers())
    fixed = [tensor for tensor in held if not (tensor.requires_grad or tensor.is_inference())]
    return _Apart.apply(run, sweep, as_at_first(x0), tensors, fixed, x0, *tensors.values)


class _Apart(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        run: Discrete,
        sweep: Sweep,
        context: Callable[[], AbstractContextManager],
        tensors: Tensors,
        fixed: list[Tensor],
        x0: Tensor,
        *values: Tensor,
    ) -> Tensor:
        ctx.run, ctx.sweep, ctx.context, ctx.tensors = run, sweep, context, tensors
        ctx.save_for_backward(*values, *fixed)
        return run.states()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise InputError(
                "this solution's gradient was asked to be differentiated again, but its steps were taken without a graph.\n"
                'Pass gradient="backpropagation", whose graph is kept.'
            )
        values = ctx.saved_tensors[: len(ctx.tensors.values)]  # refuses what was written to since
        with ctx.context():
            found = lane_by_lane(lambda lane: ctx.sweep(ctx.run, ctx.tensors, values, lane), g)
        return None, None, None, None, None, *found
