"""Command-line flags generated from a function's signature and docstring, so that the two stay consistent."""

import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

C = TypeVar("C", bound=Callable[..., Any])


def flags_of(function: Callable[..., Any], *names: str) -> Callable[[C], C]:
    """Add keyword arguments of `function` to a command, as options with the same defaults and the docstring's descriptions.

    The command receives them as keywords that it does not declare itself: def command(..., **options).
    """
    help_texts, hints, signature = described_arguments(function), get_type_hints(function), inspect.signature(function)

    def add(command: C) -> C:
        own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
        added = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=signature.parameters[name].default,
                annotation=Annotated[hints[name], typer.Option(help=help_texts[name])],
            )
            for name in names
        ]
        command.__signature__ = inspect.Signature([*own, *added])
        return command

    return add


def described_arguments(function: Callable[..., Any]) -> dict[str, str]:
    """Description of each argument in the `Args:` section of a docstring; several names before one colon share it."""
    section = re.search(r"Args:\n(.*?)(?:\n\n|\Z)", inspect.getdoc(function) or "", re.DOTALL)
    entries = re.split(r"\n    (?=\S)", "\n" + section.group(1)) if section else []
    texts = {}
    for entry in filter(None, entries):
        names, _, text = entry.strip().partition(":")
        texts.update({name.strip(): " ".join(text.split()) for name in names.split(",")})
    return texts
