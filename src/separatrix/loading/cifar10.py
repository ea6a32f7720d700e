"""CIFAR-10 from a local folder, in its binary version: nothing is downloaded, and nothing is unpickled."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from separatrix.core.errors import InputError

SHAPE, CLASSES = (3, 32, 32), 10
RECORD = 1 + 3 * 32 * 32  # bytes: a label, then red, green and blue, each row by row
TRAIN, TEST = tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",)
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10(folder: str | Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """Load the images, (images, 3, 32, 32) of uint8, and their labels, (images) of int64.

    Args:
        folder: the folder cifar-10-batches-bin, with the files `data_batch_1.bin` … `data_batch_5.bin` and `test_batch.bin`.
        train: load the 50,000 training images, otherwise the 10,000 test images.

    Raises:
        InputError: a file is missing or truncated, a label is above 9, or the folder has only the pickled version, which is not
            read because reading it can run code.
    Source: Krizhevsky 2009, Learning multiple layers of features from tiny images; the layout is described on the data set's page.
    """
    folder = Path(folder)
    parts = [_records(folder, name) for name in (TRAIN if train else TEST)]
    records = torch.from_numpy(np.concatenate(parts))
    return records[:, 1:].reshape(-1, *SHAPE), records[:, 0].long()


def _records(folder: Path, name: str) -> np.ndarray:
    path = folder / name
    if not path.is_file():
        if (folder / path.stem).is_file():
            raise InputError(
                f"{folder} holds CIFAR-10 as pickles ({path.stem}), which are not read because reading them can run code.\n"
                "Use the binary version of the data set, cifar-10-binary.tar.gz, whose files end in .bin."
            )
        raise InputError(f"{folder} has no file {name}.\nPass the folder cifar-10-batches-bin of the data set's binary version.")
    data = np.fromfile(path, dtype=np.uint8)
    if len(data) == 0 or len(data) % RECORD:
        raise InputError(f"{path} has {len(data)} bytes, which is not a multiple of {RECORD} bytes per image: it is truncated.")
    records = data.reshape(-1, RECORD)
    if records[:, 0].max() >= CLASSES:
        raise InputError(f"{path} has the label {records[:, 0].max()}, but CIFAR-10 has {CLASSES} classes: it has another format.")
    return records
