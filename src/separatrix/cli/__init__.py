"""The command line: one verb per file; bad input ends with a message of one or two lines and exit code 2."""

import sys
from importlib import import_module
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from separatrix import __version__
from separatrix.core.errors import SeparatrixError
from separatrix.core.interrupt import importing

VERBS = {
    "analyze": "Measure whether a network is ordered or chaotic, or vanishing or exploding in depth, and write a report.",
    "fixed-points": "Find the fixed points or cycles of a recurrent network, or equilibria of a neural ODE, and their stability.",
    "bifurcation": "Follow the fixed points or cycles of a system as a parameter varies, and locate their bifurcations.",
    "certify": "Compute a proven upper bound on the Lipschitz constant of a network, and measure a lower bound.",
    "list": "List the built-in systems, analyses, sweeps, profiles, blocks, cells and demos.",
}

# Note [Verbs are imported late]
# PyTorch takes seconds to import. Help, the version and a wrong verb need none of it: they are answered from the table above. The
# module of a verb, `fixed_points` for "fixed-points", is imported when the verb is run or asked for its own help, whose flags come
# from the signatures of the functions behind them.


class _Verbs(TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command of the verb, in the place of its line in the help."""
        verb, line, rest = super().resolve_command(ctx, args)
        return verb, line and command_of(verb), rest


def command_of(verb: str | None) -> Any:
    """Import the module of a verb and make its `command` one of Typer's. See Note [Verbs are imported late]."""
    with importing():
        module = import_module(f"{__name__}.{str(verb).replace('-', '_')}")
    one = typer.Typer(add_completion=False)
    one.command(verb, help=VERBS[str(verb)])(module.command)
    return typer.main.get_command(one)


app = typer.Typer(
    name="separatrix",
    cls=_Verbs,
    help="Measure neural networks as dynamical systems.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _verb, _line in VERBS.items():
    app.command(_verb, help=_line)(lambda: None)  # for the help; the verb itself is that of `command_of`


def _version(asked: bool) -> None:
    if asked:
        print(f"separatrix {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version and exit."),
) -> None:
    """Measure neural networks as dynamical systems."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run the command line, without a traceback for errors that the user can correct or for Ctrl-C."""
    try:
        code = app(prog_name="separatrix", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except SeparatrixError as error:
        _say(str(error))
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except Exception as error:
        if not hasattr(error, "format_message"):  # the mark of Typer's usage errors, from whichever Click it uses
            raise
        context = getattr(error, "ctx", None)
        _say(f"{error.format_message()}\nSee {context.command_path if context else 'separatrix'} --help.")
        sys.exit(2)


def _say(message: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]error:[/] {escape(message)}")
