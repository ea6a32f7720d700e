"""What recognition networks read of a series, against PyTorch's own cell and a loop over one series."""

import pytest
import torch
from torch import Tensor, nn

from separatrix.nn.latent.irregular import irregular
from separatrix.nn.latent.recognition import Gates, Recognition

GAPS = torch.tensor([0.3, 1.2, 0.1, 0.7], dtype=torch.float64)


def as_cell(gates: Gates) -> nn.GRUCell:
    cell = nn.GRUCell(gates.of_input.weight.shape[1], gates.of_state.weight.shape[1]).double()
    names = {"weight_ih": gates.of_input.weight, "bias_ih": gates.of_input.bias}
    names |= {"weight_hh": gates.of_state.weight, "bias_hh": gates.of_state.bias}
    cell.load_state_dict(names)
    return cell


def series(seed: int = 0) -> tuple[Tensor, Tensor]:
    values = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return values, torch.cat([torch.zeros(1, dtype=torch.float64), GAPS.cumsum(0)])


def test_gates_are_pytorchs():
    gates = Gates(3, 6).double()
    u, h = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    assert (gates(gates.of_input(u), h) - as_cell(gates)(u, h)).abs().max() < 1e-14


@pytest.mark.parametrize("encoder", ["ode-rnn", "gru"])
def test_a_series_is_read_backwards_with_its_gaps(encoder):
    network = Recognition(2, 3, 6, encoder=encoder).double()
    values, times = series()
    cell, h = as_cell(network.cell), torch.zeros(1, 6, dtype=torch.float64)
    after = [*GAPS.tolist(), 0.0]
    for i in (4, 3, 2, 1, 0):
        if network.drift is not None:
            h = h + after[i] * network.drift(h)
            h = cell(values[i : i + 1], h)
        else:
            h = cell(torch.cat([values[i], values.new_tensor([after[i]])])[None], h)
    mean, log_std = network.head(h).chunk(2, -1)
    found = network(irregular(values, times, None, 2))
    assert (found[0] - mean[0]).abs().max() < 1e-14
    assert (found[1] - log_std[0].exp()).abs().max() < 1e-14
