"""Mass-preserving blocks are the paper's formula, keep the sum whatever their weights, and learn."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

import separatrix as sx
from separatrix.flows.methods import SOLVERS, ExplicitRungeKutta
from separatrix.testing.blocks import scrambled, trained

FORMS = {"formula": None, "hidden": 7}
RUNGE_KUTTA = [name for name, solver in SOLVERS.items() if isinstance(solver, ExplicitRungeKutta)]
KEPT = 1e-12  # change of the sum relative to Σ|xᵢ|; rounding leaves 2e-13 after 10,000 steps


def built(dim: int = 5, hidden: int | None = None, *, seed: int = 0, **options: object) -> sx.nn.MassPreserving:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return sx.nn.MassPreserving(dim, hidden, **options).double()


def network(*args: object, seed: int = 0, **options: object) -> sx.nn.Block:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return sx.nn.mass_preserving_network(*args, **options).double()


def states(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def change(x: torch.Tensor, y: torch.Tensor) -> float:
    """Of the sum, relative to the numbers that make it."""
    return ((y.sum(-1) - x.sum(-1)).abs() / y.abs().sum(-1)).max().item()


def by_reverse_mode(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Dense Jacobians, one state after the other; not by the block's own pushforward."""
    return torch.stack([torch.autograd.functional.jacobian(block, one) for one in x])


def test_the_field_is_the_papers_formula_summed_term_by_term():
    """ẋ_i = Σ_j (a_ij − a_ji),  vec A = tanh(Ux + u)."""
    block, x = built(4), states(3, 4)
    u, bias = block.flow.field.inner.weight.detach(), block.flow.field.inner.bias.detach()
    for state, velocity in zip(x, block.flow.residual(x), strict=True):
        a = [[math.tanh(float(u[4 * i + j] @ state + bias[4 * i + j])) for j in range(4)] for i in range(4)]
        wanted = [sum(a[i][j] - a[j][i] for j in range(4)) for i in range(4)]
        assert velocity.tolist() == pytest.approx(wanted, abs=1e-14)
    assert torch.allclose(block(x), x + block.flow.residual(x), rtol=1e-15)


@pytest.mark.parametrize("hidden", FORMS.values(), ids=FORMS)
def test_the_field_is_that_of_its_matrix(hidden):
    block, x = built(5, hidden, activation=nn.functional.silu), states(6, 5)
    a, ones = block.matrix(x), torch.ones(5, dtype=torch.float64)
    assert torch.allclose(block.flow.residual(x), (a - a.mT) @ ones, rtol=0, atol=1e-14)


def test_hidden_units_give_each_field_of_a_full_matrix_with_as_many_units():
    """A with vec A = WΣ(Ux + u) + w gives f = (the row sums less the column sums of W) Σ(Ux + u) + …, whose mean is 0."""
    d, m = 5, 7
    block, x = built(d, m), states(6, d)
    w, bias = states(d * d, m, seed=1), states(d * d, seed=2)
    inner = block.flow.field.inner
    a = (torch.tanh(x @ inner.weight.mT + inner.bias) @ w.mT + bias).reshape(6, d, d)
    wanted = a.sum(2) - a.sum(1)
    cube, plane = w.reshape(d, d, m), bias.reshape(d, d)
    with torch.no_grad():
        block.flow.field.outer.weight.copy_(cube.sum(1) - cube.sum(0))
        block.flow.field.outer.bias.copy_(plane.sum(1) - plane.sum(0))
    assert torch.allclose(block.flow.residual(x), wanted, rtol=0, atol=1e-12)


def test_hidden_units_make_a_wide_layer_affordable():
    assert sum(p.numel() for p in sx.nn.MassPreserving(1000, 8).parameters()) == 2 * 1000 * 8 + 1000 + 8
    assert sum(p.numel() for p in sx.nn.MassPreserving(10).parameters()) == 10**3 + 10**2


