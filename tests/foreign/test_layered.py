"""Feed-forward networks of other people: each is measured right, or refused by name."""

import pytest
import torch

import separatrix as sx
from foreign import networks_idioms, networks_layers
from foreign.networks_layers import GPT
from foreign.oracle import (
    Layered,
    asked,
    assert_close,
    built,
    differences,
    exact,
    jacobian,
    layer_jacobians,
    marked,
    untouched,
    widened,
)

CASES: list[Layered] = [*networks_idioms.CASES, *networks_layers.CASES]
STEPS, SETTLE = 20, 5
SINGULAR = -20  # ln |det| below which a Jacobian is singular to the digits of a finite difference


def reference(case: Layered):
    """The module itself, and its items in float64."""
    return exact(case.plain or case.make), case.inputs.double()


def assert_profile(case: Layered, profile) -> None:
    model, x = reference(case)
    true = layer_jacobians(case, model, x[:1])
    itself = torch.linalg.svdvals(true["itself"])
    found = False
    for i, name in enumerate(profile.layers):
        if name not in true:
            continue
        values = torch.linalg.svdvals(true[name])
        k = min(profile.singular_values.shape[-1], len(values))
        assert_close(profile.singular_values[i, 0, :k], values[:k], max(1e-6, float(profile.residual[i, 0].nan_to_num(0.0).max())))
        width = torch.tensor(true[name].shape[0], dtype=torch.float64)
        gain, error = torch.linalg.matrix_norm(true[name]) / width.sqrt(), float(profile.gain_stderr[i, 0])
        assert float(profile.gain[i, 0]) == pytest.approx(float(gain), rel=1e-6, abs=4 * error)
        found = found or (len(values) == len(itself) and torch.allclose(values, itself, rtol=1e-6))
    assert found or not set(profile.layers) & set(true), "the output itself is among the layers"
    if not found:
        k = min(profile.singular_values.shape[-1], len(itself))
        assert_close(profile.singular_values[-1, 0, :k], itself[:k])


@pytest.mark.parametrize("case", marked(CASES, "depth"))
def test_a_profile_in_depth_is_that_of_dense_jacobians(case):
    """Singular values and gains at every layer, against reverse mode on the module itself."""
    model = built(case.make)
    profile = asked(case, "depth", model, lambda: sx.depth_profile(model, case.given(case.inputs)))
    if profile is not None and profile.singular_values is None:  # a large input: they are computed when asked for
        profile = sx.depth_profile(model, case.given(case.inputs), k=8)
    if profile is not None:
        assert_profile(case, profile)


@pytest.mark.parametrize("case", marked(CASES, "analyze"))
def test_analyze_says_the_growth_of_dense_jacobians(case):
    """The growth through the whole depth is that of the output's Jacobian, or of a layer with the whole signal before it."""
    model = built(case.make)
    given = case.given(case.inputs)
    one = tuple(part[:1] for part in given) if isinstance(given, tuple) else given[:1]
    portrait = asked(case, "analyze", model, lambda: sx.analyze(model, one, also="none"))
    if portrait is None:
        return
    assert isinstance(portrait, sx.results.DepthPortrait)
    profile = portrait.profile
    if profile.singular_values is None:
        profile = sx.analyze(model, one, k=8, also="none").profile
    reference_model, x = reference(case)
    true = layer_jacobians(case, reference_model, x[:1])
    values = torch.linalg.svdvals(true.get(profile.layers[profile.last], true["itself"]))
    k, allowed = min(profile.singular_values.shape[-1], len(values)), float(profile.residual.nan_to_num(0.0).max())
    assert_close(profile.singular_values[profile.last, 0, :k], values[:k], max(1e-6, allowed))


def test_a_language_model_is_profiled_from_its_embedding_on():
    """Tokens have no derivative; the logits' Jacobian is by the embedded tokens."""
    model, reference_model = built(GPT), exact(GPT)
    tokens = torch.tensor([[1, 4, 2], [0, 8, 8]])
    with untouched(model):
        profile = sx.depth_profile(model, tokens)
    embedded = reference_model.wte(tokens[:1]).detach()

    def logits(e):
        handle = reference_model.wte.register_forward_hook(lambda *_: e)
        try:
            return reference_model(tokens[:1])[0]
        finally:
            handle.remove()

    true = torch.linalg.svdvals(jacobian(logits, embedded))
    k = profile.singular_values.shape[-1]
    assert_close(profile.singular_values[-1, 0], true[:k])


