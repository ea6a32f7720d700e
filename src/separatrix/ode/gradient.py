r"""How a solution is differentiated: three ways, which differ in memory, in what they are exact for, and in how often they can be used.

| gradient | of what | memory | again |
|---|---|---|---|
| "backpropagation" | the discrete solution, exactly | all that every step computes | as often as wanted |
| "checkpoint" | the discrete solution, exactly | the state before every step | once |
| "adjoint" | the equation's solution, but for the tolerance | the state before every step | once |
"""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from separatrix.errors import InputError
from separatrix.flow import Field
from separatrix.ode.tensors import Tensors

GRADIENTS = ("backpropagation", "checkpoint", "adjoint")

# Note [Which gradient]
# Steps by tolerance are found without a graph, and nobody knows beforehand how many there will be: "checkpoint" gives the gradient
# of backpropagation to rounding, from the states alone and, as all steps are done at once, faster. Equal steps are taken once, with
# their graph, which is what every other layer does, and what second derivatives, forward AD and torch.compile go through.


def way(asked: str | None, field: Field, x0: Tensor, *, hidden: bool, by_tolerance: bool) -> str | None:
    """The way to differentiate; None where nothing asks for a derivative. See Note [Which gradient].

    Args:
        asked: one of `GRADIENTS`, or None for the default.
        field: a twin, with its gradients.
        x0: where a run begins.
        hidden: whether the field depends on a tensor with a gradient that it does not own; see Note [Hidden tensors].
        by_tolerance: whether its steps are.
    """
    if asked is not None and asked not in GRADIENTS:
        raise InputError(f"there is no gradient {asked!r}; choose one of {', '.join(GRADIENTS)}.")
    if forward_ad.unpack_dual(x0).tangent is not None:
        return "backpropagation"  # forward AD goes through the steps themselves
    if not torch.is_grad_enabled():
        return None
    if hidden and asked in ("checkpoint", "adjoint"):
        raise InputError(
            f'gradient="{asked}" needs to see every tensor that the field depends on, but this one has others than its parameters.\n'
            'Make the field an nn.Module that owns them; or pass gradient="backpropagation".'
        )
    if not (hidden or x0.requires_grad or Tensors.of(field).values):
        return None
    return asked or ("checkpoint" if by_tolerance and not hidden else "backpropagation")
