"""Guesses near a known zero come to it by products alone, to the last bit; the others are left as they are."""

import torch
from torch import Tensor

from separatrix.analysis.fixed.anchors import Anchors

F64 = torch.float64


def cubic(x: Tensor) -> Tensor:
    """x − x³ in each component: zeros at −1, 0 and 1."""
    return x - x**3


def with_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    return cubic(x), torch.diag_embed(1 - 3 * x**2)


def known(*zeros: tuple[float, float]) -> Anchors:
    anchors = Anchors(cubic, with_slope)
    anchors.add(torch.tensor(zeros, dtype=F64))
    return anchors


def landed(anchors: Anchors, *states: tuple[float, float], residual=cubic) -> tuple[list[bool], Tensor]:
    x = torch.tensor(states, dtype=F64)
    which, zeros = anchors.landed(x, residual(x), 1e-12)
    return which.tolist(), x[:0] if zeros is None else zeros.x


def test_a_state_near_a_known_zero_lands_on_it_to_rounding():
    which, ends = landed(known((1, 1), (0, 0)), (1.1, 0.9), (0.2, -0.1))
    assert which == [True, True]
    assert (ends - torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=F64)).abs().max() < 1e-15


def test_a_state_whose_distance_a_step_does_not_halve_is_left_alone():
    """From x, the step with the slope −2 at the zero 1 goes to x + (x − x³)/2: halved where |1 − x (x + 1)/2| ≤ ½."""
    edge = (5**0.5 - 1) / 2  # x (x + 1) = 1
    anchors = known((1, 1))
    assert landed(anchors, (edge + 0.01, edge + 0.01), (edge - 0.01, edge - 0.01))[0] == [True, False]


def test_without_known_zeros_nothing_lands():
    assert landed(Anchors(cubic, with_slope), (1.0, 1.0))[0] == [False]


def test_a_zero_is_added_once_and_a_singular_one_never():
    anchors = Anchors(lambda x: x**2 * (x - 1), lambda x: (x**2 * (x - 1), torch.diag_embed(3 * x**2 - 2 * x)))
    anchors.add(torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0 + 1e-9, 1.0]], dtype=F64))
    anchors.add(torch.tensor([[1.0, 1.0]], dtype=F64))
    assert anchors._inverse.shape == (1, 2, 2)
    assert anchors._at is not None and anchors._at.x.tolist() == [[1.0, 1.0]]


def test_on_a_line_of_zeros_each_state_keeps_its_own():
    """r = (x₁ − x₁³, 0) is zero along x₂; there is no isolated zero to land on."""

    def line(x: Tensor) -> Tensor:
        return torch.stack([cubic(x)[:, 0], torch.zeros_like(x[:, 0])], dim=-1)

    anchors = Anchors(line, lambda x: (line(x), torch.diag_embed(torch.stack([1 - 3 * x[:, 0] ** 2, 0 * x[:, 0]], dim=-1))))
    anchors.add(torch.tensor([[1.0, 0.3]], dtype=F64))
    assert landed(anchors, (1.1, 0.7), residual=line)[0] == [False]
