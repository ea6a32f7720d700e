"""Noise inside the step, held to one realisation: a function of n and a seed, the same for all items."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import separatrix as sx
from separatrix.testing import check_system


class Cell(nn.Module):
    """A leaky cell with noise in its step."""

    def __init__(self, noise: float = 0.05) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.noise = 3, 4, noise
        self.read, self.turn = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        return 0.8 * h + 0.2 * torch.tanh(self.read(u) + self.turn(h)) + self.noise * torch.randn_like(h)


DROPPED = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def _by_item(x: Tensor) -> Tensor:
    """A step that branches on numbers, which vmap does not pass."""
    return x / 2 + (0.1 * torch.randn_like(x) if float(x.abs().sum()) >= 0 else 0.0)


SYSTEMS = {
    "additive": lambda: sx.Map(lambda x: 0.5 * torch.tanh(x) + 0.1 * torch.randn_like(x), 3),
    "multiplicative": lambda: sx.Map(lambda x: 0.5 * x + 0.1 * x.sin() * torch.randn(x.shape, dtype=x.dtype), 3),
    "dropout": lambda: sx.Map(lambda x: F.dropout(DROPPED(x.to(torch.float64)).to(x), 0.3, training=True), 3),
    "item by item": lambda: sx.Map(_by_item, 3),
    "a cell": lambda: sx.Recurrent(Cell(), torch.randn(9, 3)),
    "a cell of several sequences": lambda: sx.Recurrent(Cell(), torch.randn(9, 3, 3)),
    "an ensemble": lambda: sx.Recurrent([Cell(), Cell(), Cell()], torch.randn(9, 3)),
    "a flow": lambda: sx.Flow(lambda x: -x + 0.1 * torch.randn_like(x), 3, dt=0.1),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_seeded_system_is_a_system(name):
    torch.manual_seed(0)
    check_system(sx.Seeded(SYSTEMS[name](), seed=2**40))


def test_a_linear_map_with_noise_follows_its_draws():
    """From two starts the orbits differ by aⁿ exactly, and kicks are standard normal: mean and variance within 5 errors."""
    system = sx.Seeded(sx.Map(lambda x: 0.5 * x + torch.randn_like(x), 4))
    starts = torch.stack([torch.zeros(4), torch.ones(4)]).double()
    orbit = sx.trajectory(system, starts, steps=1000)
    n = torch.arange(20, dtype=torch.float64)
    assert torch.allclose(orbit[:20, 1] - orbit[:20, 0], 0.5 ** n[:, None].expand(20, 4), atol=1e-13)
    kicks = (orbit[1:, 0] - 0.5 * orbit[:-1, 0]).flatten()
    assert abs(float(kicks.mean())) < 5 / len(kicks) ** 0.5
    assert float(kicks.var()) == pytest.approx(1.0, abs=5 * (2 / len(kicks)) ** 0.5)
    assert len(kicks.unique()) == len(kicks)
    assert sx.lyapunov_spectrum(system, steps=200).exponents.tolist() == pytest.approx(4 * [torch.tensor(0.5).log().item()])


def test_the_exponent_of_random_factors_is_the_mean_of_their_logarithms():
    """With random factors a_n, x ↦ a_n x, the orbit from 1 is their product."""
    system = sx.Seeded(sx.Map(lambda x: x * (0.5 + torch.rand(1, dtype=x.dtype)), 1), seed=3)
    orbit = sx.trajectory(system, torch.ones(1, dtype=torch.float64), steps=400)
    exponent = sx.lyapunov_spectrum(system, torch.ones(1, dtype=torch.float64), steps=400, settle=0).exponents
    assert float(exponent) == pytest.approx(float(orbit[-1].log()) / 400, rel=1e-9)


def test_other_seeds_are_other_realisations():
    step = [
        sx.Seeded(sx.Map(lambda x: torch.randn_like(x), 3), seed=s).step(torch.zeros(3), n) for s in (0, 1, 2**32) for n in (0, 1)
    ]
    assert len(torch.stack(step).unique()) == 18


def test_gradients_reach_a_seeded_cells_parameters():
    cell = Cell()
    system = sx.Seeded(sx.Recurrent(cell, torch.randn(9, 3)))
    sx.trajectory(system, steps=3)[-1].sum().backward()
    assert cell.turn.weight.grad is not None and cell.turn.weight.grad.isfinite().all()


def test_noise_off_gives_the_cell_itself():
    cell, u = Cell(noise=0.0), torch.randn(9, 3)
    seeded, h = sx.trajectory(sx.Seeded(sx.Recurrent(cell, u)), steps=9), torch.zeros(1, 4).double()
    for n in range(9):
        h = cell.double()(u[n : n + 1].double(), h)
    assert torch.allclose(seeded[-1], h[0], rtol=1e-12)
