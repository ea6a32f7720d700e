"""Lyapunov spectra where the answer is exact: linear maps, random matrices, identities that hold along any orbit."""

import math

import pytest
import torch
from scipy.special import polygamma
from torch import Tensor, nn

import separatrix as sx


def exactly(expected, atol: float = 1e-9):
    """To rounding: "auto" lets a frame reach condition 1e8, so that log R_ii is off by 1e-8 every ten steps or so."""
    return pytest.approx(torch.as_tensor(expected, dtype=torch.float64).numpy(), rel=0, abs=atol)


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Linear(sx.System):
    """x → W x, followed at its fixed point 0 so that growth does not overflow."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__(len(matrix))
        self.matrix = matrix

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return x @ self.matrix.mT

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        return x @ self.matrix.mT, v @ self.matrix.mT


class TanhNetwork(sx.System):
    """x → J tanh x with J_ij ~ N(0, gain² / size)."""

    def __init__(self, size: int = 20, gain: float = 2.5, seed: int = 3) -> None:
        super().__init__(size)
        self.weight = seeded(size, size, seed=seed) * gain / size**0.5

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return torch.tanh(x) @ self.weight.mT

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        h = torch.tanh(x)
        return h @ self.weight.mT, ((1 - h * h)[..., None, :] * v) @ self.weight.mT


# --- linear maps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("diagonal", [[2.0, 1.0, 0.5], [0.5, -2.0, 1.0], [1e3, 1.0, 1e-3], [1e10, 1.0, 1e-10]])
def test_a_diagonal_map_has_the_logarithms_of_its_entries(diagonal):
    """λ_i = ln |d_i|, descending; also where a random frame loses the last direction to rounding in its first steps."""
    spectrum = sx.lyapunov_spectrum(Linear(torch.tensor(diagonal, dtype=torch.float64).diag()), steps=200, settle=100)
    assert spectrum.exponents.numpy() == exactly(sorted((math.log(abs(d)) for d in diagonal), reverse=True))
    assert spectrum.status == "ok"
    assert spectrum.rank == 3


def test_a_triangular_map_has_the_logarithms_of_its_diagonal():
    """λ = ln |diag W| whatever stands above the diagonal, in descending order whatever the order on it."""
    matrix = torch.tensor([[0.5, 3.0, -1.0], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    spectrum = sx.lyapunov_spectrum(Linear(matrix), steps=200, settle=200)
    assert spectrum.exponents.numpy() == exactly([math.log(2), 0.0, -math.log(2)])


@pytest.mark.parametrize("matrix", [torch.eye(6, dtype=torch.float64), torch.linalg.qr(seeded(6, 6))[0]])
def test_an_isometry_has_zero_exponents(matrix):
    """Identity and orthogonal maps keep every length; the run is told to be converged though it needs almost no QR."""
    spectrum = sx.lyapunov_spectrum(Linear(matrix), seeded(6))
    assert spectrum.exponents.numpy() == exactly(torch.zeros(6))
    assert spectrum.status == "ok"
    assert spectrum.stderr.numpy() == exactly(torch.zeros(6))


def test_a_symmetric_linear_network_has_the_logarithms_of_its_eigenvalues():
    """λ = ln |eig W|, to rounding, because eigenvectors are orthogonal and the frame settles on them."""
    matrix = seeded(8, 8) + seeded(8, 8).mT
    expected = torch.linalg.eigvalsh(matrix).abs().log().sort(descending=True).values
    spectrum = sx.lyapunov_spectrum(Linear(matrix), steps=100, settle=3000)  # closest pair: e^(−0.03 · 3000)
    assert spectrum.exponents.numpy() == exactly(expected)


def test_a_linear_network_with_complex_pairs_has_them_up_to_one_over_steps():
    """λ = ln |eig W|; within a complex pair log R oscillates, so that averages are off by up to ln κ(V) / steps."""
    matrix, steps = seeded(12, 12) / 12**0.5, 4000
    values, vectors = torch.linalg.eig(matrix)
    assert values.imag.abs().max() > 0.1
    spectrum = sx.lyapunov_spectrum(Linear(matrix), steps=steps, settle=2000)
    bound = float(torch.linalg.cond(vectors).log()) / steps
    assert bound < 2e-3
    assert spectrum.exponents.numpy() == exactly(values.abs().log().sort(descending=True).values, atol=bound)


# --- random and lattice maps with exact spectra ----------------------------------------------------------------------


def gaussian_products(size: int, copies: int) -> sx.Map:
    """The map x → A_n x with independent standard normal entries, other matrices for each copy; A_n is a function of n."""

    def step(x: Tensor, n: int) -> Tensor:
        return (seeded(copies, size, size, seed=n) @ x[..., None])[..., 0]

    return sx.Map(step, size, time_dependent=True)


def newman(size: int) -> tuple[Tensor, Tensor]:
    """Exact exponents of products of standard Gaussian matrices, and the exact standard deviation of log R_ii in a step.

    R_ii of one step is chi-distributed with size − i + 1 degrees of freedom, all independent.
    Source: Newman 1986, Commun. Math. Phys. 103, 121.
    """
    half = torch.arange(size, 0, -1, dtype=torch.float64) / 2
    return (math.log(2) + torch.digamma(half)) / 2, torch.as_tensor(polygamma(1, half.numpy())).sqrt() / 2


def test_gaussian_products_have_newmans_exponents():
    """λ_i = (ln 2 + ψ((N − i + 1)/2)) / 2 within 4 exact standard errors, and the pooled bar is the exact one within 30 %."""
    copies, steps = 64, 400
    exact, spread = newman(8)
    pooled = sx.lyapunov_spectrum(gaussian_products(8, copies), torch.zeros(copies, 8).double(), steps=steps).pooled()
    error = spread / (copies * steps) ** 0.5
    assert ((pooled.exponents - exact).abs() < 4 * error).all()
    assert pooled.stderr.numpy() == pytest.approx(error.numpy(), rel=0.3)  # 64 copies: 9 % each, 3.3 of them at most


def test_error_bars_of_independent_increments_are_calibrated():
    """Of 200 Gaussian products the exact exponent lies within 2 of their own standard errors in 90–99 %."""
    exact, spread = newman(4)
    spectrum = sx.lyapunov_spectrum(gaussian_products(4, 200), torch.zeros(200, 4).double(), steps=1000)
    covered = ((spectrum.exponents - exact).abs() <= 2 * spectrum.stderr).double().mean(0)
    assert ((covered >= 0.90) & (covered <= 0.99)).all()
    assert spectrum.stderr.median(0).values.numpy() == pytest.approx((spread / 1000**0.5).numpy(), rel=0.1)
    assert spectrum.converged.double().mean() > 0.9  # no drift in a stationary product: a 1 % test over the spectrum


def doubling_lattice(size: int = 8, coupling: float = 0.3) -> sx.Map:
    """Doubling maps on a ring, each mixed with its two neighbours."""

    def step(x: Tensor) -> Tensor:
        doubled = (2 * x).remainder(1.0)
        return (1 - coupling) * doubled + coupling / 2 * (doubled.roll(1, -1) + doubled.roll(-1, -1))

    return sx.Map(step, size)


def test_the_doubling_map_lattice_has_its_fourier_spectrum():
    """λ_q = ln 2 + ln |1 − ε + ε cos 2πq/N|: the Jacobian is constant, so only rounding is left."""
    exact = sorted((math.log(2 * abs(0.7 + 0.3 * math.cos(2 * math.pi * q / 8))) for q in range(8)), reverse=True)
    spectrum = sx.lyapunov_spectrum(doubling_lattice(), seeded(8).abs() % 1, steps=200, settle=400)
    assert spectrum.exponents.numpy() == exactly(exact)
    assert exact[0] == pytest.approx(0.69315, abs=1e-5)  # notes/lyapunov.md §3.1
    assert exact[-1] == pytest.approx(-0.22314, abs=1e-5)
    assert float(spectrum.entropy) == pytest.approx(sum(value for value in exact if value > 0), abs=1e-12)
    assert float(spectrum.kaplan_yorke_dimension) == 8  # the sum of all is positive: the lattice fills its space


# --- identities along any orbit --------------------------------------------------------------------------------------


def log_determinants(system: sx.System, states: Tensor) -> Tensor:
    """The logarithm of |det J| at each state, J by reverse mode, row by row."""
    return torch.stack([torch.linalg.slogdet(torch.func.jacrev(system.step)(x))[1] for x in states])


@pytest.mark.parametrize("system", [TanhNetwork(), sx.classic.henon(), sx.classic.lorenz63()], ids=["tanh", "henon", "lorenz63"])
def test_the_sum_of_exponents_is_the_mean_log_determinant(system):
    """Σ λ_i = ⟨log |det J|⟩ / dt along the same orbit: to rounding with a QR each step, to 1e-8 with the interval chosen."""
    x0 = system.initial_state() + 0.01 * seeded(system.dim)
    expected = log_determinants(system, sx.trajectory(system, x0, 350)[50:350]).mean() / system.dt
    for every, rel in ((1, 1e-10), ("auto", 1e-8)):
        spectrum = sx.lyapunov_spectrum(system, x0, steps=300, settle=50, every=every)
        assert float(spectrum.exponents.sum()) == pytest.approx(float(expected), rel=rel)


def test_the_mean_exponent_of_a_tanh_network_is_its_mean_log_slope_and_log_determinant():
    """Σ λ = Σ ⟨ln tanh'(x_i)⟩ + ln |det J|. Source: notes/lyapunov.md §3.2 (a), with the drawn J instead of its mean."""
    system = TanhNetwork(size=30, gain=3.0)
    spectrum = sx.lyapunov_spectrum(system, seeded(30, seed=1), steps=500, settle=100)
    states = sx.trajectory(system, seeded(30, seed=1), 600)[100:600]
    log_slope = (-2 * states.cosh().log()).sum(-1).mean()
    assert float(spectrum.exponents.sum()) == pytest.approx(float(log_slope + torch.linalg.slogdet(system.weight)[1]), rel=1e-8)


