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
    """The images, (images, 3, 32, 32) of uint8, and their labels, (images) of int64.

    Args:
        folder: with the files of cifar-10-batches-bin: `data_batch_1.bin` … `data_batch_5.bin` and `test_batch.bin`.
        train: the 50,000 to train on; else the 10,000 others.

    Raises:
        InputError: a file is missing or cut short, or a label is above 9; or there is only the pickled version, which can run code
            when it is read, and is not.
    Source: Krizhevsky 2009, Learning multiple layers of features from tiny images; the layout is that of the data set's own page.
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
                f"{folder} holds CIFAR-10 as pickles ({path.stem}), which can run code when read: they are not read here.\n"
                "Use the binary version of the data set, cifar-10-binary.tar.gz, whose files end in .bin."
            )
        raise InputError(f"there is no {name} in {folder}.\nGive the folder cifar-10-batches-bin of the data set's binary version.")
    data = np.fromfile(path, dtype=np.uint8)
    if len(data) == 0 or len(data) % RECORD:
        raise InputError(f"{path} has {len(data)} bytes, no whole number of images of {RECORD} bytes each: it is cut short.")
    records = data.reshape(-1, RECORD)
    if records[:, 0].max() >= CLASSES:
        raise InputError(f"{path} has a label {records[:, 0].max()}, but CIFAR-10 has {CLASSES} classes: it is another format.")
    return records
