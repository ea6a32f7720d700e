"""coRNN: coupled, damped and forced oscillators."""

import math

import torch
from torch import Tensor, nn

from separatrix.nn.cells.bounds import between, norm, singular_range
from separatrix.nn.cells.cell import OdeCell, Parts, added, check_not_negative, rows, tanh_and_slope
from separatrix.nn.cells.layer import OdeLayer, layers_of


class CoRNNCell(OdeCell):
    r"""The coupled oscillatory cell, a step of  y″ = tanh(W y + 𝒲 y′ + V u + b) − γ y − ε y′.

    The state is (y, z), where z = y′:

        z' = z + dt (tanh(W y + 𝒲 z + V u + b) − γ y − ε z'),
        y' = y + dt z'.

    The damping is implicit, which the paper allows (its code is explicit there). With d = 1/(1 + ε dt):

    - Each unit has an energy  E = γ y² + z² + (ε − γdt) y z,  which the step without tanh multiplies by exactly d. It is positive
      where |ε − γdt| < 2√γ, an oscillator that is not overdamped. There √E ≤ min(n dt, dt/(√(1 + ε dt) − 1)) after n steps from
      zero, whatever the weights and inputs; the second is nearly 2/ε. Overdamped, with ε > γdt, |y| ≤ 1/γ.
    - All exponents lie within ±κ dt of ½ ln d to first order, κ the norm of (W 𝒲) measured by that energy. See `exponent_bounds`.
    - log |det| of a step is  hidden · ln d + log |det(I + dt diag(tanh′) 𝒲)|,  so that 𝒲 = 0 fixes the sum of exponents.

    Args:
        input_size, hidden_size: numbers in an input, and in each of y and z.
        bias: whether there is a b.
        dt: the step.
        gamma: γ ≥ 0, the squared frequency of each oscillator.
        epsilon: ε ≥ 0, its damping.

    `weight_hh` is W, `weight_zh` 𝒲, both (hidden, hidden); `weight_ih` V, (hidden, inputs); `bias_ih` b. All start uniform within
    ±1/√(inputs + 2 hidden), and the constants have the values of the paper's pixel-by-pixel digits: both as in its code.
    Source: Rusch & Mishra 2021, ICLR, arXiv:2010.00951.
    """

    parts = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dt: float = 0.042,
        gamma: float = 2.7,
        epsilon: float = 4.7,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_not_negative("gamma", gamma)
        check_not_negative("epsilon", epsilon)
        super().__init__(input_size, hidden_size, bias, dt=dt, device=device, dtype=dtype)
        self.gamma, self.epsilon = gamma, epsilon
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size, device=device, dtype=dtype))
        self.weight_zh = nn.Parameter(torch.empty(hidden_size, hidden_size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New weights, from the global random generator."""
        bound = 1 / math.sqrt(self.input_size + 2 * self.hidden_size)
        for weight in self.parameters():
            nn.init.uniform_(weight, -bound, bound)

    @property
    def fading(self) -> float:
        """The factor d = 1/(1 + ε dt), by which a step of free oscillation multiplies energies and areas."""
        return 1 / (1 + self.epsilon * self.dt)

    def matrices(self) -> Parts:
        """((W 𝒲),), shape (hidden, 2 hidden)."""
        return (torch.cat([self.weight_hh, self.weight_zh], dim=-1),)

    def field(self, drive: Tensor, state: Parts, matrices: Parts) -> Parts:
        """(y′, z′)."""
        y, z = state
        return z, self.force(drive, state, matrices).tanh() - self.gamma * y - self.epsilon * z

    def force(self, drive: Tensor, state: Parts, matrices: Parts) -> Tensor:
        """W y + 𝒲 z + V u + b."""
        return torch.cat(state, dim=-1) @ matrices[0].mT + drive

    def step(self, drive: Tensor, state: Parts, matrices: Parts) -> Parts:
        """First z, then y by the new z."""
        return self._oscillated(state, self.force(drive, state, matrices).tanh())

    def pushed(self, drive: Tensor, bend: Tensor | None, state: Parts, tangents: Parts, matrices: Parts) -> tuple[Parts, Parts]:
        """The same step, with tanh′ ∘ (W dy + 𝒲 dz + du) in the place of the force."""
        value, slope = tanh_and_slope(self.force(drive, state, matrices))
        bends = rows(slope) * added(torch.cat(tangents, dim=-1) @ matrices[0].mT, bend)
        return self._oscillated(state, value), self._oscillated(tangents, bends)

    def _oscillated(self, state: Parts, force: Tensor) -> Parts:
        """One step of y″ = force − γ y − ε y′, which is linear."""
        y, z = state
        z = self.fading * (z + self.dt * (force - self.gamma * y))
        return y + self.dt * z, z

    def energy(self, state: Parts) -> Tensor:
        """E = γ y² + z² + (ε − γdt) y z of each unit, shape (*batch, hidden)."""
        y, z = state
        return self.gamma * y * y + z * z + (self.epsilon - self.gamma * self.dt) * y * z

    @property
    def energy_bound(self) -> float:
        """What no unit's energy exceeds after a start from zero: (dt/(√(1 + ε dt) − 1))²; inf without damping or overdamped."""
        bounded = self.epsilon > 0 and self._is_oscillator
        return (self.dt / (math.sqrt(1 + self.epsilon * self.dt) - 1)) ** 2 if bounded else math.inf

    @property
    def state_bound(self) -> float:
        """What no |y| exceeds after a start from zero: what that energy allows; 1/γ overdamped; inf with too long a step."""
        cross = self.epsilon - self.gamma * self.dt
        if self._is_oscillator:
            return math.sqrt(self.energy_bound / (self.gamma - cross**2 / 4))
        return 1 / self.gamma if cross > 0 and self.gamma > 0 else math.inf

    @property
    def _is_oscillator(self) -> bool:
        """Whether the energy is positive, and hence the two multipliers of a free unit complex."""
        return (self.epsilon - self.gamma * self.dt) ** 2 < 4 * self.gamma

    @torch.no_grad()
    def exponent_bounds(self) -> tuple[float, float]:
        """ln(√d ∓ dt√d κ), κ the norm of (W 𝒲) measured by the energy; of an overdamped oscillator, the same in Euclid's norm."""
        cross = (self.epsilon - self.gamma * self.dt) / 2
        form = torch.tensor([[self.gamma, cross], [cross, 1.0]], dtype=torch.float64)
        to_norm = torch.linalg.cholesky(form).mT if self._is_oscillator else torch.eye(2, dtype=torch.float64)
        back = torch.linalg.inv(to_norm)
        free = torch.stack([torch.stack(self._oscillated((y, z), torch.zeros(()))) for y, z in back.mT.double()], dim=-1)
        least, largest = singular_range(to_norm @ free)
        push = float(torch.linalg.vector_norm(to_norm @ torch.tensor([self.dt, 1.0], dtype=torch.float64))) * self.dt * self.fading
        back = back.to(self.weight_hh.device)
        w, w_z = self.weight_hh.double(), self.weight_zh.double()
        pull = norm(torch.cat([back[0, j] * w + back[1, j] * w_z for j in range(2)], dim=-1))
        return between(least - push * pull, largest + push * pull)

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"{super().extra_repr()}, gamma={self.gamma:g}, epsilon={self.epsilon:g}"


class CoRNN(OdeLayer):
    """Layers of `CoRNNCell`, with the signature of `nn.RNN`: (input, (y0, z0)) → (output, (y_n, z_n)); the output is y.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout: as of `nn.RNN`.
        dt, gamma, epsilon: of every cell.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        *,
        dt: float = 0.042,
        gamma: float = 2.7,
        epsilon: float = 4.7,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        def cell(inputs: int) -> CoRNNCell:
            return CoRNNCell(inputs, hidden_size, bias, dt=dt, gamma=gamma, epsilon=epsilon, device=device, dtype=dtype)

        super().__init__(layers_of(cell, input_size, hidden_size, num_layers), batch_first=batch_first, dropout=dropout)
