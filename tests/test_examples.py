"""Each example draws its picture, and what it measured is what mathematics says."""

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import separatrix as sx

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


def example(name: str) -> ModuleType:
    """The script as a module, without its being run."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings() -> dict[str, Any]:
    """Matplotlib's, without the backend, which is chosen when pyplot is first used."""
    return {key: value for key, value in matplotlib.rcParams.items() if key != "backend"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs an example in its quick mode once; what its `main` returns, the folder with its picture, and the settings it changed."""
    done: dict[str, tuple[Any, Path, dict[str, Any]]] = {}

    def run(name: str) -> tuple[Any, Path, dict[str, Any]]:
        if name not in done:
            folder, before = tmp_path_factory.mktemp(name), settings()
            result = example(name).main(["--quick", "--out", str(folder)])
            done[name] = result, folder, {key: value for key, value in settings().items() if before[key] != value}
        return done[name]

    return run


@pytest.mark.parametrize("name", NAMES)
def test_an_example_saves_one_picture_under_its_own_name_and_leaves_matplotlib_as_it_was(name, found):
    _, folder, changed = found(name)
    assert changed == {}
    assert [path.name for path in folder.iterdir()] == [f"{name}.png"]
    assert (folder / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_lorenz_contracts_volumes_by_its_constant_divergence(found):
    spectrum = found("lorenz")[0]
    assert spectrum.exponents.sum() == pytest.approx(-(10 + 1 + 8 / 3), abs=5e-4)  # RK4's own error at dt = 0.01 is 1e-4
    assert abs(spectrum.exponents[1]) < 4 * spectrum.stderr[1]


def test_henon_has_tangencies_and_lorenz_has_none(found):
    henon, lorenz = found("covariant_vectors")[0]
    assert henon.angles.min() < 0.01  # the density of angles does not vanish at 0: the minimum of 2,000 is near 1 / 2,000
    assert lorenz.angles.min() > 0.1
    assert henon.exponents.sum() == pytest.approx(math.log(0.3), abs=0.01)  # its angles telescope: O(1/T)
    assert lorenz.neutral == 1


def test_the_logistic_map_has_the_exponents_of_its_cycles(found):
    r, rate = found("logistic_exponents")[0]
    fixed, cycle = (r > 2.85) & (r < 2.95), (r > 3.1) & (r < 3.2)
    torch.testing.assert_close(rate[fixed], (2 - r[fixed]).abs().log(), rtol=0, atol=1e-6)
    torch.testing.assert_close(rate[cycle], (4 + 2 * r[cycle] - r[cycle] ** 2).abs().log() / 2, rtol=0, atol=1e-6)
    assert rate[-1] == pytest.approx(math.log(2), abs=5e-3)


def test_random_networks_have_the_mean_exponent_of_their_determinants(found):
    network = found("rnn_edge")[0]
    torch.testing.assert_close(network["mean"], network["exact mean"], rtol=0, atol=1e-9)


def test_random_networks_at_rest_have_the_exponent_of_their_largest_eigenvalue(found):
    network = found("rnn_edge")[0]
    at_rest = network["exact rate"] < -0.1
    assert at_rest.any()
    torch.testing.assert_close(network["rate"][at_rest], network["exact rate"][at_rest], rtol=0, atol=0.01)


def test_a_gru_comes_nearer_to_chaos_as_its_weights_grow(found):
    """Tangents and trajectories are aligned to exp(−800 (λ₁ − λ₂)) before they are measured; a distance of 1e-8 adds 1e-8."""
    _, spectrum = found("driven_gru")[0]
    rate = spectrum.exponents[:, 0]
    assert (rate.diff() > 0).all()
    torch.testing.assert_close(rate, spectrum.check.rate, rtol=0, atol=1e-6)
    assert (rate - spectrum.exponents[:, 1] > 0.02).all()


def test_a_cell_without_adaptation_has_as_many_exponents_of_its_idle_trace_as_units(found):
    """At b = 0 nothing depends on a, so that a' = (1 − ε/τ) a + … contributes ln(1 − ε/τ) once for each unit.

    The frame turns into place as it goes, which leaves an error of order 1 over the 600 steps.
    """
    spectrum, units = found("own_cell")[0], 20
    gap = (spectrum.exponents[0] - math.log(1 - 0.2 / 5)).abs()
    assert int((gap < 3 / 600).sum()) == units


def test_the_readme_s_network_crosses_the_border_once_and_for_all(found):
    gains, rate = found("readme")[0]
    assert (rate[gains < 1.5] < -0.05).all()
    assert (rate[gains > 2.5] > 0.02).all()


def test_a_trained_flip_flop_has_eight_memories_one_for_each_three_bits(found):
    network, points = found("flip_flop")[0]
    memories = example("flip_flop").memories(network, points)
    assert len(memories) == 2**3
    assert sum(kind.startswith("stable") for kind in points.kind) == 2**3


def test_the_fixed_points_of_the_flip_flop_add_up_to_brouwer_s_degree(found):
    """Σ sign det(I − DF) = 1 over the fixed points of a map of a ball into itself, as a GRU is one."""
    _, points = found("flip_flop")[0]
    assert (1 - points.multipliers).prod(-1).real.sign().sum() == 1


def test_the_branches_bifurcate_where_they_should(found):
    branches = found("bifurcations")[0]
    flips = [branch.bifurcations[0].parameter for branch in branches["logistic"]]
    assert flips == pytest.approx([3, 1 + math.sqrt(6), 3.544090359551], abs=1e-8)
    assert branches["neuron"][0].bifurcations[0].parameter == pytest.approx(1, abs=1e-8)
    assert branches["lorenz"][0].bifurcations[0].parameter == pytest.approx(470 / 19, abs=1e-8)


def test_a_plain_network_vanishes_in_depth_and_a_residual_one_learns(found):
    """The product of 32 layers of weights of variance 1/(3 fan-in) and half of them off: 6^(-1/2) each, within a factor e."""
    told = found("depth_profile")[0]
    plain, residual = (told["profiles"][f"{kind}, untrained"] for kind in ("plain", "residual"))
    assert set(plain.verdicts) == {"vanishing"} and "vanishing" not in set(residual.verdicts)
    assert float(plain.gain[-1].median().log()) == pytest.approx(math.log(1 / 3) + 30 * math.log(1 / 6) / 2, abs=1.5)
    assert told["accuracy"]["residual"] > 0.8 > 0.3 > told["accuracy"]["plain"]


def test_the_classifiers_ridge_runs_along_the_border_of_its_classes(found):
    """Where the margin changes its sign the exponent is among the highest; and the gyre, which keeps areas, parts neighbours."""
    fields = found("finite_time_fields")[0]
    leading, margin = fields["field"].exponents[..., 0], fields["margin"]
    border = (margin[1:] > 0) != (margin[:-1] > 0)
    on_it = leading[1:][border]
    assert fields["accuracy"] > 0.98
    assert (on_it > leading.quantile(0.8)).double().mean() > 0.9
    assert fields["gyre"].exponents.min() > -1e-6


def test_the_separatrices_of_the_two_bits_meet_at_the_state_that_knows_neither(found):
    """4 memories, 4 saddles and one unstable point of Brouwer's degree 1; each stable branch comes out of that point, or of ±1."""
    portraits = found("phase_portraits")[0]
    memory = portraits["memory"]
    kinds = [" ".join(kind.split()[:2]) for kind in memory.rest.kind]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"stable node": 4, "saddle with": 4, "unstable node": 1}
    middle = memory.rest_places[kinds.index("unstable node")]
    nearest = [(branch - middle).norm(dim=-1).nan_to_num(9.0).min() for branch in memory.stable]
    assert sum(float(distance) < 0.01 for distance in nearest) == 4


