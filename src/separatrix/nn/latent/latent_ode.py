"""Latent ODEs: series observed at uneven times with noise, as one state that follows a learned field."""

import math
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.randomness import torch_generator
from separatrix.flows.field import Field, as_field
from separatrix.flows.flow import Flow, check_step
from separatrix.flows.methods import runge_kutta
from separatrix.flows.methods.solver import Time
from separatrix.flows.steps.grid import follow_on_grid
from separatrix.nn.latent.irregular import Irregular, irregular, times_of_each
from separatrix.nn.latent.recognition import Recognition
from separatrix.nn.latent.stacked import member, perceptron

REFINE = 0.05  # rate of the steps that refine a posterior, in units of the prior's standard deviation


class Elbo(NamedTuple):
    """A lower bound of each series' log-likelihood, in nats, and its two parts.

    Args:
        reconstruction: E_q ln p(x | z₀), the mean over samples, shape (*batch).
        kl: KL(q ‖ p) of z₀, exact, shape (*batch).
    """

    reconstruction: Tensor
    kl: Tensor

    @property
    def value(self) -> Tensor:
        """The bound, reconstruction − kl."""
        return self.reconstruction - self.kl


class Prediction(NamedTuple):
    """Series without their noise, at the asked times.

    Args:
        mean: over samples of the posterior, shape (times, *batch, observed).
        std: over the same, what is not known of the series; an observation differs from it by the noise too.
    """

    mean: Tensor
    std: Tensor


