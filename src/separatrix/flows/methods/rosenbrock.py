"""Rosenbrock methods: linearly implicit methods for stiff fields, without iteration."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from separatrix.core.precision import without_autocast
from separatrix.core.tangent import pushforward, twice_reverse
from separatrix.flows.methods.pair import Hermite, Pair, Trial
from separatrix.flows.methods.solver import Slope, TangentSlope, Time, along_rows, with_tangents

Row = tuple[float, ...]


@dataclass(frozen=True)
class Rosenbrock(Pair):
    r"""One step of size h, with the Jacobian J = ∂f/∂x and the drift f' = ∂f/∂t at its start:

        (I − hγJ) u_i = γ [ h f(x + Σ_j a_ij u_j, t + α_i h) + Σ_j c_ij u_j + h² γ_i f' ],      x' = x + Σ_j a_sj u_j + u_s

    All stages share one matrix, which is factored once. The last stage is the error estimate; the method is L-stable and stiffly
    accurate. The polynomial  (1 − θ) x + θ (x' + (1 − θ)(y_1 + θ (y_2 + θ y_3))),  y_i = Σ_j d_ij u_j,  only serves to bracket
    events; a state between the ends is that after a step of this length.

    J is dense for each item, so states may have up to a few hundred numbers. Linear invariants of f, wᵀf = 0, are kept up to the
    rounding of h J u. f is differentiated in t: a field that converts its time to a Python number (math.sin) must not depend on it.

    Args:
        name, order: as in `Solver`.
        gamma: γ.
        a, c: strictly lower triangles, row by row; the first row is empty.
        alpha, slope: α_i and γ_i.
        dense: the three rows of d.
    Source: Hairer & Wanner 1996, Solving Ordinary Differential Equations II, IV.7; Steinebach 2023, BIT Numer. Math. 63, 27
        (rodas5p).
    """

    gamma: float
    a: tuple[Row, ...]
    c: tuple[Row, ...]
    alpha: Row
    slope: Row
    dense: tuple[Row, ...]

    def step(self, field: Slope, x: Tensor, t: Time, h: Time) -> Tensor:
        return self._after(x, self.stages(field, x, t, h))

    def attempt(self, field: Slope, x: Tensor, t: Tensor, h: Tensor, slope: Tensor | None) -> Trial:
        """A trial step; the slope at its end is not computed."""
        stages = self.stages(field, x, t, h)
        return Trial(self._after(x, stages), stages[-1], None)

    def piece(self, field: Slope, x: Tensor, t: Time, h: Time) -> Hermite:
        stages = self.stages(field, x, t, h)
        after = self._after(x, stages)
        rise, (one, two, three) = after - x, (_sum(row, stages) for row in self.dense)
        return Hermite(x, after, rise + one, rise - one - two - three, -three)

    def between(self, field: Slope, x: Tensor, t: Time, h: Time, share: Tensor) -> Tensor:
        """The state at t + share · h, by a step of that length: the polynomial has a low order where the field is very stiff."""
        return self.step(field, x, t, h * share)

    def pushforward(self, field: TangentSlope, x: Tensor, v: Tensor, t: Time, h: Time) -> tuple[Tensor, Tensor]:
        """The state and the tangents, shape (*batch, k, dim), after one step; through J too, which itself comes from forward AD."""
        return twice_reverse(lambda y: self.step(_Pushed(field), y, t, h), x, v)

    def amplification(self, z: Tensor) -> Tensor:
        """R(z):  the method applied to  ẋ = z x  from 1;  R → 0 as z → −∞."""
        u: list[Tensor] = []
        for a, c in zip(self.a, self.c, strict=True):
            u.append(self.gamma * (z * (1 + _sum(a, u)) + _sum(c, u)) / (1 - self.gamma * z))
        return 1 + _sum(self.a[-1], u) + u[-1]

    def stages(self, field: Slope, x: Tensor, t: Time, h: Time) -> list[Tensor]:
        """u_1 … u_s, each (*batch, dim); NaN where I − hγJ has no inverse."""
        when, length = (_like(x, value) for value in (t, h))
        value, jacobian, drift = getattr(field, "linearised", partial(linearised, field))(x, when)
        with without_autocast(x.device):
            identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
            matrix = identity - self.gamma * along_rows(length) * jacobian
            factors = torch.linalg.lu_factor_ex(matrix)[:2]
            stages: list[Tensor] = []
            for i, (a, c) in enumerate(zip(self.a, self.c, strict=True)):
                if i:
                    value = field(x + _sum(a, stages), _like(x, t + self.alpha[i] * h))
                right = length * value + _sum(c, stages)
                if drift is not None and self.slope[i]:
                    right = right + self.slope[i] * length**2 * drift
                stages.append(self.gamma * torch.linalg.lu_solve(*factors, right[..., None, :], left=False)[..., 0, :])
        return stages

    def _after(self, x: Tensor, stages: list[Tensor]) -> Tensor:
        return x + _sum(self.a[-1], stages[:-1]) + stages[-1]


class _Pushed:
    """A field given by its tangents alone; its drift is known if they are a method of the field."""

    def __init__(self, pushforward: TangentSlope) -> None:
        self.pushforward = pushforward
        drift = getattr(getattr(pushforward, "__self__", None), "drift", None)
        if drift is not None:
            self.drift = drift

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        return self.pushforward(x, x.new_zeros(*x.shape[:-1], 0, x.shape[-1]), t)[0]


def linearised(field: Any, x: Tensor, t: Time) -> tuple[Tensor, Tensor, Tensor | None]:
    """f, the images of unit vectors under ∂f/∂x as rows, (*batch, dim, dim), and ∂f/∂t; None if the field declares that it is 0."""
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).expand(*x.shape[:-1], -1, -1)
    value, rows = with_tangents(field)(x, identity, t)
    if hasattr(field, "drift"):
        return value, rows, field.drift(x, t)
    when = torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(*x.shape[:-1], 1)
    return value, rows, by_time(lambda s: field(x, s), when)


def by_time(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """df/dt of each item, (*batch, dim), at times (*batch, 1); 0 if f does not depend on them."""
    t = t.clone()
    return pushforward(lambda s: f(s) + 0 * s, t, torch.ones_like(t)[..., None])[1][..., 0, :]


def _sum(weights: Row, terms: list[Tensor]) -> Tensor | float:
    """Σ w_i · term_i."""
    return sum((weight * term for weight, term in zip(weights, terms, strict=False) if weight), start=0.0)


def _like(x: Tensor, value: Time) -> Time:
    return value.to(x) if isinstance(value, Tensor) else value


A6 = (-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946)

rodas5p = Rosenbrock(
    "rodas5p",
    5,
    gamma=0.21193756319429014,
    a=(
        (),
        (3.0,),
        (2.849394379747939, 0.45842242204463923),
        (-6.954028509809101, 2.489845061869568, -10.358996098473584),
        (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
        A6,
        (*A6, 1.0),
        (*A6, 1.0, 1.0),
    ),
    c=(
        (),
        (-14.155112264123755,),
        (-17.97296035885952, -2.859693295451294),
        (147.12150275711716, -1.41221402718213, 71.68940251302358),
        (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
        (24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471),
        (30.91273214028599, -3.1208243349937974, 77.79954646070892, 34.28646028294783, -19.097331116725623, -28.087943162872662),
        (
            37.80277123390563,
            -3.2571969029072276,
            112.26918849496327,
            66.9347231244047,
            -40.06618937091002,
            -54.66780262877968,
            -9.48861652309627,
        ),
    ),
    alpha=(0.0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1.0, 1.0, 1.0),
    slope=(0.21193756319429014, -0.42387512638858027, -0.3384627126235924, 1.8046452872882734, 2.325825639765069, 0.0, 0.0, 0.0),
    dense=(
        (
            25.948786856663858,
            -2.5579724845846235,
            10.433815404888879,
            -2.3679251022685204,
            0.524948541321073,
            1.1241088310450404,
            0.4272876194431874,
            -0.17202221070155493,
        ),
        (
            -9.91568850695171,
            -0.9689944594115154,
            3.0438037242978453,
            -24.495224566215796,
            20.176138334709044,
            15.98066361424651,
            -6.789040303419874,
            -6.710236069923372,
        ),
        (
            11.419903575922262,
            2.8879645146136994,
            72.92137995996029,
            80.12511834622643,
            -52.072871366152654,
            -59.78993625266729,
            -0.15582684282751913,
            4.883087185713722,
        ),
    ),
)