@pytest.mark.parametrize("hidden", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("weights", ["as initialised", "standard normal", "trained"])
def test_the_sum_is_kept_along_ten_thousand_steps(hidden, weights):
    block = built(6, hidden, dt=0.1)
    block = {"as initialised": lambda b, _: b, "standard normal": scrambled, "trained": trained}[weights](block, 0)
    x = 10 * states(16, 6)
    with torch.no_grad():
        orbit = sx.trajectory(block, x, 10_000, every=500)
    assert torch.isfinite(orbit).all()
    assert max(change(x, y) for y in orbit) < KEPT


@pytest.mark.parametrize("hidden", FORMS.values(), ids=FORMS)
def test_the_sum_is_kept_through_a_hundred_layers(hidden):
    x = states(16, 6)
    with torch.no_grad():
        y = x
        for seed in range(100):
            y = scrambled(built(6, hidden, dt=0.1), seed)(y)
    assert change(x, y) < 1e-14


def test_large_flows_that_cancel_leave_the_sum_alone():
    """1e8 in a circle, 0 → 2 → 4 → 0, or added to each number: their rounding is 1e-8."""
    circle, raised = built(5, activation=nn.functional.softplus), built(5, 7)
    with torch.no_grad():
        circle.flow.field.inner.bias.view(5, 5)[[2, 4, 0], [0, 2, 4]] = 1e8
        raised.flow.field.outer.bias += 1e8
    x = states(16, 5)
    for block in (circle, raised):
        assert (block(x) - x).abs().max() < 10
        assert change(x, block(x)) < 1e-14


@pytest.mark.parametrize("method", RUNGE_KUTTA)
@pytest.mark.parametrize("hidden", FORMS.values(), ids=FORMS)
def test_tangents_keep_their_sum_by_every_method_before_and_after_training(hidden, method):
    """1ᵀJ = 1ᵀ: what a neighbour has more, its image has more."""
    block = built(5, hidden, dt=0.3, method=method, activation=nn.GELU())
    sx.testing.check_system(block)
    sx.testing.check_block(block)
    for model in (block, trained(copy.deepcopy(block), 0)):
        jac = by_reverse_mode(model, states(4, 5))
        assert torch.allclose(jac.sum(-2), torch.ones(4, 5, dtype=torch.float64), rtol=0, atol=1e-13)
        pushed = sx.nn.Sequential(model).pushforward(states(4, 5), torch.eye(5, dtype=torch.float64).expand(4, 5, 5))[1].mT
        assert torch.allclose(pushed, jac, rtol=0, atol=1e-13)


def test_a_kept_sum_is_an_exponent_of_zero():
    """1ᵀJ = 1ᵀ holds for products of Jacobians too, so that 1 is a left eigenvector, and its exponent 0."""
    block = scrambled(built(4, 8, dt=0.2), 3)
    spectrum = sx.lyapunov_spectrum(block, 0.3 * states(4), steps=4000, settle=1000)
    assert spectrum.exponents.abs().min() < 3 / (4000 * 0.2)  # the frame turns into place: O(1/T)


def test_small_steps_follow_the_field():
    """SciPy's adaptive method on the same field, written out in NumPy; RK4's error at dt = 0.02 is of order 1e-8."""
    block, x = built(4, 6, dt=0.02, method="rk4"), states(4)
    u, a, v, b = (p.detach().numpy() for p in block.parameters())

    def field(t: float, y: np.ndarray) -> np.ndarray:
        f = v @ np.tanh(u @ y + a) + b
        return f - f.mean()

    wanted = solve_ivp(field, (0, 2), x.numpy(), rtol=1e-12, atol=1e-12, method="DOP853").y[:, -1]
    with torch.no_grad():
        assert sx.trajectory(block, x, 100)[-1].numpy() == pytest.approx(wanted, abs=1e-8)


def test_the_sum_is_kept_in_the_states_precision_under_autocast():
    block, x = sx.nn.MassPreserving(6, 32), torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = block(x)
    assert y.dtype == torch.float32
    assert change(x, y) < 1e-6  # bfloat16 alone would leave 1e-2


def test_a_lift_appends_zeros_and_a_projection_shares_what_it_drops():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert sx.nn.parts.MassPreservingLift(4, 6)(x).tolist() == [1, 2, 3, 4, 0, 0]
    assert sx.nn.parts.MassPreservingProjection(4, 2)(x).tolist() == [1 + 3.5, 2 + 3.5]
    assert sx.nn.parts.MassPreservingProjection(4, 1)(x).tolist() == [10]


@pytest.mark.parametrize(
    "block",
    [sx.nn.parts.MassPreservingLift(3, 7), sx.nn.parts.MassPreservingProjection(7, 3), sx.nn.parts.MassPreservingProjection(4, 1)],
    ids=repr,
)
def test_the_lipschitz_factors_of_lifts_and_projections_are_their_largest_singular_values(block):
    matrix = block(torch.eye(block.dim, dtype=torch.float64)).mT
    assert block.guarantee.lipschitz == pytest.approx(float(torch.linalg.svdvals(matrix)[0]), rel=1e-14)
    assert "sum" in block.guarantee.conserves
    sx.testing.check_block(block)


def test_lifts_and_projections_to_the_same_width_do_nothing():
    for kind in (sx.nn.parts.MassPreservingLift, sx.nn.parts.MassPreservingProjection):
        block = kind(4, 4)
        assert block.guarantee.symplectic and block.guarantee.log_det == 0 and block.guarantee.conserves == {"sum", "norm"}
        sx.testing.check_block(block)


def test_a_network_goes_through_its_widths_and_keeps_the_sum():
    model = network((3, 10, 10, 6, 15), blocks=2, hidden=9)
    kinds = [(type(block).__name__, block.dim, block.out) for block in model]
    step = "MassPreserving"
    assert kinds == [
        (f"{step}Lift", 3, 10),
        *[(step, 10, 10)] * 4,
        (f"{step}Projection", 10, 6),
        *[(step, 6, 6)] * 2,
        (f"{step}Lift", 6, 15),
        *[(step, 15, 15)] * 2,
        (f"{step}Projection", 15, 3),
    ]
    assert model.guarantee.conserves == {"sum"}
    sx.testing.check_block(model)
    sx.testing.check_system(model)
    assert sum(p.numel() for p in network((3, 10, 10, 15)).parameters()) == 6 * (2 * 10 * 50 + 60) + 3 * (2 * 15 * 50 + 65)


def test_a_network_may_give_another_width():
    for out in (2, 5, 8):
        model = network((4, 6), out=out, blocks=1, hidden=3)
        x = states(7, 4)
        assert model(x).shape == (7, out)
        assert change(x, model(x)) < 1e-14


@pytest.mark.parametrize("weights", ["as initialised", "standard normal", "trained"])
def test_weights_make_it_the_weighted_sum_that_is_kept(weights):
    """Amounts of water, hydrogen and oxygen in mol, and their molar masses: 0.1 is not a float32 number."""
    masses = (18.015, 2.016, 31.998)
    model = network((3, 8), blocks=2, hidden=6, dt=0.1, weights=masses)
    model = {"as initialised": lambda b, _: b, "standard normal": scrambled, "trained": trained}[weights](model, 0)
    assert model.guarantee == sx.nn.Guarantee(conserves=frozenset({sx.nn.parts.WeightedSum(masses)}))
    assert "weighted sum of weights 18.015, 2.016, 31.998" in str(model.guarantee)
    w, x = torch.tensor(masses, dtype=torch.float64), states(16, 3)
    with torch.no_grad():
        orbit = sx.trajectory(model, x, 1000, every=100)
    assert max(change(w * x, w * y) for y in orbit) < KEPT
    sx.testing.check_block(model)
    sx.testing.check_system(model)


def test_a_weighted_network_is_a_plain_module():
    model, other = (network((3, 6), blocks=1, hidden=4, weights=(0.1, 2, 3), seed=seed).float() for seed in (0, 1))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
    assert torch.allclose(torch.compile(other, backend="aot_eager", fullgraph=True)(x), model(x), rtol=1e-5, atol=1e-6)
    assert torch.allclose(torch.export.export(model, (x,)).module()(x), model(x), rtol=1e-5, atol=1e-6)
    assert "weights=(0.1, 2.0, 3.0)" in repr(model)


class Shear(sx.nn.Block):
    """(p, q) ↦ (p + q, q): its factor is the golden ratio, its determinant 1; it keeps q and the like, but not the sum."""

    def __init__(self) -> None:
        super().__init__(2)

    def step(self, x, n=0):
        p, q = x.unbind(-1)
        return torch.stack([p + q, q], -1)

    def inverse(self, y):
        p, q = y.unbind(-1)
        return torch.stack([p - q, q], -1)

    @property
    def guarantee(self):
        return sx.nn.Guarantee(lipschitz=(1 + 5**0.5) / 2, log_det=0.0, symplectic=True)


def test_other_units_change_a_lipschitz_factor_and_keep_the_determinant_and_the_inverse():
    """D⁻¹ (1 1; 0 1) D = (1 w₂/w₁; 0 1)."""
    block = sx.nn.parts.Weighted(Shear(), (0.5, -2.0))
    assert block(torch.tensor([1.0, 1.0])).tolist() == [1 - 4, 1]
    assert block.guarantee == sx.nn.Guarantee(lipschitz=4 * (1 + 5**0.5) / 2, log_det=0.0)
    assert block.invertible and not sx.nn.parts.Weighted(built(2), (1, 1)).invertible
    sx.testing.check_block(block)


def test_units_of_units_multiply():
    twice = sx.nn.parts.Weighted(sx.nn.parts.Weighted(built(2), (2.0, 3.0)), (5.0, 7.0))
    assert twice.guarantee.conserves == {sx.nn.parts.WeightedSum((10.0, 21.0))}
    sx.testing.check_block(twice)
    other = sx.nn.parts.Weighted(built(2), (1.0, 2.0))
    assert sx.nn.Sequential(twice, other).guarantee.conserves == frozenset()


def epidemic() -> tuple[torch.Tensor, torch.Tensor]:
    """1,000 points of the simplex, and where ẏ = (−y₁y₂, y₁y₂ − y₂, y₂) takes them in a time 1, by SciPy at 1e-11."""
    x = np.random.RandomState(0).rand(1000, 3)
    x /= x.sum(1, keepdims=True)

    def field(t: float, y: np.ndarray) -> np.ndarray:
        susceptible, infected, _ = y.reshape(3, -1)
        return np.concatenate([-susceptible * infected, susceptible * infected - infected, infected])

    y = solve_ivp(field, (0, 1), x.T.ravel(), rtol=1e-11, atol=1e-11).y[:, -1].reshape(3, -1).T
    return torch.tensor(x), torch.tensor(y)


@pytest.mark.long
def test_the_epidemic_is_learned():
    """The paper's experiment on 3 seeds, with 20 of its 150 epochs; examples/mass_preserving.py takes all."""
    x, y = epidemic()
    errors = []
    for seed in range(3):
        model = network((3, 10, 10, 15), activation=torch.relu, seed=seed)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-5)
        schedule = torch.optim.lr_scheduler.StepLR(optimiser, 8, 0.1)
        order = torch.Generator().manual_seed(seed)
        for _ in range(20):
            for batch in torch.randperm(900, generator=order).split(32):
                optimiser.zero_grad()
                nn.functional.mse_loss(model(x[batch]), y[batch]).backward()
                optimiser.step()
            schedule.step()
        with torch.no_grad():
            errors.append(nn.functional.mse_loss(model(x[900:]), y[900:]).item())
            assert max(change(x, z) for z in sx.trajectory(model, x, 100)) < KEPT
        assert torch.allclose(by_reverse_mode(model, x[900:904]).sum(-2), torch.ones(4, 3).double(), rtol=0, atol=1e-12)
    assert np.median(errors) <= 5e-6


