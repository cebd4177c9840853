"""Checkpoints: what is read is what was written, or one message."""

import pickle
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from detector import checkpoint as module
from detector.checkpoint import TrainingCheckpoint, check_same_run, read_checkpoint, write_checkpoint
from detector.recipe import Recipe
from maenas.errors import MaenasError
from maenas.files import data_dir
from maenas.spec import read_spec

SPEC = read_spec(data_dir("searched_models") / "damo-yolo-nano-s.json").detector


@pytest.fixture
def stored() -> TrainingCheckpoint:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    return TrainingCheckpoint(
        spec=SPEC,
        names=("cat", "Hund ü"),
        recipe=replace(Recipe(), epochs=20),
        batch=16,
        data="0123",
        step=7,
        closed=1,
        best_ap=0.25,
        best_epoch=1,
        net=net.state_dict(),
        average=net.state_dict(),
        optimizer=optimizer.state_dict(),
        scaler={},
        distiller={},
    )


def equal(one: object, two: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return isinstance(two, list) and len(one) == len(two) and all(map(equal, one, two))
    return one == two


def test_a_checkpoint_survives_its_file(stored: TrainingCheckpoint, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "last.pt", stored)
    again = read_checkpoint(tmp_path / "last.pt")
    assert all(equal(getattr(stored, field.name), getattr(again, field.name)) for field in fields(TrainingCheckpoint))


def test_a_failed_write_leaves_the_old_checkpoint(
    stored: TrainingCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    write_checkpoint(path, stored)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(MaenasError, match="no space left on device; free some space"):
        write_checkpoint(path, replace(stored, step=8))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]


def test_a_damaged_file_is_refused_wherever_it_is_cut(stored: TrainingCheckpoint, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    write_checkpoint(path, stored)
    whole = path.read_bytes()
    for end in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(MaenasError, match="cannot be read"):
            read_checkpoint(path)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(tmp_path / "sprung"),))

    path = tmp_path / "last.pt"
    path.write_bytes(pickle.dumps({"schema": module.SCHEMA, "net": Trap()}, protocol=2))
    with pytest.raises(MaenasError, match="cannot be read"):
        read_checkpoint(path)
    torch.save({"schema": module.SCHEMA, "net": Trap()}, path)
    with pytest.raises(MaenasError, match="cannot be read"):
        read_checkpoint(path)
    assert not (tmp_path / "sprung").exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    with pytest.raises(MaenasError, match="there is no such file"):
        read_checkpoint(path)
    torch.save({"model": {}}, path)
    with pytest.raises(MaenasError, match="not a training checkpoint"):
        read_checkpoint(path)
    torch.save({"schema": module.SCHEMA, "net": {}, "extra": 1}, path)
    with pytest.raises(MaenasError, match=r"damaged.*average.*extra"):
        read_checkpoint(path)


def test_only_a_run_with_the_same_course_is_continued(stored: TrainingCheckpoint) -> None:
    where = Path("run/last.pt")
    same = replace(stored.recipe, workers=0, checkpoint_minutes=1.0, cache="none")
    check_same_run(stored, spec=SPEC, recipe=same, data="0123", path=where)
    other = replace(SPEC, head=replace(SPEC.head, num_classes=2))
    with pytest.raises(MaenasError, match=r"different seed \(0 there, 1 here\), spec .*, data"):
        check_same_run(stored, spec=other, recipe=replace(same, seed=1), data="4567", path=where)
