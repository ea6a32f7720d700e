"""Guarantees compose as the mathematics of compositions and sums says."""

import math

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.core.tangent import jacobian
from separatrix.nn.guarantee import IDENTITY, NOTHING, guarantee_of, product


class Matrix(sx.nn.Block):
    """x ↦ x Mᵀ, with what is known of M."""

    def __init__(self, matrix: torch.Tensor, **known: object) -> None:
        super().__init__(matrix.shape[1], matrix.shape[0])
        self.register_buffer("matrix", matrix.double())
        self.known = sx.nn.Guarantee(**known)

    def step(self, x, n=0):
        return x @ self.matrix.mT

    @property
    def guarantee(self):
        return self.known


def quarter_turn() -> torch.Tensor:
    return torch.tensor([[0.0, 1.0], [-1.0, 0.0]])


def test_factors_multiply_log_determinants_add_and_what_all_conserve_is_conserved():
    one = sx.nn.Guarantee(lipschitz=2.0, conserves=frozenset({"sum", "norm"}), log_det=0.5, symplectic=True)
    two = sx.nn.Guarantee(lipschitz=3.0, conserves=frozenset({"sum"}), log_det=-0.25, symplectic=True)
    assert one.then(two) == sx.nn.Guarantee(6.0, frozenset({"sum"}), 0.25, True)
    assert one.then(NOTHING) == NOTHING
    assert IDENTITY.then(one) == one == one.then(IDENTITY)


def test_a_sum_keeps_only_the_lipschitz_factor():
    assert IDENTITY.plus(IDENTITY) == sx.nn.Guarantee(lipschitz=2.0)
    assert sx.nn.Guarantee(lipschitz=2.0).times(-3.0).lipschitz == 6.0


def test_a_constant_map_stays_one_whatever_follows():
    assert product(0.0, math.inf) == 0.0
    assert sx.nn.Guarantee(lipschitz=0.0).then(NOTHING).lipschitz == 0.0


def test_a_sequence_has_the_guarantee_of_its_blocks_and_says_it_in_words():
    turn = Matrix(quarter_turn(), lipschitz=1.0, conserves=frozenset({"norm"}), log_det=0.0, symplectic=True)
    stretch = Matrix(torch.diag(torch.tensor([2.0, 0.5])), lipschitz=2.0, log_det=0.0, symplectic=True)
    network = sx.nn.Sequential(turn, stretch, turn)
    assert network.guarantee == sx.nn.Guarantee(2.0, frozenset(), 0.0, True)
    assert str(network.guarantee) == "2-Lipschitz, log |det J| = 0, symplectic"
    assert str(sx.nn.Guarantee()) == "nothing is guaranteed"
    assert sx.nn.guarantee_of(nn.Sequential(turn, nn.Identity(), turn)).conserves == {"norm"}

    sx.testing.check_block(network)


def test_a_sequence_is_a_system_and_its_tangents_are_its_blocks():
    random = torch.Generator().manual_seed(0)
    matrices = [torch.randn(3, 3, generator=random).double() for _ in range(3)]
    network = sx.nn.Sequential(*(Matrix(matrix) for matrix in matrices))
    sx.testing.check_system(network)
    x = network.initial_state((4,))
    assert torch.allclose(jacobian(network, x)[0], matrices[2] @ matrices[1] @ matrices[0], rtol=1e-13)
    exponents = sx.lyapunov_spectrum(sx.nn.Sequential(Matrix(torch.diag(torch.tensor([2.0, 0.5])))), steps=50).exponents
    assert exponents.tolist() == pytest.approx([math.log(2), -math.log(2)], abs=1e-12)


def test_a_sequence_may_change_the_width_and_then_takes_one_step():
    network = sx.nn.Sequential(Matrix(torch.ones(5, 3)), nn.Tanh(), Matrix(torch.ones(2, 5)))
    assert (network.dim, network.out, network.horizon, network.width(1)) == (3, 2, 1, 2)
    assert network(torch.zeros(7, 3, dtype=torch.float64)).shape == (7, 2)
    assert network.guarantee == NOTHING


def test_residual_wiring_adds_the_skip():
    matrix = Matrix(torch.eye(2) * 0.25, lipschitz=0.25)
    residual = sx.nn.Residual(matrix, scale=-2.0, skip=0.5)
    assert residual.guarantee == sx.nn.Guarantee(lipschitz=1.0)
    assert torch.equal(residual(torch.ones(1, 2).double()), torch.zeros(1, 2).double())
    assert sx.nn.guarantee_of(sx.nn.Residual(nn.Tanh())).lipschitz in (2.0, math.inf)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lipschitz": 1.9},
        {"conserves": frozenset({"sum"})},
        {"conserves": frozenset({"norm"})},
        {"conserves": frozenset({sx.nn.parts.WeightedSum((1.0, 2.0))})},
        {"log_det": 0.1},
        {"symplectic": True},
    ],
)
def test_a_false_promise_is_found(wrong):
    block = Matrix(torch.tensor([[2.0, 0.0], [0.0, 0.6]]), **wrong)
    with pytest.raises(AssertionError):
        sx.testing.check_block(block)


