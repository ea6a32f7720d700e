"""The default cross-entropy of a depth profile against `F.cross_entropy` itself, for every layout of its scores."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import separatrix as sx


class Shaped(nn.Module):
    """A linear layer whose numbers are given the shape of scores."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape
        self.linear = nn.Linear(4, torch.Size(shape).numel())

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).reshape(len(x), *self.shape)


def profiled(model: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    """‖∂loss/∂output‖ of each item, by the library."""
    return sx.depth_profile(model, x, targets=targets).gradient[-1]


def own(model: nn.Module, x: Tensor, loss) -> Tensor:
    """The same by autograd, one item after the other."""
    norms = []
    for i in range(len(x)):
        scores = model.double()(x[i : i + 1]).detach().requires_grad_()
        norms.append(torch.autograd.grad(loss(scores, i), scores)[0].norm())
    return torch.stack(norms)


def inputs(seed: int = 0, items: int = 2) -> Tensor:
    return torch.randn(items, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def drawn(classes: int, *shape: int) -> Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(3, 3), (3, 5), (5, 3), (3, 3, 3), (3, 2, 4), (4, 4, 2), (7,), (1,)])
def test_scores_in_pytorchs_order_have_the_gradient_of_its_own_cross_entropy(shape):
    """(batch, classes, *positions), also where there are as many positions as classes."""
    torch.manual_seed(0)
    model, targets = Shaped(*shape), drawn(shape[0], 2, *shape[1:])
    expected = own(model, inputs(), lambda scores, i: F.cross_entropy(scores, targets[i : i + 1]))
    assert profiled(model, inputs(), targets) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3)])
def test_classes_last_are_taken_where_pytorchs_order_is_impossible(shape):
    torch.manual_seed(0)
    model, targets = Shaped(*shape), drawn(3, 2, *shape[:-1])
    expected = own(model, inputs(), lambda scores, i: F.cross_entropy(scores.reshape(-1, 3), targets[i : i + 1].reshape(-1)))
    assert profiled(model, inputs(), targets) == pytest.approx(expected, rel=1e-12)


def test_ignored_positions_are_left_out_as_pytorch_leaves_them_out():
    torch.manual_seed(0)
    model, targets = Shaped(3, 4), drawn(3, 2, 4)
    targets[0, 1:3] = -100
    expected = own(model, inputs(), lambda scores, i: F.cross_entropy(scores, targets[i : i + 1]))
    assert profiled(model, inputs(), targets) == pytest.approx(expected, rel=1e-12)


def test_one_item_without_a_batch_axis_is_read_as_pytorch_reads_the_whole_output():
    """Scores (n, classes) with n targets: PyTorch takes the first axis for items, even where n is the number of classes."""
    torch.manual_seed(0)
    model, x, targets = nn.Linear(4, 3).double(), inputs(items=3), drawn(3, 3)
    scores = model(x).detach().requires_grad_()
    expected = torch.autograd.grad(F.cross_entropy(scores, targets), scores)[0].norm()
    found = sx.depth_profile(model, x, targets=targets, batch_axis=None)
    assert float(found.gradient[-1]) == pytest.approx(float(expected), rel=1e-12)


class SequenceFirst(nn.Module):
    """(time, batch, 4) → (time, batch, classes)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def test_sequence_first_scores_are_refused_where_either_axis_may_be_the_classes():
    torch.manual_seed(0)
    model = SequenceFirst()
    x = torch.randn(5, 2, 4, dtype=torch.float64)
    targets = drawn(3, 2, 5)
    found = sx.depth_profile(model, x, targets=targets, batch_axis=1)
    scores = model.double()(x).detach().requires_grad_()
    loss = sum(F.cross_entropy(scores[:, i], targets[i]) for i in range(2))
    expected = torch.autograd.grad(loss, scores)[0].norm(dim=(0, 2))
    assert found.gradient[-1] == pytest.approx(expected, rel=1e-12)
    with pytest.raises(sx.errors.ShapeError, match=r"\(3, 3\).*\(3,\)"):
        sx.depth_profile(model, x[:3], targets=targets[:, :3], batch_axis=1)


@pytest.mark.parametrize(
    ("shape", "targets", "error", "names"),
    [
        ((3, 4), torch.zeros(2, 5, dtype=torch.int64), sx.errors.ShapeError, r"\(3, 4\).*\(5,\)"),
        ((3, 4), torch.full((2, 4), 3), sx.errors.ShapeError, "class 3"),
        ((3, 4), torch.full((2, 4), -1), sx.errors.ShapeError, "class -1"),
        ((3, 4), torch.full((2, 4), -100), sx.errors.InputError, "input 0 is -100"),
    ],
)
def test_targets_that_do_not_fit_the_scores_are_refused(shape, targets, error, names):
    with pytest.raises(error, match=names):
        profiled(Shaped(*shape), inputs(), targets)
