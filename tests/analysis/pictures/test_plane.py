"""Principal planes, by both of the ways they are found."""

import pytest
import torch

from separatrix.analysis.pictures.plane import SMALL, principal_axes, spans_plane


@pytest.mark.parametrize("shape", [(SMALL + 60, 900), (900, SMALL + 60), (50, 7), (7, 50)])
def test_principal_axes_are_the_leading_singular_vectors(shape):
    """States with two large known directions, and noise a thousand times smaller."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(shape[1], 2, dtype=torch.float64, generator=generator))[0].mT
    places = torch.randn(shape[0], 2, dtype=torch.float64, generator=generator)
    places = torch.linalg.qr(places - places.mean(0))[0]
    places = places - places.mean(0)
    states = 5 + (places * torch.tensor([3.0, 1.0])) @ axes
    center, found, share = principal_axes(states)
    torch.testing.assert_close(found @ found.mT, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float((found @ axes.mT).abs().diagonal().min()) == pytest.approx(1, abs=1e-10)
    torch.testing.assert_close(share, torch.tensor([0.9, 0.1], dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(center, states.mean(0), rtol=0, atol=1e-13)
    assert bool((found.gather(1, found.abs().argmax(1, keepdim=True)) > 0).all())


@pytest.mark.parametrize("size", [2.0**-1000, 2.0**-600, 2.0**600, 2.0**1020])
def test_principal_axes_are_the_same_in_any_unit(size):
    """To the last digit, though the squares of these numbers are 0 or infinite."""
    states = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    center, axes, share = principal_axes(states)
    for found, wanted in zip(principal_axes(size * states), (size * center, axes, share), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("dim", [3, SMALL + 60])
def test_states_on_a_line_span_no_plane(dim):
    direction = torch.ones(dim, dtype=torch.float64)
    line = torch.linspace(-1, 1, SMALL + 40, dtype=torch.float64)[:, None] * direction
    assert not spans_plane(line)
    assert spans_plane(line + 1e-3 * torch.eye(dim, dtype=torch.float64)[0] * line[:, :1] ** 2)
