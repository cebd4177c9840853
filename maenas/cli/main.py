"""The `maenas` command: parse, call, print. Everything heavy is imported inside the commands."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Annotated, NoReturn

import typer
from typer.exceptions import Abort, TyperException

from maenas import __version__
from maenas.cli.benchmark import benchmark_command
from maenas.cli.catalogue import calibrate_command, devices_command, doctor_command, spaces_command
from maenas.cli.data import data_app
from maenas.cli.demo import demo_command
from maenas.cli.detect import detect_command, show_command, weights_app
from maenas.cli.export import export_command
from maenas.cli.hints import add_hints
from maenas.cli.predict import predict_command
from maenas.cli.profile import profile_command
from maenas.cli.race import race_command
from maenas.cli.report import compare_command, report_command
from maenas.cli.search import pareto_command, search_command
from maenas.cli.structure import structure_app
from maenas.cli.tables import tables_app
from maenas.cli.train import eval_command, train_command
from maenas.cli.validate import validate_command
from maenas.errors import MaenasError
from maenas.files import reason

app = typer.Typer(
    name="maenas",
    help="Design object detectors for the hardware they will run on.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich takes half of the time of --help, and square brackets for markup
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("search")(search_command)
app.command("pareto")(pareto_command)
app.command("predict")(predict_command)
app.command("show")(show_command)
app.command("spaces")(spaces_command)
app.command("devices")(devices_command)
app.command("profile")(profile_command)
app.command("validate")(validate_command)
app.command("calibrate")(calibrate_command)
app.command("doctor")(doctor_command)
app.add_typer(tables_app, name="tables")
app.add_typer(structure_app, name="structure")
app.command("race")(race_command)
app.command("train")(train_command)
app.command("eval")(eval_command)
app.command("detect")(detect_command)
app.command("export")(export_command)
app.command("benchmark")(benchmark_command)
app.command("demo")(demo_command)
app.command("report")(report_command)
app.command("compare")(compare_command)
app.add_typer(weights_app, name="weights")
app.add_typer(data_app, name="data")


def main() -> None:
    """Entry point: errors that a user can act on end with one message and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals that are not UTF-8
    try:
        add_hints(app)
        try:
            code = app(prog_name="maenas", standalone_mode=False)
        finally:
            sys.stdout.flush()
        if code:
            raise SystemExit(code)
    except MaenasError as error:
        _fail(str(error))
    except TyperException as error:
        _fail_usage(error)
    except MemoryError:
        _fail("the memory of this machine is not enough")
    except BrokenPipeError:  # whoever read the output has enough
        _discard_output()
        raise SystemExit(1) from None
    except Abort:
        _fail("interrupted")
    except OSError as error:  # a disk that fails, or the output goes to one that is full
        _discard_output()
        _fail(f"{error.filename or 'the output'}: {reason(error)}")


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2) from None


def _fail_usage(error: TyperException) -> NoReturn:
    """A wrong call as one line; a call that says nothing gets the help that typer gives as the error's message."""
    message = error.format_message()
    if message.lstrip().startswith("Usage:"):
        print(message, file=sys.stderr)
        raise SystemExit(2) from None
    context = getattr(error, "ctx", None)
    command = "maenas" if context is None else context.command_path
    plain = message.replace("Value error, ", "").replace("Input should be", "it must be")
    _fail(f"{' '.join(plain.split())} ({command} --help shows the options)")


def _discard_output() -> None:
    """Python would try once more to print what could not be printed, and fail again."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_version(value: bool) -> None:
    if value:
        print(f"maenas {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...
