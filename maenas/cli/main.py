"""The `maenas` command: parse, call, print. Everything heavy is imported inside the commands."""

from __future__ import annotations

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
from maenas.cli.groups import grouped
from maenas.cli.hints import add_hints
from maenas.cli.predict import predict_command
from maenas.cli.process import patient_streams
from maenas.cli.profile import profile_command
from maenas.cli.race import race_command
from maenas.cli.report import compare_command, report_command
from maenas.cli.search import pareto_command, search_command
from maenas.cli.structure import structure_app
from maenas.cli.tables import tables_app
from maenas.cli.train import eval_command, train_command
from maenas.cli.validate import validate_command
from maenas.errors import MaenasError, SharedError, printable_line
from maenas.files import reason
from maenas.signals import ending_signals

app = typer.Typer(
    name="maenas",
    help="Design object detectors for the hardware they will run on.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich takes half of the time of --help, and square brackets for markup
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("search")(grouped(search_command))
app.command("pareto")(grouped(pareto_command))
app.command("predict")(predict_command)
app.command("show")(show_command)
app.command("spaces")(spaces_command)
app.command("devices")(devices_command)
app.command("profile")(grouped(profile_command))
app.command("validate")(grouped(validate_command))
app.command("calibrate")(calibrate_command)
app.command("doctor")(doctor_command)
app.add_typer(tables_app, name="tables")
app.add_typer(structure_app, name="structure")
app.command("race")(grouped(race_command))
app.command("train")(grouped(train_command))
app.command("eval")(grouped(eval_command))
app.command("detect")(detect_command)
app.command("export")(grouped(export_command))
app.command("benchmark")(benchmark_command)
app.command("demo")(demo_command)
app.command("report")(report_command)
app.command("compare")(compare_command)
app.add_typer(weights_app, name="weights")
app.add_typer(data_app, name="data")


# What torch and ONNX Runtime say where an allocation fails.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "failed to allocate")


def main() -> None:
    """Entry point: errors that a user can act on end with one message and exit code 2.

    A reader who closes the output does not end the command. Signals that ask it to end do so as Ctrl-C.
    """
    with patient_streams() as output, ending_signals() as signals:
        if isinstance(sys.__stdout__, io.TextIOWrapper):
            sys.__stdout__.reconfigure(errors="backslashreplace")  # for terminals that are not UTF-8
        os.environ["MPLBACKEND"] = "agg"  # nothing is shown on a screen, and a wrong one would end us
        try:
            code = _run()
        except Exception as error:
            if signals:  # what an interrupted import raises
                _fail("interrupted")
            if any(text in str(error).lower() for text in OUT_OF_MEMORY):
                _fail(f"the memory of this machine or its GPU is not enough: {printable_line(str(error))[:300]}")
            raise
        except KeyboardInterrupt:
            _fail("interrupted")
        if signals and code == 130:  # typer's for Ctrl-C
            _fail("interrupted")
        output.flush()
        if output.lost is not None and not isinstance(output.lost, BrokenPipeError):
            _fail(f"the output: {reason(output.lost)}")
        if code:
            raise SystemExit(code)


def _run() -> int | None:
    """The exit code of the command."""
    try:
        _refuse_odd_text(sys.argv[1:])
        add_hints(app)
        return app(prog_name="maenas", standalone_mode=False)
    except SharedError:  # another process tells
        raise SystemExit(2) from None
    except MaenasError as error:
        _fail(str(error))
    except TyperException as error:
        _fail_usage(error)
    except MemoryError:
        _fail("the memory of this machine is not enough")
    except Abort:
        _fail("interrupted")
    except OSError as error:  # a disk that fails
        _fail(f"{error.filename or 'the output'}: {reason(error)}")


def _refuse_odd_text(arguments: list[str]) -> None:
    """Raise `MaenasError` for an argument that is not UTF-8: what we call would crash, or fail after all the work."""
    for text in arguments:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise MaenasError(f"{text!a} on the command line is not UTF-8 text; rename the file") from None


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
