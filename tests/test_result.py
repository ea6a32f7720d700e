"""Results: frozen records that save, load, become a Dataset and say the answer in words."""

import dataclasses
import json
import math

import pytest
import torch
import zarr

import separatrix as sx
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
    assert_same_bits(spectrum, sx.LyapunovSpectrum.load(path))
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
def test_a_portrait_of_every_regime_comes_back_from_its_report(inputs, tmp_path, request):
    """Bit for bit, also what an autonomous network has not: finite-time exponents."""
    torch.manual_seed(0)
    portrait = sx.analyze(torch.nn.GRU(2, 3), inputs, copies=2, steps=100, settle=20)
    assert portrait.regime == request.node.callspec.id
    assert (portrait.finite_time is None) == (inputs is None)
    assert_same_bits(portrait, sx.load(portrait.save(tmp_path / "portrait.zarr")))
    out = write_report({"a name": portrait}, tmp_path / "report", title="t")
    assert_same_bits(portrait, sx.load(out / "results.zarr" / "a name"))


def spectrum_of_one_axis(result: sx.LyapunovSpectrum) -> sx.LyapunovSpectrum:
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
    assert data["exponents"].attrs["units"] == data["stderr"].attrs["units"] == "nats per unit time"
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
    assert sx.lyapunov_spectrum(sx.classic.henon(), steps=100, tol=1e-9, max_steps=100).status == "not_converged"
    assert sx.lyapunov_spectrum(sx.classic.henon(), torch.tensor([3.0, 0.5]).double(), steps=100).status == "diverged"


def test_a_result_cannot_be_changed(spectrum):
    """Frozen: a number cannot be overwritten, a field cannot be added."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        spectrum.exponents = torch.zeros(2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spectrum.comment = "nice"


def test_how_it_was_measured_is_recorded(spectrum):
    """What was asked, with the defaults filled in, and the versions that the numbers depend on."""
    assert {"k": 2, "steps": 300, "settle": 100, "every": "auto", "tol": None, "seed": 3}.items() <= spectrum.settings.items()
    assert {"separatrix", "torch", "python", "threads"} <= spectrum.versions.keys()
    assert spectrum.versions["separatrix"] == sx.__version__


def test_an_existing_folder_is_not_overwritten(spectrum, tmp_path):
    """Neither a result nor anything else; what was there stays."""
    path = spectrum.save(tmp_path / "a.zarr")
    with pytest.raises(sx.InputError, match=r"a\.zarr exists already"):
        spectrum.check.save(path)
    assert_same_bits(spectrum, sx.load(path))
    (tmp_path / "notes").mkdir()
    with pytest.raises(sx.InputError, match="notes exists already"):
        spectrum.save(tmp_path / "notes")
    assert not list((tmp_path / "notes").iterdir())


def test_a_folder_that_is_no_result_is_refused(tmp_path):
    """Missing, empty, a plain file, a Zarr group of someone else: each an InputError that names the path."""
    with pytest.raises(sx.InputError, match=r"no result at .*missing"):
        sx.load(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.zarr").write_text("text")
    foreign = zarr.open_group(tmp_path / "foreign", mode="w")
    foreign.create_array("a", shape=(3,), dtype="float64")
    zarr.open_group(tmp_path / "posing", mode="w", attributes={"result": "os.path:join", "record": "{}"})
    zarr.open_group(tmp_path / "private", mode="w", attributes={"result": "separatrix.evolve:Front", "record": "{}"})
    for name in ("empty", "file.zarr", "foreign", "posing", "private"):
        with pytest.raises(sx.InputError, match=rf"{name} was not written by Result\.save"):
            sx.load(tmp_path / name)


def test_a_result_of_another_kind_is_refused(spectrum, tmp_path):
    """`LyapunovSpectrum.load` of a divergence rate says which it found."""
    path = spectrum.check.save(tmp_path / "rate.zarr")
    with pytest.raises(sx.InputError, match="holds a DivergenceRate, not a LyapunovSpectrum"):
        sx.LyapunovSpectrum.load(path)


def test_the_answer_is_in_words(spectrum):
    """What repr says: exponents, errors, units, dimension, entropy, status; of a batch, the range and how many ended how."""
    single = sx.lyapunov_spectrum(sx.classic.henon(), steps=4000, settle=200, check=True)
    text = repr(single)
    for words in ("Lyapunov exponents: 0.4", "±", "nats per unit time", "Kaplan–Yorke dimension 1.2", "entropy 0.4", "4000 steps"):
        assert words in text
    assert "two near trajectories part at 0.4" in text
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
    assert repr(halving).startswith("Lyapunov exponents: −0.6931 nats per unit time")


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
