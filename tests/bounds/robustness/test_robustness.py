"""Robustness: attacks against classifiers whose borders are known, certificates against attacks."""

import math
import sys

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

import separatrix as sx

QUICK = {"steps": 20, "restarts": 2}
CLASSES, DIM = 4, 6


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Planes(nn.Module):
    """Scores W x + b."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
        with torch.no_grad():
            self.linear.weight.copy_(weight)
            self.linear.bias.copy_(bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


class Isometries(nn.Module):
    """Orthogonal layers with ReLUs between: 1-Lipschitz whatever the weights."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.utils.parametrizations.orthogonal(nn.Linear(DIM, DIM)) for _ in range(2)]
        self.layers = nn.Sequential(layers[0], nn.ReLU(), layers[1])
        self.head = nn.utils.parametrizations.orthogonal(nn.Linear(DIM, CLASSES))
        self.double()

    @property
    def guarantee(self) -> sx.nn.Guarantee:
        return sx.nn.Guarantee(lipschitz=1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


def planes(seed: int = 0) -> Planes:
    return Planes(random(CLASSES, DIM, seed=seed), 0.1 * random(CLASSES, seed=seed + 1))


def isometries(seed: int = 0) -> Isometries:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Isometries()


def read_right(model: nn.Module, count: int = 60, seed: int = 5) -> tuple[Tensor, Tensor]:
    """Random images and what the model reads, every sixth label changed to a wrong one."""
    x = random(count, DIM, seed=seed)
    with torch.no_grad():
        labels = model(x).argmax(-1)
    labels[::6] = (labels[::6] + 1) % CLASSES
    return x, labels


def distance_to_the_border(model: Planes, x: Tensor, labels: Tensor) -> Tensor:
    """minⱼ ((w_y − w_j)·x + b_y − b_j)/‖w_y − w_j‖, at least 0."""
    w, b = model.linear.weight.detach(), model.linear.bias.detach()
    each = [
        min(float((w[y] - w[j]) @ image + b[y] - b[j]) / float((w[y] - w[j]).norm()) for j in range(CLASSES) if j != y)
        for image, y in zip(x, labels.tolist(), strict=True)
    ]
    return torch.tensor(each, dtype=torch.float64).clamp_min(0)


def test_the_attack_finds_a_linear_classifier_s_exact_accuracy_at_every_radius():
    model = planes()
    x, labels = read_right(model, 200)
    exact = distance_to_the_border(model, x, labels)
    radii = torch.tensor([0.1, 0.2, 0.4, 0.8, 1.6], dtype=torch.float64)
    assert (exact[:, None] / radii - 1).abs().min() > 1e-4  # no image lies so near to a sphere that rounding decides
    found = sx.bounds.robustness(model, x, labels, radii=radii, bounds=None, steps=40)
    torch.testing.assert_close(found.empirical_accuracy, (exact[:, None] > radii).double().mean(0), rtol=0, atol=1e-12)
    assert (found.broken >= exact * (1 - 1e-9)).all()


def test_with_the_head_known_certified_and_empirical_accuracy_of_a_linear_classifier_meet():
    model = planes()
    x, labels = read_right(model)
    head = model.linear.weight
    found = sx.bounds.robustness(model, x, labels, radii=[0.3, 0.9], bounds=None, lipschitz=1.0, head=head, **QUICK)
    torch.testing.assert_close(found.certified, distance_to_the_border(model, x, labels), rtol=1e-9, atol=1e-12)
    assert torch.equal(found.certified_accuracy, found.empirical_accuracy)


def distance_within_the_box(w: Tensor, b: float, x: Tensor) -> float:
    """The shortest δ with w·(x + δ) + b = 0 and 0 ≤ x + δ ≤ 1: δ = clip(x − t w) − x for the t that reaches the plane."""
    side = 1.0 if float(w @ x) + b > 0 else -1.0
    low, high = 0.0, 1e3
    for _ in range(200):
        middle = (low + high) / 2
        reached = side * (float(w @ (x - side * middle * w).clamp(0, 1)) + b) <= 0
        low, high = (low, middle) if reached else (middle, high)
    return float(((x - side * high * w).clamp(0, 1) - x).norm())


def test_attacks_stay_within_the_pixels_bounds_and_come_near_the_exact_distance_there():
    """Clipping takes length from a step, so PGD is a little short of the exact border: within 5 % of its distance here."""
    w, b = random(DIM), -0.3
    model = Planes(torch.stack([w, -w]), torch.tensor([b, -b], dtype=torch.float64))
    x = torch.rand(80, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    labels = (x @ w + b < 0).long()
    exact = torch.tensor([distance_within_the_box(w, b, image) for image in x], dtype=torch.float64)
    radii = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    found = sx.bounds.robustness(model, x, labels, radii=radii)
    assert (found.broken >= exact * (1 - 1e-6)).all()
    for radius, left in zip(radii, found.empirical_accuracy, strict=True):
        assert float((exact > radius).double().mean()) <= float(left) <= float((1.05 * exact > radius).double().mean())


def test_certified_is_below_empirical_and_both_fall_with_the_radius():
    model = isometries()
    x, labels = read_right(model)
    found = sx.bounds.robustness(model, x, labels, radii=[1.0, 0.02, 0.05, 0.1, 0.2], bounds=None, **QUICK)
    assert found.lipschitz == 1.0
    assert found.radii.tolist() == [0.02, 0.05, 0.1, 0.2, 1.0]
    assert (found.certified <= found.broken).all()
    assert (found.certified_accuracy <= found.empirical_accuracy).all()
    for curve in (found.certified_accuracy, found.empirical_accuracy):
        assert (curve.diff() <= 0).all() and curve[0] <= found.clean
    assert found.clean == pytest.approx(1 - 10 / 60) and 0 < found.certified_accuracy[0] < found.clean


def test_certified_radii_are_those_of_the_margins():
    model = isometries()
    x, labels = read_right(model)
    found = sx.bounds.robustness(model, x, labels, radii=[0.05], bounds=None, steps=1, restarts=1)
    with torch.no_grad():
        top = model(x).topk(2).values
    right = found.read == labels
    torch.testing.assert_close(found.certified[right], ((top[:, 0] - top[:, 1]) / math.sqrt(2))[right], rtol=1e-9, atol=1e-12)
    assert (found.certified[~right] == 0).all() and (found.broken[~right] == 0).all()


def test_an_attack_that_breaks_a_false_certificate_is_an_error_with_both_numbers():
    model = planes()
    x, labels = read_right(model)
    norm = float(torch.linalg.matrix_norm(model.linear.weight.detach(), 2))
    sx.bounds.robustness(model, x, labels, lipschitz=norm, bounds=None, **QUICK)
    claim = r"is not a Lipschitz bound of this network: image \d+ is certified within [\d.]+, but"
    with pytest.raises(sx.errors.InputError, match=claim) as told:
        sx.bounds.robustness(model, x, labels, lipschitz=norm / 10, bounds=None, **QUICK)
    assert "is misclassified at a distance of" in str(told.value)


def test_the_standard_error_is_that_of_a_binomial_share():
    model = planes()
    x, labels = read_right(model, 50)
    found = sx.bounds.robustness(model, x, labels, radii=[0.2], bounds=None, **QUICK)
    share = float(found.empirical_accuracy[0])
    assert float(found.stderr(share)) == pytest.approx(scipy.stats.binom.std(50, share) / 50)
    assert f"of 50 images, {100 * found.clean:.1f} ± {100 * scipy.stats.binom.std(50, found.clean) / 50:.1f} %" in found.summary()


def test_without_a_bound_there_is_no_certified_accuracy_and_it_is_said():
    model = planes()
    x, labels = read_right(model)
    found = sx.bounds.robustness(model, x, labels, radii=[0.2], bounds=None, **QUICK)
    assert found.certified.isnan().all() and found.certified_accuracy.isnan().all()
    assert not found.empirical_accuracy.isnan().any()
    assert "no Lipschitz bound is known for this network" in found.summary() and "certified 0" not in found.summary()


class Squared(nn.Module):
    """Scores of a size at which the cross-entropy is 0 to the last bit, and so is its gradient."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.model(x)


def test_the_attack_is_not_deceived_by_the_scale_of_the_scores():
    """At factors of 10⁴ the cross-entropy has no gradient in float32; the margin's direction is the same at every scale."""
    w = random(DIM)
    model = Planes(torch.stack([w, -w]), torch.zeros(2))
    x = random(60, DIM, seed=5)
    labels = (x @ w < 0).long()
    options = {"radii": [0.4], "bounds": None, "steps": 10, "restarts": 2}
    expected = ((x @ w).abs() / w.norm() > 0.4).double().mean()
    for factor in (1e-4, 1.0, 1e4):
        left = sx.bounds.robustness(Squared(model, factor), x, labels, **options).empirical_accuracy
        assert float(left) == pytest.approx(float(expected), abs=1e-12)
    masked = sx.bounds.robustness(Squared(model, 1e4), x, labels, attack="cross entropy", **options)
    assert float(masked.empirical_accuracy) > float(expected) + 0.05


def test_the_same_seed_gives_the_same_and_the_global_generators_stay_as_they_were():
    model = isometries()
    x, labels = read_right(model)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    options = {"radii": [0.1, 0.3], "bounds": None, "steps": 1, "restarts": 4}
    one, same = (sx.bounds.robustness(model, x, labels, **options) for _ in range(2))
    assert torch.equal(one.broken, same.broken)
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_the_user_s_network_keeps_its_weights_its_gradients_and_its_mode():
    model = nn.Sequential(nn.Linear(DIM, 8), nn.Dropout(0.9), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES)).double()
    x, labels = random(30, DIM), torch.arange(30) % CLASSES
    model(x).sum().backward()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    grads = [p.grad.clone() for p in model.parameters()]
    sx.bounds.robustness(model, x, labels, bounds=None, radii=[0.5], **QUICK)
    assert model.training and all(module.training for module in model.modules())
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), grads, strict=True))
    assert all(p.requires_grad for p in model.parameters())