def test_the_neurons_nullclines_are_its_cubic_and_its_line(found):
    portraits = found("phase_portraits")[0]
    for line, wanted in ((portraits["spikes"].nullcline_1, lambda v: v - v**3 / 3 + 0.5), (portraits["spikes"].nullcline_2, None)):
        v, w = line[line.isfinite().all(-1)].unbind(-1)
        expected = (v + 0.7) / 0.8 if wanted is None else wanted(v)
        torch.testing.assert_close(w, expected, rtol=0, atol=1e-12)


def test_the_residual_network_keeps_its_sheet_and_the_plain_one_crushes_it(found):
    flows = found("flow_maps")[0]
    plain, residual = (flows[name].area.flatten(1).median(1).values for name in ("plain", "residual"))
    assert plain[-2] < 1e-3 and residual[-2] > 1
    assert not flows["residual"].flipped[:-1].any()  # what each layer folds in eight numbers is not seen in the picture


def test_the_henon_attractor_has_its_published_dimension_and_the_spectra_their_verdicts(found):
    """1.220 ± 0.036: Sprott & Rowlands 2001, Int. J. Bifurcation Chaos 11, 1865."""
    measured = found("dimension_and_order")[0]
    dimension = measured["dimension"]
    assert abs(float(dimension.dimension) - 1.220) < math.hypot(0.036, float(dimension.stderr))
    assert [spectrum.verdict for spectrum in measured["spectra"].values()] == ["periodic", "quasi-periodic", "chaotic"]


