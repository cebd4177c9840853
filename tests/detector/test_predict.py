"""From image files to named boxes: Python API, drawing, files written."""

import json
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from detector.detect import DetectSettings, coco_rows, detect, detect_images, detect_video, yolo_lines
from detector.device import choose_device
from detector.draw import draw_detections
from detector.images import read_image
from detector.model.net import DetectorNet
from detector.model.weights import write_weights
from detector.postprocess import Detections
from detector.predict import Detector
from detector.result import Result
from detector.sources import Video, find_images, image_ids, is_live, is_video, output_names, video_name
from maenas.errors import MaenasError
from maenas.palette import class_colour
from maenas.spec import InputSpec, published_specs
from tests.detector.conftest import TINY

NAMES = ("cat", "dog", "car")


def two_boxes(images: Tensor) -> tuple[Tensor, Tensor]:
    """A network that finds a cat in the left half, a dog beyond the lower right corner, and a car with doubt."""
    height, width = images.shape[2:]
    boxes = torch.tensor([[0, 0, width / 2, height], [width / 2, height / 2, 2 * width, 2 * height], [0, 0, 8, 8]])
    scores = torch.tensor([[0.9, 0, 0], [0, 0.8, 0], [0, 0, 0.3]])
    return scores.expand(len(images), 3, 3), boxes.float().expand(len(images), 3, 4)


DETECTOR = Detector(two_boxes, InputSpec(64, 64), NAMES, torch.device("cpu"))


def image(height: int = 60, width: int = 100, value: int = 90) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def settings(out: Path, **changes) -> DetectSettings:
    return replace(DetectSettings(out, 0.25, 0.7, None, save_txt=True, save_json=True), **changes)


def test_boxes_are_of_the_image_and_within_it() -> None:
    (result,) = DETECTOR.predict(image(60, 100), conf=0.5)
    assert result.names == ("cat", "dog")
    assert result.labels.tolist() == [0, 1]
    torch.testing.assert_close(result.boxes, torch.tensor([[0.0, 0, 50, 60], [50, 30, 100, 60]]))
    result.boxes.mul_(2)  # a caller may write into it


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_batches_change_nothing(batch: int, tmp_path: Path) -> None:
    images = [image(60, 100), save(tmp_path / "a.png", image(40, 20)), str(save(tmp_path / "b.png", image(7, 9)))]
    results = DETECTOR.predict(images, batch=batch)
    expected = [[50.0, 60.0], [10.0, 40.0], [4.5, 7.0]]
    assert [[round(v, 4) for v in result.boxes[0, 2:].tolist()] for result in results] == expected
    assert DETECTOR.predict([], batch=batch) == []


def test_only_the_chosen_classes_are_found() -> None:
    for chosen in ([1, 2], ["dog", "car"], np.array([2, 1]), torch.tensor([1, 2]), ("1", "car")):
        (result,) = DETECTOR.predict(image(), classes=chosen)
        assert result.names == ("dog", "car")
    for unknown in (9, -1, "dogs"):
        with pytest.raises(MaenasError, match=f"classes: there is no class '{unknown}'"):
            DETECTOR.predict(image(), classes=[unknown])


