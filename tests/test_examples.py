"""The programs in examples/ run as their first lines say."""

import subprocess
import sys
from pathlib import Path

import pytest

from maenas.spec import write_spec

ROOT = Path(__file__).resolve().parents[1]


def run(program: str, *arguments: str | Path, folder: Path) -> str:
    """What the example prints."""
    command = [sys.executable, str(ROOT / "examples" / program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_stops_once_it_is_good_and_its_detector_runs_in_a_loop(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import cv2
    import numpy as np

    from detector.data.shapes import write_shapes
    from tests.detector.conftest import TINY

    write_spec(tmp_path / "tiny.json", TINY, "tiny")
    write_shapes(tmp_path / "data", images=20, size=64, seed=0)
    options = ("--data", "data", "--epochs", "3", "--enough", "0", "--out", "run")
    text = run("train_with_tracker.py", "tiny.json", *options, folder=tmp_path)
    assert "epoch 1: AP 0.0" in text
    assert text.splitlines()[-1] == "stopped: run/weights.safetensors"
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for number in range(5):
        writer.write(np.full((48, 64, 3), 40 * number, np.uint8))
    writer.release()
    options = ("--source", "none.mp4", "--fallback", "clip.mp4", "--frames", "3", "--conf", "0.001")
    lines = run("camera_loop.py", "run", *options, folder=tmp_path).splitlines()
    assert lines[0] == "none.mp4 gives no picture; clip.mp4 takes its place"
    assert [line.partition(":")[0] for line in lines[1:]] == ["frame 1", "frame 2", "frame 3", "3 frames"]


def test_the_notebook_about_searching_saves_a_spec(tmp_path: Path) -> None:
    text = run("notebooks/search.py", folder=tmp_path)
    assert "proven: True" in text
    assert (tmp_path / "mine.json").is_file()


@pytest.mark.slow
def test_the_notebook_about_training_draws_what_was_found(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    run("notebooks/train.py", folder=tmp_path)
    assert (tmp_path / "found.jpg").is_file()
    assert (tmp_path / "run" / "weights.safetensors").is_file()