def test_a_network_that_learns_a_bit_ends_with_two_memories_and_a_saddle(found):
    learned = found("along_training")[0]
    tracks, bits = learned["points"].result, learned["bits"]
    assert int(tracks.stable[0].sum()) == 1 and int(tracks.stable[-1].sum()) == 2 and int(tracks.alive[-1].sum()) == 3
    assert bits[-1, tracks.stable[-1]].sign().sum() == 0  # the memories read out as −1 and +1
    assert (tracks.degree == 1).all()
    assert learned["spectra"].result.exponents[-1, 0] < 0


def test_a_delay_line_remembers_as_many_inputs_as_units_and_no_network_more(found):
    result = found("memory")[0]
    line = result["curves"]["delay line"]
    torch.testing.assert_close(line.curve[:30], torch.ones(30, dtype=torch.float64), rtol=0, atol=1e-10)
    assert abs(float(line.capacity) - 30) < 4 * float(line.stderr)
    for memory in (*result["curves"].values(), *result["by_scale"]["random"], *result["by_scale"]["orthogonal"]):
        assert memory.capacity < 30 + 4 * memory.stderr + 1e-6


def test_the_chain_of_the_memory_example_grows_as_its_matrix_powers(found):
    chain = found("memory")[0]["chain"]
    matrix = 0.3 * torch.eye(30, dtype=torch.float64) + 0.9 * torch.diag(torch.ones(29, dtype=torch.float64), -1)
    norms = [float(torch.linalg.matrix_norm(torch.linalg.matrix_power(matrix, n), ord=2)) for n in range(121)]
    assert float(chain.amplification) == pytest.approx(max(norms), rel=1e-9)
    assert int(chain.peak_time) == norms.index(max(norms))


def test_a_bistable_unit_keeps_two_responses_until_the_drive_takes_it_over_and_noise_leaves_one(found):
    result = found("echo_state")[0]
    echo = result["echo"]
    assert int(echo.responses[0]) == 2
    assert int(echo.responses[-1]) == 1
    assert (echo.exponent < 0).all()
    assert float(echo.exponent[0]) == pytest.approx(math.log(2 * (1 - 0.95750402407729**2)), abs=1e-9)
    assert [found.verdict for found in result["wells"].values()] == ["several responses", "echo state"]


def test_duffings_exponents_add_up_to_minus_its_friction(found):
    """Σ λ_i = −δ = −0.3, so that the leading one is at least half of it."""
    assert found("finite_time_fields")[0]["spring"].exponents.min() > -0.15 - 1e-6


def test_the_basins_have_the_symmetries_of_their_systems(found):
    """Mirrored at the real axis, two magnets and two roots change places; the network ends near its patterns or their negatives."""
    basins = found("basins")[0]
    for name in ("pendulum", "newton"):
        result = basins[name]
        assert len(result.kind) == 3 and result.undecided == 0
        mirrored = result.attractors[result.labels].flip(1)
        same = (result.attractors[result.labels][..., :2] - mirrored[..., :2] * torch.tensor([1, -1])).abs().amax(-1) < 1e-3
        assert same.double().mean() > 0.97  # but for a few on a fractal border
    memories, patterns = basins["memories"], basins["patterns"]
    overlap = (memories.attractors @ patterns.mT / patterns.shape[1]).abs().amax(-1)
    assert (overlap > 0.9).all() and len(memories.kind) == 5


