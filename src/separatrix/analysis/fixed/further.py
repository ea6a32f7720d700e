"""Further starts for small systems: guesses far out, their images, and multiple shooting for cycles."""

from collections.abc import Callable

import torch
from torch import Tensor

from separatrix.analysis.fixed.newton import find_zeros

FEW = 24  # maximum of period · dim for further starts
WIDE = 30.0  # reach of wide guesses, in units of the spread of the guesses
IMAGES = 3  # steps taken from wide guesses, because fixed points lie where a map sends states

Step = Callable[[Tensor], Tensor]
Pushforward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def wide_guesses(step: Step, guesses: Tensor, count: int, seed: int) -> Tensor:
    """States around the guesses, from near to far, and their images after a few steps; (items, dim), finite ones only."""
    generator = torch.Generator().manual_seed(seed + 1)
    center = guesses.median(0).values
    size = (guesses - center).abs().median().clamp(min=1.0)
    reach = torch.logspace(-1, float(torch.tensor(WIDE).log10()), count, dtype=guesses.dtype, device=guesses.device)
    noise = torch.randn(count, guesses.shape[-1], dtype=torch.float64, generator=generator).to(guesses)
    images = [center + size * reach[:, None] * noise]
    for _ in range(IMAGES):
        images.append(step(images[-1]))
    states = torch.cat(images)
    states = states[torch.isfinite(states).all(-1)]
    return states[torch.randperm(len(states), generator=generator)[: 2 * count].to(states.device)]


def shot(
    step: Step, pushforward: Pushforward, pool: Tensor, period: int, count: int, *, tol: float, max_steps: int, seed: int
) -> Tensor:
    """Cycles by multiple shooting: Newton's method on all p states at once, x_{k+1} − F(x_k) = 0, starting from the pool.

    The initial states need not lie on one orbit, so every sequence of regions can be tried, and errors do not grow along the cycle
    as they do in F^p(x) − x. Returns one state of each cycle found.
    """
    dim, generator = pool.shape[-1], torch.Generator().manual_seed(seed + 2)
    drawn = torch.randint(len(pool), (count, period), generator=generator).to(pool.device)
    starts = pool[drawn].reshape(count, period * dim)
    identity = torch.eye(period * dim, dtype=pool.dtype, device=pool.device)
    ahead = identity.reshape(period, dim, period * dim).roll(-1, 0).reshape(period * dim, period * dim)
    one = torch.eye(dim, dtype=pool.dtype, device=pool.device)

    def residual(x: Tensor) -> Tensor:
        states = x.reshape(-1, period, dim)
        return (step(states.flatten(0, 1)).reshape(states.shape) - states.roll(-1, 1)).flatten(1)

    def linearised(x: Tensor) -> tuple[Tensor, Tensor]:
        states = x.reshape(-1, period, dim)
        after, rows = pushforward(states.flatten(0, 1), one.expand(len(states) * period, -1, -1))
        jacobian = (-ahead).repeat(len(states), 1, 1)
        blocks = jacobian.reshape(-1, period, dim, period, dim)
        for k in range(period):
            blocks[:, k, :, k] += rows.reshape(-1, period, dim, dim)[:, k].mT
        return (after.reshape(states.shape) - states.roll(-1, 1)).flatten(1), jacobian

    ends = find_zeros(residual, linearised, starts, tol=tol, max_steps=max_steps, patient=False)
    return ends.x[ends.is_zero].reshape(-1, period, dim)[:, 0]
