"""Weights from a file into a network: all of them or none, and never code."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from separatrix.core.errors import ModelError
from separatrix.core.wrappers import plain_name
from separatrix.loading.finding import existing_file, listed, reading
from separatrix.loading.torch_file import read_torch_file
from separatrix.systems.recurrent.standard_network import check_finite

USUAL_KEYS = ("state_dict", "model_state_dict", "model")


def load_weights_(module: nn.Module, path: str | Path) -> str:
    """Copy weights from a file into a network, in place, after checking that every one of them fits.

    What `torch.compile` puts into names is ignored on both sides. One prefix that all the network's names have in the file, or
    that they have beyond the file's, is taken off: `module.` of `DataParallel`, `model.` of a training module, any other.
    Of tensors that the network ties together, one is enough.

    Args:
        module: the network.
        path: a `.safetensors` file, or what `torch.save` wrote: a state dict, or a checkpoint that holds one as
            `state_dict`, `model_state_dict` or `model`. It is read with `weights_only=True`.

    Returns:
        What was done, in words: which of several state dicts was taken; the prefix, and which names of the file lie outside it and
        were not used. Empty where there is one, with the network's names.

    Raises:
        ModelError: the file is missing, damaged or needs to run code; names or shapes differ; the names fit behind more than one
            prefix. The network is unchanged.
        InputError: a weight is not finite. The network is unchanged.
    """
    path = existing_file(Path(path), ModelError)
    own = module.state_dict(keep_vars=True)
    file, chosen = _read(path)
    ways = _ways(_plain(file), _plain(own))
    what = f"{path} does not fit this {type(module).__name__}"
    way = _one_of(what, [way for way in ways if _is_complete(way, own)]) or ways[0]
    given = {name: file[source] for name, source in way.names.items()}
    _refuse_misfit(what + way.behind, given, own)
    for name, tensor in given.items():
        _refuse_infinite(f"{name} in {path}", tensor, own[name])
    module.load_state_dict(given, strict=False)
    return "; ".join(filter(None, (chosen, way.note)))


@dataclass(frozen=True)
class _Way:
    """The file's names as the network's, a prefix taken off on either side.

    Args:
        prefix: of the file's names.
        added: of the network's names, which the file's have not.
        names: the network's names (what is unknown to it stays as it is) and the file's.
        outside: names of the file without the prefix.
    """

    prefix: str
    added: str
    names: dict[str, str]
    outside: tuple[str, ...]

    @property
    def behind(self) -> str:
        """The prefix, for an error."""
        told = [f"behind the prefix {self.prefix!r}"] if self.prefix else []
        told += [f"without the prefix {self.added!r} of the network's names"] if self.added else []
        return f", {' and '.join(told)}," if told else ""

    @property
    def note(self) -> str:
        """What was done, for the user."""
        count = f"{len(self.names)} of {len(self.names) + len(self.outside)}" if self.outside else f"all {len(self.names)}"
        told = [f"the prefix {self.prefix!r} was stripped from {count} names in the file"] if self.prefix else []
        told += [f"the prefix {self.added!r} was put before {count} names in the file"] if self.added else []
        told += [f"{len(self.outside)} outside it not used ({listed(self.outside, most=8)})"] if self.outside else []
        return "; ".join(told)


def _ways(file: Mapping[str, str], own: Mapping[str, str]) -> list[_Way]:
    """Ways to read the file's names, those that give most of the network's first; the plain one among them."""
    pieces = next(iter(own), "").split(".")
    leads = ["".join(f"{piece}." for piece in pieces[:count]) for count in range(len(pieces))]
    added = [lead for lead in leads if all(name.startswith(lead) for name in own)]
    found = [_way(file, own, "", "")]
    for lead in added:
        wanted = {name.removeprefix(lead) for name in own}
        prefixes = {name[: -len(end)] for name in file for end in _ends(name) if end in wanted}
        found += [_way(file, own, prefix, lead) for prefix in sorted(prefixes) if prefix or lead]
    return sorted(found, key=lambda way: -sum(name in own.values() for name in way.names))


def _ends(name: str) -> list[str]:
    """A dotted name without its first piece, its first two, …; and whole."""
    pieces = name.split(".")
    return [".".join(pieces[start:]) for start in range(len(pieces))]


def _way(file: Mapping[str, str], own: Mapping[str, str], prefix: str, added: str) -> _Way:
    inside = {added + name.removeprefix(prefix): source for name, source in file.items() if name.startswith(prefix)}
    outside = tuple(source for name, source in file.items() if not name.startswith(prefix))
    return _Way(prefix, added, {own.get(name, name): source for name, source in inside.items()}, outside)


def _is_complete(way: _Way, own: Mapping[str, Any]) -> bool:
    """Whether every tensor of the network is given, and nothing behind the prefix that is not the network's."""
    covered = {id(own[name]) for name in way.names if name in own}
    return all(name in own for name in way.names) and all(id(tensor) in covered for tensor in own.values())


def _one_of(what: str, complete: list[_Way]) -> _Way | None:
    """The way that gives the network all its tensors; refuse several, as of a network and its running average."""
    plain = next((way for way in complete if not way.prefix and not way.added), None)
    if plain is not None or not complete:
        return plain
    others = [way for way in complete if way.names != complete[0].names]
    if others:
        prefixes = list(dict.fromkeys(repr(way.prefix) for way in (complete[0], *others)))
        raise ModelError(
            f"{what}: all its tensors are in the file {len(prefixes)} times, behind the prefixes {listed(prefixes)}.\n"
            "Save those that are meant alone, and load that file."
        )
    return complete[0]


def _plain(names: Iterable[str]) -> dict[str, str]:
    """Names without what torch.compile puts into them, where they stay different without it."""
    plain = {plain_name(name): name for name in names}
    return plain if len(plain) == len(set(plain.values()) | set(names)) else {name: name for name in names}


def _read(path: Path) -> tuple[Mapping[str, Any], str]:
    """The state dict that a file holds; and, in words, which of several."""
    way_out = f"Save the weights alone, torch.save(model.state_dict(), '{path.name}'), and load those."
    if path.suffix == ".safetensors":
        try:
            with reading(path, ModelError):
                content: Any = load_file(path)
        except SafetensorError as error:
            raise ModelError(f"{path} is not a safetensors file, or is damaged: {error}.\nSave it again.") from error
    else:
        content = read_torch_file(path, ModelError, way_out)
    note = ""
    if isinstance(content, Mapping):
        taken = next((key for key in USUAL_KEYS if isinstance(content.get(key), Mapping)), None)
        others = [str(key) for key, value in content.items() if key != taken and _is_state_dict(value)]
        note = f"{taken!r} was taken, {listed(map(repr, others))} not" if taken and others else ""
        content = content if taken is None else content[taken]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        keys = f" with the keys {listed(map(str, content))}" if isinstance(content, Mapping) else ""
        raise ModelError(f"{path} holds no state dict, but a {type(content).__name__}{keys}.\n{way_out}")
    return {str(name): value for name, value in content.items()}, note


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(part, Tensor) for part in value.values())


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
