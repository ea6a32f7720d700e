"""Universal differential equations: a known model and a network for what it leaves out."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

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
"""How a known field f and a missing term m make a velocity, by name."""


class Universal(Field):
    r"""A known field and a network for what it leaves out:

        ẋ = f(x, t) + m(x, t)   ("sum"),   or number by number   ẋ = f(x, t) (1 + m(x, t))   ("factor")

    Args:
        known: f, a function of states (*batch, dim), a `Field`, or a `Flow` that has one. If it has parameters, they are learned
            with the network's.
        missing: m, a module (*batch, dim) → (*batch, dim). What is known of the term can be built in: of which numbers it depends,
            which of its own are equal. `sx.nn.zero_output_(module)` makes it begin as 0, and so the whole as the known field.
        combine: "sum", "factor", or a function (f, m) ↦ ẋ of both terms at a state; m may then have another width.
        time_dependent: call `known(x, t)` and `missing(x, t)`; t is a tensor without axes, or of shape (*batch).

    Being a `Field` it goes where fields go: `sx.Flow(universal, dim, dt)`, `sx.nn.NeuralODE`, `sx.solve`, `sx.nn.fit_observations`.

    Raises:
        InputError: `combine` is no name and no function, or a term is none.
        UnsupportedModuleError: a term is a system without a field.
        ShapeError: both terms have not as many numbers; asked where it is first used.
    Source: Rackauckas et al. 2020, arXiv:2001.04385; factors as in Keith, Khadse & Field 2021, Phys. Rev. Research 3, 043101.
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
        if not callable(combine) and combine not in RULES:
            raise InputError(
                f"a known field and a missing term combine by {combine!r}, which is not known.\n"
                f"Choose one of {', '.join(RULES)}, or pass a function of both."
            )
        self.known = as_field(known, time_dependent=time_dependent)
        self.missing = as_field(missing, time_dependent=time_dependent)
        self.combine = combine

    def forward(self, x: Tensor, t: Time) -> Tensor:
        """The velocity, shape (*batch, dim)."""
        return self._combined(self.known(x, t), self.missing(x, t))

    def pushforward(self, x: Tensor, v: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """The velocity, and tangents by the rule of the sum, of the product or of the chain from those of both terms."""
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
                f"the known field gives {known.shape[-1]} numbers and the missing term {missing.shape[-1]}.\n"
                "Give the network's last layer as many outputs as the state has numbers, or pass combine as a function of both."
            )
        return RULES[self.combine](known, missing)


def zero_output_(module: M) -> M:
    """Set the weights and the bias of a module's last linear layer to 0, in place, so that it gives 0 wherever it is asked.

    What follows that layer must keep 0 (a tanh does, a sigmoid does not). As a missing term it then begins as nothing, and what is
    fitted begins as the known field. Its hidden layers stay as they are: the first step of a fit moves the last one, and the next
    ones all.

    Raises:
        InputError: the module has no linear layer, or the last one's weights are parametrised, as by a weight norm.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise InputError(f"a {type(module).__name__} has no linear layer whose weights could be 0.\nEnd it with an nn.Linear.")
    own = dict(layers[-1].named_parameters())
    if not own.keys() <= {"weight", "bias"} or "weight" not in own:
        raise InputError(
            "the last linear layer's weights are computed from others (a weight or spectral norm): they cannot be set to 0.\n"
            "End the module with a plain nn.Linear."
        )
    for weights in own.values():
        nn.init.zeros_(weights)
    return module