def test_a_tanh_network_below_gain_1_has_the_exponents_of_its_fixed_point():
    """Below g = 1 every orbit falls into 0, where the exponents are ln |eig J|. Source: notes/lyapunov.md §3.2 (c)."""
    system = TanhNetwork(size=10, gain=0.8)
    values, vectors = torch.linalg.eig(system.weight)
    spectrum = sx.lyapunov_spectrum(system, seeded(10), steps=4000, settle=2000)
    bound = float(torch.linalg.cond(vectors).log()) / 4000
    assert spectrum.exponents.numpy() == exactly(values.abs().log().sort(descending=True).values, atol=bound)


@pytest.mark.parametrize(
    ("system", "expected", "atol"),
    [
        (sx.classic.henon(), math.log(0.3), 1e-8),  # rounding at condition 1e8
        (sx.classic.standard_map(), 0.0, 1e-8),
        (sx.classic.lorenz63(), -(10 + 1 + 8 / 3), 5e-4),  # of the flow; RK4 at dt = 0.01 is off by 1e-4,
        (sx.classic.lorenz63(16.0, 45.92, 4.0), -21.0, 5e-3),  # here, faster, by 1e-3
        (sx.classic.lorenz96(40), -40.0, 5e-3),
    ],
    ids=["henon", "standard_map", "lorenz63", "lorenz63-wolf", "lorenz96"],
)
def test_the_sum_of_exponents_is_the_divergence(system, expected, atol):
    """Σ λ is ln |det J| or the field's divergence where that is the same everywhere."""
    x0 = system.initial_state((4,), seed=3)
    spectrum = sx.lyapunov_spectrum(system, x0, steps=1000, settle=500)
    assert spectrum.exponents.sum(-1).numpy() == pytest.approx(expected, abs=atol)


