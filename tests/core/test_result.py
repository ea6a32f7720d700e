"""Results: frozen records that save, load, become a Dataset and say the answer in words."""

import dataclasses
import json
import math
import os
import subprocess
import sys
import types
from typing import ClassVar

import pytest
import torch
import zarr
from matplotlib.figure import Figure

import separatrix as sx
from separatrix.report import page as drawing
from separatrix.report import write_report


@pytest.fixture(scope="module")
def spectrum():
    """Hénon in a (2, 3) batch, one of which diverges, with the two-trajectory check inside."""
    x0 = torch.zeros(2, 3, 2, dtype=torch.float64)
    x0[1, 2] = torch.tensor([3.0, 0.5])
    return sx.lyapunov_spectrum(sx.classic.henon(), x0, steps=300, settle=100, check=True, seed=3)


def assert_same_bits(a: sx.Result, b: sx.Result) -> None:
    """Type, every tensor (dtype, shape, bits; NaN as NaN), every other field, and the results inside."""
    assert type(a) is type(b)
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, torch.Tensor):
            assert (x.dtype, x.shape) == (y.dtype, y.shape), field.name
            assert x.numpy().tobytes() == y.numpy().tobytes(), field.name
        elif isinstance(x, sx.Result):
            assert_same_bits(x, y)
        elif isinstance(x, dict) and any(isinstance(value, sx.Result) for value in x.values()):
            assert list(x) == list(y), field.name
            for key in x:
                assert_same_bits(x[key], y[key])
        else:
            assert x == y, field.name


def test_a_saved_result_comes_back_bit_for_bit(spectrum, tmp_path):
    """Tensors, NaN, settings, versions, notes and the nested check."""
    path = spectrum.save(tmp_path / "spectrum.zarr")
    assert path == tmp_path / "spectrum.zarr"
    assert spectrum.exponents.isnan().any()
    assert_same_bits(spectrum, sx.load(path))
    assert_same_bits(spectrum, sx.results.LyapunovSpectrum.load(path))
    assert sx.load(path).check.settings == spectrum.check.settings


@pytest.mark.parametrize("x0", [None, torch.zeros(4, 2)], ids=["no batch, float64", "one axis, float32"])
def test_any_batch_and_dtype_come_back(x0, tmp_path):
    """Scalars too, −∞, a missing check, notes."""
    erasing = sx.Map(lambda x: x * torch.tensor([0.5, 0.0], dtype=x.dtype), 2)
    result = sx.lyapunov_spectrum(erasing, x0, steps=50)
    assert (result.exponents[..., 1] == -math.inf).all()
    assert_same_bits(result, sx.load(result.save(tmp_path / "a.zarr")))
    pooled = spectrum_of_one_axis(result).pooled()
    assert_same_bits(pooled, sx.load(pooled.save(tmp_path / "b.zarr")))


@pytest.mark.parametrize("inputs", [None, torch.ones(9, 4, 2), torch.ones(1000, 2)], ids=["autonomous", "stream", "sequence"])
def test_a_portrait_of_every_regime_comes_back_from_its_report(inputs, tmp_path, request, monkeypatch):
    """Bit for bit, also what an autonomous network has not: finite-time exponents. The report's page need not be drawn for that."""
    monkeypatch.setattr(drawing, "render", lambda *_: "<p>page</p>")
    torch.manual_seed(0)
    also = "auto" if inputs is not None and inputs.ndim == 3 else "none"
    portrait = sx.analyze(torch.nn.GRU(2, 3), inputs, copies=2, steps=100, settle=20, also=also)
    assert portrait.regime == request.node.callspec.id
    assert (portrait.finite_time is None) == (inputs is None)
    assert_same_bits(portrait, sx.load(portrait.save(tmp_path / "portrait.zarr")))
    out = write_report({"a name": portrait}, tmp_path / "report", title="t")
    assert_same_bits(portrait, sx.load(out / "results.zarr" / "a name"))


def spectrum_of_one_axis(result: sx.results.LyapunovSpectrum) -> sx.results.LyapunovSpectrum:
    """The same numbers with at least one batch axis."""
    if result.batch:
        return result
    batched = {name: getattr(result, name).unsqueeze(1 if name.startswith("history") else 0) for name in result.layout}
    return dataclasses.replace(result, codes=result.codes[None], **batched)


def test_a_dataset_names_axes_and_units(spectrum):
    """Batch axes are numbered when there are several; numbers carry their unit; the settings travel along."""
    data = spectrum.to_dataset()
    assert data["exponents"].dims == ("batch_0", "batch_1", "k")
    assert data["history"].dims == ("block", "batch_0", "batch_1", "k")
    assert data["failed_at"].dims == ("batch_0", "batch_1")
    assert data["exponents"].attrs["units"] == data["stderr"].attrs["units"] == "nats per step"
    assert data["failed_at"].attrs["units"] == "step"
    assert data["exponents"].values.tobytes() == spectrum.exponents.numpy().tobytes()
    record = json.loads(data.attrs["record"])
    assert record["settings"]["seed"] == 3
    assert record["versions"]["torch"] == torch.__version__