def test_settings_and_arrays_are_checked() -> None:
    for wrong in ({"conf": -0.1}, {"iou": 1.5}, {"max_det": 0}, {"batch": 0}):
        with pytest.raises(MaenasError, match=next(iter(wrong))):
            DETECTOR.predict(image(), **wrong)
    for array in (image().astype(np.float32), image()[..., 0], np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(MaenasError, match="must be uint8 RGB"):
            DETECTOR.predict(array)


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda")
    for name in ("gpu", "meta", "cuda:99", ""):
        with pytest.raises(MaenasError, match="device"):
            choose_device(name)


def test_a_detector_is_loaded_from_its_weights(tmp_path: Path) -> None:
    spec = published_specs(64)["damo-yolo-nano-s"]
    names = tuple(f"class {number}" for number in range(80))
    net = DetectorNet(spec)
    write_weights(tmp_path / "w.safetensors", net, spec, names)
    detector = Detector.load(tmp_path / "w.safetensors", "cpu")
    assert (detector.names, detector.input) == (names, spec.input)
    (result,) = detector.predict(image(), conf=0.0, max_det=5)
    assert len(result.names) == 5
    with pytest.raises(MaenasError, match=r"none\.safetensors"):
        Detector.load(tmp_path / "none.safetensors")


def test_a_drawing_changes_only_boxes_and_labels() -> None:
    found = Detections(torch.tensor([[20.0, 30, 80, 55]]), torch.tensor([0.9]), torch.tensor([1]))
    before = image(60, 100)
    drawn = draw_detections(before, found, NAMES)
    assert (before == 90).all()
    assert tuple(drawn[55, 50]) == class_colour(1)
    assert (drawn[35:50, 30:70] == 90).all()
    assert (drawn[:, 90:] == 90).all()


def test_any_box_can_be_drawn() -> None:
    boxes = torch.tensor([[0.0, 0, 0, 0], [-5, -5, 200, 200], [99, 59, 100, 60], [40, 30, 20, 10]])
    found = Detections(boxes, torch.linspace(1, 0, 4), torch.tensor([0, 1, 2, 0]))
    for height, width in ((60, 100), (1, 1), (3, 2000)):
        assert draw_detections(image(height, width), found, NAMES).shape == (height, width, 3)


def test_colours_of_classes_differ() -> None:
    colours = np.array([class_colour(label) for label in range(80)])
    assert len(np.unique(colours, axis=0)) == 80
    assert np.abs(colours[1:] - colours[:-1]).max(axis=1).min() > 60


def test_rows_are_what_coco_and_yolo_write() -> None:
    result = Result(torch.tensor([[10.0, 20, 30, 60]]), torch.tensor([0.5]), torch.tensor([2]), ("car",))
    (row,) = coco_rows(result, 7, "a.jpg")
    assert row == {
        "image_id": 7,
        "category_id": 2,
        "bbox": [10.0, 20.0, 20.0, 40.0],
        "score": 0.5,
        "category": "car",
        "file_name": "a.jpg",
    }
    assert yolo_lines(result, width=100, height=80) == "2 0.200000 0.500000 0.200000 0.500000 0.50000\n"


def test_a_folder_is_detected_and_broken_files_are_skipped(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    save(photos / "a.png", image(60, 100))
    save(photos / "deep" / "b.jpg", image(20, 10))
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (photos / "empty.png").touch()
    ticks: list[None] = []
    summary = detect_images(DETECTOR, find_images(str(photos)), settings(out), lambda: ticks.append(None))
    assert (summary.images, len(ticks)) == (2, 4)
    assert summary.counts == {"cat": 2, "dog": 2, "car": 2}
    assert [Path(text.split(": ")[0].removeprefix("image ")).name for text in summary.skipped] == [
        "broken.jpg",
        "empty.png",
    ]
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == [
        "a.jpg",
        "deep/b.jpg",
        "detections.json",
        "labels/a.txt",
        "labels/deep/b.txt",
    ]
    rows = json.loads((out / "detections.json").read_text())
    assert [row["image_id"] for row in rows] == [1, 1, 1, 3, 3, 3]
    assert [row["file_name"] for row in rows] == 3 * ["a.png"] + 3 * ["deep/b.jpg"]
    assert read_image(out / "a.jpg").shape == (60, 100, 3)
    assert len((out / "labels" / "a.txt").read_text().splitlines()) == 3


def test_files_of_an_earlier_run_are_counted_and_stay(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for name in ("a", "b"):
        save(photos / f"{name}.png", image())
    assert detect(DETECTOR, str(photos), settings(out)).older == 0
    assert detect(DETECTOR, str(photos), settings(out)).older == 0
    (photos / "b.png").unlink()
    assert detect(DETECTOR, str(photos), settings(out)).older == 2
    assert (out / "b.jpg").is_file()
    assert (out / "labels" / "b.txt").is_file()


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(MaenasError, match=r"no image could be read:\n.*a\.jpg"):
        detect_images(DETECTOR, [tmp_path / "a.jpg"], settings(tmp_path / "out"), lambda: None)


def test_a_source_is_never_overwritten(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", image())
    before = path.read_bytes()
    with pytest.raises(MaenasError, match="would be overwritten"):
        detect_images(DETECTOR, [path], settings(tmp_path), lambda: None)
    assert path.read_bytes() == before


def test_drawings_of_an_earlier_run_are_not_detected_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png", image())
    save(tmp_path / "more" / "b.png", image())
    monkeypatch.chdir(tmp_path)
    for left in ([], ["2 images in found, which drawings go to"]):
        summary = detect(DETECTOR, ".", settings(Path("found")))
        assert (summary.images, summary.skipped) == (2, left)
    assert [path.name for path in sorted(Path("found").rglob("*.jpg"))] == ["a.jpg", "b.jpg"]
    for source, out in (("more", "more"), ("more/b.png", "more"), ("more/*.png", "more"), (".", ".")):
        with pytest.raises(MaenasError, match=r"its images lie in (more|\.), .* another --out"):
            detect(DETECTOR, source, settings(Path(out)))
    assert detect(DETECTOR, "more", settings(Path())).images == 1


def test_labels_of_the_data_are_never_overwritten(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", image())
    labels = tmp_path / "labels" / "a.txt"
    labels.parent.mkdir()
    labels.write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(MaenasError, match=r"a\.txt would be overwritten"):
        detect(DETECTOR, str(tmp_path / "images"), settings(tmp_path))
    assert labels.read_text() == "0 0.5 0.5 0.1 0.1\n"


def test_sources(tmp_path: Path) -> None:
    paths = [save(tmp_path / name, image(4, 4)) for name in ("a/1.png", "a/2.jpg", "b/1.png")]
    (tmp_path / "a" / "notes.txt").touch()
    assert find_images(str(tmp_path)) == paths
    assert find_images(str(paths[0])) == paths[:1]
    assert find_images(str(tmp_path / "*" / "1.png")) == [paths[0], paths[2]]
    assert find_images(str(tmp_path / "**" / "*.jpg")) == [paths[1]]
    (tmp_path / "none").mkdir()
    for source, reason in (("none", "no image in"), ("*.png", "no image matches"), ("c.png", "no such file")):
        with pytest.raises(MaenasError, match=reason):
            find_images(str(tmp_path / source))
    with pytest.raises(MaenasError, match=r"no name; write \. for this folder"):
        find_images("")
    assert [is_video(name) for name in ("a.mp4", "A.MOV", "a.jpg", "*.mp4", "folder")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_names_of_outputs_and_images_are_distinct() -> None:
    paths = [Path(name) for name in ("x/a.jpg", "x/a.png", "x/b.jpg", "y/b.jpg")]
    assert output_names(paths) == ["x/a.jpg", "x/a.png", "x/b", "y/b"]
    assert output_names(paths[2:3]) == ["b"]
    odd = [Path(name) for name in ("a.jpg", "a.jpg.png", "a.png")]
    assert len(set(output_names(odd))) == 3
    assert image_ids([Path("000000000139.jpg"), Path("7.jpg")]) == [139, 7]
    assert image_ids([Path("7.jpg"), Path("007.jpg")]) == [1, 2]
    assert image_ids([Path("7.jpg"), Path("b.jpg")]) == [1, 2]


def write_video(path: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), 20 * number % 256, np.uint8))
    writer.release()
    return path


def test_every_frame_of_a_video_is_detected(tmp_path: Path) -> None:
    source = write_video(tmp_path / "clip.mp4", 5)
    out, totals = tmp_path / "out", []
    summary = detect_video(DETECTOR, source, settings(out), totals.append)
    assert (summary.images, totals) == (5, [5] * 5)
    assert {row["image_id"] for row in json.loads((out / "detections.json").read_text())} == {1, 2, 3, 4, 5}
    drawn = Video(out / "clip.mp4")
    assert (drawn.width, drawn.height, round(drawn.fps), len(list(drawn))) == (64, 48, 10, 5)
    assert sorted(path.name for path in out.iterdir()) == ["clip.mp4", "detections.json", "labels"]


def test_a_video_that_lacks_frames_is_told_and_what_is_there_is_kept(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", 30).read_bytes()
    # The index at the end of the file stays, half of the pictures before it goes.
    at = whole.index(b"mdat") + 4
    end = whole.index(b"moov") - 4
    middle = at + (end - at) // 30
    (tmp_path / "damaged.mp4").write_bytes(whole[:middle] + bytes(end - middle) + whole[end:])
    summary = detect_video(DETECTOR, tmp_path / "damaged.mp4", settings(tmp_path / "out"), lambda total: None)
    assert summary.images < 15
    assert summary.cut_short is not None
    assert f"{summary.images} of 30 frames could be read" in summary.cut_short
    assert len(list(Video(tmp_path / "out" / "damaged.mp4"))) == summary.images
    assert detect_video(DETECTOR, tmp_path / "whole.mp4", settings(tmp_path / "out"), lambda _: None).cut_short is None


def test_a_video_is_detected_up_to_the_frames_asked_for(tmp_path: Path) -> None:
    source = write_video(tmp_path / "clip.mp4", 9)
    summary = detect(DETECTOR, str(source), settings(tmp_path / "out", frames=4))
    assert (summary.unit, summary.images, summary.cut_short) == ("frame", 4, None)
    assert len(list(Video(tmp_path / "out" / "clip.mp4"))) == 4


def test_ctrl_c_keeps_what_was_detected_in_a_video(tmp_path: Path) -> None:
    source = write_video(tmp_path / "clip.mp4", 9)
    seen: list[int] = []

    def interrupt(total: int) -> None:
        seen.append(total)
        if len(seen) == 3:
            raise KeyboardInterrupt

    summary = detect(DETECTOR, str(source), settings(tmp_path / "out"), interrupt)
    assert summary.images == 3
    assert summary.cut_short is not None
    assert "interrupted after 3 frames" in summary.cut_short
    assert len(list(Video(tmp_path / "out" / "clip.mp4"))) == 3
    assert json.loads((tmp_path / "out" / "detections.json").read_text())


def test_ctrl_c_keeps_what_was_detected_in_images(tmp_path: Path) -> None:
    for number in range(4):
        Image.fromarray(np.full((64, 64, 3), 60 * number, np.uint8)).save(tmp_path / f"{number}.png")
    seen: list[int] = []

    def interrupt(total: int) -> None:
        seen.append(total)
        if len(seen) == 2:
            raise KeyboardInterrupt

    summary = detect(DETECTOR, str(tmp_path), settings(tmp_path / "out"), interrupt)
    assert (summary.images, summary.cut_short) == (2, "interrupted after 2 of 4 images")
    names = {row["file_name"] for row in json.loads((tmp_path / "out" / "detections.json").read_text())}
    assert names == {"0.png", "1.png"}


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_video_that_does_not_fit_on_the_disk_is_one_error_and_no_file(tmp_path: Path) -> None:
    """The encoder says nothing of it."""
    source = write_video(tmp_path / "clip.mp4", 60)
    size = source.stat().st_size
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size} // 3, {size} // 3))\n"
    code += "import sys, numpy as np; from pathlib import Path; from detector.sources import video_writer, Video\n"
    code += "video = Video(sys.argv[1])\n"
    code += "with video_writer(Path('out.mp4'), fps=9, width=video.width, height=video.height) as add:\n"
    code += "    for frame in video: add(np.ascontiguousarray(frame))\n"
    done = subprocess.run([sys.executable, "-c", code, source], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "of 60 frames arrived on the disk; free some space" in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_pattern_over_links_to_the_folder_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "g" / "deep").mkdir(parents=True)
    for name in ("a.jpg", "deep/b.jpg", "deep/.hidden.jpg", "c.txt"):
        (tmp_path / "g" / name).write_bytes(b"")
    for name in ("one", "two", "deep/three"):
        (tmp_path / "g" / name).symlink_to(tmp_path / "g")
    found = find_images(str(tmp_path / "g" / "**" / "*.jpg"))
    assert [path.name for path in found] == ["a.jpg", "b.jpg"]
    assert [path.name for path in find_images(str(tmp_path / "g" / "**"))] == ["a.jpg", "b.jpg"]


def test_a_stream_is_detected(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", 5)
    handler = partial(Quiet, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            address = f"http://127.0.0.1:{server.server_port}/clip.mp4"
            summary = detect(DETECTOR, address, settings(tmp_path / "out"))
            with pytest.raises(MaenasError, match="no frame can be read; is it there"):
                detect(DETECTOR, f"http://127.0.0.1:{server.server_port}/none.mp4", settings(tmp_path / "out"))
        finally:
            server.shutdown()
    assert (summary.images, summary.cut_short) == (5, None)
    assert len(list(Video(tmp_path / "out" / "clip.mp4"))) == 5


class Quiet(SimpleHTTPRequestHandler):
    """A file server that prints nothing."""

    def log_message(self, format: str, *args: object) -> None: ...


def test_a_camera_is_named_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_video(tmp_path / "clip.mp4", 5)
    opened: list[object] = []
    real = cv2.VideoCapture

    def camera(number: object) -> cv2.VideoCapture:
        opened.append(number)
        return real(str(source))

    with monkeypatch.context() as patch:
        patch.setattr(cv2, "VideoCapture", camera)
        summary = detect(DETECTOR, "0", settings(tmp_path / "out", frames=3))
    assert (opened[0], summary.images) == (0, 3)
    assert (tmp_path / "out" / "camera-0.mp4").is_file()
    assert [is_live(name) for name in ("0", "rtsp://host/a", "http://host/a.mp4", "a.mp4", "01234")] == [
        *(True, True, True, False, False)
    ]
    assert video_name("rtsp://user:secret@host:554/cam/1") == "1"
    assert video_name("rtsp://host") == "stream"


def test_a_video_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(MaenasError, match=name):
            detect_video(DETECTOR, tmp_path / name, settings(tmp_path / "out"), lambda total: None)
    source = write_video(tmp_path / "clip.mp4", 2)
    with pytest.raises(MaenasError, match="would be overwritten"):
        detect_video(DETECTOR, source, settings(tmp_path), lambda total: None)


def test_a_result_is_plain_data_a_picture_and_readable() -> None:
    (result,) = DETECTOR.predict(image(60, 100), conf=0.5)
    assert len(result) == 2
    boxes = [pytest.approx([0.0, 0.0, 50.0, 60.0]), pytest.approx([50.0, 30.0, 100.0, 60.0])]
    assert json.loads(json.dumps(result.to_dict())) == {
        "boxes": boxes,
        "scores": pytest.approx([0.9, 0.8]),
        "labels": [0, 1],
        "names": ["cat", "dog"],
    }
    assert repr(result).splitlines() == [
        "Result: 1 cat, 1 dog",
        "  cat 0.90 [0.0, 0.0, 50.0, 60.0]",
        "  dog 0.80 [50.0, 30.0, 100.0, 60.0]",
    ]
    assert repr(DETECTOR.predict(image(), conf=0.95)[0]) == "Result: nothing"
    drawn = np.asarray(result.plot())
    np.testing.assert_array_equal(drawn, draw_detections(image(60, 100), result.detections, NAMES))


def test_every_kind_of_image_gives_the_same_detections(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)
    path = save(tmp_path / "a.png", pixels)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    seen: list[Tensor] = []

    def spy(images: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(images.clone())
        return two_boxes(images)

    detector = replace(DETECTOR, network=spy)
    for given in (path, str(path), Image.open(path), pixels, tensor, pixels[None], tensor[None]):
        (result,) = detector.predict(given)
        np.testing.assert_array_equal(np.asarray(result.plot()), np.asarray(DETECTOR.predict(pixels)[0].plot()))
    assert all(torch.equal(images, seen[0]) for images in seen)
    assert len(detector.predict([path, Image.open(path), pixels, tensor])) == 4
    assert len(detector.predict(torch.stack([tensor, tensor]))) == 2
    for wrong in (tensor.float(), tensor.permute(1, 2, 0), 3, [None]):
        with pytest.raises(MaenasError, match="an image is"):
            detector.predict(wrong)  # type: ignore[arg-type]


def test_a_result_without_its_image_cannot_be_drawn() -> None:
    result = Result(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), ())
    with pytest.raises(MaenasError, match="does not know its image"):
        result.plot()


def test_a_detector_is_loaded_from_the_folder_of_a_run(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.safetensors", DetectorNet(TINY), TINY, ("a", "b", "c", "d"))
    assert Detector.load(tmp_path, "cpu").names == ("a", "b", "c", "d")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MaenasError, match=r"there is no weights\.safetensors in this folder"):
        Detector.load(tmp_path / "empty")


def test_a_number_is_a_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("1") == choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("cuda") == choose_device("auto") == torch.device("cuda", 0)
    with pytest.raises(MaenasError, match="choose cuda:0 to 1"):
        choose_device("2")


def test_an_apple_gpu_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("mps") == torch.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(MaenasError, match="finds no Apple GPU here"):
        choose_device("mps")