def test_the_full_logistic_map_has_ln_2_up_to_one_over_steps():
    """λ = ln 2 at r = 4 with an error that telescopes: |Φ(x_T) − Φ(x_0)| / T, Φ = ½ ln x(1 − x), far below 1/√T."""
    steps = 2000
    x0 = seeded(200, 1).abs() % 1
    error = sx.lyapunov_spectrum(sx.classic.logistic(4.0), x0, steps=steps, settle=100).exponents - math.log(2)
    assert error.abs().max() < 20 / steps  # Φ > −18 in float64
    assert error.square().mean().sqrt() < 4 / steps  # the spread of Φ is near 1; independent increments would give 40 / steps


def test_a_period_2_cycle_has_half_the_logarithm_of_its_multiplier():
    """At r = 3.2 the 2-cycle's multiplier is 4 + 2r − r² = 0.16, and λ = ln(0.16)/2."""
    spectrum = sx.lyapunov_spectrum(sx.classic.logistic(3.2), steps=1000, settle=500)
    assert spectrum.exponents.numpy() == exactly([math.log(0.16) / 2])
    assert spectrum.status == "ok"


@pytest.mark.long
def test_the_exponents_of_a_hamiltonian_system_pair_up():
    """λ_i = −λ_{5−i} for the double pendulum. Finite-time pairs are off by O(1/T): here 5 nats over T."""
    system = sx.classic.double_pendulum()
    x0 = torch.tensor([[2.0, 2.0, 0.0, 0.0], [2.5, 2.5, 0.0, 0.0]], dtype=torch.float64)  # released above the horizontal
    spectrum = sx.lyapunov_spectrum(system, x0, steps=2500, settle=500)
    total = spectrum.exponents + spectrum.exponents.flip(-1)
    assert total.abs().max() < 5 / 25
    assert spectrum.exponents.sum(-1).abs().max() < 5 / 25
    assert (spectrum.exponents[:, 0] > 0.5).all()  # it is chaotic, so the pairs are not all zero