def test_lorenz_s_return_map_is_a_cusp_and_duffing_s_strobed_states_stay_in_their_wells(found):
    """Lorenz 1963, fig. 4: the cusp is near z = 38.5."""
    measured = found("return_maps")[0]
    z, order = measured["maxima"].before.flatten().sort()
    after = measured["maxima"].after.flatten()[order]
    assert z[after.argmax()] == pytest.approx(38.5, abs=0.3)
    section, points = measured["section"], measured["points"]
    assert section.embed(points)[..., 1].abs().max() == 0
    assert (points[..., 0] < 0).all()
    assert measured["strobed"].isfinite().all() and measured["strobed"].abs().max() < 2


def test_a_mass_preserving_network_keeps_the_sum_and_an_unconstrained_one_does_not(found):
    measured = found("mass_preserving")[0]
    kept, lost = ((orbit.sum(-1) - 1).abs().max() for orbit in measured["epidemic"]["orbits"].values())
    assert kept < 1e-12 and lost > 1e-4
    assert measured["epidemic"]["errors"]["mass-preserving"].median() < 1e-3  # a tenth of the training, and one seed
    learned, truth = (measured["exchange"][name] for name in ("learned", "truth"))
    change = {kind: (orbit.sum(-1) - truth[0].sum(-1)).abs().amax(-1) for kind, orbit in learned.items()}
    assert change["mass-preserving"].max() < 1e-12
    assert change["unconstrained"][-1] > 3 * change["unconstrained"][100] > 1e-3
    assert (learned["mass-preserving"][: len(truth)] - truth)[:50].norm(dim=-1).median() < 0.1


def test_van_der_pol_s_field_falls_into_its_two_parts_and_strang_needs_second_order_of_both(found):
    """By hand: U = q²/2 − p²q²/4 and X = (1 + pq/2) (q, −p)."""
    measured = found("presnov")[0]
    p, q = torch.randn(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, parts = torch.stack([p, q], dim=-1), measured["parts"]
    torch.testing.assert_close(parts.potential(x), q**2 / 2 - p**2 * q**2 / 4, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.gradient(x), torch.stack([-p * q**2 / 2, q - p**2 * q / 2], dim=-1), rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.sphere(x), (1 + p * q / 2)[:, None] * torch.stack([q, -p], dim=-1), rtol=0, atol=1e-12)
    wanted = {"Strang, Cayley midpoint": 3, "Strang, Lie–Euler": 2, "Lie, Cayley midpoint": 2}
    assert measured["slopes"] == pytest.approx(wanted, abs=0.1)
    assert all((errors < 0.7).all() for errors in measured["learned"].values())  # 1 is the error of the mean


def test_a_network_on_the_sphere_stays_there_and_a_plain_one_of_its_size_does_not(found):
    measured = found("rigid_body")[0]
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in measured["networks"].values()]
    assert sizes[0] == sizes[1]
    away = {name: (orbits.norm(dim=-1) - 1).abs().max() for name, orbits in measured["orbits"].items()}
    assert away["sphere-preserving"] < 1e-12 and away["plain"] > 0.1
    assert away["Euler's equations"] < 1e-6
    assert measured["errors"]["sphere-preserving"] < 3e-3


def test_the_constrained_network_reads_half_of_the_digits_where_the_unconstrained_one_is_broken(found):
    result = found("robust_digits")[0]
    mean = {what: share[0] for what, share in result["share"].items()}
    assert mean["unconstrained, under attack"] < 0.2
    assert mean["constrained, under attack"] >= 0.5 and mean["constrained, clean"] >= 0.95
    for pair in result["pairs"]:
        robust = pair.robust["constrained"]
        assert robust.count == 360 and robust.lipschitz <= 1 + 1e-12
        assert (robust.certified <= robust.broken).all() and robust.certified_accuracy[0] > 0.3
        assert pair.robust["unconstrained"].certified.isnan().all()
        sizes = [sum(p.numel() for p in model.parameters()) for model in pair.models.values()]
        assert abs(sizes[0] - sizes[1]) < 1e-3 * sizes[0]


def test_what_is_certified_on_generated_images_is_not_broken(found):
    for (kind, _), robust in found("cifar10")[0]["results"].items():
        assert robust.has_certificate == (kind != "residual")
        if robust.has_certificate:
            assert (robust.certified <= robust.broken).all() and robust.lipschitz <= 1 + 1e-6


