"""States of 20,000 numbers: what asks for k directions takes no dim × dim array, and what needs one is refused beforehand."""

import math

import pytest
import torch

import separatrix as sx

LARGE = 20_000
FACTORS = torch.full((LARGE,), 0.5, dtype=torch.float64)
FACTORS[[3, 11_000]] = torch.tensor([0.9, 0.7], dtype=torch.float64)
X0 = torch.ones(LARGE, dtype=torch.float64)


def diagonal() -> sx.Map:
    return sx.Map(lambda x: FACTORS * x, LARGE)


def rotation() -> sx.Map:
    """10,000 planes, each turned by the golden angle: the orbit of any state is a closed curve, covered densely."""
    c, s = math.cos(2.4), math.sin(2.4)

    def turned(x):
        p, q = x.unflatten(-1, (2, -1)).unbind(-2)
        return torch.cat([c * p - s * q, s * p + c * q], dim=-1)

    return sx.Map(turned, LARGE)


def test_leading_exponents_and_covariant_vectors_are_those_of_the_diagonal():
    exact = torch.tensor([0.9, 0.7], dtype=torch.float64).log()
    found = sx.covariant_lyapunov_vectors(diagonal(), X0, k=2, steps=20, settle=100, align=100)
    torch.testing.assert_close(found.exponents, exact, atol=1e-6, rtol=0)
    assert found.vectors[0, 0].abs().argmax() == 3 and found.vectors[0, 1].abs().argmax() == 11_000
    assert sx.divergence_rate(diagonal(), X0, steps=100, settle=100).rate == pytest.approx(math.log(0.9), abs=1e-6)


def test_the_orbit_of_a_rotation_has_dimension_1():
    found = sx.correlation_dimension(rotation(), X0, steps=800, settle=0)
    assert found.dimension == pytest.approx(1, abs=0.05)


def test_the_spectrum_of_a_rotation_has_its_frequency():
    found = sx.power_spectrum(rotation(), X0, steps=256, settle=0)
    assert found.verdict == "quasi-periodic" and found.base[0] == pytest.approx(2.4 / (2 * math.pi), abs=1e-6)


def test_a_contraction_is_an_echo_state():
    assert sx.echo_state(diagonal(), X0, starts=3, steps=300).verdict == "echo state"


@pytest.mark.parametrize("analysis", [sx.transient_growth, sx.lyapunov_spectrum, sx.covariant_lyapunov_vectors])
def test_what_needs_the_whole_jacobian_is_refused_with_both_sizes(analysis):
    with pytest.raises(sx.errors.InputError, match=r"20,000 numbers needs .* GiB .* 4 GiB\.\nPass"):
        analysis(diagonal(), X0)


@pytest.mark.parametrize("analysis", [sx.gradient_propagation, sx.finite_time_lyapunov])
def test_all_singular_values_are_refused_with_both_sizes(analysis):
    with pytest.raises(sx.errors.InputError, match=r"20,000 numbers needs .* GiB .* 4 GiB\.\nPass a smaller k"):
        analysis(diagonal(), X0, k=LARGE)


def test_the_first_rows_of_a_random_frame_do_not_depend_on_how_many_there_are():
    from separatrix.analysis.run.tangent_run import random_frame

    for dim in (3, 17, 100):
        whole = random_frame(torch.zeros(dim, dtype=torch.float64), dim, seed=1)
        for k in (1, 2, dim - 1):
            part = random_frame(torch.zeros(dim, dtype=torch.float64), k, seed=1)
            torch.testing.assert_close(part, whole[:k], atol=1e-13, rtol=0)


@pytest.mark.parametrize(
    "measure",
    [
        lambda ring: sx.trajectory(ring, steps=10**9),
        lambda ring: sx.correlation_dimension(ring, steps=10**12),
        lambda ring: sx.power_spectrum(ring, steps=10**12),
        lambda ring: sx.covariant_lyapunov_vectors(ring, k=4, steps=10**9, keep=1),
    ],
    ids=["trajectory", "correlation dimension", "power spectrum", "covariant vectors"],
)
def test_an_orbit_that_does_not_fit_into_memory_is_refused_before_it_is_begun(measure):
    ring = sx.Map(lambda x: 0.5 * x.roll(1, -1), 20_000)
    with pytest.raises(sx.errors.InputError, match=r"[TPE]iB, but .* are available"):
        measure(ring)
