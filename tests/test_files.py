import errno
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import maenas.files
from maenas.errors import MaenasError
from maenas.files import SHIPPED, data_dir, read_text, shipped_file, write_atomic

ROOT = Path(__file__).resolve().parents[1]


def test_written_text_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("first µ\n", "second\r\n"):
        write_atomic(path, text)
        assert read_text(path, what="note") == text
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    write_atomic(tmp_path / "b", b"\x00\xff")
    assert (tmp_path / "b").read_bytes() == b"\x00\xff"


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "permission"), (errno.EIO, "error")]
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int, advice: str
) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def fail(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(maenas.files.os, step, fail)
    with pytest.raises(MaenasError, match=advice) as caught:
        write_atomic(path, "new")
    assert str(path) in str(caught.value)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_an_interrupted_write_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(maenas.files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a.txt", "new")
    assert list(tmp_path.iterdir()) == []


def test_writing_keeps_permissions_and_links(tmp_path: Path) -> None:
    path, link = tmp_path / "a.txt", tmp_path / "link"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    write_atomic(link, "new")
    assert link.is_symlink()
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    write_atomic(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("name", [".", "nul\0", "x" * 300, "file/below", "x" * 300 + "/below"])
def test_a_place_that_cannot_be_written_is_an_error_of_the_user(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MaenasError, match="cannot write"):
        write_atomic(tmp_path / name, "text")


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    write_atomic(tmp_path / "no" / "such" / "folder.txt", "text")
    assert (tmp_path / "no" / "such" / "folder.txt").read_text() == "text"


def test_a_name_that_just_fits_is_written(tmp_path: Path) -> None:
    for name in ("x" * 255, "\N{SNOWMAN}" * 85):
        write_atomic(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"


def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("pipe")
    before = sorted(entry.lstat().st_ino for entry in tmp_path.iterdir())
    for name in ("pipe", "loop", "link"):
        with pytest.raises(MaenasError, match="cannot write"):
            write_atomic(tmp_path / name, "text")
    assert sorted(entry.lstat().st_ino for entry in tmp_path.iterdir()) == before


def test_text_that_is_no_unicode_is_an_error_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(MaenasError, match="cannot write"):
        write_atomic(tmp_path / "a", "\ud800")


def test_a_missing_file_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text("{}")
    (tmp_path / ".spce.json.lock").touch()
    with pytest.raises(MaenasError, match=r"spec .*spce\.json: there is no such file; did you mean .*spec\.json\?"):
        read_text(tmp_path / "spce.json", what="spec")
    with pytest.raises(MaenasError, match="nor a folder"):
        read_text(tmp_path / "no" / "spec.json", what="spec")


def test_what_is_not_a_small_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin1").write_bytes(b"one\ncaf\xe9")
    with pytest.raises(MaenasError, match="latin1:2: not UTF-8"):
        read_text(tmp_path / "latin1", what="note")
    with pytest.raises(MaenasError, match="larger than the limit of 3 bytes"):
        read_text(tmp_path / "latin1", what="note", max_bytes=3)
    with pytest.raises(MaenasError, match="folder"):
        read_text(tmp_path, what="note")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MaenasError, match="not a regular file"):
        read_text(tmp_path / "pipe", what="note")
    for name in ("nul\0", "x" * 300):
        with pytest.raises(MaenasError):
            read_text(tmp_path / name, what="note")


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfx")
    assert read_text(tmp_path / "a", what="note") == "x"


def test_the_shipped_data_is_found_from_a_checkout_or_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (data_dir("latency_tables") / "devices.yaml").is_file()
    package = tmp_path / "maenas"
    (tmp_path / "latency_tables").mkdir()
    monkeypatch.setattr(maenas.files, "__file__", str(package / "files.py"))
    assert data_dir("latency_tables") == tmp_path / "latency_tables"
    (package / "_data" / "latency_tables").mkdir(parents=True)
    assert data_dir("latency_tables") == package / "_data" / "latency_tables"
    with pytest.raises(MaenasError, match="search_spaces is missing"):
        data_dir("search_spaces")


def test_what_is_shipped_is_listed_and_there() -> None:
    listed = {f"{kind}/{name}" for kind, names in SHIPPED.items() for name in names}
    assert all((data_dir(kind) / name).is_file() for kind, names in SHIPPED.items() for name in names)
    with pytest.raises(MaenasError, match="ships no searched_models"):
        shipped_file("searched_models", "mine.json")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    targets = project["tool"]["hatch"]["build"]["targets"]
    documented = listed | {f"{kind}/README.md" for kind in SHIPPED}
    assert targets["wheel"]["force-include"] == {path: f"maenas/_data/{path}" for path in documented}
    assert {path.removeprefix("/") for path in targets["sdist"]["include"]} >= documented
    assert not {f"/{kind}" for kind in SHIPPED} & {*targets["sdist"]["include"]}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only a checkout knows what is tracked")
def test_the_source_archive_has_every_file_of_the_repository() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = [path.removeprefix("/") for path in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]]
    included += ["README.md", "LICENSE", "pyproject.toml", ".gitignore"]  # hatchling adds these by itself
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert [path for path in tracked if not path.startswith(tuple(included))] == []


def test_a_users_files_beside_the_shipped_ones_change_nothing(tmp_path: Path) -> None:
    """A copy of the package's data with a malformed space, a spec and a table of somebody else beside it."""
    package = tmp_path / "maenas"
    shutil.copytree(ROOT / "maenas", package, ignore=shutil.ignore_patterns("__pycache__", "_data"))
    for kind in SHIPPED:
        shutil.copytree(data_dir(kind), tmp_path / kind)
    (tmp_path / "search_spaces" / "mine.yaml").write_text("a: [")
    (tmp_path / "searched_models" / "damo-yolo-mine.json").write_text("{}")
    (tmp_path / "latency_tables" / "mine.json").write_bytes(b"\xff")
    code = "from maenas.nas.space import space_names; from maenas.spec import published_specs; "
    code += "from maenas.latency.find import table_files; print(space_names(), [*published_specs()], [*table_files()])"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    place = tmp_path / "elsewhere"
    place.mkdir()
    done = subprocess.run([sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "mine" not in done.stdout
