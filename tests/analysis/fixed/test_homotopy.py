"""Paths to zeros: which zeros they cross."""

import torch
from torch import Tensor

import separatrix as sx
from separatrix.analysis.fixed.homotopy import follow

F64 = torch.float64


def normal(count: int, dim: int, size: float = 1.0, seed: int = 0) -> Tensor:
    return size * torch.randn(count, dim, dtype=F64, generator=torch.Generator().manual_seed(seed))


def test_first_crossings_have_a_positive_index_and_second_ones_a_negative():
    """The sign of det(1 − DF) alternates along a path that begins far inside of a ball which the network maps into itself."""
    random = normal(48, 48, seed=4)
    weight = 1.5 * (random + random.mT) / 96**0.5
    system = sx.Map(lambda x: torch.tanh(x @ weight.to(x)), dim=48)

    def linearised(x: Tensor) -> tuple[Tensor, Tensor]:
        after = torch.tanh(x @ weight)
        return after - x, (1 - after[..., None] ** 2) * weight - torch.eye(48, dtype=F64)

    ends = follow(linearised, normal(24, 48, 0.5, seed=5), torch.full((24,), 2), max_steps=500)
    for crossing, sign in enumerate((1, -1)):
        near = ends[torch.isfinite(ends[:, crossing]).all(-1), crossing]
        assert len(near) > 5
        points = sx.fixed_points(system, near, path_steps=0).reached
        assert (points - near).abs().max() < 0.2
        assert torch.linalg.det(-linearised(points)[1]).sign().unique().tolist() == [sign]
