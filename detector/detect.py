"""Run a detector over files or a camera and write what it finds: drawings, COCO results, YOLO text."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image

from detector.data.yolo import label_file
from detector.draw import draw_detections
from detector.images import files_below, read_image
from detector.predict import Detector, class_label
from detector.result import Result
from detector.sources import (
    Video,
    below_common,
    find_images,
    image_ids,
    is_live,
    is_video,
    output_names,
    outside,
    video_name,
    video_writer,
)
from maenas.errors import MaenasError
from maenas.files import ensure_folder, write_atomic
from maenas.units import number_of
from maenas.unused import refuse_unused

JPEG_QUALITY = 92
WRITTEN = (".jpg", ".txt", ".json", ".mp4")


@dataclass(frozen=True)
class DetectSettings:
    """What to look for (see `Detector.predict`) and what to write into `out` besides the drawings."""

    out: Path
    conf: float | None
    iou: float | None
    classes: tuple[int, ...] | None
    save_txt: bool
    save_json: bool
    frames: int | None = None  # most of a video


@dataclass
class DetectSummary:
    """What a run did: images (or frames) looked at, detections by class name, and a message for each file skipped.

    `cut_short` says what is missing of a video, `older` how many files in the folder were there before and stay.
    """

    unit: Literal["image", "frame"] = "image"
    cut_short: str | None = None
    images: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    older: int = 0

    def add(self, result: Result) -> None:
        self.images += 1
        for name in result.names:
            self.counts[name] = self.counts.get(name, 0) + 1


def detect(
    detector: Detector, source: str, settings: DetectSettings, on_image: Callable[[int], object] = lambda total: None
) -> DetectSummary:
    """Detect in an image, a folder, a pattern, a video, a camera or a stream (see `detector.sources`).

    `on_image` is told, as each image or frame is done, how many there are, 0 where that is not known.
    Images that lie in `settings.out` are left out, where that is in the folder that is searched: they may be drawings.
    Raises `MaenasError` as `detect_images` and `detect_video` do, and where no image is left.
    """
    before = _written(settings.out)
    summary = _detect(detector, source, settings, on_image)
    return replace(summary, older=len(before & _written(settings.out)))


def _written(folder: Path) -> set[tuple[Path, int]]:
    """What may be drawings, labels and results in `folder`, and when each was written."""
    files = [path for path in files_below(folder) if path.suffix in WRITTEN]
    return {(path, path.stat().st_mtime_ns) for path in files if path.is_file()}


def _detect(
    detector: Detector, source: str, settings: DetectSettings, on_image: Callable[[int], object]
) -> DetectSummary:
    if is_video(source):
        return detect_video(detector, source, settings, on_image)
    refuse_unused(DetectSettings, vars(settings), ("frames",), needs="a video, a camera or a stream")
    found = find_images(source)
    paths = outside(found, settings.out)
    if not paths:
        raise MaenasError(f"{source}: its images lie in {settings.out}, which drawings go to; choose another --out")
    summary = detect_images(detector, paths, settings, lambda: on_image(len(paths)))
    if left := len(found) - len(paths):
        summary.skipped.append(f"{number_of(left, 'image')} in {settings.out}, which drawings go to")
    return summary


def class_labels(text: str | None, names: tuple[str, ...]) -> tuple[int, ...] | None:
    """Labels of a list such as "person,7"; None for None. Names may hold commas: the longest that fits is meant.

    Raises `MaenasError` naming the nearest class.
    """
    if text is None:
        return None
    labels, parts = [], text.split(",")
    while parts:
        joined = {count: ",".join(parts[:count]).strip() for count in range(len(parts), 0, -1)}
        count = next((count for count, name in joined.items() if name in names), 1)
        labels.append(class_label(joined[count], names, where="--classes"))
        parts = parts[count:]
    return tuple(dict.fromkeys(labels))


def detect_images(
    detector: Detector, paths: Sequence[Path], settings: DetectSettings, on_image: Callable[[], object]
) -> DetectSummary:
    """Detect in every file, write `NAME.jpg` for each; files that cannot be read are skipped and reported.

    Also `labels/NAME.txt` and `detections.json` where the settings say so; `image_ids` says how images are numbered in
    it, and they are called by their paths below the folder that all have in common. Ctrl-C ends it with what is done.
    Raises `MaenasError` if nothing can be written, or no file could be read.
    """
    names = output_names(paths)
    _refuse_overwriting(paths, [settings.out / f"{name}.jpg" for name in names])
    if settings.save_txt:
        labels = [label_file(path.absolute()) for path in paths]
        _refuse_overwriting(labels, [settings.out / "labels" / f"{name}.txt" for name in names])
    ensure_folder(settings.out)
    summary, rows = DetectSummary(), []
    try:
        for path, name, number, file in zip(paths, names, image_ids(paths), below_common(paths), strict=True):
            try:
                image = read_image(path)
            except MaenasError as error:
                summary.skipped.append(str(error))
                on_image()
                continue
            result = _predict(detector, image, settings)
            _write_drawing(settings.out / f"{name}.jpg", draw_detections(image, result.detections, detector.names))
            if settings.save_txt:
                _write_text(settings.out / "labels" / f"{name}.txt", result, image)
            if settings.save_json:
                rows += coco_rows(result, number, file.as_posix())
            summary.add(result)
            on_image()
    except KeyboardInterrupt:
        summary.cut_short = f"interrupted after {summary.images} of {len(paths)} images"
    if not summary.images and summary.cut_short is None:
        raise MaenasError("no image could be read:\n" + "\n".join(summary.skipped))
    if settings.save_json:
        write_atomic(settings.out / "detections.json", json.dumps(rows, indent=1) + "\n")
    return summary


def detect_video(
    detector: Detector, source: str | Path, settings: DetectSettings, on_frame: Callable[[int], object]
) -> DetectSummary:
    """Detect in every frame and write `NAME.mp4`; `on_frame` gets the number of frames that the file claims.

    Frames are numbered from 1: the image ids of `detections.json` and the names in `labels/`. Ctrl-C ends it, too, with
    what is done so far. Raises `MaenasError` where there is no frame, and if nothing can be written.
    """
    name = video_name(str(source))
    target = settings.out / f"{name}.mp4"
    if not is_live(str(source)):
        _refuse_overwriting([Path(source)], [target])
    ensure_folder(settings.out)
    video = Video(source)
    summary, rows = DetectSummary("frame"), []
    with video_writer(target, fps=video.fps, width=video.width, height=video.height) as add_frame:
        try:
            for number, frame in enumerate(islice(video, settings.frames), start=1):
                result = _predict(detector, frame, settings)
                summary.add(result)
                drawn = draw_detections(frame, result.detections, detector.names)
                add_frame(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
                if settings.save_txt:
                    _write_text(settings.out / "labels" / f"{name}_{number}.txt", result, frame)
                if settings.save_json:
                    rows += coco_rows(result, number, name if video.live else Path(source).name)
                on_frame(video.frames)
        except KeyboardInterrupt:
            summary.cut_short = None if video.live else f"video {source}: interrupted after {summary.images} frames"
        else:
            summary.cut_short = video.cut_short if settings.frames is None else None
    if settings.save_json:
        write_atomic(settings.out / "detections.json", json.dumps(rows, indent=1) + "\n")
    return summary


def coco_rows(result: Result, image_id: int, file_name: str) -> list[dict[str, Any]]:
    """COCO results (xywh boxes) of one image; `category_id` is the label, from 0, and `category` its name."""
    rows = zip(result.boxes.tolist(), result.scores.tolist(), result.labels.tolist(), result.names, strict=True)
    return [
        {
            "image_id": image_id,
            "category_id": label,
            "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(score, 5),
            "category": name,
            "file_name": file_name,
        }
        for (x1, y1, x2, y2), score, label, name in rows
    ]


def yolo_lines(result: Result, *, width: int, height: int) -> str:
    """One line a detection: label, centre x and y, width, height (shares of the image), score."""
    lines = []
    rows = zip(result.boxes.tolist(), result.scores.tolist(), result.labels.tolist(), strict=True)
    for (x1, y1, x2, y2), score, label in rows:
        shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(" ".join([str(label), *(f"{value:.6f}" for value in shares), f"{score:.5f}"]) + "\n")
    return "".join(lines)


def _predict(detector: Detector, image: np.ndarray, settings: DetectSettings) -> Result:
    return detector.predict(image, conf=settings.conf, iou=settings.iou, classes=settings.classes)[0]


def _refuse_overwriting(sources: Sequence[Path], targets: Sequence[Path]) -> None:
    """Raise `MaenasError` where a target is an image that is read, or holds the labels of one."""
    clash = {path.resolve() for path in sources if path.exists()} & {path.resolve() for path in targets}
    if clash:
        raise MaenasError(f"{min(clash)} would be overwritten by what is found; choose another --out")


def _write_text(path: Path, result: Result, image: np.ndarray) -> None:
    ensure_folder(path.parent)
    write_atomic(path, yolo_lines(result, width=image.shape[1], height=image.shape[0]))


def _write_drawing(path: Path, image: np.ndarray) -> None:
    ensure_folder(path.parent)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    write_atomic(path, buffer.getvalue())