@pytest.mark.long
def test_a_flow_has_a_zero_exponent():
    """The velocity neither grows nor shrinks on average: |λ₂| = |log‖ẋ_T‖ − log‖ẋ_0‖| / T on the Lorenz attractor, under 6 / T."""
    spectrum = sx.lyapunov_spectrum(
        sx.classic.lorenz63(), sx.classic.lorenz63().initial_state((32,), seed=1), steps=5000, settle=2000
    )
    assert spectrum.exponents[:, 1].abs().max() < 6 / 50
    assert spectrum.exponents[:, 1].mean().abs() < 1 / 50


# --- what must not matter --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", [sx.classic.lorenz63(), TanhNetwork()], ids=["lorenz63", "tanh"])
def test_the_qr_interval_does_not_matter(system):
    """R of a product is the product of the Rs, so the sums agree to rounding whatever the interval."""
    x0 = system.initial_state() + 0.1 * seeded(system.dim)
    every = {n: sx.lyapunov_spectrum(system, x0, steps=500, settle=100, every=n).exponents.numpy() for n in (1, 7, "auto")}
    for n in (7, "auto"):
        assert every[n] == exactly(every[1], atol=1e-5)  # a frame may reach condition 1e11 before a QR: log R_ii off by 1e-5
        assert every[n][0] == pytest.approx(every[1][0], abs=1e-10)  # which the leading exponent does not see


@pytest.mark.parametrize("every", [15, 40, 500])
def test_an_interval_that_is_too_long_is_cut_and_erases_nothing(every):
    """Hénon's frame loses e² per step, all of float64 in 18; an exponent must not become −∞ because of that."""
    expected = sx.lyapunov_spectrum(sx.classic.henon(), steps=1000, every=1)
    spectrum = sx.lyapunov_spectrum(sx.classic.henon(), steps=1000, every=every)
    assert spectrum.exponents.numpy() == exactly(expected.exponents, atol=1e-6)
    assert spectrum.rank == 2


def test_a_burst_of_growth_after_a_calm_overflows_nothing():
    """A calm stretch makes "auto" take long strides; when lengths triple they would overflow (3^1000) and are cut."""

    class Burst(Linear):
        def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
            return x, v if n < 4000 else 3 * v

    spectrum = sx.lyapunov_spectrum(Burst(torch.eye(2, dtype=torch.float64)), steps=20_000, settle=4000)
    assert spectrum.exponents.numpy() == exactly([math.log(3)] * 2)
    assert spectrum.status == "ok"


@pytest.mark.parametrize("k", [1, 4, 19])
def test_k_leading_exponents_are_the_first_k_of_all(k):
    """The first k rows of the frame never see the others; orbit and frame start alike."""
    system = TanhNetwork()
    every = sx.lyapunov_spectrum(system, seeded(20), steps=300, settle=100, every=2)
    some = sx.lyapunov_spectrum(system, seeded(20), k=k, steps=300, settle=100, every=2)
    assert some.exponents.shape == (k,)
    assert some.exponents.numpy() == exactly(every.exponents[:k], atol=1e-9)


def test_a_linear_change_of_coordinates_changes_nothing():
    """In y = A x exponents differ by ln κ(A) / steps at most, their sum not at all; on a network that forgets, so orbits agree."""
    weight, drive, steps = TanhNetwork(size=8, gain=0.9).weight, seeded(1500, 8, seed=7), 1000
    turn = torch.eye(8, dtype=torch.float64) + 0.3 * seeded(8, 8, seed=4)
    back = torch.linalg.inv(turn)
    plain = sx.Map(lambda x, n: torch.tanh(x @ weight.mT + drive[n]), 8, time_dependent=True)
    turned = sx.Map(lambda y, n: plain.step(y @ back.mT, n) @ turn.mT, 8, time_dependent=True)
    a = sx.lyapunov_spectrum(plain, seeded(8), steps=steps, settle=500).exponents
    b = sx.lyapunov_spectrum(turned, seeded(8) @ turn.mT, steps=steps, settle=500).exponents
    assert a[0] < -0.05
    assert (a - b).abs().max() > 1e-6  # the frames do differ
    assert b.numpy() == exactly(a, atol=float(torch.linalg.cond(turn).log()) / steps)
    assert float(b.sum()) == pytest.approx(float(a.sum()), rel=1e-9)


