"""Surrogates keep exactly what they promise to keep, and destroy the rest."""

import math

import pytest
import torch

import separatrix as sx


def series(steps: int = 501, *batch: int) -> torch.Tensor:
    """Skewed and slow: exp of a running mean, two inputs that share a part."""
    white = torch.randn(steps + 9, *batch, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slow = white.unfold(0, 10, 1).mean(-1)
    return torch.stack([(2 * slow[..., 0]).exp(), slow[..., 0] + 0.3 * slow[..., 1]], dim=-1)


def test_shuffled_inputs_are_the_same_steps_in_another_order():
    u = series()
    shuffled = sx.surrogate(u, kind="shuffled", seed=1)
    assert not torch.equal(shuffled, u)
    assert torch.equal(shuffled[shuffled[:, 0].argsort()], u[u[:, 0].argsort()])  # whole rows: inputs of a step stay together


@pytest.mark.parametrize("steps", [500, 501])
def test_random_phases_keep_the_power_spectrum_the_cross_spectrum_and_the_mean_exactly(steps):
    u = series(steps)
    turned = sx.surrogate(u, kind="phase", seed=1)
    before, after = torch.fft.rfft(u, dim=0), torch.fft.rfft(turned, dim=0)
    torch.testing.assert_close(after.abs(), before.abs(), rtol=1e-10, atol=1e-10)
    cross = [f[:, 0] * f[:, 1].conj() for f in (before, after)]
    torch.testing.assert_close(cross[1], cross[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(turned.mean(0), u.mean(0))
    assert (turned - u).abs().max() > 0.5


def test_random_phases_take_the_skewness_away():
    def skewness(values):
        return float(((values - values.mean()) / values.std()).pow(3).mean())

    u = series(20_000)[:, :1]
    assert skewness(u) > 2
    assert abs(skewness(sx.surrogate(u, kind="phase"))) < 0.2


@pytest.mark.parametrize("kind", ["shuffled", "phase"])
def test_each_item_of_a_batch_is_drawn_anew_and_a_seed_repeats(kind):
    u = series(64)[:, None].expand(64, 3, 2).float()
    made = sx.surrogate(u, kind=kind, seed=4)
    assert made.shape == u.shape and made.dtype == u.dtype
    assert not torch.equal(made[:, 0], made[:, 1])
    assert torch.equal(made, sx.surrogate(u, kind=kind, seed=4))
    assert not torch.equal(made, sx.surrogate(u, kind=kind, seed=5))


def test_what_depends_only_on_the_distribution_of_a_drive_does_not_change_when_it_is_shuffled():
    """h' = (0.5 + u) h: λ = ⟨ln|0.5 + u|⟩, whatever the order; random phases change the distribution, and with it λ."""
    u = series(2_000)[:, :1]

    def rate(drive):
        system = sx.Map(lambda h, n: (0.5 + drive[n]) * h, 1, time_dependent=True)
        return float(sx.lyapunov_spectrum(system, torch.zeros(1).double(), steps=2_000, settle=0).exponents[0])

    exact = float((0.5 + u).abs().log().mean())
    assert rate(u) == pytest.approx(exact, abs=1e-12)
    assert rate(sx.surrogate(u, kind="shuffled")) == pytest.approx(exact, abs=1e-12)
    assert abs(rate(sx.surrogate(u, kind="phase")) - exact) > 0.05


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (torch.zeros(9, 1), {"kind": "wavelet"}, "kind is 'wavelet'.* 'shuffled'"),
        (torch.zeros(9), {}, "time"),
        (torch.zeros(3, 1), {}, "4 steps"),
        (torch.full((9, 1), math.inf), {}, "not finite"),
        (torch.zeros(9, 1), {"seed": -1}, "seed is -1"),
    ],
)
def test_what_makes_no_sense_is_refused(inputs, options, message):
    with pytest.raises(sx.SeparatrixError, match=message):
        sx.surrogate(inputs, **options)
