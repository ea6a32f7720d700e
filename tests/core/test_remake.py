"""Every fix-up of a twin: what is put right in a module's copy, and how each kind of kept value is remade."""

import collections
import functools
import random
import weakref
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from separatrix.core import remake
from separatrix.core import twin as twins
from separatrix.core.twin import twin


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.register_buffer("scale", torch.ones(2))

    def layer(self) -> nn.Module:
        return self.first


class Pair(NamedTuple):
    layer: nn.Module
    name: str


class Holder:
    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer


class Listed(list):
    """A list of a class of its own."""


def closure(module: Net):
    layer = module.first
    return lambda: layer


def by_default(module: Net):
    return lambda layer=module.first: layer


def by_a_global_name(module: Net):
    space: dict[str, Any] = {"__name__": "__main__", "layer": module.first}
    exec("def ask(): return layer", space)
    return space["ask"]


KEPT = {  # function of the table: (what the module keeps, how to come from it to the first layer)
    remake.frozen_items: [
        (lambda m: (m.first, 1), lambda kept: kept[0]),
        (lambda m: frozenset({m.first}), lambda kept: next(iter(kept))),
    ],
    remake.sequence: [
        (lambda m: [1, [m.first]], lambda kept: kept[1][0]),
        (lambda m: {m.first}, lambda kept: next(iter(kept))),
        (lambda m: collections.deque([m.first], maxlen=3), lambda kept: kept[0]),
    ],
    remake.mapping: [
        (lambda m: {"layer": m.first}, lambda kept: kept["layer"]),
        (lambda m: {m.first: "layer"}, lambda kept: next(iter(kept))),
        (lambda m: collections.OrderedDict(layer=m.first), lambda kept: kept["layer"]),
        (lambda m: collections.defaultdict(list, layer=[m.first]), lambda kept: kept["layer"][0]),
    ],
    remake.function: [(closure, lambda kept: kept()), (by_default, lambda kept: kept()), (by_a_global_name, lambda kept: kept())],
    remake.method: [(lambda m: m.layer, lambda kept: kept())],
    remake.builtin_method: [(lambda m: m.first.weight.abs, lambda kept: kept.__self__)],
    remake.partial: [
        (lambda m: functools.partial(Net.layer, m), lambda kept: kept()),
        (lambda m: functools.partial(dict, layer=m.first), lambda kept: kept()["layer"]),
    ],
    remake.cached: [(lambda m: functools.lru_cache(maxsize=2)(m.layer), lambda kept: kept())],
    remake.weak_reference: [(lambda m: weakref.ref(m), lambda kept: kept().first)],
    remake.weak_proxy: [(lambda m: weakref.proxy(m), lambda kept: kept.first)],
    remake.named_tuple: [(lambda m: Pair(m.first, "first"), lambda kept: kept.layer)],
    remake.instance: [
        (lambda m: Holder(m.first), lambda kept: kept.layer),
        (lambda m: Listed([m.first]), lambda kept: kept[0]),
    ],
}
GENERATORS = {
    remake.torch_generator: [(lambda: torch.Generator().manual_seed(1), lambda kept: float(torch.rand((), generator=kept)))],
    remake.other_generator: [
        (lambda: np.random.default_rng(1), lambda kept: kept.random()),
        (lambda: random.Random(1), lambda kept: kept.random()),
    ],
}


def pairs(table):
    return [pytest.param(*one, id=f"{f.__name__}-{i}") for f, entries in table.items() for i, one in enumerate(entries)]


def test_every_entry_of_the_tables_is_tried_here():
    changes = {*remake.BY_TYPE.values(), *(change for _, change in remake.BY_BASE)}
    assert changes == {*KEPT, *GENERATORS}


@pytest.mark.parametrize(("keep", "reach"), pairs(KEPT))
def test_what_a_module_keeps_leads_to_the_twins_layer_and_the_modules_own_stays(keep, reach):
    module = Net()
    module.__dict__["kept"] = kept = keep(module)
    copy = twin(module, dtype=torch.float64)
    found, own = reach(copy.kept), reach(kept)
    wanted = (copy.first, module.first) if isinstance(found, nn.Module) else (copy.first.weight, module.first.weight)
    assert found is wanted[0] and own is wanted[1]
    assert type(copy.kept) is type(kept) and module.kept is kept


@pytest.mark.parametrize(("keep", "reach"), pairs(KEPT))
def test_what_leads_to_a_module_outside_the_tree_reaches_no_other_weights(keep, reach):
    """A function is left as it is; a container of layers, which nobody else calls, is cast. No weight changes either way."""
    module, other = Net(), Net()
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    module.__dict__["kept"] = keep(other)
    copy = twin(module, dtype=torch.float64)
    found = reach(copy.kept)
    weight = found.weight if isinstance(found, nn.Module) else found
    assert torch.equal(weight.double(), other.first.weight.double())
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    assert other.first.weight.dtype == torch.float32 and other.training


@pytest.mark.parametrize(("make", "draw"), pairs(GENERATORS))
def test_a_generator_draws_the_same_in_a_twin_apart_and_its_own_stays_where_it_is(make, draw):
    module, expected = Net(), draw(make())
    module.__dict__["kept"] = kept = make()
    assert draw(twin(module, apart=True).kept) == expected == draw(kept)
    module.__dict__["kept"] = kept = make()
    assert twin(module).kept is kept


def recurrent() -> nn.Module:
    return nn.GRU(2, 3)


def hooked() -> nn.Module:
    module = Net()
    module.first.register_forward_hook(functools.partial(passed_on, module))
    return module


def passed_on(module: nn.Module, layer: nn.Module, given: tuple[Tensor], value: Tensor) -> None:
    """A hook that changes nothing."""


def keeping() -> nn.Module:
    module = Net()
    module.__dict__["layers"] = [module.first]
    return module


FIXED = {  # fix-up: (a module, what holds of its twin in float64)
    twins.parameters: (Net, lambda copy: copy.first.weight.dtype == torch.float64),
    twins.buffers: (Net, lambda copy: copy.scale.dtype == torch.float64),
    twins.children: (Net, lambda copy: not copy.first.training),
    twins.hooks: (hooked, lambda copy: next(iter(copy.first._forward_hooks.values())).args[0] is copy),
    twins.kept_values: (keeping, lambda copy: copy.layers[0] is copy.first),
    twins.evaluation_mode: (Net, lambda copy: not copy.training),
    twins.flat_weights: (recurrent, lambda copy: copy._flat_weight_refs[0]() is copy.weight_ih_l0),
}


@pytest.mark.parametrize("fix_up", twins.FIX_UPS, ids=lambda fix_up: fix_up.__name__)
def test_each_fix_up_is_what_puts_its_part_of_the_copy_right(fix_up, monkeypatch):
    build, holds = FIXED[fix_up]
    module = build()
    assert holds(twin(module, dtype=torch.float64))
    monkeypatch.setattr(twins, "FIX_UPS", tuple(other for other in twins.FIX_UPS if other is not fix_up))
    assert not holds(twin(module, dtype=torch.float64))
