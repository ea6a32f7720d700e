"""Symplectic networks: closed forms of their modules, JᵀΩJ = Ω by dense Jacobians, inverses, exponents in pairs, and learning."""

import math

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx
from separatrix.core.tangent import jacobian, pushforward
from separatrix.testing.blocks import scrambled, trained

ROUNDING = 1e-12  # of JᵀΩJ, in float64, for Jacobians of order 1


def seeded(build, seed: int = 0) -> sx.nn.Block:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().double()


def states(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def omega(dim: int) -> Tensor:
    """Ω = (0 I; −I 0)."""
    one = torch.eye(dim // 2, dtype=torch.float64)
    return torch.kron(torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64), one)


def perceptron(size: int) -> nn.Module:
    return nn.Sequential(nn.Linear(size, 9), nn.Tanh(), nn.Linear(9, 9), nn.Softplus(), nn.Linear(9, 1))


BUILDS = {
    "gradient": lambda: sx.nn.parts.SymplecticGradient(6, dt=0.5),
    "gradient of q": lambda: sx.nn.parts.SymplecticGradient(4, moves="q", activation=nn.Softplus()),
    "gradient with kinks": lambda: sx.nn.parts.SymplecticGradient(4, activation=torch.relu),
    "gradient of a deep potential": lambda: sx.nn.parts.SymplecticGradient(4, potential=perceptron),
    "activation": lambda: sx.nn.parts.SymplecticActivation(6, activation=torch.sigmoid),
    "linear": lambda: sx.nn.parts.SymplecticLinear(6, dt=0.7),
    "linear from q": lambda: sx.nn.parts.SymplecticLinear(2, factors=2, moves="q"),
    "Hénon": lambda: sx.nn.parts.HenonLayer(4, hidden=8, dt=0.2),
    "Hénon's map": lambda: sx.nn.parts.HenonLayer(4, iterates=1),
    "Hénon of a deep potential": lambda: sx.nn.parts.HenonLayer(2, potential=perceptron),
    "G-SympNet": lambda: sx.nn.sympnet(4, dt=0.1),
    "LA-SympNet": lambda: sx.nn.sympnet(4, modules="linear", layers=3),
    "HénonNet": lambda: sx.nn.henonnet(4, layers=2, hidden=8, dt=0.1),
}


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("change", [lambda network, _: network, trained])
def test_it_is_symplectic_and_undone_at_random_weights_and_after_training(name, change):
    network = change(seeded(BUILDS[name]), 0)
    assert network.guarantee == sx.nn.Guarantee(log_det=0.0, symplectic=True)
    x = states(20, network.dim)
    J = jacobian(network, x).detach()
    scale = float(torch.linalg.matrix_norm(J, 2).max()) ** 2
    Omega = omega(network.dim)
    assert (J.mT @ Omega @ J - Omega).abs().max() < ROUNDING * max(1, scale)
    assert torch.linalg.slogdet(J).logabsdet.abs().max() < ROUNDING * max(1, scale)
    torch.testing.assert_close(network.inverse(network(x)), x, rtol=0, atol=ROUNDING * max(1, scale))
    torch.testing.assert_close(network(network.inverse(x)), x, rtol=0, atol=1e2 * ROUNDING * max(1, scale))


@pytest.mark.parametrize("name", BUILDS)
def test_its_guarantee_is_held_to_dense_jacobians_at_all_sizes_of_state(name):
    sx.testing.check_block(seeded(BUILDS[name]))


@pytest.mark.parametrize("name", BUILDS)
def test_its_tangents_are_those_of_forward_differentiation(name):
    network = scrambled(seeded(BUILDS[name]), 1)
    x, v = states(2, 3, network.dim), states(2, 3, 4, network.dim, seed=1)
    own, forward = network.pushforward(x, v), pushforward(network.step, x, v)
    for left, right in zip(own, forward, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12 * float(right.detach().abs().max()))


def test_a_gradient_module_is_the_papers_formula():
    """With the weights written out: p' = p + h Kᵀ diag(a) σ(Kq + b), which is the gradient of Σ_j a_j log cosh(K_j·q + b_j)."""
    network = seeded(lambda: sx.nn.parts.SymplecticGradient(6, hidden=5, dt=0.25))
    K, a, b = (network.gradient.get_parameter(name) for name in "Kab")
    x = states(6)
    q = x[:3].clone().requires_grad_()
    (force,) = torch.autograd.grad((a * torch.log(torch.cosh(K @ q + b))).sum(), q)
    expected = torch.cat([x[:3], x[3:] + 0.25 * force])
    torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-14)
    other = sx.nn.parts.SymplecticGradient(6, hidden=5, moves="q", dt=0.25).double()
    other.load_state_dict(network.state_dict())
    swapped = other(x.roll(3))  # (q, p) exchanged
    torch.testing.assert_close(swapped, expected.roll(3), rtol=0, atol=1e-14)