def test_images_of_any_shape_are_attacked_in_their_own_dtype():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 4 * 4, CLASSES))
    x = torch.rand(12, 1, 6, 6)
    found = sx.bounds.robustness(model, x, model(x).argmax(-1), radii=[0.1, 5.0], at_once=5, **QUICK)
    assert found.broken.dtype == torch.float32 and found.clean == 1
    assert found.empirical_accuracy[1] < found.empirical_accuracy[0]


class Overflow(nn.Module):
    """Scores that are not finite where the first number is positive."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0].exp() * 1e308 * 10, -x[:, 0]], -1).where(x[:, :1] > 0, x[:, :2])


def test_it_measures_the_same_where_gradients_are_switched_off():
    model = planes()
    x, labels = read_right(model)
    expected = sx.bounds.robustness(model, x, labels, radii=[0.3], bounds=None, **QUICK)
    with torch.no_grad():
        assert torch.equal(sx.bounds.robustness(model, x, labels, radii=[0.3], bounds=None, **QUICK).broken, expected.broken)
    assert 0 < expected.empirical_accuracy < expected.clean


def test_scores_that_are_not_finite_count_as_read_wrong_and_are_told():
    x = random(20, 2)
    found = sx.bounds.robustness(Overflow(), x, torch.zeros(20, dtype=torch.long), radii=[1e-9], bounds=None, steps=1, restarts=1)
    positive = x[:, 0] > 0
    assert (found.read[positive] == -1).all() and (found.broken[positive] == 0).all()
    assert (found.status == "diverged").sum() == int(positive.sum())
    assert "not finite" in found.summary()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"inputs": torch.full((4, DIM), math.nan)}, "24 of 24 numbers of the images"),
        ({"inputs": torch.zeros(4, DIM, dtype=torch.float16)}, "images in float32 or float64, got float16"),
        ({"inputs": torch.zeros(3, DIM)}, r"labels of shape \(3,\)"),
        ({"inputs": torch.zeros(4)}, r"expected \(images, …\)"),
        ({"inputs": torch.full((4, DIM), 2.0)}, "outside the bounds"),
        ({"labels": torch.full((4,), CLASSES)}, f"there are {CLASSES} classes"),
        ({"labels": ["a", "b", "c", "d"]}, "labels cannot be read as numbers"),
        ({"radii": [-0.1]}, "all positive"),
        ({"radii": []}, "at least one"),
        ({"radii": [math.inf]}, "all positive"),
        ({"lipschitz": -1.0}, "lipschitz is -1.0"),
        ({"bounds": (1.0, 0.0)}, "the first below the second"),
        ({"bounds": (1.0,)}, "expected two numbers"),
        ({"head": torch.zeros(CLASSES, DIM)}, "head requires lipschitz"),
        ({"model": nn.LSTM(DIM, CLASSES)}, "return a tensor, got a tuple"),
        ({"attack": "magic"}, "attack is 'magic'; expected 'all', 'margin' or 'cross entropy'"),
        ({"steps": 0}, "steps is 0"),
        ({"restarts": 0}, "restarts is 0"),
        ({"at_once": 0}, "at_once is 0"),
        ({"model": torch.tanh}, "is an nn.Module, got a"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_numbers(changed, told):
    given = {"model": planes(), "inputs": torch.zeros(4, DIM), "labels": torch.zeros(4, dtype=torch.long), **changed}
    with pytest.raises(sx.SeparatrixError, match=told):
        sx.bounds.robustness(given.pop("model"), given.pop("inputs"), given.pop("labels"), **given)


def test_a_missing_attack_library_is_named_with_its_extra(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "art"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "art", None)
    with pytest.raises(sx.errors.MissingExtraError, match=r"separatrix\[attack\]"):
        sx.bounds.robustness(planes(), torch.zeros(4, DIM), torch.zeros(4, dtype=torch.long))
