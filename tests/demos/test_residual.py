"""Forty blocks in three epochs: enough for the one with a way around them."""

import torch

import separatrix as sx
from separatrix.demos import DEMOS


def test_the_residual_network_reads_digits_and_the_plain_one_does_not_because_nothing_comes_through():
    before = torch.random.get_rng_state()
    demo = DEMOS["residual"](seed=0, epochs=3)
    assert torch.equal(before, torch.random.get_rng_state())
    told = {name: float(facts["accuracy on 360 unseen digits"].rstrip("%")) for name, facts in demo.facts.items()}
    assert told["residual"] > 80 > 20 > told["plain"]  # ten classes: chance is 10 %
    portraits = {name: sx.analyze(model, demo.inputs, targets=demo.targets, copies=4) for name, model in demo.models.items()}
    assert portraits["plain"].side == "vanishing" and portraits["residual"].side not in ("vanishing", "exploding", "unknown")
    assert portraits["residual"].growth.depth == portraits["plain"].growth.depth == 42


def test_both_begin_from_the_same_weights():
    residual, plain = DEMOS["residual"](seed=3, epochs=0).models.values()
    for name, value in residual.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name])
