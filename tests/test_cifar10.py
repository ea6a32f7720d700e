"""CIFAR-10 in its binary format, and training on it that goes on where it was stopped."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import separatrix as sx
from separatrix.loading.cifar10 import TEST, TRAIN, cifar10

EXAMPLE = Path(__file__).parents[1] / "examples" / "cifar10.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_cifar10", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def folder_of(path: Path, names: tuple[str, ...], images: int = 3) -> Path:
    """Files whose bytes count up, so that each byte says where it should be found."""
    path.mkdir(exist_ok=True)
    for place, name in enumerate(names):
        records = [bytes([(place + i) % 10]) + ((np.arange(3072) + i) % 256).astype(np.uint8).tobytes() for i in range(images)]
        (path / name).write_bytes(b"".join(records))
    return path


def test_each_record_is_a_label_and_three_planes_row_by_row(tmp_path):
    images, labels = cifar10(folder_of(tmp_path, TRAIN), train=True)
    assert images.shape == (15, 3, 32, 32) and images.dtype == torch.uint8
    assert labels.tolist() == [(file + i) % 10 for file in range(5) for i in range(3)]
    channel, row, column = 2, 30, 7
    assert int(images[1, channel, row, column]) == (channel * 1024 + row * 32 + column + 1) % 256
    assert cifar10(folder_of(tmp_path, TEST), train=False)[0].shape == (3, 3, 32, 32)


def test_pickles_are_not_read_and_the_binary_version_is_named(tmp_path):
    (tmp_path / "test_batch").write_bytes(b"cos\nsystem\n(S'touch read'\ntR.")
    with pytest.raises(sx.errors.InputError, match=r"as pickles \(test_batch\), which are not read"):
        cifar10(tmp_path, train=False)


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "has no file test_batch.bin"), (b"", "0 bytes"), (b"\0" * 3074, "3074 bytes"), (b"\x0b" * 3073, "the label 11")],
)
def test_a_file_that_is_missing_cut_short_or_of_another_format_is_refused(tmp_path, content, told):
    if content is not None:
        (tmp_path / "test_batch.bin").write_bytes(content)
    with pytest.raises(sx.errors.InputError, match=told):
        cifar10(tmp_path, train=False)


def test_training_that_was_stopped_goes_on_to_the_same_weights(script, tmp_path):
    data = script.generated(tmp_path / "data")
    brief = script.replace(script.QUICK, widths=(3, 3), epochs=1)
    for name, plans in (("once", [2]), ("twice", [1, 2])):
        for epochs in plans:
            model = script.network("non_expansive", brief.widths)
            script.trained(model, data, tmp_path / f"{name}.safetensors", 0.3, script.replace(brief, epochs=epochs), name)
    one, other = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("once", "twice"))
    assert one == other
    assert not list(tmp_path.glob("*.new"))


def test_training_begins_again_at_a_fifth_of_the_rate_where_the_loss_is_no_longer_finite(script, tmp_path, monkeypatch, capsys):
    path, model, rates = tmp_path / "run.safetensors", script.network("residual", (3, 3)), []
    first, really = [weight.detach().clone() for weight in model.parameters()], script.learned

    def broken_twice(model, optimiser, examples, loss, path, plan, done, name):
        assert done == 0 and all(map(torch.equal, first, model.parameters()))
        rates.append(plan.rate)
        whole = really(model, optimiser, examples, loss, path, plan, done, name)
        with torch.no_grad():
            next(model.parameters()).mul_(1.0 if len(rates) == 3 else torch.nan)
        return whole and len(rates) == 3

    monkeypatch.setattr(script, "learned", broken_twice)
    plan = script.replace(script.QUICK, widths=(3, 3), epochs=1)
    script.trained(model, script.generated(tmp_path / "data"), path, 0.3, plan, "fragile")
    assert rates == pytest.approx([1e-2, 2e-3, 4e-4]) and capsys.readouterr().out.count("fragile: the loss is no longer") == 2
    again = script.network("residual", (3, 3))
    assert script.resumed(again, script.sgd(again), path) == (1, pytest.approx(4e-4))
    assert all(map(torch.equal, again.parameters(), model.parameters()))


def test_training_that_diverges_at_every_rate_ends_with_one_line(script, tmp_path):
    plan = script.replace(script.QUICK, widths=(3, 3), epochs=1, rate=1e30)
    with pytest.raises(sx.errors.DivergedError, match="the loss of wild was not finite in 4 trainings"):
        data = script.generated(tmp_path / "data")
        script.trained(script.network("residual", (3, 3)), data, tmp_path / "run.safetensors", 0.3, plan, "wild")


def test_images_are_shifted_by_at_most_four_pixels_and_half_of_them_mirrored(script):
    image = torch.zeros(200, 1, 32, 32)
    image[:, 0, 16, 10] = 1
    _, _, row, column = script.varied(image, torch.Generator().manual_seed(0)).nonzero().unbind(1)
    assert len(row) == 200 and int(row.min()) == 12 and int(row.max()) == 20
    plain = (column - 10).abs() <= 4
    assert (plain | ((column - 21).abs() <= 4)).all()
    assert 70 < int((column < 15).sum()) < 130  # half, give or take 4 standard deviations


def test_without_a_folder_it_is_said_which_one_is_wanted(script, capsys):
    with pytest.raises(SystemExit) as ended:
        script.main([])
    assert ended.value.code == 2 and "--data FOLDER" in capsys.readouterr().err
