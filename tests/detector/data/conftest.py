"""Small data sets in all formats."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

BCCD = Path(__file__).resolve().parents[4] / "shared" / "datasets" / "bccd"


@pytest.fixture(scope="session")
def bccd() -> Path:
    if not BCCD.is_dir():
        pytest.skip("the BCCD images are not there")
    return BCCD


def write_image(path: Path, width: int = 40, height: int = 30, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def coco_document(count: int = 3) -> dict[str, Any]:
    return {
        "images": [{"id": 10 + i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in range(count)],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 7, "bbox": [1, 2, 10, 20], "area": 150, "iscrowd": 0},
            {"id": 2, "image_id": 10, "category_id": 3, "bbox": [5, 5, 30, 20], "iscrowd": 0},
            {"id": 3, "image_id": 11, "category_id": 3, "bbox": [0, 0, 40, 30], "area": 1200, "iscrowd": 1},
            {"id": 4, "image_id": 11, "category_id": 7, "bbox": [2, 2, 4, 4], "area": 16, "iscrowd": 0},
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    }


def write_coco(root: Path, document: dict[str, Any] | None = None, split: str = "train") -> Path:
    """Writes the annotations and an image for each entry; returns `root`."""
    document = coco_document() if document is None else document
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    for number, image in enumerate(document["images"]):
        if not image["file_name"].startswith((".", "/")):
            write_image(root / "images" / image["file_name"], seed=number + len(split) * 1000)
    return root


def write_yolo(root: Path, labels: dict[str, str] | None = None, names: str = "[cat, dog]") -> Path:
    """Writes data.yaml and one image and label file for each entry of `labels`, for both splits."""
    labels = {"a": "0 0.5 0.5 0.5 0.5\n1 0.25 0.25 0.1 0.2", "b": ""} if labels is None else labels
    for split in ("train", "val"):
        for number, (stem, text) in enumerate(labels.items()):
            write_image(root / "images" / split / f"{stem}.jpg", seed=number)
            path = root / "labels" / split / f"{stem}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n")
    return root


VOC_OBJECT = """<object><name>{}</name><difficult>0</difficult>
<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""


def write_voc(root: Path) -> Path:
    for name in ("Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for number, (stem, label) in enumerate((("x1", "zebra"), ("x2", "ant"), ("x3", "zebra"))):
        write_image(root / "JPEGImages" / f"{stem}.jpg", seed=number)
        text = (
            f"<annotation>{VOC_OBJECT.format(label, 1, 1, 40, 30)}{VOC_OBJECT.format('ant', 3, 4, 9, 8)}</annotation>"
        )
        (root / "Annotations" / f"{stem}.xml").write_text(text)
    (root / "ImageSets" / "Main" / "train.txt").write_text("x1\nx2\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("x3 1\n")
    return root
