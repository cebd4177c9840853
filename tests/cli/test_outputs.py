"""Every option and argument that names an output is checked before any work starts."""

import os
import stat
import typing
from pathlib import Path

import pytest

from maenas.cli.options import output_file, output_folder, output_name, output_plot, output_png, output_specs
from maenas.cli.tree import Parameter, commands
from tests.conftest import Maenas

# What is read. A path that is not listed here must be checked as an output.
INPUTS = {
    ("calibrate", "DATA"),
    ("detect", "--weights"),
    ("eval", "WEIGHTS"),
    ("export", "WEIGHTS"),
    ("report", "--detections"),
    ("structure import", "FILE"),
    ("tables import", "FILE"),
    ("tables list", "FOLDER"),
    ("tables merge", "FILES"),
    ("train", "--finetune"),
    ("train", "--init"),
    ("train", "--teacher"),
    ("weights convert", "--names"),
    ("weights convert", "OLD"),
    ("weights inherit", "SOURCE"),
}
OUTPUT_NAMES = ("--out", "--plot", "--plots", "--sheet", "--name", "OUT", "NEW")
ALL = [parameter for found in commands().values() for parameter in found]
FILES = [parameter for parameter in ALL if parameter.check in (output_file, output_plot, output_png)]
FOLDERS = [parameter for parameter in ALL if parameter.check is output_folder]
PLACES = [parameter for parameter in ALL if parameter.check is output_specs]
NAMES = [parameter for parameter in ALL if parameter.check is output_name]


def label(parameter: Parameter) -> str:
    return f"{parameter.command} {parameter.name}"


def test_every_path_is_an_input_or_checked_as_an_output() -> None:
    paths = {(p.command, p.name) for p in ALL if p.kind is Path}
    checked = {(p.command, p.name) for p in FILES + FOLDERS + PLACES}
    assert paths - checked == INPUTS
    assert all(p in FILES + FOLDERS + PLACES + NAMES for p in ALL if p.name in OUTPUT_NAMES)


def call(parameter: Parameter, value: str) -> list[str]:
    """The command with this value and whatever else it asks for, of which nothing exists."""
    words = [*parameter.command.split(), *parameter.given(value)] if parameter.is_option else parameter.command.split()
    for other in commands()[parameter.command]:
        if other.name == parameter.name:
            words += [] if other.is_option else [value]
        elif other.required:
            choices = typing.get_args(other.kind)
            words += other.given(str(choices[0]) if choices else "no-such-thing")
    return words


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_device(path: Path) -> None:
    """What /dev/null is; the real one would be lost where a test fails."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except OSError:
        pytest.skip("devices cannot be made here")


def make_loop(path: Path) -> None:
    path.symlink_to(path)


BAD = {"fifo": make_fifo, "device": make_device, "link to itself": make_loop}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("parameter", FILES + FOLDERS + PLACES, ids=label)
def test_what_is_no_regular_file_is_refused_at_once_and_stays(
    parameter: Parameter, kind: str, tmp_path: Path, maenas: Maenas
) -> None:
    bad = tmp_path / "bad.png"
    BAD[kind](bad)
    before = bad.lstat()
    done = maenas(*call(parameter, str(bad)))
    assert done.code == 2
    assert done.err.startswith(f"error: cannot write {'' if parameter in FILES else 'into '}{bad}: ")
    assert len(done.err.splitlines()) == 1
    after = bad.lstat()
    assert (after.st_mode, after.st_ino, after.st_rdev) == (before.st_mode, before.st_ino, before.st_rdev)


@pytest.mark.parametrize("name", ["file/below.png", "file/far/below.png", f"{'n' * 256}.png", f"{'n' * 256}/a.png"])
@pytest.mark.parametrize("parameter", FILES + FOLDERS + PLACES, ids=label)
def test_a_place_where_nothing_can_be_written_is_refused_at_once(
    parameter: Parameter, name: str, tmp_path: Path, maenas: Maenas
) -> None:
    (tmp_path / "file").write_text("kept")
    done = maenas(*call(parameter, str(tmp_path / name)))
    assert done.code == 2
    assert done.err.startswith("error: cannot write ")
    assert str(tmp_path / name) in done.err
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("parameter", FILES, ids=label)
def test_a_folder_in_the_place_of_a_file_is_refused_at_once(
    parameter: Parameter, tmp_path: Path, maenas: Maenas
) -> None:
    (tmp_path / "folder.png").mkdir()
    done = maenas(*call(parameter, str(tmp_path / "folder.png")))
    assert done.code == 2
    assert done.err == f"error: cannot write {tmp_path / 'folder.png'}: this is a folder; name a file in it\n"


@pytest.mark.parametrize("parameter", FOLDERS, ids=label)
def test_a_file_s_name_in_the_place_of_a_folder_is_refused_at_once(
    parameter: Parameter, tmp_path: Path, maenas: Maenas
) -> None:
    done = maenas(*call(parameter, str(tmp_path / "mine.json")))
    assert done.code == 2
    assert done.err == (
        f"error: cannot write into {tmp_path / 'mine.json'}: "
        "a folder is asked for here, and this is the name of a file\n"
    )
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("form", ["two words", "one word"])
@pytest.mark.parametrize("parameter", FILES + FOLDERS + PLACES, ids=label)
def test_an_empty_place_is_refused_and_is_not_this_folder(parameter: Parameter, form: str, maenas: Maenas) -> None:
    """As `--out "$FOLDER"` is, where there is no such variable."""
    words = call(parameter, "")
    if parameter.is_option and form == "one word":
        words = " ".join(words).replace(f"{parameter.name} ", f"{parameter.name}=").split(" ")
    done = maenas(*words)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert "is empty" in done.err or (".png" in done.err and "must end in" in done.err)


@pytest.mark.parametrize("parameter", FILES + FOLDERS + PLACES, ids=label)
def test_nothing_is_made_before_the_work(parameter: Parameter, tmp_path: Path, maenas: Maenas) -> None:
    """The call fails for another reason: what it reads does not exist."""
    words = [*call(parameter, str(tmp_path / "new" / "a.png")), "--no-such-option"]
    assert maenas(*words).code == 2
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["../../evil", "a/b", "", ".", "..", "n" * 256, "a\nb", "\x1b[31m"])
@pytest.mark.parametrize("parameter", NAMES, ids=label)
def test_a_name_that_leads_elsewhere_or_cannot_be_is_refused_at_once(
    parameter: Parameter, name: str, maenas: Maenas
) -> None:
    done = maenas(*call(parameter, name))
    assert done.code == 2
    assert done.err.startswith("error: --name is ")
    assert len(done.err.splitlines()) == 1


def test_every_number_has_a_range() -> None:
    numbers = [parameter for parameter in ALL if parameter.kind in (int, float)]
    assert len(numbers) > 30
    assert [label(p) for p in numbers if p.least is None or p.most is None] == []