@pytest.mark.parametrize(
    ("build", "error", "said"),
    [
        (lambda: sx.nn.parts.MassPreservingLift(5, 3), sx.errors.ShapeError, r"5 → 3.*\n.*Projection\(5, 3\)"),
        (lambda: sx.nn.parts.MassPreservingProjection(3, 5), sx.errors.ShapeError, r"3 → 5.*\n.*Lift\(3, 5\)"),
        (lambda: sx.nn.MassPreserving(3, method="leapfrog"), sx.errors.InputError, "method is 'leapfrog'"),
        (lambda: sx.nn.MassPreserving(3, dt=0.0), sx.errors.InputError, "dt is 0.0"),
        (lambda: sx.nn.MassPreserving(3, 0), sx.errors.InputError, "hidden is 0"),
        (lambda: sx.nn.MassPreserving(3, 2.5), sx.errors.InputError, "hidden is 2.5"),
        (lambda: sx.nn.MassPreserving(3, activation="tangh"), sx.errors.InputError, "activation is 'tangh'"),
        (lambda: sx.nn.MassPreserving(3, activation=nn.Softmax(-1)), sx.errors.InputError, r"elementwise.*Softmax"),
        (lambda: sx.nn.mass_preserving_network(3), sx.errors.InputError, "widths is 3"),
        (lambda: sx.nn.MassPreserving(3, activation=nn.Linear), sx.errors.InputError, r"Linear.*without arguments"),
        (lambda: sx.nn.mass_preserving_network((3,)), sx.errors.InputError, r"widths is \[3\]"),
        (lambda: sx.nn.mass_preserving_network((3, 5), blocks=0), sx.errors.InputError, "blocks is 0"),
        (lambda: sx.nn.mass_preserving_network((3, 0)), sx.errors.ShapeError, "out is 0"),
        (lambda: sx.nn.mass_preserving_network((3, 5), weights=(1, 2)), sx.errors.ShapeError, r"weights of shape \(3,\).*\(2,\)"),
        (lambda: sx.nn.mass_preserving_network((3, 5), out=2, weights=(1, 2, 3)), sx.errors.ShapeError, "3 → 2"),
        (lambda: sx.nn.parts.Weighted(sx.nn.MassPreserving(2), (1, 0)), sx.errors.InputError, r"\[1.0, 0.0\]"),
        (lambda: sx.nn.parts.Weighted(sx.nn.MassPreserving(2), "heavy"), sx.errors.InputError, "weights .*'heavy'"),
    ],
)
def test_bad_input_is_refused_in_a_line_or_two(build, error, said):
    with pytest.raises(error, match=said) as caught:
        build()
    assert len(str(caught.value).splitlines()) <= 2