def test_axes_of_other_batches():
    """One axis is called batch; without one, k stands alone."""
    one = sx.lyapunov_spectrum(sx.classic.henon(), torch.zeros(3, 2).double(), steps=20).to_dataset()
    none = sx.lyapunov_spectrum(sx.classic.henon(), steps=20).to_dataset()
    assert one["exponents"].dims == ("batch", "k")
    assert none["exponents"].dims == ("k",)
    assert none["entropy"].dims == ()


def test_status_is_in_words(spectrum):
    """A string for a single run, an array of the batch's shape for several."""
    assert spectrum.status.shape == (2, 3)
    assert spectrum.status[1, 2] == "diverged"
    assert set(spectrum.status.flat) == {"ok", "diverged"}
    assert sx.lyapunov_spectrum(sx.classic.logistic(3.2), steps=200).status == "ok"
    assert sx.lyapunov_spectrum(sx.classic.henon(), steps=100, error=1e-9, max_steps=100).status == "not_converged"
    assert sx.lyapunov_spectrum(sx.classic.henon(), torch.tensor([3.0, 0.5]).double(), steps=100).status == "diverged"


def test_a_result_cannot_be_changed(spectrum):
    """Frozen: a number cannot be overwritten, a field cannot be added."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        spectrum.exponents = torch.zeros(2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spectrum.comment = "nice"


def test_how_it_was_measured_is_recorded(spectrum):
    """What was asked, with the defaults filled in, and the versions that the numbers depend on."""
    assert {"k": 2, "steps": 300, "settle": 100, "every": "auto", "error": None, "seed": 3}.items() <= spectrum.settings.items()
    assert {"separatrix", "torch", "python", "threads"} <= spectrum.versions.keys()
    assert spectrum.versions["separatrix"] == sx.__version__


def test_an_existing_folder_is_not_overwritten(spectrum, tmp_path):
    """Neither a result nor anything else; what was there stays."""
    path = spectrum.save(tmp_path / "a.zarr")
    with pytest.raises(sx.errors.InputError, match=r"a\.zarr already exists"):
        spectrum.check.save(path)
    assert_same_bits(spectrum, sx.load(path))
    (tmp_path / "notes").mkdir()
    with pytest.raises(sx.errors.InputError, match="notes already exists"):
        spectrum.save(tmp_path / "notes")
    assert not list((tmp_path / "notes").iterdir())


def test_a_folder_that_is_no_result_is_refused(tmp_path):
    """Missing, empty, a plain file, a Zarr group of someone else: each an InputError that names the path."""
    with pytest.raises(sx.errors.InputError, match=r"no result at .*missing"):
        sx.load(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.zarr").write_text("text")
    foreign = zarr.open_group(tmp_path / "foreign", mode="w")
    foreign.create_array("a", shape=(3,), dtype="float64")
    zarr.open_group(tmp_path / "posing", mode="w", attributes={"result": "os.path:join", "record": "{}"})
    zarr.open_group(tmp_path / "private", mode="w", attributes={"result": "separatrix.core.evolve:Front", "record": "{}"})
    for name in ("empty", "file.zarr", "foreign", "posing", "private"):
        with pytest.raises(sx.errors.InputError, match=rf"{name} was not written by Result\.save"):
            sx.load(tmp_path / name)


def test_a_result_of_another_kind_is_refused(spectrum, tmp_path):
    """`LyapunovSpectrum.load` of a divergence rate says which it found."""
    path = spectrum.check.save(tmp_path / "rate.zarr")
    with pytest.raises(sx.errors.InputError, match="holds a DivergenceRate, not a LyapunovSpectrum"):
        sx.results.LyapunovSpectrum.load(path)


def test_the_answer_is_in_words(spectrum):
    """What repr says: exponents, errors, units, dimension, entropy, status; of a batch, the range and how many ended how."""
    single = sx.lyapunov_spectrum(sx.classic.henon(), steps=4000, settle=200, check=True)
    text = repr(single)
    for words in ("Lyapunov exponents: 0.4", "±", "nats per step", "Kaplan–Yorke dimension 1.2", "entropy 0.4", "4000 steps"):
        assert words in text
    assert "two nearby trajectories separate at 0.4" in text
    assert "6 runs" in repr(spectrum) and "1 diverged" in repr(spectrum) and "5 ok" in repr(spectrum)
    lost = sx.lyapunov_spectrum(sx.classic.henon(), torch.tensor([3.0, 0.5]).double(), steps=100)
    assert repr(lost) == f"Lyapunov spectrum: diverged at step {int(lost.failed_at)}"
    assert "5 runs" in repr(spectrum.pooled()) and "1 diverged" in repr(spectrum.pooled())
    assert repr(sx.divergence_rate(sx.classic.henon(), torch.tensor([3.0, 0.5]).double(), steps=100)).endswith("diverged")


def test_an_error_that_is_unknown_is_left_out():
    """Five steps have no error bar, one run no spread between runs: never nan in words."""
    short = sx.lyapunov_spectrum(sx.classic.henon(), torch.zeros(1, 2).double(), steps=5, settle=10, check=True)
    single = sx.lyapunov_spectrum(sx.classic.henon(), steps=5, settle=10, check=True)
    assert single.stderr.isnan().all() and single.check.stderr.isnan()
    for told in map(repr, (single, single.check, short, short.check, short.pooled())):
        assert "nan" not in told and "±" not in told
    assert "over 1 run (spread between runs unknown" in repr(short.pooled())


def test_an_error_of_rounding_is_left_out():
    """λ = ln ½ exactly, up to the last digits of the logarithms."""
    halving = sx.lyapunov_spectrum(sx.Map(lambda x: x / 2, 1), steps=100)
    assert repr(halving).startswith("Lyapunov exponents: −0.6931 nats per step")


@pytest.mark.parametrize("also", [("fixed_points", "covariant_lyapunov_vectors"), "none"])
def test_a_dictionary_of_results_comes_back_bit_for_bit_and_in_its_order(also, tmp_path):
    portrait = sx.analyze(torch.nn.RNN(1, 2), steps=50, copies=2, also=also)
    again = sx.load(portrait.save(tmp_path / "portrait.zarr"))
    assert_same_bits(portrait, again)


def test_the_numbers_of_a_result_are_its_words_its_status_and_what_is_short(spectrum):
    numbers = spectrum.numbers()
    assert numbers["summary"] == spectrum.summary() and numbers["steps"] == 300
    assert numbers["status"] == [["ok", "ok", "ok"], ["ok", "ok", "diverged"]]
    assert "exponents" not in numbers  # (2, 3, 2)
    points = sx.fixed_points(sx.classic.henon()).numbers()
    assert len(points["found_by"]) == len(points["kind"]) == 2 and "multipliers" not in points


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MeanState(sx.Result):
    """The example of CONTRIBUTING: the time average of the state."""

    mean: torch.Tensor
    layout: ClassVar[dict[str, str]] = {"mean": "batch dim"}


class Pictured(MeanState):
    """One that draws itself."""

    def plot(self):
        figure = Figure()
        figure.add_subplot().plot(self.mean.numpy())
        figure.set_label("the mean state")
        return figure


class Axed(MeanState):
    """One whose plot gives the axes, as Matplotlib's own functions do."""

    def plot(self):
        return Pictured.plot(self).axes[0]


