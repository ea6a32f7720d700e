"""Ready-made systems by name, for the command line, the explorer, the docs and the conformance tests."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from separatrix.core.system import System
from separatrix.systems import classic
from separatrix.systems.drives import Stream
from separatrix.systems.layers import Layers
from separatrix.systems.recurrent.recurrent import Recurrent
from separatrix.systems.section import Section
from separatrix.systems.stroboscopic import Stroboscopic


def noisy_rnn() -> Recurrent:
    """A tanh network of 8 units, driven by 64 steps of noise."""
    return Recurrent(_seeded(nn.RNN, gain=1.5), _noise(64, 3))


def noisy_gru() -> Recurrent:
    """Two layers of 6 gated units, driven by an endless stream of noise in 4 copies."""
    return Recurrent(_seeded(nn.GRU, hidden_size=6, num_layers=2, gain=2.0), Stream(_noise(8, 16, 3), copies=4))


def noisy_lstm() -> Recurrent:
    """A long short-term memory of 6 units, projected to 4, driven by 64 steps of noise."""
    return Recurrent(_seeded(nn.LSTM, hidden_size=6, proj_size=4, gain=2.0), _noise(64, 3))


def residual_layers() -> Layers:
    """Sixty-four residual layers of 8 units, x ← x + ¼ tanh(W x + b), each with its own weights: depth is time."""
    generator = torch.Generator().manual_seed(0)
    return Layers([_ResidualLayer(generator) for _ in range(64)], 8)


class _ResidualLayer(nn.Module):
    """x + ¼ tanh(W x + b), with normal weights of variance 1/8."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(8, 8, dtype=torch.float64, generator=generator) / 8**0.5)
        self.register_buffer("bias", torch.randn(8, dtype=torch.float64, generator=generator) / 8**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        return x + 0.25 * torch.tanh(x @ self.weight.mT + self.bias)


def lorenz_section() -> Section:
    """The Lorenz system of 1963 on the Poincaré section z = 27, crossed upwards."""
    return Section(classic.lorenz63(), axis=2, offset=27.0)


def strobed_duffing() -> Stroboscopic:
    """The forced Duffing oscillator with two wells, sampled once per period of its force."""
    return Stroboscopic(classic.duffing(dt=0.1), frequency="omega")


def _seeded(kind: type[nn.Module], *, hidden_size: int = 8, gain: float = 1.0, **options: int) -> nn.Module:
    """A recurrent module with uniform weights from a fixed seed, leaving the global generator unchanged."""
    with torch.random.fork_rng(devices=[]):
        module = kind(3, hidden_size, dtype=torch.float64, **options)
    generator = torch.Generator().manual_seed(0)
    bound = gain / math.sqrt(hidden_size)
    for weight in module.parameters():
        nn.init.uniform_(weight, -bound, bound, generator=generator)
    return module


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


SYSTEMS: dict[str, Callable[[], System]] = {
    "logistic": classic.logistic,
    "henon": classic.henon,
    "standard_map": classic.standard_map,
    "towel": classic.towel,
    "coupled_logistic": classic.coupled_logistic,
    "coupled_doubling": classic.coupled_doubling,
    "lorenz63": classic.lorenz63,
    "rossler": classic.rossler,
    "lorenz96": classic.lorenz96,
    "pendulum": classic.pendulum,
    "double_pendulum": classic.double_pendulum,
    "magnetic_pendulum": classic.magnetic_pendulum,
    "fitzhugh_nagumo": classic.fitzhugh_nagumo,
    "duffing": classic.duffing,
    "double_gyre": classic.double_gyre,
    "mackey_glass": classic.mackey_glass,
    "lotka_volterra": classic.lotka_volterra,
    "kepler_orbit": classic.kepler_orbit,
    "schwarzschild_orbit": classic.schwarzschild_orbit,
    "lorenz_section": lorenz_section,
    "strobed_duffing": strobed_duffing,
    "rnn": noisy_rnn,
    "gru": noisy_gru,
    "lstm": noisy_lstm,
    "layers": residual_layers,
}
