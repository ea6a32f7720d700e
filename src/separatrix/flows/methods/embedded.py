"""Embedded explicit Runge–Kutta pairs: a method, an estimate of its error, and a polynomial between the ends of a step."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from separatrix.flows.methods.explicit import ExplicitRungeKutta
from separatrix.flows.methods.pair import Hermite, Pair, Trial
from separatrix.flows.methods.solver import Slope, Time


@dataclass(frozen=True)
class EmbeddedPair(ExplicitRungeKutta, Pair):
    r"""An explicit Runge–Kutta method whose last stage is the field at the end of the step, k_s = f(x', t + h).

    The error estimate is  h Σ_i e_i k_i.  Between the ends, the solution is the cubic through both states and slopes plus a quartic
    that vanishes there with its slope:

        x(t + θh) = Hermite(θ) + θ²(1 − θ)² h Σ_i d_i k_i

    Args:
        name, order, a, b: as in `ExplicitRungeKutta`; k_s is not used in the step itself.
        bend: d, one number per stage and one for k_s.
        error: e, likewise.
    Source: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, II.4–II.6 (dopri5); Tsitouras 2011, Computers
        & Mathematics with Applications 62, 770 (tsit5).
    """

    bend: tuple[float, ...]
    error: tuple[float, ...]

    def attempt(self, field: Slope, x: Tensor, t: Tensor, h: Tensor, slope: Tensor | None) -> Trial:
        """A step whose stages are each summed by one matrix product; `slope` is the last one of the previous step."""
        rows, nodes, error = _tableau(self, x.dtype, x.device)
        k = x.new_empty(len(rows) + 1, *x.shape)
        flat, length, after = k.flatten(1), h.to(x), x
        k[0] = field(x, t.to(x)) if slope is None else slope
        for i, row in enumerate(rows, start=1):
            after = torch.addcmul(x, length, (row @ flat[:i]).view_as(x))
            k[i] = field(after, torch.add(t, h, alpha=nodes[i]).to(x))
        return Trial(after, length * (error @ flat).view_as(x), k[-1])

    def piece(self, field: Slope, x: Tensor, t: Time, h: Time) -> Hermite:
        slopes = self.slopes(field, x, t, h)
        after = self.combine(x, h, self.b, slopes)
        slopes.append(field(after, t + h))
        bend = self.combine(torch.zeros_like(x), h, self.bend, slopes)
        return Hermite(x, after, h * slopes[0], h * slopes[-1], bend)


@cache
def _tableau(pair: EmbeddedPair, dtype: torch.dtype, device: torch.device) -> tuple[list[Tensor], list[float], Tensor]:
    """The rows of the stages after the first, the last being the step itself; the fraction of h at each stage; and e."""
    rows = [*pair.a[1:], pair.b]
    tensors = [torch.tensor(row, dtype=dtype, device=device) for row in (*rows, pair.error)]
    return tensors[:-1], [0.0, *(sum(row) for row in pair.a[1:]), 1.0], tensors[-1]


dopri5 = EmbeddedPair(
    "dopri5",
    5,
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    ),
    b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    bend=(
        -12715105075 / 11282082432,
        0.0,
        87487479700 / 32700410799,
        -10690763975 / 1880347072,
        701980252875 / 199316789632,
        -1453857185 / 822651844,
        69997945 / 29380423,
    ),
    error=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
)

tsit5 = EmbeddedPair(
    "tsit5",
    5,
    a=(
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.02826905039406838),
    ),
    b=(0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774),
    bend=(
        -1.0530884977290216,
        0.1017,
        2.490627285651252793,
        -16.54810288924490272,
        47.37952196281928122,
        -34.87065786149660974,
        2.5,
    ),
    error=(
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1 / 66,
    ),
)
