"""Networks whose step draws noise in evaluation mode too, as task-trained networks of neuroscience do."""

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.core.errors import InputError
from separatrix.portrait.verdict import verdict

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
    told = verdict(-0.14, 0.003, 2000, None, None, disagreement="two nearby trajectories separate at 16.8 nats per step")
    assert told.startswith("unsure: two nearby trajectories separate at 16.8")


class Dreaming(nn.Module):
    """A network whose own draw is its next input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.prior = nn.GRUCell(2, 5), nn.Linear(5, 4)
        self.double()

    def turn(self, h, noise):
        mean, log = self.prior(h).chunk(2, -1)
        return self.cell(mean + log.exp() * noise, h)

    def forward(self, h, steps=15):
        out = []
        for _ in range(steps):
            h = self.turn(h, torch.randn(len(h), 2, dtype=h.dtype))
            out.append(h)
        return torch.stack(out, 1)


def test_a_loop_that_draws_its_own_inputs_is_refused_or_measured_with_the_draws_held():
    """λ₁ of the random loop, against QR of dense Jacobians under draws of the test's own."""
    model, h = Dreaming(), torch.zeros(2, 5, dtype=torch.float64)
    with pytest.raises(InputError, match=r"(?s)draws random numbers.*noise=.fixed"):
        sx.analyze(model, h, **FEW)
    found = sx.analyze(model, h, noise="fixed", **FEW)
    assert "closed loop" in found.verdict
    x, v, rates = h[:1], torch.ones(1, 5, dtype=torch.float64), []
    generator = torch.Generator().manual_seed(3)
    for n in range(1250):
        noise = torch.randn(1, 2, dtype=torch.float64, generator=generator)
        x, v = torch.func.jvp(lambda y, noise=noise: model.turn(y, noise), (x.detach(),), ((v / v.norm()).detach(),))
        rates += [float(v.detach().norm().log())] if n >= 50 else []
    rates = torch.tensor(rates)
    allowed = 4 * (float(found.pooled.stderr[0]) ** 2 + float(rates.std()) ** 2 / 40) ** 0.5  # blocks of some 30 steps
    assert float(found.pooled.exponents[0]) == pytest.approx(float(rates.mean()), abs=allowed)
