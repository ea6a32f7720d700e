"""The adversarial picture: how far the perturbations go, and what each network reads in them."""

import math

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx

STEP = 1.1  # from one radius that is tried to the next


class Plane(nn.Module):
    """Scores ±(w·x + b): read wrong at the distance |w·x + b|/‖w‖."""

    def __init__(self, w: tuple[float, float], b: float) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.tensor(w, dtype=torch.float64)), b

    def forward(self, x: Tensor) -> Tensor:
        value = x.flatten(1) @ self.w + self.b
        return torch.stack([value, -value], -1)


X = torch.tensor([[[0.5, 0.2]], [[0.9, 0.1]]], dtype=torch.float64)
PLANES = {"steep": Plane((3.0, 4.0), 0.0), "level": Plane((0.0, 1.0), 0.2)}


@pytest.fixture(scope="module")
def found() -> sx.results.AdversarialImages:
    return sx.bounds.adversarial_images(PLANES, X, torch.zeros(2, dtype=torch.long), bounds=None, steps=5, restarts=1)


def test_each_distance_is_that_to_the_network_s_border_to_within_a_radius(found):
    exact = torch.tensor([[2.3 / 5, 3.1 / 5], [0.4, 0.3]], dtype=torch.float64)
    assert (found.distances >= exact).all() and (found.distances <= STEP * exact).all()
    assert found.settings["attack"] == "all" and (found.status == "ok").all()


def test_each_network_misreads_its_own_and_what_the_others_read_is_told(found):
    changed = X.flatten(1) + found.perturbations
    for i in range(2):
        assert (found.misread[i, i] == 1).all()
        for j, plane in enumerate(PLANES.values()):
            assert torch.equal(found.misread[i, j], (changed[i] @ plane.w.detach() + plane.b < 0).long())
    assert (found.read == 0).all()
    assert found.shape == (1, 2) and torch.equal(found.images, X.flatten(1))


def test_an_image_that_no_attack_changes_is_not_converged():
    found = sx.bounds.adversarial_images(PLANES, X, torch.zeros(2, dtype=torch.long), bounds=None, radii=[0.35])
    assert found.status.tolist() == ["not_converged", "not_converged"]
    assert found.distances[0].tolist() == [math.inf, math.inf] and found.misread[0].tolist() == [[-1, -1], [-1, -1]]
    assert found.perturbations[0].isnan().all()
    assert "steep: never misclassified, 0 of 2" in found.summary() and found.plot().get_label()


def test_without_a_network_there_is_nothing_to_deceive():
    with pytest.raises(sx.errors.InputError, match="models is empty"):
        sx.bounds.adversarial_images({}, X, torch.zeros(2, dtype=torch.long))


def test_images_around_zero_are_drawn_grey_or_in_their_own_colours_and_only_the_change_is_signed():
    for shape in ((1, 2, 2), (3, 2, 2)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * 4, 2))
        x = 3 * torch.randn(1, *shape)
        label = model(x).argmax(-1)
        found = sx.bounds.adversarial_images({"linear": model}, x, label, bounds=None, steps=5, restarts=1)
        pictures = [axes.images[0] for axes in found.plot().axes if axes.images]
        assert [picture.get_cmap().name for picture in pictures[:3]] == ["gray", "RdBu_r", "gray"]
        for picture in (pictures[0], pictures[2]):
            shown = picture.get_array()
            assert shape[0] == 1 or (shown.min() >= 0 and shown.max() <= 1 and shown.std() > 0.1)
