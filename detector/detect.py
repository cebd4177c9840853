"""Run a detector over files and write what it finds: drawings, COCO results, YOLO text."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from detector.draw import draw_detections
from detector.images import read_image
from detector.predict import Detector, Result
from detector.sources import Video, image_ids, output_names, video_writer
from maenas.errors import MaenasError
from maenas.files import ensure_folder, write_atomic

JPEG_QUALITY = 92


@dataclass(frozen=True)
class DetectSettings:
    """What to look for (see `Detector.predict`) and what to write into `out` besides the drawings."""

    out: Path
    conf: float
    iou: float
    classes: tuple[int, ...] | None
    save_txt: bool
    save_json: bool


@dataclass
class Summary:
    """What a run did: images (or frames) looked at, detections by class name, and a message for each file skipped."""

    images: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def add(self, result: Result) -> None:
        self.images += 1
        for name in result.names:
            self.counts[name] = self.counts.get(name, 0) + 1


def detect_images(
    detector: Detector, paths: Sequence[Path], settings: DetectSettings, on_image: Callable[[], object]
) -> Summary:
    """Detect in every file, write `NAME.jpg` for each; files that cannot be read are skipped and reported.

    Also `labels/NAME.txt` and `detections.json` where the settings say so. Raises `MaenasError` if nothing can be
    written, or no file could be read.
    """
    names = output_names(paths)
    _refuse_overwriting(paths, [settings.out / f"{name}.jpg" for name in names])
    ensure_folder(settings.out)
    summary, rows = Summary(), []
    for path, name, number in zip(paths, names, image_ids(paths), strict=True):
        try:
            image = read_image(path)
        except MaenasError as error:
            summary.skipped.append(str(error))
            on_image()
            continue
        result = _predict(detector, image, settings)
        summary.add(result)
        _write_drawing(settings.out / f"{name}.jpg", draw_detections(image, result.detections, detector.names))
        if settings.save_txt:
            _write_text(settings.out / "labels" / f"{name}.txt", result, image)
        if settings.save_json:
            rows += coco_rows(result, number, path.name)
        on_image()
    if not summary.images:
        raise MaenasError("no image could be read:\n" + "\n".join(summary.skipped))
    if settings.save_json:
        write_atomic(settings.out / "detections.json", json.dumps(rows, indent=1) + "\n")
    return summary


def detect_video(
    detector: Detector, path: Path, settings: DetectSettings, on_frame: Callable[[int], object]
) -> Summary:
    """Detect in every frame and write `NAME.mp4`; `on_frame` gets the number of frames that the file claims.

    Frames are numbered from 1: the image ids of `detections.json` and the names in `labels/`.
    """
    target = settings.out / f"{path.stem}.mp4"
    _refuse_overwriting([path], [target])
    ensure_folder(settings.out)
    video = Video(path)
    summary, rows = Summary(), []
    with video_writer(target, fps=video.fps, width=video.width, height=video.height) as writer:
        for number, frame in enumerate(video, start=1):
            result = _predict(detector, frame, settings)
            summary.add(result)
            drawn = draw_detections(frame, result.detections, detector.names)
            writer.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
            if settings.save_txt:
                _write_text(settings.out / "labels" / f"{path.stem}_{number}.txt", result, frame)
            if settings.save_json:
                rows += coco_rows(result, number, path.name)
            on_frame(video.frames)
    if settings.save_json:
        write_atomic(settings.out / "detections.json", json.dumps(rows, indent=1) + "\n")
    return summary


def coco_rows(result: Result, image_id: int, file_name: str) -> list[dict[str, Any]]:
    """COCO results (xywh boxes); `category_id` is the label, from 0, and `category` its name."""
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
    clash = {path.resolve() for path in sources} & {path.resolve() for path in targets}
    if clash:
        raise MaenasError(f"{min(clash)} would be overwritten by its drawing; choose another --out")


def _write_text(path: Path, result: Result, image: np.ndarray) -> None:
    ensure_folder(path.parent)
    write_atomic(path, yolo_lines(result, width=image.shape[1], height=image.shape[0]))


def _write_drawing(path: Path, image: np.ndarray) -> None:
    ensure_folder(path.parent)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    write_atomic(path, buffer.getvalue())