class LatentField(Field):
    """The field of the latent state, a network of it.

    Args:
        network: z ↦ ż.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Time) -> Tensor:
        """The velocity, whatever the time."""
        return self.network(x)


class LatentODE(nn.Module):
    r"""A generative model of noisy series at uneven times:

        z₀ ~ N(0, 1),   ż = f(z),  z(t₁) = z₀,   x_i ~ N(g(z(t_i)), σ²)

    A recognition network reads the series backwards to  q(z₀) = N(µ, s²),  and all is trained on

        ELBO = E_q Σ_i ln p(x_i | z₀) − KL(q ‖ N(0, 1)) ≤ ln p(x)

    t₁ is the first time that is read of each series, so that a shift of all its times changes nothing. Between and beyond the
    observations, and before them, the series is g(z(t)).

    Args:
        observed: numbers in an observation.
        latent: numbers in z.
        hidden: units of f's and g's hidden layers, tanh, two of f's and one of g's, and of the recognition network.
        encoder: "ode-rnn", a gated unit whose state follows a field of its own between observations; or "gru", one that is given
            the gaps.
        noise: σ. Default: learned, one for each observed number, from 1 on.
        dt: length of the steps in which f is followed, in the unit of the times. All series share them, whatever their times are;
            between two steps the state is a cubic, off by O(dt⁴).
        method: a Runge–Kutta method of `SOLVERS`.
        field, decoder: modules in the place of f and g, from (items, latent) to (items, latent) and to (items, observed).
        models: train so many at once, each with its own weights; the first batch axis is theirs, (models, items). `model(i)` is
            one of them alone.

    In all methods values are (times, *batch, observed), and times increasing, (times) or (times, *batch) where each series has
    its own. A mask says which entries are observations, bool of shape (times, *batch); what is not may be anything, NaN too, so
    series of different lengths are padded. Weights begin as those of `nn.Linear`.

    Raises:
        InputError: times that do not increase, a series without an observation, values that are not finite, an unknown encoder.
        ShapeError: values, times or mask that do not fit.
    Limits: an observation is seen whole or not at all. The posterior is a diagonal Gaussian, often too narrow. The field cannot
        depend on time; the number of steps depends on the times, so that a compiled model has a break there.
    Source: Chen, Rubanova, Bettencourt & Duvenaud 2018, NeurIPS, arXiv:1806.07366, section 5; Rubanova, Chen & Duvenaud 2019,
        NeurIPS, arXiv:1907.03907.
    """

    def __init__(
        self,
        observed: int,
        latent: int = 4,
        hidden: int = 32,
        *,
        encoder: str = "ode-rnn",
        noise: float | None = None,
        dt: float = 0.1,
        method: str = "rk4",
        field: nn.Module | None = None,
        decoder: nn.Module | None = None,
        models: int | None = None,
    ) -> None:
        super().__init__()
        for name, width in (("observed", observed), ("latent", latent), ("hidden", hidden), ("models", models or 1)):
            if check_whole(name, width) < 1:
                raise InputError(f"{name} is {width}; it is at least 1.")
        if noise is not None and not 0 < noise < math.inf:
            raise InputError(f"noise is a positive standard deviation, not {noise}.\nLeave it out to have it learned.")
        if models is not None and (field is not None or decoder is not None):
            raise InputError("models are several of this class's own networks.\nLeave out field and decoder, or models.")
        check_step(dt)
        runge_kutta(method)
        self.observed, self.latent, self.models, self.dt, self.method = observed, latent, models, dt, method
        self.settings = {"hidden": hidden, "encoder": encoder, "noise": noise, "dt": dt, "method": method}
        self.recognition = Recognition(observed, latent, hidden, encoder=encoder, models=models)
        self.field = _field(field, latent, hidden, models)
        self.decoder = perceptron([latent, hidden, observed], models) if decoder is None else decoder
        self.log_noise = nn.Parameter(torch.zeros(*_stack(models), observed)) if noise is None else None

    @property
    def noise(self) -> Tensor:
        """σ of each observed number, shape (observed), or (models, 1, observed)."""
        if self.log_noise is None:
            return next(self.parameters()).new_tensor(self.settings["noise"]).expand(self.observed)
        return self.log_noise.exp() if self.models is None else self.log_noise[:, None].exp()

    def posterior(
        self, values: Tensor, times: Any, mask: Tensor | None = None, *, refine: int = 0, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """µ and s of  q(z₀) = N(µ, s²),  each of shape (*batch, latent); `refine` and `seed` as in `predict`.

        Without refinement both carry gradients.
        """
        series = self._series(values, times, mask)
        mean, std = self.recognition(series)
        if not _check_refine(refine):
            return mean, std
        return self._refined(series, mean, std, refine, torch_generator(seed, "samples of a posterior", device=mean.device))

    def elbo(
        self,
        values: Tensor,
        times: Any,
        mask: Tensor | None = None,
        *,
        read: Tensor | None = None,
        samples: int = 1,
        eps: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Elbo:
        """The bound of each series, of shape (*batch), by samples of z₀.

        Args:
            values, times, mask: the series.
            read: which of its observations the recognition network may read, bool of shape (times, *batch). All are reconstructed.
                Default: all.
            samples: of z₀ for each series.
            eps: standard normal numbers for them, shape (samples, *batch, latent). Default: drawn.
            generator: to draw them. Default: PyTorch's own.
        """
        series = self._series(values, times, mask)
        known = series.reading(read)
        mean, std = self.recognition(known)
        return self._bound(series, known.first, mean, std, self._draws(mean, std, samples, eps, generator))

    def loss(
        self,
        values: Tensor,
        times: Any,
        mask: Tensor | None = None,
        *,
        read: Tensor | None = None,
        kl_weight: float = 1.0,
        samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """What training makes small:  kl_weight · KL − reconstruction,  for each observed number; a sum over models.

        Args:
            values, times, mask, read, samples, generator: as in `elbo`.
            kl_weight: 1 for the bound; raised from 0 to 1 over the first part of training, the state is used before it is paid for.
        """
        bound = self.elbo(values, times, mask, read=read, samples=samples, generator=generator)
        numbers = torch.as_tensor(values).numel() if mask is None else self.observed * int(mask.sum())
        return (kl_weight * bound.kl - bound.reconstruction).sum() * (self.models or 1) / numbers

    def forward(self, values: Tensor, times: Any, at: Any = None, *, mask: Tensor | None = None) -> Tensor:
        """The series that follows from µ alone, shape (asked, *batch, observed); `at` as in `predict`, by default its own times."""
        series = self._series(values, times, mask)
        since = (series.times if at is None else self._asked(at, series)) - series.first
        if at is None:
            since = since.where(series.seen, 0.0)
        return self._decoded(self.recognition(series)[0][None], since)[0]

    @torch.no_grad()
    def predict(
        self, values: Tensor, times: Any, at: Any, *, mask: Tensor | None = None, samples: int = 32, refine: int = 0, seed: int = 0
    ) -> Prediction:
        """The series between, beyond and before its observations.

        Args:
            values, times, mask: what is observed.
            at: the asked times, in any order, shape (asked), or (asked, *batch) where each series has its own.
            samples: of z₀, at least 2.
            refine: steps of Adam that raise the bound of each series by its own µ and s, from what the recognition network says
                of it; see Kim et al. 2018, arXiv:1802.02550. The weights stay as they are.
            seed: of the samples.
        """
        if check_whole("samples", samples) < 2:
            raise InputError(f"samples is {samples}; a spread takes at least 2.")
        _check_refine(refine)
        series = self._series(values, times, mask)
        draws = torch_generator(seed, "samples of a posterior", device=series.values.device)
        mean, std = self._refined(series, *self.recognition(series), refine, draws)
        z0 = self._draws(mean, std, samples, None, draws)
        found = self._decoded(z0, self._asked(at, series) - series.first)
        return Prediction(found.mean(0), found.std(0))

    def decode(self, z0: Tensor, times: Any) -> Tensor:
        """g(z(t)) from z(0) = z₀, (*batch, latent), at times of shape (times) or (times, *batch): (times, *batch, observed)."""
        return self._decoded(z0[None], times_of_each("times", times, tuple(z0.shape[:-1]), z0.device))[0]

    def flow(self) -> Flow:
        """The flow of the latent state, for spectra, rest points and portraits; of several models each has its own."""
        if self.models is not None:
            raise InputError(f"these are {self.models} models, each with its own field.\nTake one: model(0).flow().")
        return Flow(self.field, self.latent, self.dt, method=self.method)

    def model(self, i: int) -> Self:
        """Model i of several, alone, with a copy of its weights."""
        if self.models is None:
            raise InputError("this is one model, not several.\nUse it as it is.")
        weight = next(self.parameters())
        single = type(self)(self.observed, self.latent, **self.settings).to(weight)
        member(self, single, i)
        return single

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"observed={self.observed}, latent={self.latent}, dt={self.dt:g}, method={self.method}"

    def _series(self, values: Tensor, times: Any, mask: Tensor | None) -> Irregular:
        values = torch.as_tensor(values).to(next(self.parameters()))
        series = irregular(values, times, mask, self.observed)
        if self.models is not None and (values.ndim != 4 or values.shape[1] != self.models):
            wanted = f"(times, {self.models}, items, {self.observed})"
            raise ShapeError(f"{self.models} models take values of shape {wanted}, not {tuple(values.shape)}.")
        return series

    def _asked(self, at: Any, series: Irregular) -> Tensor:
        at = times_of_each("at", at, tuple(series.times.shape[1:]), series.times.device)
        if not len(at) or not torch.isfinite(at).all():
            raise InputError(f"at holds {len(at)} times, of which {int((~torch.isfinite(at)).sum())} are not finite.")
        return at

    def _draws(self, mean: Tensor, std: Tensor, samples: int, eps: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Samples of z₀, shape (samples, *batch, latent)."""
        if check_whole("samples", samples) < 1:
            raise InputError(f"samples is {samples}; it is at least 1.")
        if eps is None:
            eps = torch.randn(samples, *mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)
        if eps.ndim == 0 or eps.shape[1:] != mean.shape:
            raise ShapeError(f"eps has shape {tuple(eps.shape)}; it is (samples, {', '.join(map(str, mean.shape))}).")
        return mean + std * eps

    def _bound(self, series: Irregular, first: Tensor, mean: Tensor, std: Tensor, z0: Tensor) -> Elbo:
        since = (series.times - first).where(series.seen, 0.0)
        misses = (series.values - self._decoded(z0, since)) / self.noise.to(mean)
        per_number = -0.5 * misses.square() - (self.noise.to(mean).log() + 0.5 * math.log(2 * math.pi))
        reconstruction = per_number.sum(-1).where(series.seen, 0.0).sum(1).mean(0)
        return Elbo(reconstruction, 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(-1))

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _refined(
        self, series: Irregular, mean: Tensor, std: Tensor, steps: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """µ and s of each series after steps of Adam on its own bound."""
        series = Irregular(series.values.detach().clone(), series.times.clone(), series.seen.clone())  # not of an inference mode
        mean, log_std = (start.detach().clone().requires_grad_() for start in (mean, std.log()))
        optimiser = torch.optim.Adam([mean, log_std], lr=REFINE)
        for _ in range(steps):
            z0 = self._draws(mean, log_std.exp(), 1, None, generator)
            loss = -self._bound(series, series.first, mean, log_std.exp(), z0).value.sum()
            mean.grad, log_std.grad = torch.autograd.grad(loss, [mean, log_std])
            optimiser.step()
        return mean.detach(), log_std.detach().exp()

    def _decoded(self, z0: Tensor, since: Tensor) -> Tensor:
        """g(z(t)), shape (samples, times, *batch, observed), of samples that are followed as further items."""
        samples, *batch, _ = z0.shape
        items, since = z0.movedim(0, -2), since[..., None].expand(*since.shape, samples).to(z0.dtype)
        if batch:
            items, since = items.flatten(-3, -2), since.flatten(-2)
        states = follow_on_grid(self.field, items, since, dt=self.dt, method=self.method)
        return self._observed(states).unflatten(-2, (*batch[-1:], samples)).movedim(-2, 0)

    def _observed(self, states: Tensor) -> Tensor:
        """g of states, (times, …, latent), with the times among the items."""
        folded = states.movedim(0, -2)
        shape = folded.shape[:-1]
        folded = folded.reshape(-1, self.latent) if self.models is None else folded.flatten(1, -2)
        seen = self.decoder(folded)
        if seen.shape != (*folded.shape[:-1], self.observed):
            raise ShapeError(
                f"the decoder took states of shape {tuple(folded.shape)} and gave {tuple(seen.shape)}.\n"
                f"It gives {self.observed} numbers for each."
            )
        return seen.reshape(*shape, self.observed).movedim(-2, 0)


def _check_refine(steps: int) -> int:
    if check_whole("refine", steps) < 0:
        raise InputError(f"refine is {steps}; it is a number of steps, 0 for none.")
    return steps


def _stack(models: int | None) -> tuple[int, ...]:
    return () if models is None else (models,)


def _field(field: nn.Module | None, latent: int, hidden: int, models: int | None) -> Field:
    if field is None:
        return LatentField(perceptron([latent, hidden, hidden, latent], models))
    return as_field(field)
