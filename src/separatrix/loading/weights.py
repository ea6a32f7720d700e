"""Loading weights from a file into a network: all of them or none, without running code."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from separatrix.core.errors import ModelError
from separatrix.core.wording import counted
from separatrix.core.wrappers import plain_name
from separatrix.loading.finding import existing_file, listed, reading
from separatrix.loading.torch_file import read_torch_file
from separatrix.systems.recurrent.standard_network import check_finite

USUAL_KEYS = ("state_dict", "model_state_dict", "model")


def load_weights_(module: nn.Module, path: str | Path) -> str:
    """Copy weights from a file into a network, in place, after checking that every weight fits.

    The additions of `torch.compile` to names are ignored on both sides. A prefix that all names have only in the file, or only in
    the network, is removed, such as `module.` of `DataParallel` or `model.` of a training module. One of several tied tensors is
    enough.

    Args:
        module: the network.
        path: a `.safetensors` file, or a file of `torch.save`: a state dict, or a checkpoint that holds one as
            `state_dict`, `model_state_dict` or `model`. It is read with `weights_only=True`.

    Returns:
        A note on what was done: which of several state dicts was used; the prefix, and the names in the file outside the prefix,
        which were not used. Empty if there is a single state dict with the network's names.

    Raises:
        ModelError: the file is missing, damaged or would run code; names or shapes differ; or the names fit with more than one
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
    """Mapping of the names in a file to those of a network, with a prefix removed on either side.

    Args:
        prefix: prefix of the names in the file.
        added: prefix of the network's names that is missing in the file.
        names: names of the network (unknown names unchanged) → names in the file.
        outside: names in the file without the prefix.
    """

    prefix: str
    added: str
    names: dict[str, str]
    outside: tuple[str, ...]

    @property
    def behind(self) -> str:
        """The prefix, for an error."""
        parts = [f"with the prefix {self.prefix!r}"] if self.prefix else []
        parts += [f"without the prefix {self.added!r} of the network's names"] if self.added else []
        return f", {' and '.join(parts)}," if parts else ""

    @property
    def note(self) -> str:
        """A note for the user on what was done."""
        count = f"{len(self.names)} of {len(self.names) + len(self.outside)}" if self.outside else f"all {len(self.names)}"
        parts = [f"the prefix {self.prefix!r} was stripped from {count} names in the file"] if self.prefix else []
        parts += [f"the prefix {self.added!r} was added to {count} names in the file"] if self.added else []
        parts += [f"{counted(len(self.outside), 'other name')} not used ({listed(self.outside, most=8)})"] if self.outside else []
        return "; ".join(parts)


def _ways(file: Mapping[str, str], own: Mapping[str, str]) -> list[_Way]:
    """Possible mappings of the file's names, those that cover most of the network first; the plain one is among them."""
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
    """A dotted name, and the name without its first piece, its first two, …."""
    pieces = name.split(".")
    return [".".join(pieces[start:]) for start in range(len(pieces))]


def _way(file: Mapping[str, str], own: Mapping[str, str], prefix: str, added: str) -> _Way:
    inside = {added + name.removeprefix(prefix): source for name, source in file.items() if name.startswith(prefix)}
    outside = tuple(source for name, source in file.items() if not name.startswith(prefix))
    return _Way(prefix, added, {own.get(name, name): source for name, source in inside.items()}, outside)


def _is_complete(way: _Way, own: Mapping[str, Any]) -> bool:
    """Whether the file has every tensor of the network, and no other names with the prefix."""
    covered = {id(own[name]) for name in way.names if name in own}
    return all(name in own for name in way.names) and all(id(tensor) in covered for tensor in own.values())


def _one_of(what: str, complete: list[_Way]) -> _Way | None:
    """The mapping that covers the whole network; raises an error for several, such as a network and its running average."""
    plain = next((way for way in complete if not way.prefix and not way.added), None)
    if plain is not None or not complete:
        return plain
    others = [way for way in complete if way.names != complete[0].names]
    if others:
        prefixes = list(dict.fromkeys(repr(way.prefix) for way in (complete[0], *others)))
        raise ModelError(
            f"{what}: the file has all its tensors {len(prefixes)} times, with the prefixes {listed(prefixes)}.\n"
            "Save the intended weights alone, and load that file."
        )
    return complete[0]


def _plain(names: Iterable[str]) -> dict[str, str]:
    """Names without the additions of torch.compile, if they stay distinct."""
    plain = {plain_name(name): name for name in names}
    return plain if len(plain) == len(set(plain.values()) | set(names)) else {name: name for name in names}


def _read(path: Path) -> tuple[Mapping[str, Any], str]:
    """The state dict in a file, and a note if it was one of several."""
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
        note = f"{taken!r} was used, {listed(map(repr, others))} was not" if taken and others else ""
        content = content if taken is None else content[taken]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        keys = f" with the keys {listed(map(str, content))}" if isinstance(content, Mapping) else ""
        raise ModelError(f"expected {path} to hold a state dict, got a {type(content).__name__}{keys}.\n{way_out}")
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
    """Raise InputError for NaN anywhere, and for infinity in parameters; in buffers, a mask may hold infinity."""
    if not isinstance(tensor, Tensor) or not isinstance(own, Tensor):
        return
    value = tensor.to(own.dtype)
    if isinstance(own, nn.Parameter) or value.isnan().any():
        check_finite(name, [value])
