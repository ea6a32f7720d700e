"""Universal differential equations: a known model plus a network for the missing term."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_choice
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.tangent import pushforward
from separatrix.flows.field import Field, as_field
from separatrix.flows.methods.solver import Time

M = TypeVar("M", bound=nn.Module)
Combine = Callable[[Tensor, Tensor], Tensor]

RULES: dict[str, Combine] = {
    "sum": torch.add,
    "factor": lambda known, missing: torch.addcmul(known, known, missing),
}
"""Combinations of a known field f and a missing term m, by name."""


class Universal(Field):
    r"""A universal differential equation, a known field with a network for the missing term:

        ẋ = f(x, t) + m(x, t)   ("sum"),   or elementwise   ẋ = f(x, t) (1 + m(x, t))   ("factor")

    Args:
        known: f, a function of states (*batch, dim), a `Field`, or a `Flow` with a field. Its parameters, if any, are learned
            with those of the network.
        missing: m, a module (*batch, dim) → (*batch, dim). Prior knowledge can be built in, such as the variables on which the
            term depends. `sx.nn.parts.zero_output_(module)` makes it 0 initially.
        combine: "sum", "factor", or a function (f, m) ↦ ẋ of both terms; m may then have another width.
        time_dependent: call `known(x, t)` and `missing(x, t)`; t is a tensor without axes or of shape (*batch).

    It is a `Field`: pass it to `sx.Flow(universal, dim, dt)`, `sx.nn.NeuralODE`, `sx.solve` or `sx.nn.fit_observations`.

    Raises:
        InputError: combine is neither a known name nor a function, or a term is not callable.
        UnsupportedModuleError: a term is a system without a field.
        ShapeError: the terms have different widths, checked at the first call.
    Source: Rackauckas et al. 2020, arXiv:2001.04385; factors as in Keith, Khadse & Field 2021, Phys. Rev. Research 3, 043101.

    Example:
        >>> term = sx.nn.parts.zero_output_(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)))
        >>> field = sx.nn.Universal(lambda x: -x, term)  # ẋ = −x, and a term to be learned
        >>> field(torch.ones(2), 0.0).tolist()
        [-1.0, -1.0]
    """

    def __init__(
        self,
        known: Callable[..., Tensor],
        missing: Callable[..., Tensor],
        *,
        combine: str | Combine = "sum",
        time_dependent: bool = False,
    ) -> None:
        super().__init__()
        if not callable(combine):
            check_choice("combine", combine, RULES, way_out="Or pass a function of both terms.")
        self.known = as_field(known, time_dependent=time_dependent)
        self.missing = as_field(missing, time_dependent=time_dependent)
        self.combine = combine

    def forward(self, x: Tensor, t: Time) -> Tensor:
        """The velocity, shape (*batch, dim)."""
        return self._combined(self.known(x, t), self.missing(x, t))

    def pushforward(self, x: Tensor, v: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """The velocity, and tangents by the sum, product or chain rule from those of both terms."""
        (known, dknown), (missing, dmissing) = self.known.pushforward(x, v, t), self.missing.pushforward(x, v, t)
        velocity = self._combined(known, missing)
        if self.combine == "sum":
            return velocity, dknown + dmissing
        if self.combine == "factor":
            return velocity, (1 + missing)[..., None, :] * dknown + known[..., None, :] * dmissing
        terms, moved = torch.cat([known, missing], dim=-1), torch.cat([dknown, dmissing], dim=-1)
        dim = known.shape[-1]
        return pushforward(lambda both: self._combined(both[..., :dim], both[..., dim:]), terms, moved)

    def _combined(self, known: Tensor, missing: Tensor) -> Tensor:
        if callable(self.combine):
            return self.combine(known, missing)
        if known.shape[-1] != missing.shape[-1]:
            raise ShapeError(
                f"expected terms of equal width, got {known.shape[-1]} from the known field and {missing.shape[-1]} from the "
                "missing term.\nGive the last layer of the network the width of the state, or pass a function as combine."
            )
        return RULES[self.combine](known, missing)


def zero_output_(module: M) -> M:
    """Set the weights and bias of a module's last linear layer to 0, in place, so that its output is 0 everywhere.

    Layers after it must map 0 to 0 (tanh does, a sigmoid does not). As a missing term the module then contributes nothing
    initially, and a fit starts from the known field. The hidden layers are unchanged: the first step of a fit changes the last
    layer, later steps all layers.

    Args:
        module: the module to change.

    Returns:
        The same module.

    Raises:
        InputError: the module has no linear layer, or the weights of the last one are parametrised, as by a weight norm.

    Example:
        >>> term = sx.nn.parts.zero_output_(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)))
        >>> term(torch.ones(1, 2)).abs().max().item()
        0.0
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise InputError(f"this {type(module).__name__} has no linear layer to set to 0.\nEnd it with an nn.Linear.")
    own = dict(layers[-1].named_parameters())
    if not own.keys() <= {"weight", "bias"} or "weight" not in own:
        raise InputError(
            "the weights of the last linear layer are parametrised (a weight or spectral norm) and cannot be set to 0.\n"
            "End the module with a plain nn.Linear."
        )
    for weights in own.values():
        nn.init.zeros_(weights)
    return module
