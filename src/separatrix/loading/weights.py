"""Weights from a file into a network: all of them or none, and never code."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from separatrix.errors import ModelError
from separatrix.loading.finding import existing_file, listed, reading
from separatrix.loading.torch_file import read_torch_file
from separatrix.systems.standard_network import check_finite

USUAL_KEYS = ("state_dict", "model_state_dict", "model")


def load_weights_(module: nn.Module, path: str | Path) -> None:
    """Copy weights from a file into a network, in place, after checking that every one of them fits.

    The names that `DataParallel` (`module.`) and `torch.compile` (`_orig_mod.`) put in front are ignored on both sides.
    Of tensors that the network ties together, one is enough.

    Args:
        module: the network.
        path: a `.safetensors` file, or what `torch.save` wrote: a state dict, or a checkpoint that holds one as
            `state_dict`, `model_state_dict` or `model`. It is read with `weights_only=True`.

    Raises:
        ModelError: the file is missing, damaged or needs to run code; names or shapes differ. The network is unchanged.
        InputError: a weight is not finite. The network is unchanged.
    """
    path = existing_file(Path(path), ModelError)
    own = module.state_dict(keep_vars=True)
    names = dict(zip(_bare(own), own, strict=True))
    file = _read(path)
    given = {names.get(bare, bare): file[name] for bare, name in zip(_bare(file), file, strict=True)}
    _refuse_misfit(f"{path} does not fit this {type(module).__name__}", given, own)
    for name, tensor in given.items():
        _refuse_infinite(f"{name} in {path}", tensor, own[name])
    module.load_state_dict(given, strict=False)


def _read(path: Path) -> Mapping[str, Any]:
    """The state dict that a file holds."""
    way_out = f"Save the weights alone, torch.save(model.state_dict(), '{path.name}'), and load those."
    if path.suffix == ".safetensors":
        try:
            with reading(path, ModelError):
                content: Any = load_file(path)
        except SafetensorError as error:
            raise ModelError(f"{path} is not a safetensors file, or is damaged: {error}.\nSave it again.") from error
    else:
        content = read_torch_file(path, ModelError, way_out)
    if isinstance(content, Mapping):
        content = next((content[key] for key in USUAL_KEYS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        keys = f" with the keys {listed(map(str, content))}" if isinstance(content, Mapping) else ""
        raise ModelError(f"{path} holds no state dict, but a {type(content).__name__}{keys}.\n{way_out}")
    return {str(name): value for name, value in content.items()}


def _bare(names: Iterable[str]) -> list[str]:
    """Names without what `torch.compile` and `DataParallel` put in front."""
    bare = [name.replace("_orig_mod.", "") for name in names]
    while bare and all(name.startswith("module.") for name in bare):
        bare = [name.removeprefix("module.") for name in bare]
    return bare


def _refuse_misfit(what: str, given: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    covered = {id(own[name]) for name in given if name in own}
    groups = {
        "missing": [name for name, tensor in own.items() if name not in given and id(tensor) not in covered],
        "unexpected": [name for name in given if name not in own],
        "of another shape": [
            f"{name} is {_shape(given[name])} in the file and {_shape(own[name])} in the model"
            for name in given
            if name in own and not is_lazy(own[name]) and _shape(given[name]) != _shape(own[name])
        ],
    }
    found = [f"{len(names)} {how} ({listed(names, most=3)})" for how, names in groups.items() if names]
    if found:
        raise ModelError(
            f"{what} of {len(own)} tensors: {'; '.join(found)}.\n"
            "Build the network that the file was saved from, layer for layer and size for size."
        )


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _refuse_infinite(name: str, tensor: Any, own: Any) -> None:
    """NaN nowhere; infinity only in buffers, where a mask may hold it."""
    if not isinstance(tensor, Tensor) or not isinstance(own, Tensor):
        return
    value = tensor.to(own.dtype)
    if isinstance(own, nn.Parameter) or value.isnan().any():
        check_finite(name, [value])
