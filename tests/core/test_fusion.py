import pytest
import torch
from torch import Tensor
from torch._inductor.decomposition import decompositions
from torch.fx.experimental.proxy_tensor import make_fx

import separatrix as sx
from separatrix.core.components import components
from separatrix.core.fusion import SinkSelections


def traced(f, *inputs: Tensor) -> torch.fx.GraphModule:
    """The graph of f in the compiler's own operators."""
    return make_fx(f, decomposition_table=decompositions, tracing_mode="fake")(*inputs)


def count(graph: torch.fx.Graph, name: str) -> int:
    return sum(node.op == "call_function" and name in str(node.target) for node in graph.nodes)


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "system", [sx.classic.lorenz63(), sx.classic.rossler(), sx.classic.henon()], ids=["lorenz63", "rossler", "henon"]
)
def test_a_step_is_fused_to_one_stack_of_states_and_one_of_tangents(system):
    """An RK4 step stacks its slopes eight times; what is left are its two results, and they are the same numbers."""

    def step(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        y, w = system.pushforward(x, v)
        return components(*y.unbind(-1)), components(*w.unbind(-1))

    x, v = seeded(5, system.dim), seeded(5, 2, system.dim)
    module = traced(step, x, v)
    SinkSelections()(module.graph)
    module.recompile()
    assert count(module.graph, "aten.cat") == 2
    for got, wanted in zip(module(x, v), system.pushforward(x, v), strict=True):
        assert torch.allclose(got, wanted, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: (torch.stack([x[..., 0], x[..., 1]]) * x[..., 2]).unbind(0)[1],
        lambda x: (torch.stack([x[0], x[1]])[..., None] + x[2, 0]).select(-2, 1),
        lambda x: torch.stack([x, x + 1]).permute(2, 0, 1).unbind(1)[-1].unbind(0)[2],
        lambda x: torch.stack([x, 2 * x], dim=1).select(2, -1),
        lambda x: x.unsqueeze(-1).select(-1, 0) + x.cumsum(-1).select(0, 1),
        lambda x: (x @ x.mT).unbind(-1)[0] * torch.where(x > 0, x, 1.0).select(1, 1),
    ],
)
def test_whatever_is_selected_stays_the_same(f):
    x = seeded(3, 3)
    module = traced(f, x)
    SinkSelections()(module.graph)
    module.recompile()
    assert torch.equal(module(x), f(x))
