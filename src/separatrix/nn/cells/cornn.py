"""The coRNN: coupled, damped and driven oscillators."""

import math

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_not_negative
from separatrix.nn.cells.bounds import between, norm, singular_range
from separatrix.nn.cells.cell import OdeCell, Parts, added, rows, tanh_and_slope
from separatrix.nn.cells.layer import OdeLayer, layers_of


class CoRNNCell(OdeCell):
    r"""The coupled oscillatory cell, one step of  y″ = tanh(W y + 𝒲 y′ + V u + b) − γ y − ε y′.

    The state is (y, z) with z = y′:

        z' = z + dt (tanh(W y + 𝒲 z + V u + b) − γ y − ε z'),
        y' = y + dt z'.

    The damping is implicit, as in the paper (its published code is explicit). With d = 1/(1 + ε dt):

    - The energy of a unit,  E = γ y² + z² + (ε − γdt) y z,  is multiplied by exactly d in a step without tanh. It is positive if
      |ε − γdt| < 2√γ, that is, if the oscillator is underdamped. Then √E ≤ min(n dt, dt/(√(1 + ε dt) − 1)) after n steps from zero,
      for all weights and inputs; the second bound is close to 2/ε. An overdamped unit with ε > γdt satisfies |y| ≤ 1/γ.
    - To first order, all exponents lie within ±κ dt of ½ ln d, where κ is the norm of (W 𝒲) in the energy; see `exponent_bounds`.
    - For one step, log |det J| = hidden_size · ln d + log |det(I + dt diag(tanh′) 𝒲)|, so 𝒲 = 0 fixes the sum of the exponents.

    Args:
        input_size: numbers in an input.
        hidden_size: numbers in y and in z.
        bias: whether to add b.
        dt: step size.
        gamma: γ ≥ 0, the squared frequency of each oscillator.
        epsilon: ε ≥ 0, the damping.
        device, dtype: of the weights, as in PyTorch.

    Weights: `weight_hh` is W and `weight_zh` is 𝒲, both (hidden_size, hidden_size); `weight_ih` is V, (hidden_size,
    input_size); `bias_ih` is b. All are initially uniform in ±1/√(input_size + 2 hidden_size), as in the code of the paper; the
    default constants are those of its pixel-by-pixel digits.

    Raises:
        InputError: gamma or epsilon is negative, or dt is not positive.
        ShapeError: input_size or hidden_size is less than 1.
    Source: Rusch & Mishra 2021, ICLR, arXiv:2010.00951.

    Example:
        >>> cell = sx.nn.CoRNNCell(3, 8, dt=0.05)
        >>> y, z = cell(torch.randn(2, 3))  # from y = z = 0
        >>> torch.allclose(y, 0.05 * z)
        True
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
        """Initialise the weights, from the global random generator."""
        bound = 1 / math.sqrt(self.input_size + 2 * self.hidden_size)
        for weight in self.parameters():
            nn.init.uniform_(weight, -bound, bound)

    @property
    def fading(self) -> float:
        """The factor d = 1/(1 + ε dt) by which a free step multiplies energies and areas."""
        return 1 / (1 + self.epsilon * self.dt)

    def matrices(self) -> Parts:
        """((W 𝒲),), shape (hidden_size, 2 hidden_size)."""
        return (torch.cat([self.weight_hh, self.weight_zh], dim=-1),)

    def field(self, drive: Tensor, state: Parts, matrices: Parts) -> Parts:
        """(y′, z′)."""
        y, z = state
        return z, self.force(drive, state, matrices).tanh() - self.gamma * y - self.epsilon * z

    def force(self, drive: Tensor, state: Parts, matrices: Parts) -> Tensor:
        """W y + 𝒲 z + V u + b."""
        return torch.cat(state, dim=-1) @ matrices[0].mT + drive

    def step(self, drive: Tensor, state: Parts, matrices: Parts) -> Parts:
        """The update of z, then of y with the new z."""
        return self._oscillated(state, self.force(drive, state, matrices).tanh())

    def pushed(self, drive: Tensor, bend: Tensor | None, state: Parts, tangents: Parts, matrices: Parts) -> tuple[Parts, Parts]:
        """The same step, and the tangents with the force replaced by tanh′ ∘ (W dy + 𝒲 dz + du)."""
        value, slope = tanh_and_slope(self.force(drive, state, matrices))
        bends = rows(slope) * added(torch.cat(tangents, dim=-1) @ matrices[0].mT, bend)
        return self._oscillated(state, value), self._oscillated(tangents, bends)

    def _oscillated(self, state: Parts, force: Tensor) -> Parts:
        """One step of y″ = force − γ y − ε y′, which is linear."""
        y, z = state
        z = self.fading * (z + self.dt * (force - self.gamma * y))
        return y + self.dt * z, z

    def energy(self, state: Parts) -> Tensor:
        """E = γ y² + z² + (ε − γdt) y z of each unit, shape (*batch, hidden_size)."""
        y, z = state
        return self.gamma * y * y + z * z + (self.epsilon - self.gamma * self.dt) * y * z

    @property
    def energy_bound(self) -> float:
        """A bound on the energy of each unit after a zero start, (dt/(√(1 + ε dt) − 1))²; inf if undamped or overdamped."""
        bounded = self.epsilon > 0 and self._is_oscillator
        return (self.dt / (math.sqrt(1 + self.epsilon * self.dt) - 1)) ** 2 if bounded else math.inf

    @property
    def state_bound(self) -> float:
        """A bound on |y| after a zero start: from `energy_bound`; 1/γ if overdamped; inf if the step is too long."""
        cross = self.epsilon - self.gamma * self.dt
        if self._is_oscillator:
            return math.sqrt(self.energy_bound / (self.gamma - cross**2 / 4))
        return 1 / self.gamma if cross > 0 and self.gamma > 0 else math.inf

    @property
    def _is_oscillator(self) -> bool:
        """Whether the energy is positive definite, and hence the two multipliers of a free unit are complex."""
        return (self.epsilon - self.gamma * self.dt) ** 2 < 4 * self.gamma

    @torch.no_grad()
    def exponent_bounds(self) -> tuple[float, float]:
        """ln(√d ∓ dt√d κ), with κ the norm of (W 𝒲) in the energy; for an overdamped oscillator in the Euclidean norm."""
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
        """Options shown by `repr`."""
        return f"{super().extra_repr()}, gamma={self.gamma:g}, epsilon={self.epsilon:g}"


class CoRNN(OdeLayer):
    """Layers of `CoRNNCell`, with the signature of `nn.RNN`: (input, (y0, z0)) → (output, (y_n, z_n)); the output is y.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, device, dtype: as in `nn.RNN`.
        dt, gamma, epsilon: options of each `CoRNNCell`.

    Example:
        >>> layer = sx.nn.CoRNN(3, 8)
        >>> output, (y, z) = layer(torch.randn(50, 2, 3))
        >>> output.shape, torch.equal(output[-1], y[-1])
        (torch.Size([50, 2, 8]), True)
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
