r"""Gradients of solutions: three ways, which differ in memory, in exactness and in the order of derivatives.

| gradient | of | memory | derivatives |
|---|---|---|---|
| "backpropagation" | the discrete solution, exact | all intermediate results | of any order |
| "checkpoint" | the discrete solution, exact | the state before every step | first |
| "adjoint" | the exact solution, up to the tolerance | the state before every step | first |
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.autograd import forward_ad

from separatrix.core.checks import check_choice
from separatrix.core.errors import InputError
from separatrix.flows.field import Field
from separatrix.flows.gradients.mapped import lane_by_lane
from separatrix.flows.steps.discrete import Discrete
from separatrix.flows.steps.tensors import Tensors, as_at_first

GRADIENTS = ("backpropagation", "checkpoint", "adjoint")

# Note [Which gradient]
# Adaptive steps are found without a graph, and their number is not known in advance: "checkpoint" gives the gradient of
# backpropagation up to rounding, from the states alone, and faster, since all steps are processed at once. Equal steps are taken
# once, with their graph, like every other layer; second derivatives, forward AD and torch.compile work through them.


def choose_gradient(
    gradient: str | None, field: Field, x0: Tensor, first: Tensor, *, hidden: bool, by_tolerance: bool
) -> str | None:
    """The gradient method; None if no derivative is needed. See Note [Which gradient].

    Args:
        gradient: a name in `GRADIENTS`, or None for the default.
        field: a twin, with its gradients.
        x0: initial states.
        first: the initial velocities.
        hidden: whether the field depends on a tensor that requires a gradient and that it does not own; see Note [Hidden tensors].
        by_tolerance: whether the steps are adaptive.
    """
    check_choice("gradient", gradient, (None, *GRADIENTS))
    if any(map(functorch.is_functorch_wrapped_tensor, (x0, first))):
        return "backpropagation"  # transforms of torch.func go through the steps themselves
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in (x0, first, *field.parameters(), *field.buffers())):
        return "backpropagation"  # and so does forward AD
    if not torch.is_grad_enabled():
        return None
    if hidden and gradient in ("checkpoint", "adjoint"):
        raise InputError(
            f'gradient="{gradient}" needs a field that owns every tensor it depends on; this one depends on others.\n'
            'Make the field an nn.Module that owns them; or pass gradient="backpropagation".'
        )
    if not (hidden or x0.requires_grad or Tensors.of(field).values):
        return None
    return gradient or ("checkpoint" if by_tolerance and not hidden else "backpropagation")


Sweep = Callable[[Discrete, Tensors, Sequence[Tensor], Tensor], list[Tensor]]


def apart_from_graph(run: Discrete, x0: Tensor, tensors: Tensors, sweep: Sweep) -> Tensor:
    """The states at the requested times, (times, items, dim), of a run without a graph; differentiable once.

    Args:
        run: the steps and their states.
        x0: initial states, (items, dim).
        tensors: tensors of the field that receive gradients.
        sweep: maps the run, the tensors, their values and the cotangents of the states to the cotangents of x0 and the tensors.
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
                "second derivatives need a graph of the steps, which this solution does not keep.\n"
                'Pass gradient="backpropagation", which keeps it.'
            )
        values = ctx.saved_tensors[: len(ctx.tensors.values)]  # raises if one was modified in place
        with ctx.context():
            found = lane_by_lane(lambda lane: ctx.sweep(ctx.run, ctx.tensors, values, lane), g)
        return None, None, None, None, None, *found
