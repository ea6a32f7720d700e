"""An answer of one item depends on that item alone: in any order, any company, any dtype and layout of its state."""

import inspect

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import separatrix as sx
from properties.strategies import SEEDS, fewer, normal, uniform

FEW = {"steps": 40, "settle": 10, "every": 1, "starts": 4, "max_lag": 4, "lags": (1, 5, 10, 20), "max_steps": 300}
MORE = {  # what few steps do not suffice for
    "correlation_dimension": {"steps": 600},
    "power_spectrum": {"steps": 300},
    "memory_capacity": {"steps": 200, "settle": 30},
    "basins_of_attraction": {"steps": 60},
    "fixed_points": {"max_steps": 60, "path_steps": 60},
}
PER_ITEM = [
    name for name in sx.tables.ANALYSES if name not in ("phase_portrait", "flow_map")
]  # a picture has one plane for all of its items
SYSTEMS = {
    "henon": lambda: (sx.classic.henon(), 0.2),
    "tanh": lambda: (tanh_map(), 1.0),
    "kicked": lambda: (sx.Noisy(tanh_map(), 0.1, seed=3), 1.0),
}


def tanh_map() -> sx.System:
    w = torch.tensor([[1.4, -1.1], [0.9, 1.2]], dtype=torch.float64)
    return sx.Map(lambda x: torch.tanh(x @ w.to(x.dtype).mT), 2)


def measured(name: str, system: sx.System, x0: Tensor) -> sx.Result:
    known = inspect.signature(sx.tables.ANALYSES[name]).parameters
    options = {key: value for key, value in {**FEW, **MORE.get(name, {})}.items() if key in known}
    return sx.tables.ANALYSES[name](system, x0, **options)


def items(result: sx.Result) -> dict[str, Tensor]:
    """The tensors whose first axis is the batch's; of a fixed-point search, where each guess came to."""
    if isinstance(result, sx.results.FixedPoints):
        return {"codes": result.codes, "reached": result.reached}
    found = {"codes": result.codes}
    for key, layout in result.layout.items():
        value = getattr(result, key)
        if layout.startswith("batch") and isinstance(value, Tensor):
            found[key] = value
    return found


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], rtol=1e-9, atol=1e-9, equal_nan=True, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", PER_ITEM)
@fewer(12)
@given(st.sampled_from(sorted(SYSTEMS)), SEEDS, st.permutations(range(4)), st.data())
def test_an_item_s_answer_is_its_own_in_any_order_and_company(name, system, seed, order, data):
    """Permuted, repeated, alone, and with a neighbour that diverges or is far away: to 1e-9."""
    assume((name, system) != ("basins_of_attraction", "kicked"))  # a basin is one of a system that does not depend on time
    made, spread = SYSTEMS[system]()
    x0 = spread * uniform(seed, 4, 2)
    if data.draw(st.booleans()):
        x0[data.draw(st.integers(0, 3))] = data.draw(st.sampled_from((30.0, 1e6)))
    whole = items(measured(name, made, x0))
    index = torch.tensor([*order, order[0]])
    same({key: value[index] for key, value in whole.items()}, items(measured(name, made, x0[index])))
    alone = data.draw(st.integers(0, 3))
    same({key: value[alone : alone + 1] for key, value in whole.items()}, items(measured(name, made, x0[alone : alone + 1])))


@pytest.mark.parametrize("name", PER_ITEM)
@fewer(12)
@given(SEEDS)
def test_a_state_s_layout_and_kind_do_not_matter(name, seed):
    """A view with strides, a NumPy array, a list of numbers, and a tensor that asks for gradients: the same bits."""
    system, x0 = tanh_map(), uniform(seed, 3, 2)
    wanted = items(measured(name, system, x0))
    wide = torch.stack([x0, normal(seed, 3, 2)], dim=-1)[..., 0]
    turned = x0.mT.contiguous().mT
    for given_ in (wide, turned, x0.numpy(), x0.clone().requires_grad_()):
        found = items(measured(name, system, given_))
        for key, value in wanted.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=0, equal_nan=True)
            assert not found[key].requires_grad


@pytest.mark.parametrize("name", PER_ITEM)
@fewer(12)
@given(SEEDS)
def test_a_float32_state_is_measured_in_float32_and_left_as_it_is(name, seed):
    """Every floating-point field has the state's dtype or double, none of its items is disturbed, and x0 is not written to."""
    system, x0 = tanh_map(), uniform(seed, 3, 2).float()
    kept = x0.clone()
    result = measured(name, system, x0)
    assert torch.equal(x0, kept)
    assert result.batch == (3,)
    for key, value in items(result).items():
        assert not value.is_floating_point() or value.dtype in (torch.float32, torch.float64), key
