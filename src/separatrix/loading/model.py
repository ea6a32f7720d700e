"""From the model that a user names to a network."""

import os
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from torch import nn

from separatrix.core.errors import ModelError
from separatrix.loading.factory import network_of
from separatrix.loading.finding import instead_of
from separatrix.loading.spec import file_of, folder_error, split_spec
from separatrix.loading.user_code import import_dotted, import_file, searching
from separatrix.loading.vision import torchvision_model
from separatrix.loading.weights import load_weights_


def load_model(spec: str, weights: str | Path | None = None, say: Callable[[str], None] | None = None) -> nn.Module:
    """Load the network that a user names, built by their own code or by torchvision, without pretrained weights.

    The file or module is imported and the factory called; no other code of the user is run. Meanwhile the folder of the file and
    the working directory are on `sys.path`.

    Args:
        spec: `path/to/file.py:factory`, `package.module:factory` or `torchvision:resnet18`. The factory is an
            `nn.Module`, or returns one when called without arguments; it may be dotted (`Models.small`).
        weights: a file for `load_weights_`.
        say: called with a note if the names of the weights had to be changed.

    Returns:
        The network, on the device and in the mode in which the factory left it.

    Raises:
        ModelError: the file, module or factory does not exist, cannot be imported, needs arguments or raises an error; its
            result is not an `nn.Module`; or the weights do not fit.
        MissingExtraError: torchvision is not installed.
        InputError: a weight is not finite.
    """
    location, attribute = split_spec(spec)
    if location.partition(".")[0] == "torchvision" and not location.endswith(".py"):
        model = torchvision_model(attribute)
    else:
        model = _user_model(location, attribute)
    if weights is not None:
        note = load_weights_(model, weights)
        if note and say is not None:
            say(f"{weights}: {note}.")
    return model


def _user_model(location: str, attribute: str) -> nn.Module:
    path = file_of(location)
    with searching(*([path.resolve().parent] if path else []), Path.cwd()):
        module = import_file(path) if path else _import_module(location)
        return network_of(module, attribute, location)


def _import_module(name: str) -> ModuleType:
    try:
        module = import_dotted(name)
    except ModuleNotFoundError as error:
        parent, _, missing = (error.name or name).rpartition(".")
        path = getattr(sys.modules.get(parent), "__path__", []) if parent else [str(Path.cwd())]
        found = [module.name for module in pkgutil.iter_modules(path)]
        near = instead_of(missing, found, f"{parent or 'This folder'} holds")
        raise ModelError(f"the module {error.name} does not exist.\nInstall it, or run from its folder. {near}") from error
    if getattr(module, "__file__", "builtin") is None:  # a folder without __init__.py imports as an empty package
        raise folder_error(name.replace(".", os.sep))
    return module
