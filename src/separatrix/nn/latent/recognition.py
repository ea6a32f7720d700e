"""Recognition networks: the posterior of the initial latent state given observations at irregular times."""

from typing import Unpack

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_choice
from separatrix.nn.factory import Factory
from separatrix.nn.latent.irregular import Irregular
from separatrix.nn.latent.stacked import StackedLinear, perceptron

ENCODERS = ("ode-rnn", "gru")
LOG_STD = -2.0  # initial ln σ: at 0, the samples of z₀ would hide µ and training would start without a signal


class Gates(nn.Module):
    r"""A gated recurrent unit,  r = σ(·), u = σ(·), n = tanh(W u + b + r (V h + c)),  h' = n + u (h − n),  as in `nn.GRUCell`.

    Args:
        inputs, hidden: numbers in the input and in h.
        models: number of models, see `StackedLinear`.
        factory: device and dtype of the weights.
    Source: Cho et al. 2014, arXiv:1406.1078.
    """

    def __init__(self, inputs: int, hidden: int, models: int | None = None, **factory: Unpack[Factory]) -> None:
        super().__init__()
        self.of_input = StackedLinear(inputs, 3 * hidden, models, **factory)
        self.of_state = StackedLinear(hidden, 3 * hidden, models, **factory)
        for layer in (self.of_input, self.of_state):
            nn.init.uniform_(layer.weight, -(hidden**-0.5), hidden**-0.5)
            nn.init.uniform_(layer.bias, -(hidden**-0.5), hidden**-0.5)

    def forward(self, entered: Tensor, h: Tensor) -> Tensor:
        """The next state; `entered` is `of_input` of the input."""
        width = h.shape[-1]
        recalled = self.of_state(h)
        r, u = torch.sigmoid(entered[..., : 2 * width] + recalled[..., : 2 * width]).chunk(2, -1)
        n = torch.tanh(torch.addcmul(entered[..., 2 * width :], r, recalled[..., 2 * width :]))
        return torch.lerp(n, h, u)


class Recognition(nn.Module):
    r"""The posterior  q(z₀) = N(µ, σ²)  of a series, computed from its last observation back to its first.

    The encoder "ode-rnn" takes one Euler step  h ← h + Δt g(h)  of a network g over each gap Δt, followed by a gated unit on
    the value. The encoder "gru" is a gated unit on the value and the gap. In both cases  (µ, ln σ) = V tanh(U h + u) + v.

    Args:
        observed, latent, hidden: numbers in an observation, in z₀ and in h.
        encoder: "ode-rnn" or "gru".
        models: number of models, see `StackedLinear`.
        factory: device and dtype of the weights.

    Raises:
        InputError: encoder is unknown.
    Source: Rubanova, Chen & Duvenaud 2019, NeurIPS, arXiv:1907.03907, algorithm 1.
    """

    def __init__(
        self,
        observed: int,
        latent: int,
        hidden: int,
        *,
        encoder: str,
        models: int | None = None,
        **factory: Unpack[Factory],
    ) -> None:
        super().__init__()
        check_choice("encoder", encoder, ENCODERS)
        self.drift = perceptron([hidden, hidden, hidden], models, **factory) if encoder == "ode-rnn" else None
        self.cell = Gates(observed + (self.drift is None), hidden, models, **factory)
        self.head = perceptron([hidden, hidden, 2 * latent], models, **factory)
        with torch.no_grad():
            self.head[-1].bias[..., latent:] += LOG_STD
        self.hidden = hidden

    def forward(self, series: Irregular) -> tuple[Tensor, Tensor]:
        """µ and σ, each of shape (*batch, latent)."""
        gaps = series.gaps[..., None]
        entered = self.cell.of_input(series.values if self.drift else torch.cat([series.values, gaps], dim=-1))
        h = entered.new_zeros(*entered.shape[1:-1], self.hidden)
        for i in reversed(range(len(gaps))):
            if self.drift is not None:
                h = torch.addcmul(h, gaps[i], self.drift(h))
            h = self.cell(entered[i], h).where(series.seen[i][..., None], h)
        mean, log_std = self.head(h).chunk(2, -1)
        return mean, log_std.exp()