def test_the_multipliers_at_its_fixed_points_are_eigenvalues_of_its_step():
    """A network of blocks is a map, whatever flows its blocks are steps of; in other units too."""
    torch.manual_seed(0)
    network = sx.nn.mass_preserving_network([4, 4], weights=[1.0, 2.0, 3.0, 4.0]).double()
    found = sx.fixed_points(network, seed=0)
    assert len(found.points) and not network.continuous
    for point, multipliers in zip(found.points, found.multipliers, strict=True):
        wanted = torch.linalg.eigvals(torch.autograd.functional.jacobian(network.step, point)).abs().sort(descending=True).values
        torch.testing.assert_close(multipliers.abs().sort(descending=True).values, wanted, rtol=0, atol=1e-8)
        torch.testing.assert_close(network(point), point, rtol=0, atol=1e-8)


def test_the_equilibria_of_its_field_are_asked_of_its_flow():
    """ẋ = 0 and x' = x have the same solutions, but rates are eigenvalues of the field's Jacobian and multipliers of the step's."""
    torch.manual_seed(0)
    block = sx.nn.MassPreserving(3, dt=0.5, method="heun").double()
    assert block.flow.continuous and not block.continuous
    x = torch.randn(4, 3, dtype=torch.float64)
    assert torch.equal(block.residual(x), block(x) - x)
    assert (block.flow.residual(x) - (sx.nn.MassPreserving.step(block, x) - x) / 0.5).abs().max() > 1e-3