def test_steps_are_learned_inside_their_feasible_sets_and_the_exact_budget_allows_larger_slopes(found):
    learned = found("contraction_budget")[0]
    factors = {"exact": lambda h: torch.maximum((1 - h / 2).abs(), (1 - h).abs()), "published": lambda h: (1 - h + h**2).sqrt()}
    for name, factor in factors.items():
        for steps in (learned["first"][name], learned["last"][name]):
            h, expansion = steps.unbind(-1)
            assert (h > 0).all() and (expansion > 0).all() and (factor(h) * (1 + expansion) < 1).all()
        assert learned["slopes"][name][-1] <= learned["bounds"][name] <= 1
    assert max(learned["slopes"]["published"]) < max(learned["slopes"]["exact"]) < 1 < max(learned["slopes"]["unconstrained"])


def test_learned_symplectic_maps_keep_areas_and_stay_where_a_plain_network_spirals(found):
    maps = found("symplectic_maps")[0]
    for name in ("SympNet", "HénonNet"):
        assert maps[name]["area"].abs().max() < 1e-12  # 1,000 determinants, each 1 to rounding
        assert maps[name]["orbits"].abs().max() < 1
    assert maps["plain network"]["area"].abs().max() > 0.1


def test_learned_shears_keep_volumes_and_a_plain_network_does_not(found):
    flow = found("volume_preserving")[0]
    assert flow["shears"]["volume"].abs().max() < 1e-12
    assert flow["shears"]["exponents"].sum().abs() < 1e-12
    assert flow["plain network"]["volume"].abs().max() > 1e-3
    assert flow["truth"]["volume"].abs().max() < 1e-4  # RK4's own error


def test_hamiltonian_networks_keep_the_energy_of_two_pendulums_where_plain_ones_drift(found):
    for kinds in found("hamiltonian")[0].values():
        learned, plain = kinds["Hamiltonian"][0], kinds["plain"][0]
        assert learned.growth < 1.5 < 3 < plain.growth
        assert 10 * learned.error.max() < plain.error.max()


def test_a_table_s_numbers_are_short_and_keep_their_zeros():
    short = example("hamiltonian").short
    told = [short(value, 3) for value in (1.0, 16.321, 0.05, 4.7e-5, 2.5e9, math.inf)]
    assert told == ["1.00", "16.3", "0.0500", "4.70e-5", "2.50e9", "inf"]


def test_the_canonical_double_pendulum_is_the_textbook_s_by_its_momenta():
    """With ω = M⁻¹ p; RK4's own error at dt = 0.001 is some 1e-11."""
    script = example("hamiltonian")
    case = script.cases(8)[1]
    states = case.orbits(case.states(5, 0.0, 1.0, seed=3), 10)

    def with_velocities(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[..., :2], script.hamiltonian_field(case.energy, x)[..., :2]], dim=-1).detach()

    textbook = sx.trajectory(sx.classic.double_pendulum(g=1.0, dt=0.001), with_velocities(states[0]), steps=1000)[-1]
    torch.testing.assert_close(textbook, with_velocities(states[-1]), rtol=0, atol=1e-9)


def test_the_constrained_network_of_the_certificate_example_is_not_one_lipschitz_and_the_product_of_its_pieces_bounds_it(found):
    """1/std · Π |c| ‖W‖ · 1 · (1 + |u| ‖B‖) · ‖head‖, with norms by an SVD of each."""
    result = found("certificate")[0]
    model, certificate = result["model"], result["certificate"]

    def norm(weight: torch.Tensor) -> float:
        return min(1.0, float(torch.linalg.matrix_norm(weight.detach().double(), 2)))

    expected = norm(model.head.weight) / 0.38
    for block in model.blocks:
        c, u = (abs(float(number.detach())) for number in (block.c, block.u))
        expected *= c * norm(block.lift.weight) * (1 + u * norm(block.step.weight))
    assert certificate.bound == pytest.approx(expected, rel=1e-4)
    assert 1 < certificate.lower <= certificate.bound


def test_the_true_cycle_of_the_neural_ode_example_is_the_published_one(found):
    """Period 6.6633 and amplitude 2.0086 at μ = 1: Andersen & Geer 1982, SIAM J. Appl. Math. 42, 678."""
    true, learned = found("neural_ode")[0]
    assert true.period == pytest.approx(6.66328686, abs=1e-7)
    assert true.amplitude == pytest.approx(2.00862, abs=1e-5)
    assert len(learned) == 1 and abs(learned[0].period - true.period) < 1.0