class Broken(MeanState):
    """One whose picture fails."""

    def plot(self):
        return figure_of_nothing  # noqa: F821


def of(kind: type[sx.Result]) -> sx.Result:
    return kind(codes=torch.zeros(2, dtype=torch.int8), mean=torch.tensor([[1.0, math.nan], [0.1, -2.0]]), settings={"steps": 9})


def test_a_result_of_ones_own_is_saved_loaded_and_shown(tmp_path):
    """By `sx.load`, by `Result.load`, by its own; in words where it has no picture."""
    result = of(MeanState)
    path = result.save(tmp_path / "mean.zarr")
    for again in (sx.load(path), sx.Result.load(path), MeanState.load(path)):
        assert_same_bits(result, again)
    assert "MeanState of 2 runs" in result._repr_html_() and "<svg" not in result._repr_html_()
    with pytest.raises(sx.errors.InputError, match="MeanState has no figure"):
        result.plot()
    with pytest.raises(sx.errors.InputError, match="holds a MeanState, not a LyapunovSpectrum"):
        sx.results.LyapunovSpectrum.load(path)
    with pytest.raises(sx.errors.InputError, match="holds a MeanState, not a Pictured"):
        Pictured.load(path)


@pytest.mark.parametrize("kind", [Pictured, Axed])
def test_a_result_that_draws_itself_is_shown_with_its_picture(kind, tmp_path):
    result = of(kind)
    assert "<svg" in result._repr_html_() and f"{kind.__name__} of 2 runs" in result._repr_html_()
    assert "<svg" in sx.load(result.save(tmp_path / "a.zarr"))._repr_html_()


def test_a_picture_that_fails_is_told_of():
    with pytest.raises(NameError, match="figure_of_nothing"):
        of(Broken)._repr_html_()


