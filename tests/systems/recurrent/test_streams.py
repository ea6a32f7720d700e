"""Streams of sequences of unequal length."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import separatrix as sx

LENGTHS = (3, 7, 5, 1)


def numbered() -> list[Tensor]:
    """Each number says which sequence it is of, and at which step."""
    return [100.0 * i + torch.arange(float(length))[:, None] for i, length in enumerate(LENGTHS)]


def test_each_copy_reads_a_sequence_to_its_end_and_then_another():
    stream = sx.Stream(numbered(), copies=6, seed=4)
    played = torch.stack([stream(n)[:, 0] for n in range(400)])
    counts = torch.zeros(len(LENGTHS))
    for copy in played.T.tolist():
        n = 0
        while n < len(copy):
            which = int(copy[n] // 100)
            piece = copy[n : n + LENGTHS[which]]
            assert piece == [100.0 * which + t for t in range(len(piece))]
            counts[which] += 1
            n += len(piece)
    assert counts.min() > 0.7 * counts.mean()  # drawn alike, whatever their lengths: 600 draws, 4 standard deviations


def test_a_step_is_a_function_of_its_number_and_the_seed():
    stream, other = sx.Stream(numbered(), copies=3, seed=1), sx.Stream(numbered(), copies=3, seed=1)
    forwards = [stream(n) for n in range(120)]
    assert all(torch.equal(other(n), forwards[n]) for n in reversed(range(120)))
    assert torch.equal(sx.Stream(numbered(), copies=3, seed=1)(77), forwards[77])
    assert any(not torch.equal(sx.Stream(numbered(), copies=3, seed=2)(n), forwards[n]) for n in range(20))


def test_what_is_drawn_for_equal_lengths_is_drawn_for_unequal_ones():
    """Place p of a copy's stream is the sequence `draw(p)`, whatever the lengths."""
    stream = sx.Stream(numbered(), copies=5, seed=9)
    played = torch.stack([stream(n)[:, 0] for n in range(100)]).T
    for c in range(5):
        begun = [int(value // 100) for value in played[c].tolist() if value % 100 == 0]
        assert begun == [int(stream.draw(place)[c]) for place in range(len(begun))]


def test_lists_padding_and_packed_sequences_are_one_stream():
    padded = nn.utils.rnn.pad_sequence(numbered(), batch_first=True, padding_value=float("nan"))
    streams = [
        sx.Stream(numbered(), copies=4),
        sx.Stream([part.numpy() for part in numbered()], copies=4),
        sx.Stream([part.tolist() for part in numbered()], copies=4),
        sx.Stream(padded, copies=4, lengths=torch.tensor(LENGTHS)),
        sx.Stream(pack_sequence(numbered(), enforce_sorted=False), copies=4),
    ]
    for n in range(40):
        assert all(torch.equal(stream(n).float(), streams[0](n)) for stream in streams)


def test_the_exponents_are_those_of_the_sequences_read_in_a_row():
    """Against dense QR of autograd's Jacobians of the cell itself."""
    torch.manual_seed(0)
    cell = nn.GRUCell(2, 3).double()
    sequences = [torch.randn(length, 2, dtype=torch.float64) for length in LENGTHS]
    stream = sx.Stream(sequences, copies=1, seed=5)
    h, q, logs = torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64), []

    def step(h: Tensor, u: Tensor) -> Tensor:
        return cell(u, h[None])[0]

    for u in (stream(n) for n in range(300)):
        jacobian = torch.autograd.functional.jacobian(step, (h, u))[0]
        q, r = torch.linalg.qr(jacobian @ q)
        h = step(h, u).detach()
        logs.append(r.diagonal().abs().log())
    expected = torch.stack(logs).mean(0).sort(descending=True).values.detach()
    spectrum = sx.lyapunov_spectrum(sx.Recurrent(cell, stream), steps=300, settle=0, every=1)
    assert spectrum.exponents[0].sum() == pytest.approx(float(expected.sum()), rel=1e-9)  # whatever frame it begins with
    torch.testing.assert_close(spectrum.exponents[0], expected, atol=0.02, rtol=0)


def test_a_list_of_equal_sequences_is_a_batch_for_a_network():
    sequences = [torch.randn(6, 2, dtype=torch.float64) for _ in range(4)]
    for batch_first in (False, True):
        gru = nn.GRU(2, 3, batch_first=batch_first)
        system, packed = sx.Recurrent(gru, sequences), sx.Recurrent(gru, pack_sequence(sequences))
        assert system.batch_shape == (4,)
        assert torch.equal(system.drive(2), torch.stack(sequences)[:, 2])
        assert torch.equal(packed.drive(2), system.drive(2))