def test_residual_networks_near_their_limits_at_their_methods_orders_before_and_after_a_method_is_swapped(found):
    """Of every kind of training; followed by its own method in its own steps, a network says what it said."""
    result = found("residual_integrators")[0]
    for kind, (method, order) in {"Euler": ("euler", 1), "midpoint": ("midpoint", 2), "RK4": ("rk4", 4)}.items():
        assert float(result["orders"][kind].order.nanmedian()) == pytest.approx(order, abs=0.3)
        assert torch.equal(result["accuracy"][kind]["own"][0], result["accuracy"][kind][method])
    assert float(result["before"].spurious.mean()) == 0 < float(result["before"].stable_dt.min())


def test_the_exponents_of_cells_from_odes_lie_within_their_bounds_and_no_gru_reaches_the_digit(found):
    """A gradient of a GRU at its default initialisation fades by about e^(−0.45) a step; 91 steps leave nothing of it."""
    measured = found("ode_cells")[0]
    for kind, own in measured.items():
        for when in ("before", "after"):
            exponents = own[when]["spectrum"].exponents  # (streams, seeds, k)
            if own[when]["bounds"]:
                low, high = torch.tensor(own[when]["bounds"]).double().T
                assert (exponents.amin(-1) > low).all() and (exponents.amax(-1) < high).all()
            assert (own[when]["gradients"].log_norm[-1] < -30).all() == (kind == "GRU")


def test_relativity_is_learned_from_a_wave_and_newton_alone_is_far_off(found):
    """True corrections at p = 100, e = 0.5 from the closed form, of which a third of the wave shows two thousandths."""
    measured = found("black_hole")[0]
    assert measured["errors"][0, :2].max() < 1e-2 < 0.2 < measured["Newton"][0] < measured["Newton"][1]
    chi = torch.linspace(0, math.pi, 20, dtype=torch.float64)
    true = ((98 - chi.cos()) / math.sqrt(98**2 - 1)) * torch.stack([(94 - chi.cos()).sqrt() / 10, torch.ones(20)]) - 1
    learned = example("black_hole").corrections(measured["fields"][0], chi)
    assert (learned - true.T).abs().max() < 2e-3 < 1e-2 < true.abs().max()


def test_what_prey_and_predators_do_to_each_other_is_read_from_noisy_counts(found):
    """One seed and a short fit: the product of both is the largest term of each equation."""
    measured = found("lotka_volterra")[0]
    terms = measured["terms"]
    met = terms.coefficients[0, :, terms.terms.index("x y")]
    assert met.tolist() == pytest.approx([-0.9, 0.8], abs=0.3)


def test_reversible_networks_hold_as_much_at_any_depth_and_their_gradients_are_right(found):
    """Stored activations: 8 bytes a layer for each number, what the linear layer takes and what tanh gives."""
    measured = found("reversible_memory")[0]
    depths, kept = measured["depths"], measured["kept"]
    assert kept["residual"] == [8 * depth for depth in depths]
    assert len(set(kept["reversible"])) == len(set(kept["momentum"])) == 1  # up to 300 layers, in one word
    ours, stored, inverted, _ = measured["errors"].mean(0).unbind(-1)
    assert (ours < 2 * stored).all() and (stored < 1e-5).all() and inverted[-1] > 1


def test_damped_networks_read_digits_and_noise_is_harder(found):
    measured = found("damped_digits")[0]
    for accuracy in measured["accuracy"].values():
        clean, worst = accuracy.mean(1)[:, 0], accuracy.mean(1)[:, -1]
        assert (clean > 0.3).all()  # of one epoch; 0.1 is chance
        assert (worst < clean).all()
    learned = [damping for kind, damping in measured["damping"].items() if "learned" in kind]
    assert all(((damping >= 0) & (damping < 0.6)).all() and damping.std() > 0 for damping in learned)
    assert (measured["damping"]["plain, λ = 1"] == 1).all() and (measured["damping"]["residual, λ = 0"] == 0).all()


def test_balls_bounce_when_they_should_and_their_gravity_and_restitution_are_found(found):
    """Within four standard errors, which the least squares of the noise itself tell."""
    bounced = found("bouncing")[0]
    assert bounced["off"] < 1e-12
    run = bounced["runs"][0]
    assert ((run["history"][-1] - torch.tensor([9.81, 0.8])).abs() < 4 * run["stderr"]).all()
    assert run["stderr"][0] < 0.1 and run["stderr"][1] < 0.01