def test_a_result_within_a_result_of_ones_own_comes_back(spectrum, tmp_path):
    @dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
    class Both(sx.Result):
        mean: sx.Result
        spectra: dict[str, sx.Result]

    both = Both(codes=spectrum.codes, mean=of(MeanState), spectra={"b": spectrum, "a": of(Pictured)})
    path = both.save(tmp_path / "both.zarr")
    assert_same_bits(both, sx.load(path))
    assert_same_bits(both, Both.load(path))


def test_a_class_that_is_defined_again_is_loaded_as_the_newest_and_by_its_own_load_as_itself(tmp_path):
    def defined() -> type[sx.Result]:
        @dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
        class Local(sx.Result):
            mean: torch.Tensor
            layout: ClassVar[dict[str, str]] = {"mean": "batch dim"}

        return Local

    first, second = defined(), defined()
    path = of(first).save(tmp_path / "local.zarr")
    assert type(sx.load(path)) is second
    assert type(first.load(path)) is first and type(second.load(path)) is second


SCRIPT = """
import dataclasses, sys, torch, separatrix as sx
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Elsewhere(sx.Result):
    mean: torch.Tensor
    layout = {"mean": "batch dim"}
result = Elsewhere(codes=torch.zeros((), dtype=torch.int8), mean=torch.ones(3))
"""


def test_a_result_of_a_script_is_loaded_in_that_script_and_elsewhere_by_its_class(tmp_path):
    """In `__main__`, as scripts and notebooks are; then from a module that has the same class."""
    path, script = tmp_path / "script.zarr", tmp_path / "script.py"
    script.write_text(
        SCRIPT + f"path = result.save({str(path)!r})\nassert type(sx.load(path)) is type(Elsewhere.load(path)) is Elsewhere"
    )
    subprocess.run([sys.executable, script], check=True, env=os.environ)
    with pytest.raises(sx.errors.InputError, match="holds a Elsewhere of the module __main__") as caught:
        sx.load(path)
    assert "Define it first" in str(caught.value)
    module = types.ModuleType("elsewhere")
    exec(SCRIPT, vars(module))
    assert torch.equal(module.Elsewhere.load(path).mean, torch.ones(3))


def test_a_file_imports_nothing(tmp_path, monkeypatch):
    """The module that it names is on the path, and would say so if it ran."""
    (tmp_path / "laboratory.py").write_text(SCRIPT + "raise SystemExit('this ran')")
    monkeypatch.syspath_prepend(tmp_path)
    zarr.open_group(tmp_path / "a", mode="w", attributes={"result": "laboratory:Elsewhere", "record": "{}"})
    zarr.open_group(tmp_path / "b", mode="w", attributes={"result": "separatrix.__main__:main", "record": "{}"})
    with pytest.raises(sx.errors.InputError, match="which has not been imported") as caught:
        sx.load(tmp_path / "a")
    assert "Import it first: import laboratory" in str(caught.value) and "laboratory" not in sys.modules
    with pytest.raises(sx.errors.InputError, match=r"was not written by Result\.save"):
        sx.load(tmp_path / "b")
    assert "separatrix.__main__" not in sys.modules


def test_a_tensor_whose_axes_have_no_names_is_refused_where_it_would_be_lost(tmp_path):
    @dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
    class Unnamed(sx.Result):
        mean: torch.Tensor

    with pytest.raises(sx.errors.InputError, match=r"'mean' of this Unnamed is a tensor of shape \(2, 2\)") as caught:
        of(Unnamed).save(tmp_path / "a.zarr")
    assert "layout = {'mean': 'batch axis_0'}" in str(caught.value) and not (tmp_path / "a.zarr").exists()


def test_a_field_that_came_after_a_result_was_saved_is_told_of(tmp_path):
    path = of(MeanState).save(tmp_path / "a.zarr")

    @dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
    class MeanStateOfToday(sx.Result):
        mean: torch.Tensor
        spread: float
        layout: ClassVar[dict[str, str]] = {"mean": "batch dim"}

    MeanStateOfToday.__qualname__ = MeanStateOfToday.__name__ = "MeanState"
    with pytest.raises(sx.errors.InputError, match="holds a MeanState without spread"):
        MeanStateOfToday.load(path)


def test_time_is_counted_in_steps_until_somebody_gives_a_dt():
    halving = sx.Map(lambda x: x / 2, 1)
    timed = sx.Map(lambda x: x / 2, 1, dt=0.1)
    flow = sx.Flow(lambda x: -x, 1, 1.0)
    words = [sx.lyapunov_spectrum(system, steps=50).summary() for system in (halving, sx.Iterate(halving, 2), timed, flow)]
    assert [w.split("nats per ")[1].split("\n")[0] for w in words] == ["step", "step", "unit time", "unit time"]
