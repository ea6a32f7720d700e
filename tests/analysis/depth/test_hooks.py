"""Hooks that tell what each layer returns."""

import torch
from torch import nn

from separatrix.analysis.depth.hooks import LayerHooks, label


def test_calls_are_numbered_anew_in_each_pass():
    layer = nn.Linear(2, 2)
    hooks, heard = LayerHooks({"layer": layer}), []
    for _ in range(2):
        with hooks.listening(lambda call, given, returned: heard.append(label(call))):
            layer(layer(torch.ones(2)))
    assert heard == ["layer", "layer:2"] * 2


def test_what_the_listener_returns_takes_the_place_of_the_output_and_only_while_it_listens():
    layer = nn.Linear(2, 2)
    hooks, x = LayerHooks({"layer": layer}), torch.ones(2)
    before = layer(x)
    with hooks.listening(lambda call, given, returned: torch.full((2,), 7.0)):
        assert layer(x).tolist() == [7.0, 7.0]
    assert torch.equal(layer(x), before)


def test_a_layer_is_heard_after_the_hooks_it_had():
    """What is written down is what goes on to the next layer."""
    layer, heard = nn.Linear(2, 2), []
    layer.register_forward_hook(lambda module, given, returned: returned + 1)
    hooks = LayerHooks({"layer": layer})
    with hooks.listening(lambda call, given, returned: heard.append(returned)):
        after = layer(torch.ones(2))
    assert heard[0] is after