def test_the_learned_density_adds_up_to_one_and_the_estimate_of_its_trace_knows_its_error(found):
    density = found("density")[0]
    assert density["mass"] == pytest.approx(1, abs=0.01)
    for error, stderr in list(zip(density["probes"]["error"], density["probes"]["stderr"], strict=True))[3:]:
        assert 0.5 < error / stderr < 2
    assert density["runs"][0]["below"]["flow"] < 0.6  # after a tenth of the training; a normal density loses 0.9


def test_a_learned_lorenz_flow_stays_and_keeps_the_sign_of_its_exponents_and_its_time_scale(found):
    """After a few seconds of training; the whole verdict is the full run's."""
    result = found("learned_lorenz")[0]
    one = result["good"][0]
    assert one.fit.status == "ok" and one.fit.error[-1] < 0.05
    assert one.verdict.left == (0, 0) and one.verdict.of("λ₁")["learned"] > 0.3
    assert one.verdict.of("λ₃")["learned"] < -5
    assert one.verdict.of("time between maxima")["learned"] == pytest.approx(0.75, abs=0.2)


def test_pendulums_keep_their_energy_spirals_their_pitch_and_no_network_sees_what_it_is_asked(found):
    """What was asked is replaced, and nothing that either network tells changes."""
    measured, script = found("latent_ode")[0], example("latent_ode")
    angle, velocity = measured["pendulum"]["test"].truth.unbind(-1)
    energy = velocity**2 / 2 - angle.cos()
    assert (energy - energy[0]).abs().max() < 1e-5  # of numbers in float32
    spirals = measured["spirals"]["test"]
    torch.testing.assert_close(
        spirals.truth.norm(dim=-1) - 0.15 * spirals.times, spirals.truth[:1].norm(dim=-1).expand(60, -1).double(), rtol=0, atol=2e-6
    )  # of numbers in float32
    for task in (task._replace(**script.QUICK) for task in script.TASKS):
        parts = measured[task.name]
        assert (parts["test"].times.diff(dim=0) > 0).all() and int(parts["test"].read.sum(0).unique()) == task.points // 2
        hidden = parts["test"]._replace(values=parts["test"].values.where(parts["test"].read[..., None], 7.0))
        again = script.judged(task, [hidden], parts["latent"], parts["gru"])
        assert all(torch.equal(parts["told"][kind], again["told"][kind]) for kind in ("latent ODE", "GRU"))


def test_the_closed_reservoir_has_the_exponents_of_the_flow(found):
    """Within 4 of the short run's own error bars; the third, which is hard to learn, within a twentieth."""
    error, spectrum = found("closed_reservoir")[0]
    assert error < 1e-4
    for value, bar, flow in zip(spectrum.exponents[:2].tolist(), spectrum.stderr[:2].tolist(), (0.906, 0.0), strict=True):
        assert value == pytest.approx(flow, abs=4 * bar)
    assert float(spectrum.exponents[2]) == pytest.approx(-14.57, rel=0.05)


def test_a_learned_law_swings_the_pendulum_up_in_scipy_s_hands_and_the_regulator_leaves_it_hanging(found):
    """Equations and law once more, in NumPy, from just beside hanging."""
    part, script = found("controller_design")[0]["pendulum"], example("controller_design")
    first, second, third = (weight.detach().numpy() for weight in part["machines"][0].law.weights)
    gain = script.regulated(script.Pendulum).law.gain.numpy()

    def learned(angle: float, rate: float) -> float:
        odd = np.array([np.sin(angle), rate / 5])
        return 4 * float(np.tanh(np.tanh(np.tanh(np.concatenate([odd, np.cos(angle) * odd]) @ first) @ second) @ third)[0])

    def regulator(angle: float, rate: float) -> float:
        wrapped = (angle + np.pi) % (2 * np.pi) - np.pi
        return float(np.clip(-(gain[0] * wrapped + gain[1] * rate), -4, 4))

    def end(law: Callable[[float, float], float]) -> np.ndarray:
        def velocity(_: float, x: np.ndarray) -> list[float]:
            return [x[1], 9.81 * np.sin(x[0]) - 0.1 * x[1] + law(x[0], x[1])]

        return solve_ivp(velocity, (0, 20), [np.pi - 0.05, 0.0], rtol=1e-8, atol=1e-10, max_step=0.05).y[:, -1]

    angle, rate = end(learned)
    assert np.cos(angle) == pytest.approx(1, abs=1e-8) and rate == pytest.approx(0, abs=1e-4)
    assert np.cos(end(regulator)[0]) < 0
    assert part["judged"][0]["share"] == 1 > part["regulator"]["share"] + 4 * part["regulator"]["stderr"]


