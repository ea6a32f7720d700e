"""Networks whose step draws noise in evaluation mode too, as task-trained networks of neuroscience do."""

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.analyze.verdict import verdict
from separatrix.errors import InputError

FEW = {"k": 1, "copies": 2, "steps": 300, "settle": 50, "also": "none"}


class NoisyLayer(nn.Module):
    """A hand-written layer with noise in its step."""

    def __init__(self, noise: float = 0.05) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.i2h, self.h2h, self.noise = nn.Linear(3, 6), nn.Linear(6, 6), noise
        self.double()

    def forward(self, x, h=None):
        h = x.new_zeros(x.shape[1], 6) if h is None else h
        out = []
        for u in x:
            h = 0.8 * h + 0.2 * torch.tanh(self.i2h(u) + self.h2h(h))
            h = h + self.noise * torch.randn_like(h) if self.noise else h
            out.append(h)
        return torch.stack(out), h


def test_noise_in_the_step_is_refused_with_both_ways_out():
    with pytest.raises(InputError, match=r"(?s)draws random numbers.*noise=.fixed.*sx.Noisy"):
        sx.analyze(NoisyLayer(), torch.randn(20, 4, 3, dtype=torch.float64), **FEW)


def test_noise_held_fixed_leaves_the_exponent_and_lets_all_states_meet():
    """Weak noise in a contracting network changes λ₁ little; under one realisation all initial states meet."""
    x = torch.randn(20, 4, 3, dtype=torch.float64)
    held = sx.analyze(NoisyLayer(), x, noise="fixed", **FEW)
    quiet = sx.analyze(NoisyLayer(0.0), x, **FEW)
    assert held.lambda_1[0] == pytest.approx(quiet.lambda_1[0], abs=0.03)
    assert int(held.groups.max()) == 0 and "noise held fixed" in held.did[0]
    assert held.check[0] == pytest.approx(held.lambda_1[0], abs=0.02)


def test_a_check_that_contradicts_the_exponent_is_said_before_anything_else():
    told = verdict(-0.14, 0.003, 2000, None, None, disagreement="two near trajectories part at 16.8 nats per step")
    assert told.startswith("unsure: two near trajectories part at 16.8")