@pytest.mark.parametrize("case", marked(CASES, "certificate"))
def test_a_certificate_holds_for_measured_quotients(case):
    """The bound is no smaller than a Jacobian's norm or a quotient anywhere; or there is none, and why is said."""
    model, shape = built(case.make), tuple(case.inputs.shape[1:])
    found = asked(case, "certificate", model, lambda: sx.certificate(model, shape, starts=2, steps=3))
    if found is None:
        return
    assert found.lower <= found.bound * (1 + 1e-9)
    if not found.is_bounded:
        assert found.unknown
        assert all(found.reasons)
        return
    exact_model, _ = reference(case)
    generator = torch.Generator().manual_seed(1)
    for scale in (0.1, 1.0, 10.0):
        at = scale * torch.randn(2, *shape, dtype=torch.float64, generator=generator)
        for one in at[:, None]:
            steep = torch.linalg.matrix_norm(jacobian(lambda z: case.value(exact_model, z), one), 2)
            assert float(steep) <= found.bound * (1 + 1e-9)
        with torch.no_grad():
            a, b = (torch.stack([case.value(exact_model, one).reshape(-1) for one in at[i : i + 1, None]]) for i in (0, 1))
        apart = (at[:1] - at[1:]).reshape(1, -1).norm(dim=-1)
        assert bool(((a - b).norm(dim=-1) <= found.bound * apart * (1 + 1e-9)).all())


def alone(case: Layered, model):
    """The module as a function of a batch, item by item."""
    return lambda z: torch.cat([case.value(model, one.clone()) for one in z[:, None]])


@pytest.mark.parametrize("case", marked(CASES, "map"))
def test_a_map_is_the_module_and_its_derivative(case):
    """A trajectory, tangents and the sum of all exponents, against the module, finite differences and ln |det|."""
    model, dim = built(case.make), case.inputs.shape[-1]
    exact_model, x = reference(case)
    x = x[:1] if case.one_item else x
    function, scale = alone(case, exact_model), float(x.abs().mean())
    path = asked(case, "map", model, lambda: sx.trajectory(sx.Map(model, dim), x, 3))
    if path is None:
        return
    with torch.no_grad():
        assert_close(path[1], function(x))
        assert_close(path[3], function(function(function(x))), 1e-5)
    v = torch.randn(len(x), 3, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    wide = widened(built(case.make))
    pushed = asked(case, "map", wide, lambda: sx.Map(wide, dim).pushforward(x, v))
    if pushed is not None:
        assert_close(pushed[1].detach(), v @ differences(function, x, scale).mT)
    asked_for = {"steps": STEPS, "settle": SETTLE}
    spectrum = asked(case, "map", model, lambda: sx.lyapunov_spectrum(sx.Map(model, dim), x[:1], **asked_for))
    if spectrum is not None:
        y, total = x[:1], 0.0
        for n in range(SETTLE + STEPS):
            if n >= SETTLE:
                total += float(torch.linalg.slogdet(differences(function, y, scale)[0]).logabsdet)
            with torch.no_grad():
                y = function(y)
        if total / STEPS > SINGULAR:
            assert float(spectrum.exponents.sum()) == pytest.approx(total / STEPS, rel=1e-4, abs=1e-5)
        else:
            assert float(spectrum.exponents.sum()) < SINGULAR / 2


@pytest.mark.parametrize("case", marked(CASES, "ode"))
def test_a_neural_ode_follows_the_module_as_its_field(case):
    """Twenty steps of the classical Runge–Kutta method by hand, their Jacobian by differences, and the field as residual."""
    model, dim = built(case.make), case.inputs.shape[-1]
    exact_model, x = reference(case)
    x = x[:1] if case.one_item else x
    f, h, scale = alone(case, exact_model), 0.05, float(x.abs().mean())

    def runge_kutta(y):
        a = f(y)
        b = f(y + h / 2 * a)
        c = f(y + h / 2 * b)
        return y + h / 6 * (a + 2 * b + 2 * c + f(y + h * c))

    path = asked(case, "ode", model, lambda: sx.trajectory(sx.nn.NeuralODE(model, dim), x, 20))
    if path is None:
        return
    end = x
    with torch.no_grad():
        for n in range(20):
            end = runge_kutta(end)
            assert_close(path[n + 1], end)
    wide = exact(case.make)
    flow = sx.nn.NeuralODE(wide, dim)
    v = torch.eye(dim, dtype=torch.float64).expand(len(x), dim, dim)
    pushed = asked(case, "ode", wide, lambda: flow.pushforward(x, v))
    if pushed is not None:
        assert_close(pushed[1].detach().mT, differences(runge_kutta, x, scale))
        with torch.no_grad():
            assert_close(flow.residual(x), f(x))
            assert_close(flow(x), end)
