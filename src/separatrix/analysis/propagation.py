"""How far a perturbation, or a gradient, reaches: the Jacobian over lags, in logarithms."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from separatrix.errors import InputError
from separatrix.evolve import Front, begin, check_steps, check_system_type
from separatrix.result import Result, Status
from separatrix.system import System


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Propagation(Result):
    r"""The size of ∂x_{n+l}/∂x_n over lags l, in natural logarithms, so that no lag underflows.

    Args:
        lags: (lag), steps.
        log_norm: (lag, *batch), ln σ₁: the largest growth of any perturbation, or of any gradient sent back.
        log_gain: (lag, *batch), ln(‖J‖_F/√dim): the growth of a typical one.
        time: (lag), elapsed time.
    """

    lags: Tensor
    log_norm: Tensor
    log_gain: Tensor
    time: Tensor

    layout: ClassVar[dict[str, str]] = {"lags": "lag", "time": "lag", "log_norm": "lag batch", "log_gain": "lag batch"}
    units: ClassVar[dict[str, str]] = {"lags": "steps", "log_norm": "nats", "log_gain": "nats"}

    def summary(self) -> str:
        """The growth over the longest lag, in words."""
        last = self.log_norm[-1]
        typical = self.log_gain[-1].mean()
        return (
            f"over {int(self.lags[-1])} steps the largest gradient changes by e^{last.mean():.3g}, a typical one by e^{typical:.3g}"
        )


@torch.no_grad()
def gradient_propagation(
    system: System, x0: Tensor | None = None, *, lags: tuple[int, ...] | None = None, settle: int = 0, seed: int = 0
) -> Propagation:
    r"""The Jacobian products  J = ∂x_{n+l}/∂x_n  along an orbit: ln σ₁(J) and ln(‖J‖_F/√dim), `dim` being the width after
    the lag.

    A gradient sent back over l steps is multiplied by Jᵀ, which has the same singular values.

    Args:
        system: any System.
        x0: initial states, shape (*batch, dim). Default: `system.initial_state()`.
        lags: increasing numbers of steps. Default: 0, 1, 2, 3, 5, … about 1.3 times more each, to 200 or the horizon.
        settle: steps before the first.
        seed: of the initial state.

    Returns:
        Propagation: `log_norm` and `log_gain`, shape (lag, *batch), nats.

    Limits: needs the whole Jacobian, (*batch, dim, dim) numbers.
    """
    check_system_type(system)
    lags = default_lags(system, settle) if lags is None else tuple(lags)
    if not lags or lags[0] < 0 or any(b <= a for a, b in pairwise(lags)):
        raise InputError(f"lags are increasing numbers of steps from 0 on, not {lags}.")
    check_steps(system, settle=settle, lag=lags[-1])
    front = begin(system, x0, seed=seed, one_width=False).advance(settle)
    identity = torch.eye(front.x.shape[-1], dtype=front.x.dtype, device=front.x.device)
    front = front.with_tangents(identity.expand(*front.x.shape[:-1], -1, -1))
    scale = torch.zeros(front.x.shape[:-1], dtype=front.x.dtype, device=front.x.device)
    norms, gains, times = [], [], []
    start, begun = front.n, front.time
    for lag in lags:
        while front.n < start + lag:
            front, scale = _rescaled(front.advance(1), scale)
        size, width = torch.linalg.matrix_norm(front.v), front.x.shape[-1]
        norms.append(scale + _spectral_norm(front.v).log())
        gains.append(scale + (size / width**0.5).log())
        times.append(torch.as_tensor(front.time - begun, dtype=torch.float64).mean())
    failed = front.failed_at >= 0
    return Propagation(
        codes=torch.where(failed, Status.DIVERGED, Status.OK).to(torch.int8),
        lags=torch.tensor(lags),
        log_norm=torch.stack(norms),
        log_gain=torch.stack(gains),
        time=torch.stack(times),
        settings={"settle": settle, "seed": seed},
    )


def default_lags(system: System, settle: int = 0) -> tuple[int, ...]:
    """0, 1, 2, 3, 5, …, each about 1.3 times the one before, up to 200 steps or the horizon."""
    last = 200 if system.horizon is None else min(200, system.horizon - settle)
    lags, lag = [0], 1
    while lag < last:
        lags.append(lag)
        lag = max(lag + 1, round(1.3 * lag))
    return (*lags, last) if last > 0 else (0,)


def _rescaled(front: Front, scale: Tensor) -> tuple[Front, Tensor]:
    size = torch.linalg.matrix_norm(front.v)
    size = size.where(size > 0, 1.0)
    return front.with_tangents(front.v / size[..., None, None]), scale + size.log()


def _spectral_norm(v: Tensor) -> Tensor:
    """σ₁ as the root of the largest eigenvalue of J Jᵀ: only the small singular values suffer from the squaring."""
    finite = torch.isfinite(v).all(-1).all(-1)
    gram = (v @ v.mT).where(finite[..., None, None], 0.0)
    return torch.linalg.eigvalsh(gram)[..., -1].clamp(min=0).sqrt().where(finite, torch.nan)
