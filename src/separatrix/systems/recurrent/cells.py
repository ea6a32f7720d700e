"""The standard recurrent cells and their closed-form tangents, as functions of one layer's weights.

Shapes: an input u is (*batch, inputs), a hidden state h (*batch, hidden), tangents carry an axis k before the last. A weight is
(*networks, rows, columns), where the axes before the matrix broadcast against the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

MANY_TANGENTS = 12  # from this number, one product with the summed Jacobian is faster than one product per gate


@dataclass(frozen=True)
class LayerWeights:
    """Weights of one layer under PyTorch's names; biases and the projection may be missing."""

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None
    w_hr: Tensor | None = None


class Cell(Protocol):
    """Step of one layer and its tangents; a state is a tuple, (h,) or (h, c)."""

    gates: int

    def step(self, w: LayerWeights, u: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The next state."""
        ...

    def pushforward(
        self, w: LayerWeights, u: Tensor, du: Tensor | None, state: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The next state and its tangents; `du` is None if the input has no tangents."""
        ...


class TanhCell:
    """The tanh cell of `nn.RNN`: h' = tanh(W_ih u + b_ih + W_hh h + b_hh)."""

    gates = 1

    def step(self, w: LayerWeights, u: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The next (h,)."""
        return (self.activation(affine(u, w.w_ih, w.b_ih) + affine(state[0], w.w_hh, w.b_hh)),)

    def pushforward(
        self, w: LayerWeights, u: Tensor, du: Tensor | None, state: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The next (h,) and its tangents dh' = φ' ∘ (W_ih du + W_hh dh)."""
        (h,) = self.step(w, u, state)
        pushed = product(tangents[0], w.w_hh)
        if du is not None:
            pushed = pushed + product(du, w.w_ih)
        return (h,), (self.slope(h)[..., None, :] * pushed,)

    def activation(self, a: Tensor) -> Tensor:
        """The activation φ."""
        return a.tanh()

    def slope(self, h: Tensor) -> Tensor:
        """The slope φ' in terms of the value of φ."""
        return 1 - h * h


class ReluCell(TanhCell):
    """The ReLU cell of `nn.RNN`: h' = relu(W_ih u + b_ih + W_hh h + b_hh); the slope at 0 is 0, as in PyTorch."""

    def activation(self, a: Tensor) -> Tensor:
        """The activation φ."""
        return a.relu()

    def slope(self, h: Tensor) -> Tensor:
        """The slope φ' in terms of the value of φ."""
        return (h > 0).to(h.dtype)


class GruCell:
    """The cell of `nn.GRU`: r, z = σ(…), n = tanh(W_in u + b_in + r ∘ (W_hn h + b_hn)), h' = (1 − z) ∘ n + z ∘ h."""

    gates = 3

    def step(self, w: LayerWeights, u: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The next (h,)."""
        _, z, n, _ = self._gates(w, u, state[0])
        return (n + z * (state[0] - n),)

    def pushforward(
        self, w: LayerWeights, u: Tensor, du: Tensor | None, state: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The next (h,) and its tangents dh' = z ∘ dh + Σ over gates of (∂h'/∂gate) ∘ (W_gate (du, dh))."""
        (h,) = state
        r, z, n, recurrent = self._gates(w, u, h)
        gap = h - n
        by_n = (1 - z) * (1 - n * n)
        by_r = by_n * recurrent * (r - r * r)
        by_z = gap * (z - z * z)
        pushed = through(tangents[0], w.w_hh, (by_r, by_z, by_n * r), carry=z)
        if du is not None:
            pushed = pushed + through(du, w.w_ih, (by_r, by_z, by_n))
        return (n + z * gap,), (pushed,)

    def _gates(self, w: LayerWeights, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        from_input = affine(u, w.w_ih, w.b_ih).chunk(3, dim=-1)
        from_state = affine(h, w.w_hh, w.b_hh).chunk(3, dim=-1)
        r = (from_input[0] + from_state[0]).sigmoid()
        z = (from_input[1] + from_state[1]).sigmoid()
        return r, z, (from_input[2] + r * from_state[2]).tanh(), from_state[2]


class LstmCell:
    """The cell of `nn.LSTM`: i, f, o = σ(…), g = tanh(…), c' = f ∘ c + i ∘ g, h' = o ∘ tanh c', projected by W_hr if given."""

    gates = 4

    def step(self, w: LayerWeights, u: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The next (h, c)."""
        i, f, g, o = self._gates(w, u, state[0])
        c = f * state[1] + i * g
        return project(o * c.tanh(), w.w_hr), c

    def pushforward(
        self, w: LayerWeights, u: Tensor, du: Tensor | None, state: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The next (h, c) and tangents dc' = f ∘ dc + Σ over i, f, g  and  dh' = o (1 − tanh² c') ∘ dc' + tanh c' ∘ do."""
        h, c = state
        dh, dc = tangents
        i, f, g, o = self._gates(w, u, h)
        after = f * c + i * g
        squashed = after.tanh()
        to_cell = (g * i * (1 - i), c * f * (1 - f), i * (1 - g * g))
        to_output = (squashed * o * (1 - o),)
        hidden = g.shape[-1]
        cell_hh, output_hh = w.w_hh.split((3 * hidden, hidden), dim=-2)
        cell = through(dh, cell_hh, to_cell)
        output = through(dh, output_hh, to_output)
        if du is not None:
            cell_ih, output_ih = w.w_ih.split((3 * hidden, hidden), dim=-2)
            cell = cell + through(du, cell_ih, to_cell)
            output = output + through(du, output_ih, to_output)
        cell = torch.addcmul(cell, f[..., None, :], dc)
        output = torch.addcmul(output, (o * (1 - squashed * squashed))[..., None, :], cell)
        return (project(o * squashed, w.w_hr), after), (output if w.w_hr is None else product(output, w.w_hr), cell)

    def _gates(self, w: LayerWeights, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        i, f, g, o = (affine(u, w.w_ih, w.b_ih) + affine(h, w.w_hh, w.b_hh)).chunk(4, dim=-1)
        return i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W x + b for vectors x, (*batch, columns) → (*batch, rows)."""
    if weight.ndim == 2 and (bias is None or bias.ndim == 1):
        return linear(x, weight, bias)
    y = (weight @ x[..., None])[..., 0]
    return y if bias is None else y + bias


def project(h: Tensor, weight: Tensor | None) -> Tensor:
    """W_hr h, or h without a projection."""
    return h if weight is None else affine(h, weight, None)


def product(v: Tensor, weight: Tensor) -> Tensor:
    """Tangents v (rows) through a weight: v Wᵀ, in one product for the whole batch if the weight is shared."""
    if weight.ndim == 2 and is_shared(v):
        rows = v[(0,) * (v.ndim - 2)] @ weight.mT
        return rows.expand(*v.shape[:-1], rows.shape[-1])
    return v @ weight.mT


def is_shared(v: Tensor) -> bool:
    """Whether the whole batch shares the same tangents, one expanded tensor, as for a dense Jacobian."""
    return v.ndim > 2 and v.numel() > 0 and not any(v.stride()[:-2])


def through(v: Tensor, weight: Tensor, coefficients: Sequence[Tensor], carry: Tensor | None = None) -> Tensor:
    r"""Σ_g c_g ∘ (W_g v), plus carry ∘ v, for tangents v as rows and a weight of stacked gates.

    With many tangents, the gates are summed into one matrix first, J = Σ_g diag(c_g) W_g + diag(carry): one product instead of
    one per gate.
    """
    if v.shape[-2] >= MANY_TANGENTS and len(coefficients) > 1 and not is_shared(v):
        gates = weight.unflatten(-2, (len(coefficients), -1))
        jacobian = torch.einsum("...ig,...gij->...ij", torch.stack(list(coefficients), dim=-1), gates)
        if carry is not None:
            jacobian.diagonal(dim1=-2, dim2=-1).add_(carry)
        return v @ jacobian.mT
    pushed = product(v, weight).unflatten(-1, (len(coefficients), -1)).unbind(-2)
    total = coefficients[0][..., None, :] * pushed[0]
    for c, part in zip(coefficients[1:], pushed[1:], strict=True):
        total = torch.addcmul(total, c[..., None, :], part)
    return total if carry is None else torch.addcmul(total, carry[..., None, :], v)


CELLS: dict[str, Cell] = {"RNN_TANH": TanhCell(), "RNN_RELU": ReluCell(), "GRU": GruCell(), "LSTM": LstmCell()}
