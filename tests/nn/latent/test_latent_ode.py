"""Latent ODEs against linear Gaussian models, whose likelihood, posterior and predictions are closed forms."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx

A, C, NOISE = -0.4, torch.tensor([1.5, -0.7], dtype=torch.float64), 0.3  # ż = Az,  x ~ N(Cz, σ²)
TIMES = torch.tensor([2.0, 2.3, 3.1, 3.2, 4.5], dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def model(**options) -> sx.nn.LatentODE:
    torch.manual_seed(0)
    return sx.nn.LatentODE(2, 3, 8, **({"dt": 0.2} | options)).double()


def batch(items: int = 4, points: int = 6) -> tuple[Tensor, Tensor]:
    """Series with times of their own, shapes (points, items, 2) and (points, items)."""
    times = 3 * torch.rand(points, items, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).sort(0).values
    return normal(points, items, 2), times


def linear_model(mean: float, std: float) -> sx.nn.LatentODE:
    """One latent number that decays, seen twice with noise; its recognition network says N(mean, std²) of each series."""
    field, decoder = nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False)
    found = sx.nn.LatentODE(2, 1, 4, noise=NOISE, dt=0.02, field=field, decoder=decoder).double()
    with torch.no_grad():
        field.weight.fill_(A)
        decoder.weight.copy_(C[:, None])
        found.recognition.head[-1].weight.zero_()
        found.recognition.head[-1].bias.copy_(torch.tensor([mean, math.log(std)]))
    return found


def response(times: Tensor = TIMES) -> Tensor:
    """G of  x = G z₀ + noise,  shape (numbers)."""
    return torch.outer((A * (times - times[0])).exp(), C).flatten()


def log_likelihood(x: Tensor) -> float:
    g = response()
    covariance = torch.outer(g, g) + NOISE**2 * torch.eye(len(g), dtype=torch.float64)
    return float(torch.distributions.MultivariateNormal(torch.zeros_like(g), covariance).log_prob(x.flatten()))


def exact_posterior(x: Tensor) -> tuple[float, float]:
    g = response()
    precision = 1 + float(g @ g) / NOISE**2
    return float(g @ x.flatten()) / NOISE**2 / precision, precision**-0.5


BOTH_SIDES = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)  # samples whose mean and variance are 0 and 1: exact for quadratics


def test_of_a_linear_gaussian_model_reconstruction_and_kl_are_the_closed_forms():
    x, mean, std = normal(5, 2), 0.8, 0.3
    found = linear_model(mean, std).elbo(x, TIMES, eps=BOTH_SIDES)
    g = response()
    squares = (x.flatten() - g * mean).square().sum() + std**2 * g.square().sum()
    reconstruction = -squares / (2 * NOISE**2) - 5 * math.log(2 * math.pi * NOISE**2)
    assert float(found.reconstruction) == pytest.approx(float(reconstruction), abs=1e-5)  # dt⁴, over σ²
    theirs = torch.distributions.kl_divergence(torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0))
    assert float(found.kl) == pytest.approx(float(theirs), abs=1e-6)


def test_the_bound_is_below_the_log_likelihood_and_is_it_where_the_posterior_is_exact():
    x = normal(5, 2)
    mean, std = exact_posterior(x)
    exact = float(linear_model(mean, std).elbo(x, TIMES, eps=BOTH_SIDES).value)
    assert exact == pytest.approx(log_likelihood(x), abs=1e-5)
    for off, wide in ((0.1, 1.0), (0.0, 1.5), (0.0, 0.5), (-1.0, 2.0)):
        assert float(linear_model(mean + off, std * wide).elbo(x, TIMES, eps=BOTH_SIDES).value) < exact - 0.01


def test_predictions_of_a_linear_model_are_the_closed_forms_before_between_and_after():
    mean, std, at = 0.8, 0.3, torch.tensor([1.0, 2.7, 9.0])
    found = linear_model(mean, std).predict(normal(5, 2), TIMES, at, samples=4000)
    decay = (A * (at.double() - 2.0)).exp()[:, None]
    assert ((found.mean - decay * C * mean) / (decay * C * std)).abs().max() < 4 / 4000**0.5
    assert (found.std / (decay * C * std).abs() - 1).abs().max() < 4 / 8000**0.5


@pytest.mark.long
def test_a_refined_posterior_comes_to_the_exact_one():
    x = normal(5, 2)
    mean, std = exact_posterior(x)
    found = linear_model(mean - 1.0, 3 * std).predict(x, TIMES, TIMES[:1], samples=400, refine=200)
    assert (
        found.mean[0] / C - mean
    ).abs().max() < std  # from 1, some ten times that; what is left is that of the last steps' samples
    assert (found.std[0] / C.abs() / std - 1).abs().max() < 0.4  # from a factor of 3


def test_a_sampled_bound_has_the_closed_form_as_its_mean():
    x, found, count = normal(5, 2), linear_model(0.8, 0.3), 4000
    exact = float(found.elbo(x, TIMES, eps=BOTH_SIDES).reconstruction)
    draws = found.elbo(x[:, None].expand(5, count, 2), TIMES, generator=torch.Generator().manual_seed(0)).reconstruction
    together = found.elbo(x, TIMES, samples=count, generator=torch.Generator().manual_seed(1)).reconstruction
    assert all(abs(float(mean) - exact) < 4 * float(draws.std()) / count**0.5 for mean in (draws.mean(), together))


def test_the_loss_is_the_bound_per_number_with_kl_by_its_weight():
    values, times = batch()
    found = model()
    bound = found.elbo(values, times, generator=torch.Generator().manual_seed(3))
    for weight in (0.0, 0.3, 1.0):
        loss = found.loss(values, times, kl_weight=weight, generator=torch.Generator().manual_seed(3))
        assert float(loss) == pytest.approx(float((weight * bound.kl - bound.reconstruction).sum() / values.numel()), rel=1e-12)


@pytest.mark.parametrize("encoder", ["ode-rnn", "gru"])
def test_a_batch_is_its_series_one_by_one_in_any_order(encoder):
    values, times = batch()
    found = model(encoder=encoder)
    together, eps = found(values, times), normal(2, 4, 3)
    bound = found.elbo(values, times, eps=eps).value
    for i in range(4):
        assert (together[:, i] - found(values[:, i], times[:, i])).abs().max() < 1e-12
        assert float(found.elbo(values[:, i], times[:, i], eps=eps[:, i]).value) == pytest.approx(float(bound[i]), rel=1e-12)
    order = torch.tensor([2, 0, 3, 1])
    assert (found(values[:, order], times[:, order]) - together[:, order]).abs().max() < 1e-12


@pytest.mark.parametrize("encoder", ["ode-rnn", "gru"])
def test_what_is_masked_changes_nothing_wherever_it_stands(encoder):
    values, times = batch()
    found, at = model(encoder=encoder), torch.linspace(-0.5, 5, 9)
    rows = torch.tensor([1, 2, 4, 5, 8, 10])  # of 12, the others are padding
    mask = torch.zeros(12, 4, dtype=torch.bool)
    mask[rows] = True
    padded, padded_times = (
        torch.full((12, 4, 2), torch.nan, dtype=torch.float64),
        torch.full((12, 4), torch.nan, dtype=torch.float64),
    )
    padded[rows], padded_times[rows] = values, times
    padded[0], padded_times[0], padded_times[3] = 1e9, 1e9, -1e9
    eps = normal(1, 4, 3)
    short, long = found.elbo(values, times, eps=eps), found.elbo(padded, padded_times, mask, eps=eps)
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(short, long, strict=True))
    expected, told = (found.predict(values, times, at), found.predict(padded, padded_times, at, mask=mask))
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(expected, told, strict=True))
    loss = found.loss(padded, padded_times, mask, generator=torch.Generator().manual_seed(0))
    assert float(loss) == pytest.approx(float(found.loss(values, times, generator=torch.Generator().manual_seed(0))), rel=1e-12)
    loss.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in found.parameters())


def test_what_may_not_be_read_is_reconstructed_but_says_nothing_of_the_state():
    values, times = batch()
    read = torch.ones(6, 4, dtype=torch.bool)
    read[3:] = False
    found, eps = model(), normal(1, 4, 3)
    other = values.clone()
    other[3:] += 1.0
    first, second = (found.elbo(x, times, read=read, eps=eps) for x in (values, other))
    assert torch.equal(first.kl, second.kl)
    shorter = found.posterior(values[:3], times[:3])[0]
    assert (found.posterior(values, times, read)[0] - shorter).abs().max() < 1e-14
    assert not torch.equal(first.reconstruction, second.reconstruction)


def test_a_shift_of_all_times_changes_nothing():
    values, times = batch()
    found = model()
    at = torch.linspace(0, 5, 7, dtype=torch.float64)
    shifted = found(values, times + 100, at + 100)
    assert (shifted - found(values, times, at)).abs().max() < 1e-11  # times of 100 are known to 1e-14


@pytest.mark.parametrize("encoder", ["ode-rnn", "gru"])
def test_gradients_are_finite_differences(encoder):
    values, times = batch()
    found, mask = model(encoder=encoder), torch.ones(6, 4, dtype=torch.bool)
    mask[4:, 1] = False

    def loss() -> Tensor:
        return found.loss(values, times, mask, generator=torch.Generator().manual_seed(0))

    weights = list(found.parameters())
    gradients = torch.autograd.grad(loss(), weights)
    for seed, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
        along, h = normal(*weight.shape, seed=seed), 1e-5
        with torch.no_grad():
            weight += h * along
            above = loss()
            weight -= 2 * h * along
            difference = float(above - loss()) / (2 * h)
            weight += h * along
        assert float((gradient * along).sum()) == pytest.approx(difference, rel=1e-6, abs=1e-9)


def test_several_models_are_each_what_it_is_alone():
    torch.manual_seed(0)
    stack = sx.nn.LatentODE(2, 3, 8, dt=0.2, models=3).double()
    values, times = (torch.stack([x, x.flip(1), x], dim=1) for x in batch())
    eps = normal(2, 3, 4, 3)
    bound, losses = stack.elbo(values, times, eps=eps).value, []
    for i in range(3):
        alone = stack.model(i)
        assert (alone(values[:, i], times[:, i]) - stack(values, times)[:, i]).abs().max() < 1e-12
        assert (alone.elbo(values[:, i], times[:, i], eps=eps[:, i]).value - bound[i]).abs().max() < 1e-11
        losses.append(-bound[i].mean() / 12)
    assert (bound[0] - bound[2]).abs().max() > 0.01  # weights and samples of their own
    assert float(-bound.sum() * 3 / values.numel()) == pytest.approx(float(sum(losses)), rel=1e-12)


def test_its_flow_is_a_system():
    field = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        field.weight.copy_(torch.tensor([[-0.1, 0.0], [0.3, -0.5]]))
    flow = sx.nn.LatentODE(1, 2, field=field).flow()
    assert (flow.dim, flow.dt) == (2, 0.1)
    spectrum = sx.lyapunov_spectrum(flow, torch.ones(2, dtype=torch.float64), steps=200, settle=400)  # a frame is aligned to e^−16
    assert torch.allclose(spectrum.exponents, torch.tensor([-0.1, -0.5], dtype=torch.float64), atol=1e-6)
    own = model()
    states, times = sx.trajectory(own.flow(), normal(4, 3), 10), 0.2 * torch.arange(11, dtype=torch.float64)
    assert (own.decoder(states) - own.decode(normal(4, 3), times)).abs().max() < 1e-12


def test_noise_is_learned_unless_it_is_given():
    values, times = batch(items=60)
    learned, given = model(), model(noise=0.25)
    assert "log_noise" in dict(learned.named_parameters()) and "log_noise" not in dict(given.named_parameters())
    assert torch.equal(learned.noise, torch.ones(2, dtype=torch.float64)) and given.noise.tolist() == [0.25, 0.25]
    learned.load_state_dict(learned.state_dict() | {"log_noise": torch.full((2,), math.log(0.25))})
    eps = normal(1, 60, 3)
    bounds = [found.elbo(values, times, eps=eps).value for found in (learned, given)]
    assert (bounds[0] - bounds[1]).abs().max() < 1e-6 * bounds[0].abs().max()  # ln 0.25 in float32


def test_it_is_a_module_like_any_other():
    values, times = batch()
    found = model()
    again = sx.nn.LatentODE(2, 3, 8, dt=0.2).double()
    again.load_state_dict(found.state_dict())
    for other in (again, copy.deepcopy(found)):
        assert torch.equal(other(values, times), found(values, times))
    single = copy.deepcopy(found).float()(values, times)
    assert single.dtype == torch.float32 and (single - found(values, times)).abs().max() < 1e-4
    state = torch.random.get_rng_state()
    predictions = [found.predict(values, times, [4.0], seed=seed).mean for seed in (5, 5, 6)]
    assert torch.equal(predictions[0], predictions[1]) and not torch.equal(predictions[0], predictions[2])
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_given_noise_is_exact_in_the_precision_of_the_weights():
    found = sx.nn.LatentODE(2, 3, 8, noise=0.3)
    assert found.double().noise.tolist() == [0.3, 0.3]  # 0.3 of float32 is off by 1e-8


def test_a_posterior_is_refined_in_inference_mode_too():
    values, times = batch()
    found = model()
    with torch.inference_mode():
        told = found.predict(values.clone(), times, [4.0], refine=3)
    assert torch.equal(told.mean, found.predict(values, times, [4.0], refine=3).mean)


def test_lists_are_as_good_as_tensors():
    values, times = batch()
    found = model()
    losses = [
        found.loss(x, t, generator=torch.Generator().manual_seed(0)) for x, t in ((values, times), (values.tolist(), times.numpy()))
    ]
    assert float(losses[0].detach()) == pytest.approx(float(losses[1].detach()), rel=1e-6)  # lists are float32


VALUES, AT = normal(5, 2), TIMES
HALF = torch.tensor([True, False, False, False, False])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(VALUES, TIMES.flip(0)), r"increasing times.*3.2 after 4.5 at time 1"),
        (lambda m: m(VALUES[:, None], torch.ones(5, 1)), r"1 after 1 at time 1 of series \(0,\)"),
        (lambda m: m(VALUES, TIMES[:4]), "4 times and 5 values"),
        (lambda m: m(VALUES, torch.ones(5, 3)), r"times of shape .*\(5, 3\)"),
        (lambda m: m(VALUES, TIMES, mask=torch.ones(4, dtype=torch.bool)), r"mask is bool of shape \(4,\)"),
        (lambda m: m(VALUES, TIMES, mask=torch.ones(5)), "mask is float32"),
        (lambda m: m(VALUES, TIMES, mask=torch.zeros(5, dtype=torch.bool)), "no observation"),
        (lambda m: m(VALUES[:0], TIMES[:0]), "no observation"),
        (lambda m: m.loss(VALUES, TIMES, HALF, read=~HALF), "no observation"),
        (lambda m: m(VALUES[:, :1], TIMES), r"\(times, \*batch, 2\), got \(5, 1\)"),
        (lambda m: m(VALUES * torch.nan, TIMES), "5 of the observed values are not finite"),
        (lambda m: m(VALUES, TIMES * torch.inf), "5 of the observed times are not finite"),
        (lambda m: m.predict(VALUES, TIMES, [torch.nan]), "1 of 1"),
        (lambda m: m.predict(VALUES, TIMES, torch.ones(2, 3)), r"at of shape .*\(2, 3\)"),
        (lambda m: m.predict(VALUES, TIMES, [1e9]), "10000 steps"),
        (lambda m: m.predict(VALUES, TIMES, AT, samples=1), "at least 2"),
        (lambda m: m.predict(VALUES, TIMES, AT, refine=-1), "refine is -1"),
        (lambda m: m.posterior(VALUES, TIMES, refine=-1), "refine is -1"),
        (lambda m: m.predict(VALUES, TIMES, AT, refine=1.5), "refine is 1.5"),
        (lambda m: m(VALUES, TIMES, mask=HALF.numpy()), "mask is a ndarray"),
        (lambda m: sx.nn.LatentODE(2, 3, decoder=nn.Linear(3, 1))(VALUES, TIMES), r"2 numbers per state.*\(5, 1\)"),
        (lambda m: m.elbo(VALUES, TIMES, samples=0), "samples is 0"),
        (lambda m: m.elbo(VALUES, TIMES, eps=torch.zeros(3)), r"\(samples, 3\), got \(3,\)"),
        (lambda m: m(torch.zeros(5, 0, 2), TIMES), r"at least one series.*\(0,\)"),
        (lambda m: m.model(0), "single"),
        (lambda m: sx.nn.LatentODE(2, encoder="lstm"), r"encoder is 'lstm'.*'ode-rnn' or 'gru'"),
        (lambda m: sx.nn.LatentODE(2, noise=0.0), "noise is 0.0"),
        (lambda m: sx.nn.LatentODE(0), "observed is 0"),
        (lambda m: sx.nn.LatentODE(2, dt=-1.0), "dt is -1.0"),
        (lambda m: sx.nn.LatentODE(2, method="leapfrog"), "method is 'leapfrog'"),
        (lambda m: sx.nn.LatentODE(2, models=2)(VALUES, TIMES), r"\(times, 2, items, 2\).*got \(5, 2\)"),
        (lambda m: sx.nn.LatentODE(2, models=2).flow(), r"got 2.*\n.*model\(0\)"),
        (lambda m: sx.nn.LatentODE(2, models=2, field=nn.Linear(4, 4)), "Leave out field"),
    ],
)
def test_bad_input_is_refused_in_words(call, message):
    with pytest.raises(sx.SeparatrixError, match=message):
        call(model())
