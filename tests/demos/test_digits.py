"""The embedded default, in two epochs."""

import torch

from separatrix.demos import DEMOS


def test_the_trained_network_reads_digits_and_its_twin_does_not():
    before = torch.random.get_rng_state()
    demo = DEMOS["digits"](seed=0, epochs=2)
    accuracy = [float(facts["accuracy on 360 unseen digits"].rstrip("%")) for facts in demo.facts.values()]
    assert list(demo.models) == ["trained", "untrained twin (control)"]
    assert accuracy[0] > 60 > 30 > accuracy[1]  # ten classes: chance is 10 %
    assert demo.inputs.shape == (1797, 8, 8)
    assert torch.equal(before, torch.random.get_rng_state())
