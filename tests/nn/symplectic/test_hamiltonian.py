"""Hamiltonian networks: symplectic for all weights and after training, reversed exactly, and trusted for a long time."""

import math

import pytest
import torch
from scipy.special import ellipj, ellipk
from torch import Tensor, nn

import separatrix as sx
from separatrix.flows.methods import ImplicitMidpoint
from separatrix.testing.blocks import poisson, scrambled, trained

BUILDS = {
    "leapfrog": lambda: sx.nn.SeparableHamiltonian(4, hidden=16),
    "yoshida4": lambda: sx.nn.SeparableHamiltonian(4, hidden=16, method="yoshida4"),
    "learned kinetic energy": lambda: sx.nn.SeparableHamiltonian(4, hidden=16, kinetic="network", dt=0.3),
    "plane": lambda: sx.nn.SeparableHamiltonian(2, hidden=4),
    "midpoint": lambda: sx.nn.Hamiltonian(4, hidden=16),
    "long midpoint": lambda: sx.nn.Hamiltonian(2, hidden=16, dt=1.0),
}
IMPLICIT = ("midpoint", "long midpoint")


def built(name: str, seed: int = 0) -> sx.nn.Block:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BUILDS[name]().double()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", BUILDS)
def test_the_jacobian_is_symplectic_at_random_weights_and_after_training(name):
    """JᵀΩJ = Ω to 1e-12 of ‖J‖², by reverse mode, which knows nothing of the closed-form tangents."""
    omega, x = poisson(built(name).dim // 2), normal(6, built(name).dim)
    for change in (lambda block, _: block, scrambled, trained):
        block = change(built(name), 0)
        jac = torch.stack([torch.autograd.functional.jacobian(block, row) for row in x])
        size = max(1.0, float(torch.linalg.matrix_norm(jac, 2).max()) ** 2)
        assert (jac.mT @ omega @ jac - omega).abs().max() < 1e-12 * size
        assert torch.linalg.slogdet(jac).logabsdet.abs().max() < 1e-12 * size
        assert torch.allclose(
            block.pushforward(x, torch.eye(block.dim).double().expand(6, -1, -1))[1].mT, jac, rtol=1e-10, atol=1e-11
        )


@pytest.mark.parametrize("name", BUILDS)
def test_weights_and_states_of_any_size_leave_it_symplectic_and_within_its_lipschitz_factor(name):
    omega = poisson(built(name).dim // 2)
    for factor in (1e-100, 1e-8, 100.0, 1e4, 1e8, 1e50):
        block = scrambled(built(name), 0)
        with torch.no_grad():
            for weights in [w for key, w in block.named_parameters() if "mass" not in key]:
                weights.mul_(factor)
        x = torch.cat([size * normal(2, block.dim) for size in (1e-10, 1.0, 1e3, 1e8)])
        jac = torch.stack([torch.autograd.functional.jacobian(block, row) for row in x])
        norms = torch.linalg.matrix_norm(jac, 2)
        assert ((jac.mT @ omega @ jac - omega).abs().amax((-1, -2)) < 1e-12 * norms**2).all()
        assert (norms <= block.guarantee.lipschitz * (1 + 1e-12)).all()


@pytest.mark.parametrize("name", [name for name in BUILDS if name not in ("leapfrog", "midpoint")])
def test_its_guarantee_holds(name):
    """The two others are in the table of blocks, and held to theirs with it."""
    sx.testing.check_block(built(name))


@pytest.mark.parametrize("name", BUILDS)
def test_the_step_is_undone_by_its_inverse(name):
    block, x = scrambled(built(name), 1), normal(20, built(name).dim)
    assert torch.allclose(block.inverse(block(x)), x, rtol=0, atol=1e-11)
    assert torch.allclose(block(block.inverse(x)), x, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["leapfrog", "yoshida4"])
def test_turning_the_momenta_around_goes_back(name):
    """T is even where the masses are learned, so that Φ⁻¹ = R Φ R with R(q, p) = (q, −p)."""
    block, x = scrambled(built(name), 1), normal(20, 4)
    turn = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    assert torch.allclose(turn * block(turn * block(x)), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", BUILDS)
def test_the_field_is_that_of_the_energy_and_a_flow_of_it_takes_the_same_step(name):
    block, x = built(name), normal(5, built(name).dim).requires_grad_()
    by_q, by_p = torch.autograd.grad(block.energy(x).sum(), x)[0].chunk(2, -1)
    x = x.detach()
    assert torch.allclose(block.field(x), torch.cat([by_p, -by_q], -1), rtol=1e-12, atol=1e-14)
    method = "implicit_midpoint" if name in IMPLICIT else block.method
    assert torch.allclose(sx.Flow(block.field, block.dim, block.dt, method=method)(x), block(x), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("name", "order"), [("leapfrog", 2), ("yoshida4", 4)])
def test_the_learned_energy_is_kept_to_the_order_of_the_method(name, order):
    errors = []
    for dt in (0.2, 0.1):
        block = built(name)
        block.dt = dt
        with torch.no_grad():
            orbit = sx.trajectory(block, normal(4, 4), int(20 / dt))
            errors.append(float((block.energy(orbit) - block.energy(orbit[0])).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("factor", [1.0, 30.0, 1e3])
def test_the_implicit_equation_has_one_solution_for_all_weights_and_it_is_found(factor):
    """However large the weights are, (h/2)‖D²H‖ < 1, and what is found satisfies its equation."""
    block = scrambled(built("midpoint"), 2)
    with torch.no_grad():
        block.hamiltonian.k.mul_(factor)
    x = torch.cat([size * normal(20, 4) for size in (1e-6, 1.0, 100.0)])
    y = block(x)
    assert block.dt / 2 * float(block.hamiltonian.form().stiffness()) < 1
    assert (block.mismatch(x, y).abs().amax(-1) <= 2 * 64 * 2.3e-16 * (2 + x.abs().amax(-1))).all()


def test_the_solution_is_what_repeated_substitution_contracts_to_from_anywhere():
    """The map  m ↦ x + (h/2) Ω∇H(m)  has the factor κ < 1, which the guarantee's (1 + κ)/(1 − κ) tells."""
    block, x, m = built("midpoint"), normal(20, 4), 10 * normal(20, 4, seed=5)
    kappa = 1 - 2 / (block.guarantee.lipschitz + 1)
    with torch.no_grad():
        for _ in range(math.ceil(math.log(1e-16) / math.log(kappa))):
            m = x + block.dt / 2 * block.field(m)
    assert torch.allclose(2 * m - x, block(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["yoshida4", "learned kinetic energy", "midpoint"])
def test_gradients_by_all_weights_and_the_state_are_exact(name):
    block, x = built(name), normal(2, 4).requires_grad_()
    names, weights = zip(*block.named_parameters(), strict=True)

    def stepped(y: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(block, dict(zip(names, values, strict=True)), (y,))

    assert torch.autograd.gradcheck(stepped, (x, *(w.detach().requires_grad_() for w in weights)), fast_mode=True)


def test_a_state_whose_equation_is_not_solved_is_nan_alone():
    x = torch.stack([normal(4), torch.full((4,), torch.inf).double(), 1e-9 * normal(4, seed=1)])
    block = scrambled(built("midpoint"), 0)
    y = block(x)
    assert y.isnan().all(-1).tolist() == [False, True, False]
    assert torch.allclose(y[::2], block(x[::2]), rtol=1e-14)
    block.solver = ImplicitMidpoint("hasty", 2, max_steps=1)
    assert block(x).isnan().all()


def test_lyapunov_exponents_of_a_hamiltonian_network_pair():
    """λ_i = −λ_{dim+1−i}: the multipliers of a symplectic matrix come in reciprocal pairs, over any number of steps."""
    block = scrambled(built("leapfrog"), 3)
    exponents = sx.finite_time_lyapunov(block, 0.1 * normal(3, 4), steps=20, k=4).exponents
    assert torch.allclose(exponents, -exponents.flip(-1), rtol=0, atol=1e-9)


def pendulum_pairs(dt: float) -> tuple[Tensor, Tensor]:
    """States of pendulums let go from angles up to 2, and a time dt later:  sin(q/2) = k sn(t + K), p = 2k cn(t + K)."""
    k = torch.linspace(0.05, 1.0, 20, dtype=torch.float64).sin()[:, None]
    t = 12 * torch.rand(20, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def state(time: Tensor) -> Tensor:
        square = k.numpy() ** 2
        sn, cn, _, _ = ellipj(time.numpy() + ellipk(square), square)
        return torch.stack([2 * (k * torch.from_numpy(sn)).asin(), 2 * k * torch.from_numpy(cn)], -1).flatten(0, 1)

    return state(t), state(t + dt)


def fit(network: nn.Module, x: Tensor, y: Tensor) -> None:
    def loss() -> Tensor:
        optimiser.zero_grad()
        error = (network(x) - y).square().mean() * 100
        error.backward()
        return error.detach()

    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(200):
        optimiser.step(loss)
    optimiser = torch.optim.LBFGS(network.parameters(), max_iter=150, line_search_fn="strong_wolfe")
    optimiser.step(loss)


def test_a_learned_pendulum_keeps_its_energy_over_10_000_steps_where_a_plain_network_drifts():
    """The true energy, from the same pairs, optimiser steps and number of weights (97 each)."""

    class Plain(sx.nn.Block):
        def __init__(self) -> None:
            super().__init__(2, dt=0.1)
            self.net = nn.Sequential(nn.Linear(2, 19), nn.Tanh(), nn.Linear(19, 2))

        def step(self, x: Tensor, n: int = 0) -> Tensor:
            return x + self.dt * self.net(x)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = {"hamiltonian": sx.nn.SeparableHamiltonian(2, hidden=32).double(), "plain": Plain().double()}
    assert [sum(w.numel() for w in network.parameters()) for network in networks.values()] == [97, 97]
    growth, worst = {}, {}
    for name, network in networks.items():
        fit(network, *pendulum_pairs(0.1))
        with torch.no_grad():
            q, p = sx.trajectory(network, torch.tensor([[0.5, 0.0], [1.0, 0.0], [1.5, 0.0]]).double(), 10_000, every=10).unbind(-1)
        error = (p**2 / 2 - q.cos() + q[0].cos()).abs()
        growth[name], worst[name] = float(error.max() / error[:100].max()), float(error.max())
    assert growth["hamiltonian"] < 1.1 and worst["hamiltonian"] < 5e-3
    assert growth["plain"] > 3 and worst["plain"] > 10 * worst["hamiltonian"]


@pytest.mark.parametrize("block", [sx.nn.Hamiltonian, sx.nn.SeparableHamiltonian])
@pytest.mark.parametrize("dim", [0, 3])
def test_a_state_without_halves_is_refused_in_one_line(block, dim):
    with pytest.raises(sx.errors.ShapeError, match=f"dim is {dim}"):
        block(dim)


def test_wrong_choices_are_refused():
    with pytest.raises(sx.errors.InputError, match=r"dt is -0\.1"):
        sx.nn.Hamiltonian(2, dt=-0.1)
    with pytest.raises(sx.errors.InputError, match=r"kinetic is 'mass'.*'masses' or 'network'"):
        sx.nn.SeparableHamiltonian(2, kinetic="mass")
    with pytest.raises(sx.errors.InputError, match=r"method is 'rk4'.*'leapfrog' or 'yoshida4'"):
        sx.nn.SeparableHamiltonian(2, method="rk4")
