"""What the torus and the Cholesky factorisation prove is never below the norm, and they refuse what is."""

import pytest
import torch

from separatrix.bounds.operator_norm.banded import Blocks, bound_of, grams
from separatrix.bounds.operator_norm.convolution import Axis, Convolution
from separatrix.bounds.operator_norm.torus import excess_over, torus_of

SHAPES = {
    "image": (Axis(9, 3, before=1, after=1), Axis(8, 3, before=1, after=1)),
    "strides": (Axis(9, 3, 2, before=1, after=1), Axis(8, 2, 3)),
    "dilation": (Axis(9, 3, dilation=2, before=2, after=2), Axis(8, 3)),
    "line": (Axis(30, 4, before=1, after=2),),
    "volume": (Axis(5, 3, before=1, after=1), Axis(4, 3, before=1, after=1), Axis(4, 2)),
}


def convolution(name: str, seed: int = 0) -> Convolution:
    axes = SHAPES[name]
    kernel = [axis.kernel for axis in axes]
    weight = torch.randn(1, 4, 3, *kernel, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Convolution(weight, axes)


def norm(a: Convolution) -> float:
    return float(torch.linalg.matrix_norm(a.dense(), 2).max())


@pytest.mark.parametrize("name", SHAPES)
def test_the_layer_is_a_piece_of_the_torus(name):
    """Its values on the torus, between the places inside, are those of the matrix."""
    a = convolution(name)
    torus = torus_of(a)[0]
    d = len(a.axes)
    kernel = torch.fft.irfftn(torus.symbol.movedim((-2, -1), (0, 1)), s=torus.places, dim=tuple(range(2, 2 + d)))
    o, c = kernel.shape[:2]
    places = torch.cartesian_prod(*(torch.arange(m) for m in torus.places)).view(-1, d)
    apart = (places[:, None] - places[None]) % torch.tensor(torus.places)
    whole = kernel[(slice(None), slice(None), *apart.unbind(-1))].permute(0, 2, 1, 3).reshape(o * len(places), c * len(places))
    outputs, inputs = torus.inside[:o].flatten(), torus.inside[o:].flatten()
    piece = torch.linalg.svdvals(whole[outputs][:, inputs])
    torch.testing.assert_close(piece, torch.linalg.svdvals(a.dense()[0]), rtol=1e-10, atol=1e-12)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SHAPES)
def test_the_torus_proves_what_is_above_the_norm_and_nothing_below(name, seed):
    a = convolution(name, seed)
    torus, exact = torus_of(a)[0], norm(a)
    assert exact <= torus.largest
    for above in (1e-6, 1e-3, 1e-1):
        excess = excess_over(torus, exact * (1 + above))
        assert excess is not None
        assert 0 <= excess <= 1e-6 * exact
    for below in (1e-6, 1e-3, 1e-1, 0.5):
        assert excess_over(torus, exact * (1 - below)) is None


@pytest.mark.parametrize("name", SHAPES)
def test_every_way_to_cut_the_image_proves_the_same(name):
    a = convolution(name)
    exact = norm(a)
    for gram in grams(a):
        blocks = Blocks(gram)
        assert bound_of(blocks, exact * (1 - 1e-6)) is None
        assert exact <= bound_of(blocks, exact * (1 + 1e-6)) <= exact * (1 + 2e-6)


def test_rows_that_a_dilation_keeps_apart_are_put_apart():
    """Of 12 rows read at distance 3, each class of 4 is banded by itself: two rows on, not six."""
    a = Convolution(torch.randn(1, 2, 2, 3, dtype=torch.float64), (Axis(12, 3, dilation=3, before=3, after=3),))
    assert [gram.width for gram in grams(a)] == [2, 2]
