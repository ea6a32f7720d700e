"""Margins: the hinge against its own double sum, radii against distances that geometry gives exactly."""

import math

import pytest
import torch

import separatrix as sx


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def some_labels(count: int, classes: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def test_the_loss_is_the_sum_over_wrong_classes_and_the_mean_over_the_batch():
    scores, labels = random(7, 5), some_labels(7, 5)
    total = sum(
        max(0.0, 0.3 * 2 - float(scores[i, labels[i]] - scores[i, j])) for i in range(7) for j in range(5) if j != labels[i]
    )
    assert float(sx.nn.MarginLoss(0.3, lipschitz=2)(scores, labels)) == pytest.approx(total / 7, rel=1e-12)


def test_a_loss_of_zero_certifies_the_margin_over_the_root_of_two():
    labels = some_labels(20, 5)
    scores = 1.5 * 0.3 * torch.nn.functional.one_hot(labels, 5).double()
    assert float(sx.nn.MarginLoss(0.3, lipschitz=1.5)(scores, labels)) == 0
    torch.testing.assert_close(
        sx.nn.certified_radii(scores, labels, 1.5), torch.full((20,), 0.3 / math.sqrt(2), dtype=torch.float64)
    )


def test_the_loss_has_pytorch_s_gradient_and_takes_lower_precision():
    """PyTorch's own loss divides by the number of classes too."""
    scores, labels = random(7, 5).requires_grad_(), some_labels(7, 5)
    (mine,) = torch.autograd.grad(sx.nn.MarginLoss(0.6)(scores, labels), scores)
    (theirs,) = torch.autograd.grad(5 * torch.nn.functional.multi_margin_loss(scores, labels, margin=0.6), scores)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-15)
    assert float(sx.nn.MarginLoss(0.6)(scores.detach().bfloat16(), labels)) == pytest.approx(
        float(sx.nn.MarginLoss(0.6)(scores.detach(), labels)), rel=0.05
    )


def test_two_opposite_planes_are_certified_up_to_the_plane_itself():
    """Scores ±(w·x + b) have the factor √2 ‖w‖, and change their order at the distance |w·x + b|/‖w‖."""
    w, b, x = random(6), 0.4, random(50, 6, seed=2)
    value = x @ w + b
    scores = torch.stack([value, -value], -1)
    radii = sx.nn.certified_radii(scores, (value < 0).long(), math.sqrt(2) * float(w.norm()))
    torch.testing.assert_close(radii, value.abs() / w.norm(), rtol=1e-12, atol=0)


def test_with_the_head_known_a_linear_classifier_is_certified_up_to_its_nearest_border():
    weight, x = random(5, 6), random(50, 6, seed=2)
    scores = x @ weight.mT
    labels = scores.argmax(-1)
    nearest = [
        min(float((scores[i, y] - scores[i, j]) / (weight[y] - weight[j]).norm()) for j in range(5) if j != y)
        for i, y in enumerate(labels.tolist())
    ]
    exact = torch.tensor(nearest, dtype=torch.float64)
    torch.testing.assert_close(sx.nn.certified_radii(scores, labels, 1.0, head=weight), exact, rtol=1e-12, atol=0)
    plain = sx.nn.certified_radii(scores, labels, float(torch.linalg.matrix_norm(weight, 2)))
    assert (plain <= exact).all() and (plain < 0.9 * exact).any()


def test_what_is_read_wrong_is_not_certified_and_without_a_bound_nothing_is():
    scores = torch.tensor([[1.0, 2.0, 0.0], [3.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    labels = torch.zeros(3, dtype=torch.long)
    assert sx.nn.certified_radii(scores, labels, 0.5**0.5).tolist() == pytest.approx([0, 2, 0])
    assert sx.nn.certified_radii(scores, labels, 0.0).tolist() == [0, math.inf, 0]  # a constant map never changes its mind
    assert sx.nn.certified_radii(scores, labels, math.inf).isnan().all()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"labels": torch.tensor([0, 3])}, "from 0 to 3, but there are 3 classes"),
        ({"labels": torch.tensor([0, -1])}, "from -1 to 0"),
        ({"labels": torch.tensor([0])}, "labels of shape \\(2,\\).*\\(1,\\)"),
        ({"labels": torch.tensor([0.0, 1.0])}, "float32"),
        ({"scores": torch.zeros(2)}, r"scores of shape.*\(2,\)"),
        ({"scores": torch.zeros(2, 1)}, "at least 2 classes"),
        ({"lipschitz": -1.0}, "lipschitz is -1.0"),
        ({"lipschitz": math.nan}, "lipschitz is nan"),
        ({"head": torch.zeros(4, 6)}, "head of shape \\(3, features\\).*\\(4, 6\\)"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_numbers(arguments, told):
    given = {"scores": torch.zeros(2, 3), "labels": torch.tensor([0, 1]), "lipschitz": 1.0, **arguments}
    with pytest.raises((sx.errors.ShapeError, sx.errors.InputError), match=told):
        sx.nn.certified_radii(given.pop("scores"), given.pop("labels"), given.pop("lipschitz"), **given)


@pytest.mark.parametrize("options", [{"margin": 0.0}, {"margin": math.nan}, {"margin": 1.0, "lipschitz": math.inf}])
def test_a_margin_and_its_unit_are_positive(options):
    with pytest.raises(sx.errors.InputError, match="positive"):
        sx.nn.MarginLoss(**options)


def test_labels_that_do_not_fit_the_scores_are_refused_by_the_loss_and_any_whole_numbers_taken():
    scores, loss = random(4, 3), sx.nn.MarginLoss(0.3)
    with pytest.raises(sx.errors.ShapeError, match=r"labels of shape \(4,\).*\(1,\)"):
        loss(scores, torch.tensor([0]))  # would broadcast to a wrong number
    with pytest.raises(sx.errors.InputError, match="float64"):
        loss(scores, torch.zeros(4, dtype=torch.float64))
    labels = torch.tensor([2, 0, 1, 2])
    for dtype in (torch.uint8, torch.int32):
        assert loss(scores, labels.to(dtype)) == loss(scores, labels)
        radii = sx.nn.certified_radii(scores, labels.to(dtype), 1.0, head=random(3, 5))
        assert torch.equal(radii, sx.nn.certified_radii(scores, labels, 1.0, head=random(3, 5)))