class Diagonal(sx.Field):
    """ẋ_i = a_i x_i."""

    def __init__(self, rates: Tensor) -> None:
        super().__init__()
        self.rates = rates

    def forward(self, x: Tensor, t: float) -> Tensor:
        return x * self.rates

    def pushforward(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        return x * self.rates, v * self.rates


@pytest.mark.parametrize("dt", [0.1, 0.025])
def test_exponents_are_per_unit_time(dt):
    """ẋ = A x by RK4: λ = ln |p(a dt)| / dt with p the method's stability polynomial, close to the eigenvalue a itself."""
    rates = torch.tensor([0.3, -0.2, -1.0], dtype=torch.float64)
    spectrum = sx.lyapunov_spectrum(sx.Flow(Diagonal(rates), 3, dt), torch.zeros(3).double(), steps=400, settle=1000)
    z = rates * dt
    exact = (1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24).log() / dt
    assert spectrum.exponents.numpy() == exactly(exact)
    assert exact.numpy() == pytest.approx(rates.numpy(), abs=dt**4)
    assert float(spectrum.history_time[-1]) == pytest.approx(400 * dt)


def test_an_iterate_has_the_same_exponents_per_unit_time():
    """F⁵ in steps of 5 dt is the same flow."""
    system = sx.classic.lorenz63()
    one = sx.lyapunov_spectrum(system, steps=1000, settle=500)
    five = sx.lyapunov_spectrum(sx.Iterate(system, 5), steps=200, settle=100)
    assert five.exponents.numpy() == exactly(one.exponents, atol=1e-6)


# --- −∞ --------------------------------------------------------------------------------------------------------------


def test_directions_that_a_singular_map_erases_are_minus_infinity():
    """diag(2, 0.5, 0, 0): two finite exponents, two −∞ that spoil neither the sum of the others nor the dimension."""
    spectrum = sx.lyapunov_spectrum(Linear(torch.tensor([2.0, 0.0, 0.5, 0.0]).double().diag()), steps=100)
    assert spectrum.exponents[:2].numpy() == exactly([math.log(2), -math.log(2)])
    assert (spectrum.exponents[2:] == -math.inf).all()
    assert (spectrum.rank, spectrum.status) == (2, "ok")
    assert (spectrum.stderr[2:] == 0).all()
    assert float(spectrum.kaplan_yorke_dimension) == pytest.approx(2.0)
    assert (spectrum.history[:, 2:] == -math.inf).all()


@pytest.mark.parametrize("every", [1, 10, "auto"])
def test_dead_units_of_a_relu_network_are_counted(every):
    """3 of 12 units can never fire: their rows of the Jacobian are zero, so 3 exponents are −∞ and 9 are not."""
    network = nn.RNN(2, 12, nonlinearity="relu", dtype=torch.float64)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(seeded(*weight.shape).abs() * 0.1)
        network.bias_ih_l0[:3] = -100.0
    system = sx.Recurrent(network, seeded(300, 2, seed=1).abs())
    spectrum = sx.lyapunov_spectrum(system, steps=200, settle=50, every=every)
    assert int((spectrum.exponents == -math.inf).sum()) == 3
    assert torch.isfinite(spectrum.exponents[:9]).all()
    assert spectrum.rank == 9


def test_a_direction_lost_while_settling_is_not_counted():
    """Exponents are averages over the steps after settling, so what a map erased before does not make them −∞."""
    regular, singular = torch.tensor([2.0, 0.5]).double().diag(), torch.tensor([[1.0, 1.0], [1.0, 1.0]]).double()
    system = sx.Map(lambda x, n: x @ (singular if n == 10 else regular).mT, 2, time_dependent=True)
    assert sx.lyapunov_spectrum(system, steps=100, settle=100).exponents.numpy() == exactly([math.log(2), -math.log(2)])
    during = sx.lyapunov_spectrum(system, steps=100, settle=5)
    assert during.exponents[1] == -math.inf