def test_widths_that_do_not_meet_and_empty_sequences_are_refused():
    with pytest.raises(sx.errors.ShapeError, match=r"block 1, Matrix.*2 numbers.*5"):
        sx.nn.Sequential(Matrix(torch.ones(5, 3)), Matrix(torch.ones(2, 2)))
    with pytest.raises(sx.errors.InputError, match="at least one block"):
        sx.nn.Sequential(nn.Tanh())
    with pytest.raises(sx.errors.UnsupportedModuleError, match="Matrix has no exact inverse"):
        sx.nn.Sequential(Matrix(torch.eye(2))).inverse(torch.zeros(2))


def test_a_weighted_sum_lives_on_where_all_blocks_keep_it():
    masses = (1.0, 2.0, 3.0)
    kept = sx.nn.parts.WeightedSum(masses)
    one, two = (sx.nn.parts.Weighted(sx.nn.MassPreserving(3), masses) for _ in range(2))
    other = sx.nn.parts.Weighted(sx.nn.MassPreserving(3), (3.0, 2.0, 1.0))
    assert sx.nn.Sequential(one, two).guarantee.conserves == {kept}
    assert sx.nn.Sequential(one, nn.Identity(), two).guarantee.conserves == {kept}
    assert not sx.nn.Sequential(one, other).guarantee.conserves
    sx.testing.check_block(sx.nn.Sequential(one, two))


def test_dropout_is_the_identity_at_evaluation_alone():
    assert sx.nn.guarantee_of(nn.Dropout().eval()) == IDENTITY
    assert sx.nn.guarantee_of(nn.Dropout()) == NOTHING
    assert sx.nn.guarantee_of(nn.AlphaDropout()) == NOTHING


@pytest.mark.parametrize("dim", [1, 3])
def test_the_identity_on_an_odd_number_of_coordinates_is_not_symplectic(dim):
    for kind in (sx.nn.parts.MassPreservingLift, sx.nn.parts.MassPreservingProjection):
        assert not kind(dim, dim).guarantee.symplectic
        sx.testing.check_block(kind(dim, dim))


class Claims(sx.nn.Block):
    """x ↦ f(x), an inverse that is none, and a claim."""

    def __init__(self, f, **claimed: object) -> None:
        super().__init__(2)
        self.f, self.claimed = f, sx.nn.Guarantee(**claimed)

    def step(self, x, n=0):
        return self.f(x)

    def inverse(self, y):
        return y

    @property
    def guarantee(self):
        return self.claimed


def first_alone(x):
    return x * x.new_tensor([1.0, 0.0])


@pytest.mark.parametrize(
    ("f", "claimed", "told"),
    [
        (first_alone, {"log_det": 0.0}, "singular to rounding at every state"),
        (first_alone, {}, "an inverse is promised, but J is singular"),
        (torch.relu, {"log_det": 0.0}, r"log \|det J\| differs from 0.0 by inf"),
        (lambda x: x * 1e6 * (x.abs().amax(-1, keepdim=True) > 1) + x * (1 + 1e-9), {"symplectic": True}, "differs from Ω"),
        (lambda x: x * torch.nan, {"log_det": 0.0}, "not finite"),
        (lambda x: (80 * x).exp().exp() + x, {"symplectic": True}, "not finite"),
    ],
)
def test_a_claim_does_not_slip_through_where_a_jacobian_is_singular_or_large_or_not_finite(f, claimed, told):
    with pytest.raises(AssertionError, match=told):
        sx.testing.check_block(Claims(f, **claimed))


def test_an_odd_number_of_coordinates_is_never_symplectic():
    with pytest.raises(AssertionError, match="3 numbers, which are no pairs"):
        sx.testing.check_block(Matrix(torch.eye(3), symplectic=True))
    with pytest.raises(AssertionError, match="a Jacobian of 2 × 3 numbers has no determinant"):
        sx.testing.check_block(Matrix(torch.eye(3)[:2], log_det=0.0))


@pytest.mark.parametrize("name", sx.tables.BLOCKS)
@pytest.mark.parametrize("width", [2, 3, 5, 8])
def test_a_state_of_another_width_is_refused(name, width):
    """Three numbers halve into two and one, and a shear would have made four of them."""
    with pytest.raises(sx.errors.ShapeError, match="states of shape"):
        sx.tables.BLOCKS[name](4)(torch.randn(6, width))


def test_lifts_and_projections_take_their_own_width_alone():
    for block in (sx.nn.parts.MassPreservingLift(4, 6), sx.nn.parts.MassPreservingProjection(4, 2), sx.nn.MassPreserving(4)):
        for shape in ((5, 3), (5, 5), ()):
            with pytest.raises(sx.errors.ShapeError, match=r"expects states of shape \(\*batch, 4\)"):
                block(torch.randn(shape))


def test_a_linear_layer_between_blocks_may_change_the_width():
    network = sx.nn.Sequential(sx.nn.MassPreserving(3), nn.Linear(3, 5), nn.Tanh(), sx.nn.MassPreserving(5), nn.Linear(5, 2))
    assert (network.dim, network.out) == (3, 2)
    assert network(torch.randn(4, 3)).shape == (4, 2)
    assert network.guarantee == NOTHING
    with pytest.raises(sx.errors.ShapeError, match=r"block 2, MassPreserving.*4 numbers.*5"):
        sx.nn.Sequential(sx.nn.MassPreserving(3), nn.Linear(3, 5), sx.nn.MassPreserving(4))


def test_flattening_images_in_front_of_a_network_keeps_its_factor():
    network = sx.nn.LipschitzNet(6, 2)
    assert guarantee_of(nn.Sequential(nn.Flatten(), network)).lipschitz == network.guarantee.lipschitz
