"""Flow maps against exact images: linear layers, a fold, an isometry into many dimensions, steps of a system."""

import math
import sys
import types

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import separatrix as sx
from separatrix.analysis.pictures.flow_map import procrustes
from separatrix.core.result import Status

SHEET = sx.grid((-1, -1), (1, 1), (11, 9))


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


def rotation(angle: float) -> Tensor:
    return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Fold(nn.Module):
    """(x, y) → (|x|, y)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[..., 0].abs(), x[..., 1]], dim=-1)


class Net(nn.Module):
    """A block that is called twice, an in-place layer, dropout, and work between the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 5)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.block = nn.Linear(5, 5)
        self.unused = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.act(self.first(x)))
        return torch.sin(self.block(torch.tanh(self.block(x))))


def test_a_rotation_is_removed_exactly_and_keeps_areas():
    flow = sx.flow_map(nn.Sequential(linear(rotation(2.1)), linear(rotation(-0.4))), SHEET)
    for image in flow.images:
        torch.testing.assert_close(image, SHEET, rtol=0, atol=1e-14)
    torch.testing.assert_close(flow.area, torch.ones(3, 10, 8, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(flow.turned[1], rotation(2.1), rtol=0, atol=1e-14)  # x Wᵀ R = x
    assert not bool(flow.flipped.any())


def test_without_alignment_a_layer_of_two_numbers_is_shown_as_it_is():
    weight, bias = random(2, 2), random(2, seed=1)
    flow = sx.flow_map(nn.Sequential(linear(weight, bias)), SHEET, align=False)
    torch.testing.assert_close(flow.images[1], SHEET @ weight.mT + bias, rtol=0, atol=1e-15)
    area = torch.linalg.det(weight).abs().expand(10, 8)
    torch.testing.assert_close(flow.area[1], area, rtol=1e-12, atol=0)
    assert torch.equal(flow.turned, torch.eye(2, dtype=torch.float64).expand(2, 2, 2))


def test_a_reflection_shows_the_back_of_the_sheet():
    """A layer of two components is only rotated, so that its orientation shows."""
    flow = sx.flow_map(nn.Sequential(linear(torch.diag(torch.tensor([1.0, -1.0])))), SHEET)
    assert bool(flow.flipped[1].all()) and not bool(flow.flipped[0].any())


def test_a_fold_shows_the_back_of_the_folded_half_and_keeps_areas():
    flow = sx.flow_map(nn.Sequential(Fold()), SHEET, align=False)
    assert torch.equal(flow.flipped[1], (SHEET[:-1, :-1, 0] < -1e-9))
    torch.testing.assert_close(flow.area[1], torch.ones(10, 8, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(flow.images[1, :, :, 0], SHEET[..., 0].abs(), rtol=0, atol=0)


def test_an_isometry_into_ten_dimensions_is_drawn_as_the_sheet_itself():
    """Orthonormal columns: the principal plane holds it all, and alignment turns (and reflects) it back."""
    columns = torch.linalg.qr(random(10, 2))[0]
    flow = sx.flow_map(nn.Sequential(linear(columns, random(10, seed=2))), SHEET)
    torch.testing.assert_close(flow.images[1], SHEET, rtol=0, atol=1e-13)
    torch.testing.assert_close(flow.share, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(flow.area[1], torch.ones(10, 8, dtype=torch.float64), rtol=0, atol=1e-12)
    assert flow.widths == (2, 10)


def test_a_wide_layer_is_seen_in_its_principal_plane():
    """Against NumPy's SVD: the same distances within the picture, and the same share of the variance."""
    model = nn.Sequential(linear(random(7, 2), random(7, seed=1)), nn.Tanh())
    flow = sx.flow_map(model, SHEET, layers=["1"])
    with torch.no_grad():
        values = model(SHEET).reshape(-1, 7).numpy()
    values = values - values.mean(0)
    _, sizes, rows = np.linalg.svd(values, full_matrices=False)
    wanted = torch.from_numpy(values @ rows[:2].T)
    image = flow.images[1].reshape(-1, 2)
    torch.testing.assert_close(torch.cdist(image, image), torch.cdist(wanted, wanted), rtol=0, atol=1e-7)  # cdist by squares
    assert float(flow.share[1]) == pytest.approx((sizes[:2] ** 2).sum() / (sizes**2).sum(), abs=1e-12)


def test_alignment_brings_each_picture_nearest_to_the_one_before():
    """No other angle, reflected or not, is nearer."""
    x, y = random(40, 2), random(40, 2, seed=1)
    x, y = x - x.mean(0), y - y.mean(0)
    flip = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    for reflect in (False, True):
        best = float((x @ procrustes(x, y, reflect=reflect) - y).norm())
        tried = [rotation(a) for a in torch.linspace(0, 2 * math.pi, 400).tolist()]
        tried += [flip @ turn for turn in tried] if reflect else []
        assert best <= min(float((x @ turn - y).norm()) for turn in tried) + 1e-12


def test_layers_are_shown_in_the_order_of_their_calls_and_the_module_is_unchanged():
    torch.manual_seed(0)
    net = Net().train()
    flow = sx.testing.check_module_untouched(net, lambda: sx.flow_map(net, SHEET))
    assert flow.names == ("input", "first", "act", "block", "block:2", "output")
    assert flow.widths == (2, 5, 5, 5, 5, 5)
    assert net.first._forward_hooks == {} and "forward" not in net.first.__dict__
    again = sx.flow_map(net.eval(), SHEET)  # without dropout, both times
    torch.testing.assert_close(again.images, flow.images, rtol=0, atol=0)
    twice = net.double()
    with torch.no_grad():
        first = twice.first(SHEET).reshape(-1, 5)
    assert float(first.min()) < 0  # what the in-place layer behind wrote over
    image = flow.images[1].reshape(-1, 2)
    assert float(torch.cdist(image, image).max()) == pytest.approx(float(torch.cdist(first, first).max()), rel=1e-6)


def test_a_single_named_layer_is_shown_with_input_and_output():
    torch.manual_seed(0)
    flow = sx.flow_map(Net(), SHEET, layers=["block"])
    assert flow.names == ("input", "block", "block:2", "output")


def test_points_are_carried_in_the_axes_of_the_sheet():
    torch.manual_seed(0)
    points = SHEET.reshape(-1, 2)[::7]
    flow = sx.flow_map(Net(), SHEET, points=points, classes=torch.arange(len(points)) % 3)
    torch.testing.assert_close(flow.dots, flow.images.reshape(len(flow.names), -1, 2)[:, ::7], rtol=0, atol=1e-12)
    assert flow.classes.unique().tolist() == [0, 1, 2]


def test_images_of_pictures_keep_the_shape_of_their_inputs():
    """A plane through three pictures of 1 × 6 × 6, carried through a convolution."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    axes = random(2, 1, 6, 6)
    inputs = torch.einsum("rca,aijk->rcijk", SHEET, axes)
    flow = sx.flow_map(model, inputs, points=axes)
    assert flow.batch == (11, 9)
    assert flow.names == ("input", "0", "1", "3") and flow.widths == (36, 48, 48, 2)
    gram = axes.flatten(1) @ axes.flatten(1).mT
    assert flow.area[0].unique().tolist() == [1.0]
    torch.testing.assert_close(flow.images[0, -1, -1] - flow.images[0, 0, 0], flow.images[0, -1, -1] * 2, rtol=0, atol=1e-12)
    assert float((flow.images[0, -1, -1] - flow.images[0, 0, 0]).norm()) == pytest.approx(2 * float(gram.sum().sqrt()), rel=1e-12)


def test_a_system_carries_its_sheet_in_steps():
    weight = random(2, 2)
    system = sx.Map(lambda x: x @ weight.mT, 2)
    flow = sx.flow_map(system, SHEET, steps=6, every=2, align=False)
    assert flow.names == ("step 0", "step 2", "step 4", "step 6")
    torch.testing.assert_close(flow.images[3], SHEET @ torch.linalg.matrix_power(weight, 6).mT, rtol=1e-12, atol=1e-13)
    areas = torch.linalg.det(weight).abs() ** torch.tensor([0.0, 2, 4, 6], dtype=torch.float64)
    wanted = areas[:, None, None].expand(4, 10, 8)
    torch.testing.assert_close(flow.area, wanted, rtol=1e-7, atol=0)  # rounding of the corners, × how thin a cell is


def test_a_sheet_begins_about_the_initial_state_of_a_system():
    flow = sx.flow_map(sx.classic.lorenz63(), steps=3, align=False)
    assert flow.batch == (41, 41) and flow.widths == (3, 3, 3, 3)
    assert int((flow.codes != Status.OK).sum()) == 0
    assert sx.flow_map(sx.classic.lorenz63()).names[-1] == "step 200"  # 2 units of its time
    assert sx.flow_map(sx.classic.henon()).names[-1] == "step 8"
    assert sx.flow_map(sx.classic.henon(), steps=24).names[:3] == ("step 0", "step 3", "step 6")
    assert sx.flow_map(sx.classic.logistic()).batch == (41,)


@pytest.mark.parametrize("size", [1e-200, 1e160, 1e300])
def test_pictures_turn_and_fold_the_same_in_any_unit(size):
    """Products of such numbers overflow, or are 0, but the picture is one of directions."""
    x, y = random(40, 2), random(40, 2, seed=1)
    torch.testing.assert_close(procrustes(size * x, size * y, reflect=True), procrustes(x, y, reflect=True), rtol=0, atol=1e-12)
    torch.testing.assert_close(procrustes(x, size * y, reflect=False), procrustes(x, y, reflect=False), rtol=0, atol=1e-12)
    network = nn.Sequential(linear(rotation(1.0)), Fold())
    small, large = sx.flow_map(network, SHEET), sx.flow_map(network, size * SHEET)
    assert small.flipped.any() and torch.equal(small.flipped, large.flipped)


def test_a_sheet_of_which_most_escapes_is_pictured_to_the_last_finite_number():
    """Of x' = x², x is x^(2ⁿ) after n steps, and on its way to infinity passes through 1e160, whose square overflows."""
    sheet = sx.grid((0.2, 0.2), (20, 20), (5, 5)).double()
    flow = sx.flow_map(sx.Map(lambda x: x**2, dim=2), sheet, steps=12, every=1)
    assert flow.codes.eq(Status.OK).sum() == 1  # the corner alone stays
    for n, image in enumerate(flow.images):
        inside = (2**n * sheet.log10() < 308).all(-1)
        assert torch.equal(torch.isfinite(image).all(-1), inside)


def test_inputs_that_diverge_are_marked_and_left_out():
    flow = sx.flow_map(sx.classic.henon(), torch.tensor([[0.1, 0.1], [1e3, 1e3], [0.2, 0.0]]).double(), steps=30, align=False)
    assert flow.codes.tolist() == [Status.OK, Status.DIVERGED, Status.OK]
    assert bool(flow.images[-1, 1].isnan().all()) and bool(torch.isfinite(flow.images[:, [0, 2]]).all())
    assert flow.area is None and flow.flipped is None
    assert "1 input diverged" in flow.summary()
    with pytest.raises(sx.errors.DivergedError, match=r"1 of 3 items.*\(1,\)"):
        sx.flow_map(sx.classic.henon(), torch.tensor([[0.1, 0.1], [1e3, 1e3], [0.2, 0.0]]).double(), steps=30, throw=True)


def test_a_flow_map_saves_and_loads(tmp_path):
    torch.manual_seed(0)
    for points in (None, SHEET.reshape(-1, 2)):
        flow = sx.flow_map(Net(), SHEET, points=points)
        again = sx.results.FlowMap.load(flow.save(tmp_path / str(points is None)))
        for name in flow.layout:
            assert (getattr(again, name) is None) == (getattr(flow, name) is None)
            if getattr(flow, name) is not None:
                torch.testing.assert_close(getattr(again, name), getattr(flow, name), rtol=0, atol=0, equal_nan=True)
        assert again.names == flow.names and again.summary() == flow.summary()


def test_a_film_shows_every_layer_and_the_way_between(tmp_path):
    from PIL import Image

    flow = sx.flow_map(nn.Sequential(linear(rotation(1.0)), Fold()), SHEET, points=SHEET.reshape(-1, 2)[::9])
    path = flow.animate(tmp_path / "film.gif", fps=5, move=0.8, rest=0.2, size=2, dpi=50)
    with Image.open(path) as film:
        assert film.size == (100, 116)
        times = [film.seek(i) or film.info["duration"] for i in range(film.n_frames)]
    assert sum(times) == 200 * (3 * 1 + 2 * 3)  # three rests of one picture and two ways of three, 200 ms each


def test_an_mp4_has_whole_blocks(tmp_path, monkeypatch):
    """The writer is a stand-in: the library is optional."""
    written = []

    class Film:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def append_data(self, picture):
            written.append(picture.shape)

    fake = types.ModuleType("imageio.v2")
    fake.get_writer = lambda path, fps: Film()
    parent = types.ModuleType("imageio")
    parent.v2 = fake
    monkeypatch.setitem(sys.modules, "imageio", parent)
    monkeypatch.setitem(sys.modules, "imageio.v2", fake)
    sx.flow_map(nn.Sequential(Fold()), SHEET).animate(tmp_path / "film.mp4", fps=2, move=1, rest=0.5, size=1.51, dpi=50)
    assert len(written) == 3 and all(height % 16 == width % 16 == 0 for height, width, _ in written)


@pytest.mark.parametrize(("name", "library"), [("film.mp4", "imageio.v2"), ("film.gif", "PIL.Image")])
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, name, library):
    flow = sx.flow_map(nn.Sequential(Fold()), SHEET)
    monkeypatch.setitem(sys.modules, library, None)
    if library == "PIL.Image":
        monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(sx.errors.MissingExtraError, match=r"separatrix\[vision\]"):
        flow.animate(tmp_path / name, fps=1, move=1, rest=1, size=1, dpi=40)


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({"path": "film.avi"}, ".mp4"),
        ({"path": "film"}, ".mp4"),
        ({"fps": 0}, "fps is 0"),
        ({"rest": math.nan}, "rest is nan"),
        ({"colors": 1}, "colors is 1"),
        ({"fps": "20"}, "fps is '20'"),
        ({"path": "nowhere/film.gif"}, "nowhere"),
    ],
)
def test_a_film_that_cannot_be_made_is_refused(tmp_path, options, numbers):
    flow = sx.flow_map(nn.Sequential(Fold()), SHEET)
    path = tmp_path / options.pop("path", "film.gif")
    with pytest.raises(sx.errors.InputError) as error:
        flow.animate(path, **options)
    assert numbers in str(error.value)


class Raising(nn.Module):
    def forward(self, x):
        raise KeyError("missing")


@pytest.mark.parametrize(
    ("model", "options", "numbers"),
    [
        (nn.Linear(2, 2), {"x0": None}, r"x0"),
        (nn.Linear(2, 2), {"x0": torch.zeros(0, 3, 2)}, r"x0.*\(0, 3, 2\)"),
        (nn.Linear(2, 2), {"x0": SHEET * math.nan}, "198 of 198 numbers of x0"),
        (nn.Linear(2, 2), {"x0": SHEET.long()}, "x0.*int64"),
        (nn.Linear(2, 2), {"x0": "grid"}, "x0"),
        (nn.Linear(3, 2), {}, r"\(99, 2\)"),
        (nn.Sequential(Fold()), {"layers": ["7"]}, "'7'"),
        (nn.Linear(2, 2), {"layers": ["weight"]}, "'weight'"),
        (nn.Linear(2, 2), {"layers": 0}, "got 0"),
        (Raising(), {}, r"Raising.*\(99, 2\): KeyError: 'missing'"),
        (nn.Linear(2, 2), {"points": torch.zeros(1, 2), "classes": ["a"]}, "classes"),
        (nn.Linear(2, 2), {"steps": 3}, "steps"),
        (nn.Linear(2, 2), {"classes": torch.zeros(3)}, "points"),
        (nn.Linear(2, 2), {"points": torch.zeros(4, 2), "classes": torch.zeros(3)}, r"\(4,\).*\(3,\)"),
        (nn.Linear(2, 2), {"points": torch.zeros(4, 3)}, r"\(2,\).*\(3,\)"),
        (nn.Linear(2, 2), {"every": 0}, "every.* 0"),
        (lambda x: x, {}, "a System or an nn.Module, got a function"),
        (sx.classic.henon(), {"layers": ["0"]}, "layers"),
        (sx.classic.henon(), {"steps": 0}, "steps.* 0"),
        (sx.classic.henon(), {"x0": SHEET[..., :1]}, " 1 "),
        (nn.LSTM(2, 3), {"layers": []}, None),
    ],
)
def test_bad_input_is_refused_in_two_lines_at_most(model, options, numbers):
    if numbers is None:  # an output of several parts: its first is taken
        assert sx.flow_map(model, SHEET, **options).names == ("input", "output")
        return
    with pytest.raises(sx.SeparatrixError, match=numbers) as error:
        sx.flow_map(model, **{"x0": SHEET, **options})
    assert len(str(error.value).splitlines()) <= 2
