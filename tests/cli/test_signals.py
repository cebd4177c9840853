"""Signals and closed outputs: one message, nothing lost, no traceback."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from maenas.cli.tree import commands
from maenas.signals import ending_signals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and descriptors of POSIX")

SEARCH = ["search", "--space", "k1kx-tiny", "--budget", "2.2ms", "--neck", "preset", "--generations", "1000000"]
MAENAS = [sys.executable, "-m", "maenas"]

WAIT_S = 120.0  # after which a process that goes on has missed its signal


@contextmanager
def started(words: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that a test which fails does not leave behind."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, cwd=folder, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


# Runs each command in a child of its own, with these descriptors closed; prints what went wrong.
CLOSED = """
import os, sys
from maenas.cli import main
for words in {words!r}:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 7)
        for descriptor in {closed!r}:
            os.close(descriptor)
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            if number in {closed!r}:
                setattr(sys, name, None)
        sys.__stdout__ = sys.stdout
        sys.argv = ["maenas", *words]
        code = 1
        try:
            main.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException as error:
            os.write(7, repr(error).encode())
        os._exit(code)
    os.close(writing)
    said = b""
    while part := os.read(reading, 4096):
        said += part
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if said or code not in (0, 2):
        print('wrong:', words, code, said, flush=True)
"""


@pytest.mark.parametrize("closed", [[1], [2], [0, 1, 2]])
def test_no_command_minds_closed_streams(closed: list[int], tmp_path: Path) -> None:
    words = [[*name.split(), "--help"] for name in commands()] if closed == [1] else []
    words += [["devices"], ["spaces", "--json"], ["show", "damo-yolo-t"], ["predict", "damo-yolo-t", "--device", "no"]]
    program = CLOSED.format(words=words, closed=closed)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert "wrong:" not in done.stdout
    assert "Traceback" not in done.stderr


def test_no_file_gets_what_was_meant_for_a_closed_output(tmp_path: Path) -> None:
    """The first file opened would get the number of standard output."""
    command = " ".join([*MAENAS, "show", "damo-yolo-t", "--plot", "a.svg", ">&-"])
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")


def test_a_reader_who_has_enough_ends_no_command(tmp_path: Path) -> None:
    """It leaves after the first line; the spec is written all the same."""
    words = [*SEARCH[:-1], "3", "--population", "64"]
    with subprocess.Popen([*MAENAS, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
    assert (tmp_path / "searched_models" / "k1kx-tiny-t4-2.2ms.json").exists()


@pytest.mark.parametrize("module", ["typer.core", "maenas.cli.detect", "numpy.linalg", "maenas.nas.evolution"])
def test_ctrl_c_while_modules_are_loaded_is_one_message(module: str, tmp_path: Path) -> None:
    """Python tells of each module that it has loaded; the signal follows the one given."""
    words = [sys.executable, "-X", "importtime", *MAENAS[1:], *SEARCH]
    with started(words, tmp_path) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.split("|")[-1].strip() == module:
                break
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=WAIT_S)
        assert process.returncode == 2
    told = [line for line in rest.splitlines() if not line.startswith("import time:")]
    assert len(told) == 1
    assert told[0].startswith("error: interrupted")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_search_that_is_asked_to_end_stores_its_state(name: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "searched_models" / "k1kx-tiny-t4-2.2ms.ckpt.json"
    with started([*MAENAS, *SEARCH], tmp_path) as process:
        while not checkpoint.exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(getattr(signal, name))
        _, said = process.communicate(timeout=WAIT_S)
        assert process.returncode == 2
    assert said.startswith("error: interrupted; ")
    assert "is stored: repeat the command with --resume" in said
    assert [entry.name for entry in checkpoint.parent.iterdir()] == [checkpoint.name]


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As SIGHUP under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ending = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever a library of another test has left there
    try:
        with ending_signals() as seen:
            os.kill(os.getpid(), signal.SIGHUP)
            assert seen == []
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
            assert seen == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.signal(signal.SIGTERM, ending)
