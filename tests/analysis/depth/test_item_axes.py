"""Depth of models of several arguments: where the items of a batch lie in each of them."""

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx
from separatrix.core.randomness import torch_generator

BATCH, TIME, WIDTH = 4, 5, 3


class Read(nn.Module):
    """A sequence read from a given state, with a gain that all items share and a mask of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor, state: Tensor, gain: Tensor, mask: Tensor | None = None, power: int = 1) -> Tensor:
        """The readout of the last state."""
        x = x if mask is None else x * mask[..., None]
        return self.head(gain**power * self.rnn(x, state)[0][:, -1])


def given(count: int = BATCH) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(count, TIME, WIDTH, dtype=torch.float64, generator=draw),
        "state": torch.randn(1, count, WIDTH, dtype=torch.float64, generator=draw),
        "gain": torch.randn(WIDTH, dtype=torch.float64, generator=draw),
        "mask": torch.rand(count, TIME, generator=draw) > 0.3,
    }


def model() -> nn.Module:
    torch.manual_seed(0)
    return Read()


def singular_values(network: nn.Module, item: int, count: int = BATCH) -> Tensor:
    """Of autograd's dense Jacobian of one item alone, in float64."""
    parts, network = given(count), network.double()
    state, gain, mask = parts["state"][:, item : item + 1], parts["gain"], parts["mask"][item : item + 1]
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x[None], state, gain, mask)[0], parts["x"][item])
    return torch.linalg.svdvals(jacobian.reshape(2, -1))


@pytest.mark.parametrize("count", [1, WIDTH, BATCH, TIME])
@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_each_item_has_its_own_part_of_every_argument(form, count):
    """Whatever their number: also where it is that of the steps or of the features."""
    network, inputs = model(), given(count)
    inputs = inputs if form == "dict" else tuple(inputs.values())
    profile = sx.depth_profile(network, inputs)
    expected = torch.stack([singular_values(model(), item, count) for item in range(count)])
    torch.testing.assert_close(profile.singular_values[-1][:, :2], expected, rtol=1e-9, atol=1e-12)


def test_analyze_draws_items_along_their_axes():
    torch.manual_seed(0)

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            return torch.tanh(self.first(x) + shift[0]) * scale

    x, shift, scale = torch.randn(9, WIDTH), torch.randn(1, 9, WIDTH), torch.randn(WIDTH)
    wide = Wide()
    portrait = sx.analyze(wide, {"x": x, "shift": shift, "scale": scale}, copies=3, seed=1)
    chosen = torch.randperm(9, generator=torch_generator(1, "items of a profile"))[:3].sort().values
    expected = sx.depth_profile(wide, (x[chosen], shift[:, chosen], scale))
    assert torch.equal(portrait.profile.singular_values, expected.singular_values)


def test_arguments_that_are_not_tensors_are_passed_on():
    network, parts = model(), given()
    profile = sx.depth_profile(network, {**parts, "mask": None, "power": 2})
    jacobian = torch.autograd.functional.jacobian(
        lambda x: network.double()(x[None], parts["state"][:, :1], parts["gain"], power=2)[0], parts["x"][0]
    )
    torch.testing.assert_close(profile.singular_values[-1][0, :2], torch.linalg.svdvals(jacobian.reshape(2, -1)), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        ([torch.zeros(4, WIDTH), torch.zeros(2, WIDTH)], "2 sequences"),
        (nn.utils.rnn.pack_sequence([torch.zeros(3, WIDTH)]), "packed inputs"),
        ((torch.zeros(2, WIDTH), torch.zeros(3, WIDTH)), "axis 0"),
        ({"input": torch.zeros(2, WIDTH), "bias": 1}, "'bias'"),
    ],
)
def test_inputs_that_are_not_one_batch_are_refused(inputs, names):
    class Two(nn.Linear):
        def forward(self, input: Tensor, other: Tensor | None = None) -> Tensor:
            out = super().forward(input)
            return out if other is None else out + other.sum(-1, keepdim=True)

    with pytest.raises(sx.SeparatrixError, match=names):
        sx.depth_profile(Two(WIDTH, WIDTH), inputs)
