"""What docs/custom-data.md shows is what the commands print."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
BCCD = ROOT.parent / "shared" / "datasets" / "bccd"
PAGE = ROOT / "docs" / "custom-data.md"


def shown(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Every command of a page with what is shown under it."""
    text = re.sub(r" \\\n +", " ", page.read_text(encoding="utf-8"))
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.M | re.S):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, *lines = part.rstrip("\n").split("\n")
            yield command, lines


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """A folder with the data set `bccd`, and the same with faults in `damaged`."""
    if not BCCD.is_dir():
        pytest.skip(f"the photographs of blood cells are not here ({BCCD})")
    (tmp_path / "bccd").symlink_to(BCCD)
    damage(tmp_path / "damaged")
    return tmp_path


def damage(folder: Path) -> None:
    """BCCD with one fault of each kind that custom-data.md lists."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    for image in (BCCD / "images").iterdir():
        (folder / "images" / image.name).symlink_to(image)
    splits = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in (BCCD / "annotations").iterdir()}
    train, val = splits["instances_train.json"], splits["instances_val.json"]
    cut, gone, twice = (folder / "images" / train["images"][number]["file_name"] for number in range(3))
    data = cut.read_bytes()
    cut.unlink()
    cut.write_bytes(data[: len(data) // 2])
    gone.unlink()
    copied = folder / "images" / val["images"][0]["file_name"]
    copied.unlink()
    copied.symlink_to(twice.resolve())
    flat, outside, unknown = train["annotations"][100:103]
    flat["bbox"][2] = 0
    outside["bbox"][0] = 900
    unknown["category_id"] = 9
    for name, document in splits.items():
        (folder / "annotations" / name).write_text(json.dumps(document), encoding="utf-8")


def test_the_split_prints_what_the_page_shows(cells: Path, maenas: Any) -> None:
    (command, lines), *others = [entry for entry in shown(PAGE) if entry[0].startswith("maenas data split ")]
    assert not others
    assert maenas(*shlex.split(command)[1:]).out.splitlines() == lines
    assert maenas("data", "check", "cells").out.splitlines()[-1] == "usable"


def test_checks_print_what_the_page_shows(cells: Path, maenas: Any) -> None:
    checks = [entry for entry in shown(PAGE) if entry[0].startswith("maenas data check ") and "DATA" not in entry[0]]
    assert [command.split()[3] for command, _ in checks] == ["bccd", "damaged"]
    for command, lines in checks:
        done = maenas(*shlex.split(command)[1:])
        assert done.out.replace(f"{cells}/", "").splitlines() == lines
