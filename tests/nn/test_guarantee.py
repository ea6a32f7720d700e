"""Guarantees compose as the mathematics of compositions and sums says."""

import math

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.nn.guarantee import IDENTITY, NOTHING, guarantee_of, product
from separatrix.tangent import jacobian


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
        {"conserves": frozenset({sx.nn.WeightedSum((1.0, 2.0))})},
        {"log_det": 0.1},
        {"symplectic": True},
    ],
)
def test_a_false_promise_is_found(wrong):
    block = Matrix(torch.tensor([[2.0, 0.0], [0.0, 0.6]]), **wrong)
    with pytest.raises(AssertionError):
        sx.testing.check_block(block)


def test_widths_that_do_not_meet_and_empty_sequences_are_refused():
    with pytest.raises(sx.ShapeError, match="block 1, Matrix, takes 2 numbers, but the one before it gives 5"):
        sx.nn.Sequential(Matrix(torch.ones(5, 3)), Matrix(torch.ones(2, 2)))
    with pytest.raises(sx.InputError, match="at least one block"):
        sx.nn.Sequential(nn.Tanh())
    with pytest.raises(sx.UnsupportedModuleError, match="Matrix has no exact inverse"):
        sx.nn.Sequential(Matrix(torch.eye(2))).inverse(torch.zeros(2))


def test_flattening_images_in_front_of_a_network_keeps_its_factor():
    network = sx.nn.LipschitzNet(6, 2)
    assert guarantee_of(nn.Sequential(nn.Flatten(), network)).lipschitz == network.guarantee.lipschitz