def test_an_activation_module_moves_each_momentum_by_its_own_position():
    network = seeded(lambda: sx.nn.parts.SymplecticActivation(4, activation=torch.sin, dt=0.5))
    with torch.no_grad():
        network.gradient.a.copy_(torch.tensor([2.0, -3.0]))
    found = network(torch.tensor([0.3, 0.7, 1.0, 1.0], dtype=torch.float64))
    assert found.tolist() == pytest.approx([0.3, 0.7, 1 + math.sin(0.3), 1 - 1.5 * math.sin(0.7)], abs=1e-15)


def test_a_linear_module_is_the_product_of_its_matrices():
    network = seeded(lambda: sx.nn.parts.SymplecticLinear(6, factors=3, dt=0.5))
    with torch.no_grad():
        network.b.normal_(generator=torch.Generator().manual_seed(0))
    zero, one = torch.zeros(3, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    matrix = torch.eye(6, dtype=torch.float64)
    for i, shear in enumerate(network.shears):
        S = 0.5 * (shear.gradient.A + shear.gradient.A.T) / 2
        rows = [[one, zero], [S, one]] if i % 2 == 0 else [[one, S], [zero, one]]
        matrix = torch.cat([torch.cat(row, -1) for row in rows]) @ matrix
    x = states(7, 6)
    torch.testing.assert_close(network(x), x @ matrix.T + 0.5 * network.b, rtol=0, atol=1e-14)


def test_three_linear_shears_are_a_rotation():
    """By α in the plane (q, p): p −= tan(α/2) q, q += sin(α) p, p −= tan(α/2) q."""
    network, alpha = sx.nn.parts.SymplecticLinear(2, factors=3).double(), 0.8
    with torch.no_grad():
        for shear, slope in zip(network.shears, (-math.tan(alpha / 2), math.sin(alpha), -math.tan(alpha / 2)), strict=True):
            shear.gradient.A.fill_(slope)
    c, s = math.cos(alpha), math.sin(alpha)
    turn = torch.tensor([[c, s], [-s, c]], dtype=torch.float64)
    torch.testing.assert_close(jacobian(network, states(2)), turn, rtol=0, atol=1e-15)


class Cubic(nn.Module):
    """V(p) = p − α p³ / 3, so that ∇V(p) = 1 − α p²."""

    def forward(self, p: Tensor) -> Tensor:
        return p - ALPHA * p**3 / 3


ALPHA = 0.3


def test_a_henon_layer_of_a_cubic_potential_is_henons_map():
    """With x = p, y = −q it is (x, y) → (1 − αx² + y, −x), the map of 1976 at b = −1, where it keeps areas."""
    network = sx.nn.parts.HenonLayer(2, iterates=1, potential=lambda _: Cubic()).double()
    x = states(20, 2)
    q, p = -x[:, 1], x[:, 0]
    found = network(torch.stack([q, p], -1))
    henon = sx.classic.henon(a=ALPHA, b=-1.0)
    torch.testing.assert_close(torch.stack([found[:, 1], -found[:, 0]], -1), henon.step(x), rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.linalg.det(jacobian(network, x)), torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-13)


def test_a_henon_layer_of_one_square_is_the_map_by_hand():
    """With η and ∇V(p) = k a (k p + b)² written out, the map and its inverse."""
    network = seeded(lambda: sx.nn.parts.HenonLayer(2, hidden=1, iterates=1, activation=torch.square, dt=0.5))
    with torch.no_grad():
        for name, value in (("K", 2.0), ("a", 0.75), ("b", 0.25)):
            network.gradient.get_parameter(name).fill_(value)
        network.eta.fill_(0.125)
    q, p = 0.5, 1.0
    image = [p + 0.125, -q + 0.5 * 2 * 0.75 * (2 * p + 0.25) ** 2]
    assert network(torch.tensor([q, p], dtype=torch.float64)).tolist() == image
    assert network.inverse(torch.tensor(image, dtype=torch.float64)).tolist() == [q, p]


def test_a_quarter_turn_four_times_is_the_identity_whatever_eta_is():
    network = seeded(lambda: sx.nn.parts.HenonLayer(6))
    with torch.no_grad():
        network.gradient.a.zero_()
        network.eta.normal_(generator=torch.Generator().manual_seed(0))
    x = states(9, 6)
    torch.testing.assert_close(network(x), x, rtol=0, atol=1e-15)
    once = seeded(lambda: sx.nn.parts.HenonLayer(6, iterates=1))
    with torch.no_grad():
        once.gradient.a.zero_()
    assert torch.equal(once(x), torch.cat([x[:, 3:], -x[:, :3]], -1))


def test_a_stack_that_is_hard_to_undo_is_held_to_its_condition_and_a_wrong_inverse_is_found():
    sx.testing.check_block(seeded(lambda: sx.nn.sympnet(6, modules="linear")))  # 35 random shears: condition numbers beyond 1e10

    class Wrong(sx.nn.parts.SymplecticActivation):
        def inverse(self, y):
            return super().inverse(y) + 1e-6

    with pytest.raises(AssertionError, match="the inverse of the block's value is off by 1e-06"):
        sx.testing.check_block(Wrong(4))


@pytest.mark.parametrize("name", ["gradient", "activation", "linear", "Hénon", "G-SympNet", "LA-SympNet", "HénonNet"])
def test_zero_weights_are_the_identity(name):
    network = seeded(BUILDS[name])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    x = states(9, network.dim)
    assert torch.equal(network(x), x)


@pytest.mark.parametrize("name", ["G-SympNet", "LA-SympNet", "HénonNet"])
def test_its_step_goes_to_the_identity_with_dt(name):
    """The distance from the identity is h |field| + O(h²): 100 times less at a hundredth of the step."""
    nets = {
        "G-SympNet": sx.nn.sympnet,
        "LA-SympNet": lambda dim, dt: sx.nn.sympnet(dim, modules="linear", dt=dt),
        "HénonNet": sx.nn.henonnet,
    }
    x, moved = states(9, 4), []
    for dt in (1e-4, 1e-6):
        network = seeded(lambda dt=dt: nets[name](4, dt=dt))
        assert network.dt == dt
        moved.append(float((network(x) - x).detach().abs().max()))
    assert moved[0] / moved[1] == pytest.approx(100, rel=1e-2)


@pytest.mark.parametrize("name", ["G-SympNet", "LA-SympNet", "HénonNet"])
def test_the_exponents_of_a_trained_network_pair_to_plus_and_minus(name):
    """The singular values of a product of symplectic matrices are σ and 1/σ, so that finite-time exponents pair exactly."""
    network = trained(seeded(BUILDS[name]), 0)
    x = 0.3 * states(3, 4)
    exponents = sx.finite_time_lyapunov(network, x, steps=40, k=4).exponents
    assert exponents[..., 0].min() > 1e-2  # they are not all zero
    assert (exponents + exponents.flip(-1)).abs().max() < 1e-10 * float(exponents.max())
    assert sx.lyapunov_spectrum(network, x, steps=200).exponents.sum(-1).abs().max() < 1e-11


def test_a_sympnet_is_made_of_the_papers_modules_in_turn():
    network = sx.nn.sympnet(4, layers=3)
    assert [(type(block).__name__, block.moves) for block in network] == [("SymplecticGradient", m) for m in "pqp"]
    network = sx.nn.sympnet(4, layers=2, modules="linear")
    assert [type(block).__name__.removeprefix("Symplectic") for block in network] == [
        "Linear",
        "Activation",
        "Linear",
        "Activation",
        "Linear",
    ]
    assert [network[i].moves for i in (1, 3)] == ["p", "q"]


@pytest.mark.long
def test_it_learns_a_symplectic_map_as_well_as_a_plain_network_and_keeps_areas_where_that_does_not():
    """Hénon's quadratic map of 1969, 200 samples, three seeds: the median error, and the change of areas along 100 steps."""
    errors, areas = {"symplectic": [], "plain": []}, {"symplectic": [], "plain": []}
    for seed in range(3):
        x, test = square(200, seed), square(500, seed + 100)
        for kind, build in (("symplectic", lambda: sx.nn.sympnet(2, layers=4, hidden=12)), ("plain", Plain)):
            network = seeded(build, seed)
            fit(network, x, quadratic(x))
            with torch.no_grad():
                errors[kind].append(float((network(test) - quadratic(test)).square().mean().sqrt()))
                areas[kind].append(drift(network, 0.3 * test[:20] / test[:20].norm(dim=-1, keepdim=True)))
    median = {kind: sorted(found)[1] for kind, found in errors.items()}
    assert median["symplectic"] < 2 * median["plain"], median
    assert median["symplectic"] < 0.01 < 0.5 * float(quadratic(test).square().mean().sqrt())
    assert max(areas["symplectic"]) < 1e-12 and min(areas["plain"]) > 1e-5, areas


def quadratic(x: Tensor) -> Tensor:
    """A shear, then a turn by arccos 0.4. Source: Hénon 1969, Quart. Appl. Math. 27, 291."""
    c, s = 0.4, math.sqrt(1 - 0.4**2)
    q, p = x.unbind(-1)
    p = p - q**2
    return torch.stack([c * q - s * p, s * q + c * p], -1)


def square(count: int, seed: int) -> Tensor:
    return 1.6 * torch.rand(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.8


def drift(network: nn.Module, x: Tensor) -> float:
    """The largest mean of log |det J| over 100 steps."""
    total = torch.zeros(len(x), dtype=torch.float64)
    for _ in range(100):
        total += torch.linalg.slogdet(jacobian(network, x)).logabsdet
        x = network(x)
    return float(total.abs().max()) / 100


class Plain(nn.Module):
    """Residual, x + f(x), f from 2 over 12 and 12 to 2: 218 parameters; the symplectic network has 144."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def fit(network: nn.Module, x: Tensor, y: Tensor) -> None:
    optimiser = torch.optim.LBFGS(
        network.parameters(),
        max_iter=300,
        history_size=30,
        tolerance_grad=0,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = (network(x) - y).square().mean()
        value.backward()
        return value

    optimiser.step(loss)


def test_a_deep_potential_is_compiled():
    network = sx.nn.parts.SymplecticGradient(4, potential=perceptron)
    x = torch.randn(5, 4)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), network(x), rtol=1e-5, atol=1e-6)


BLOCKS = (
    sx.nn.parts.SymplecticGradient,
    sx.nn.parts.SymplecticActivation,
    sx.nn.parts.SymplecticLinear,
    sx.nn.parts.HenonLayer,
    sx.nn.sympnet,
    sx.nn.henonnet,
)


@pytest.mark.parametrize("build", BLOCKS)
def test_states_that_are_no_pairs_and_steps_that_are_none_are_refused(build):
    for dim in (5, 1, 0, -2):
        with pytest.raises(sx.errors.ShapeError, match=rf"dim is {dim}.*\n.*VolumePreserving"):
            build(dim)
    for dt in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(sx.errors.InputError, match=f"dt is {dt}"):
            build(4, dt=dt)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: sx.nn.parts.SymplecticGradient(4, activation=nn.Softmax(-1)), "elementwise"),
        (lambda: sx.nn.parts.SymplecticActivation(4, activation=lambda z: z - z.mean()), "elementwise"),
        (lambda: sx.nn.parts.HenonLayer(4, activation=lambda z: z.flip(-1) if z.ndim else z), "elementwise"),
        (lambda: sx.nn.parts.SymplecticGradient(4, moves="x"), "moves is 'x'"),
        (lambda: sx.nn.parts.SymplecticLinear(4, moves="x"), "moves is 'x'"),
        (lambda: sx.nn.parts.SymplecticLinear(4, factors=0), "factors is 0"),
        (lambda: sx.nn.parts.SymplecticGradient(4, hidden=0), "hidden is 0"),
        (lambda: sx.nn.parts.HenonLayer(4, iterates=0), "iterates is 0"),
        (lambda: sx.nn.sympnet(4, layers=0), "layers is 0"),
        (lambda: sx.nn.sympnet(4, modules="both"), "modules is 'both'"),
    ],
)
def test_what_cannot_be_symplectic_is_refused_in_one_line(build, said):
    with pytest.raises(sx.SeparatrixError, match=said) as told:
        build()
    assert len(str(told.value).splitlines()) <= 2
