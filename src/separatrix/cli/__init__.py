"""The command line: one verb per file; bad input ends with a message of one or two lines and exit code 2."""

import sys

import typer
from rich.console import Console
from rich.markup import escape

from separatrix import __version__
from separatrix.cli.analyze import analyze
from separatrix.cli.bifurcation import bifurcation
from separatrix.cli.certify import certify
from separatrix.cli.fixed_points import fixed_points
from separatrix.cli.list import list_
from separatrix.core.errors import SeparatrixError

app = typer.Typer(
    name="separatrix",
    help="Measure neural networks as dynamical systems.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("analyze")(analyze)
app.command("fixed-points")(fixed_points)
app.command("bifurcation")(bifurcation)
app.command("certify")(certify)
app.command("list")(list_)


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
