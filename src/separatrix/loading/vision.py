"""torchvision's networks by name, with random weights; nothing is downloaded."""

import inspect
from importlib import import_module
from types import ModuleType

import torch
from torch import nn

from separatrix.core.errors import MissingExtraError, ModelError
from separatrix.loading.finding import instead_of
from separatrix.loading.user_code import blaming


def torchvision_model(name: str) -> nn.Module:
    """The torchvision network of that name, untrained.

    Args:
        name: one of `torchvision.models.list_models()`.

    Raises:
        MissingExtraError: torchvision, or one of its dependencies, is not installed.
        ModelError: torchvision does not match the installed torch, or has no network of that name.
    """
    models = _torchvision_models()
    known = models.list_models()
    if name not in known:
        raise ModelError(f"torchvision has no network {name!r}.\n{instead_of(name, known, 'It has')}")
    builder = models.get_model_builder(name)
    # Detection and segmentation networks download the weights of their backbone by default.
    untrained = {key: None for key in ("weights", "weights_backbone") if key in inspect.signature(builder).parameters}
    with blaming(f"torchvision:{name} failed"):
        return builder(**untrained)


def _torchvision_models() -> ModuleType:
    try:
        return import_module("torchvision.models")
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{error.name} is not installed.\nInstall it with: pip install 'separatrix[vision]'") from error
    except Exception as error:
        reason = str(error).partition("\n")[0]
        build = torch.__version__.partition("+")[2]  # the build of torch: cpu, cu126, …
        index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
        raise ModelError(
            f"torchvision cannot be imported with torch {torch.__version__}: {type(error).__name__}: {reason}.\n"
            f"Install the build for this torch: pip install --force-reinstall --no-deps torchvision{index}"
        ) from error