def test_every_equilibrium_of_the_learned_pendulum_is_found_and_their_indices_add_up_to_zero(found):
    """Zeros of  m g l sin θ + k(θ, 0)  by its changes of sign; Σ (−1)^(unstable directions) = χ = 0 on a cylinder."""
    part = found("controller_design")[0]["pendulum"]
    angles = -math.pi + 2 * math.pi * (torch.arange(20_000, dtype=torch.float64) + 0.37) / 20_000
    torque = 9.81 * angles.sin() + part["machines"][0].action(torch.stack([angles, 0 * angles], dim=-1)).detach()
    changes = int((torque.sign() != torque.roll(1).sign()).sum())
    kinds = part["judged"][0]["kinds"]
    assert sum(kinds.values()) == changes
    assert sum(count * (-1) ** ("with 1" in kind) for kind, count in kinds.items()) == 0


def test_the_rates_at_the_top_are_those_of_the_law_s_slopes(found):
    """λ² + (b − k_ω) λ − (g + k_θ) = 0 at m = l = 1, slopes by central differences."""
    part = found("controller_design")[0]["pendulum"]
    step = 1e-5 * torch.eye(2, dtype=torch.float64)
    action = part["machines"][0].action
    slope = ((action(step) - action(-step)) / 2e-5).detach()
    expected = np.sort(np.roots([1, 0.1 - float(slope[1]), -(9.81 + float(slope[0]))]).real)[::-1]
    assert part["judged"][0]["rates"].tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert (found("controller_design")[0]["cart–pole"]["judged"][0]["rates"] < 0).all()


def test_the_cart_s_energy_changes_by_what_the_force_does_and_friction_takes():
    """Ė = u v − b v² − c m l² ω²."""
    script = example("controller_design")
    cart = script.CartPole(torch.nn.Identity())
    x, u = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_(), 3.0

    _, v, angle, rate = x.unbind(-1)
    across, up = v + rate * angle.cos(), -rate * angle.sin()
    energy = v**2 / 2 + 0.25 * (across**2 + up**2) / 2 + 0.25 * 9.81 * angle.cos()
    change = (torch.autograd.grad(energy.sum(), x)[0] * cart.motion(x, u)).sum(-1)
    torch.testing.assert_close(change, u * v - 0.1 * v**2 - 0.05 * 0.25 * rate**2, rtol=0, atol=1e-12)


def test_the_regulator_puts_the_rates_of_the_cart_where_the_hamiltonian_matrix_has_them(found):
    """The stable eigenvalues of [[A, −B R⁻¹ Bᵀ], [−Q, −Aᵀ]], with A and B written out."""
    a = np.array([[0, 1, 0, 0], [0, -0.1, -0.25 * 9.81, 0.0125], [0, 0, 0, 1], [0, 0.1, 1.25 * 9.81, -0.0625]])
    b, q = np.array([[0], [1], [0], [-1.0]]), np.diag([1, 0.1, 1, 0.1])
    both = np.linalg.eigvals(np.block([[a, -100 * b @ b.T], [-q, -a.T]]))
    expected = np.sort(both.real[both.real < 0])[::-1]
    assert found("controller_design")[0]["cart–pole"]["regulator"]["rates"].tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_one_step_of_adam_grows_with_the_width_unless_it_is_scaled(found):
    """The hidden layer changes like the width, the output like its power 3/2; in μP neither depends on it."""
    usual, scaled = (found("width_scaling")[0][name] for name in ("Usual parametrisation", "μP"))
    assert usual.layers == ("enter", "hidden", "leave")
    assert [change for _, change in usual.verdicts] == ["stable", "grows", "grows"]
    assert ((usual.change_exponent - torch.tensor([0.0, 1.0, 1.5])).abs() < 2 * usual.change_exponent_stderr + 0.15).all()
    assert (scaled.change_exponent.abs() < 2 * scaled.change_exponent_stderr + 0.15).all()
