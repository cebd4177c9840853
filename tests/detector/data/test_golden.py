"""Mosaic, affine, mixup and box-level augmentation against numbers of the published implementation."""

import cv2
import numpy as np
import pytest

from detector.data.box_augment import (
    Colour,
    Geometry,
    change_colour,
    change_geometry,
    class_weights,
    colour_spread,
    gaussian_map,
    recolour,
    scaled_splits,
)
from detector.data.geometry import (
    GREY,
    Affine,
    affine_matrix,
    box_areas,
    still_objects,
)
from detector.data.mosaic import (
    Labels,
    Mixup,
    Mosaic,
    Picture,
    mixup_labels,
    mosaic_labels,
    paint_mixup,
    paint_mosaic,
    place_tile,
)
from detector.data.scratch import Scratch
from tests.conftest import Golden, golden_file

SIDE = 64
WEIGHTS = (7 / 13, 5 / 13, 1 / 13)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(golden_file("augmentation.npz")) as file:
        return dict(file)


@pytest.fixture(scope="module")
def facts(shared_golden: Golden) -> dict:
    return shared_golden("augmentation.json")


def test_tiles_lie_as_published(arrays: dict[str, np.ndarray]) -> None:
    for number, xc, yc, w, h, side, *rest in arrays["mosaic_coords"].tolist():
        tile = place_tile(number, (h, w), Mosaic(xc, yc, Affine()), side, keep_ratio=True)
        if (tile.width, tile.height) != (w, h):  # the table holds sizes that no image is resized to
            continue
        assert tile.visible == tuple(rest[:4])
        assert (tile.x, tile.y) == (rest[0] - rest[4], rest[1] - rest[5])


def test_affine_matrices_equal_the_published_ones(arrays: dict[str, np.ndarray]) -> None:
    for draw, expected in zip(arrays["affine_draws"], arrays["affine_matrices"], strict=True):
        np.testing.assert_allclose(affine_matrix(Affine(*draw), 128, 64), expected, atol=1e-9)


def test_the_same_boxes_are_kept(arrays: dict[str, np.ndarray]) -> None:
    kept = still_objects(arrays["cand_box1"], arrays["cand_box2"])
    np.testing.assert_array_equal(kept, arrays["cand_keep"])


def pictures_and_draws(name: str, arrays: dict, facts: dict) -> tuple[list[Picture], Mosaic, bool, list]:
    case = facts[name]
    values = [draw[-1] for draw in case["draws_in_order"]]
    _, yc, xc, second, third, fourth, angle, scale, shear_x, shear_y, tx, ty, *rest = values
    pictures = [picture(index, arrays) for index in (case["index"], second, third, fourth)]
    draw = Mosaic(int(xc), int(yc), Affine(angle, scale, shear_x, shear_y, tx, ty))
    return pictures, draw, case["keep_ratio"], rest


def picture(index: int, arrays: dict) -> Picture:
    labels = arrays[f"toy_labels{index}"]
    return Picture(arrays[f"toy_img{index}"], labels[:, :4], labels[:, 4].astype(np.int64))


def slow_mosaic(pictures: list[Picture], tiles: list, draw: Mosaic) -> np.ndarray:
    """Resized, pasted on a canvas of twice the side, warped."""
    canvas = np.full((2 * SIDE, 2 * SIDE, 3), GREY, np.uint8)
    for entry, tile in zip(pictures, tiles, strict=True):
        resized = cv2.resize(entry.image, (tile.width, tile.height))
        x1, y1, x2, y2 = tile.visible
        canvas[y1:y2, x1:x2] = resized[y1 - tile.y : y2 - tile.y, x1 - tile.x : x2 - tile.x]
    matrix = affine_matrix(draw.affine, 2 * SIDE, SIDE)[:2]
    return cv2.warpAffine(canvas, matrix, (SIDE, SIDE), borderValue=(GREY, GREY, GREY))


@pytest.mark.parametrize("name", ["mosaicA", "mosaicB", "mosaicC"])
def test_mosaic_equals_the_published_one(name: str, arrays: dict, facts: dict) -> None:
    pictures, draw, keep_ratio, _ = pictures_and_draws(name, arrays, facts)
    tiles = [place_tile(i, p.image.shape, draw, SIDE, keep_ratio=keep_ratio) for i, p in enumerate(pictures)]
    labels = mosaic_labels(pictures, tiles, draw, SIDE)
    expected = arrays[f"{name}_affine_labels"]
    np.testing.assert_allclose(labels.boxes, expected[:, :4], atol=1e-6)
    np.testing.assert_array_equal(labels.labels, expected[:, 4])

    image = arrays[f"{name}_affine_img"].astype(int)
    slow = slow_mosaic(pictures, tiles, draw)
    assert np.abs(slow - image).max() <= 2
    fast = np.empty((SIDE, SIDE, 4), np.uint8)
    paint_mosaic(fast, pictures, tiles, draw, SIDE, np.eye(3), Scratch())
    # One interpolation instead of two: edges are sharper, and seams lie up to a pixel off.
    difference = np.abs(fast[:, :, :3] - image)
    assert np.percentile(difference, 90) <= 2
    assert difference.mean() < 2


@pytest.mark.parametrize("name", ["mosaicB", "mosaicC"])
def test_mixup_equals_the_published_one(name: str, arrays: dict, facts: dict) -> None:
    *_, (_, zoom, flip, index, *offsets) = pictures_and_draws(name, arrays, facts)
    y, x = offsets or (0, 0)
    draw = Mixup(zoom, flip > 0.5, x, y)
    affine_labels = arrays[f"{name}_affine_labels"]
    first = Labels(affine_labels[:, :4], affine_labels[:, 4].astype(np.int64))
    labels = mixup_labels(first, picture(index, arrays), draw, SIDE)
    np.testing.assert_allclose(labels.boxes, arrays[f"{name}_mixup_labels"][:, :4], atol=1e-6)
    np.testing.assert_allclose(labels.boxes, arrays[f"{name}_final_boxes"], atol=1e-4)
    np.testing.assert_array_equal(labels.labels, arrays[f"{name}_final_classes"])

    image = cv2.cvtColor(arrays[f"{name}_affine_img"], cv2.COLOR_RGB2RGBA)
    paint_mixup(image, picture(index, arrays), draw, SIDE, np.eye(3), Scratch())
    difference = np.abs(image[:, :, :3].astype(int) - arrays[f"{name}_mixup_img"])
    assert np.percentile(difference, 95) <= 2
    assert difference.mean() < 2


SPREADS = {
    "small": (10000.0, 20000.0, 30000.0),
    "mid": (100.0, 10000.0, 30000.0),
    "large": (100.0, 200.0, 10000.0),
    "huge": (10.0, 20.0, 30.0),
}


def full_map(boxes: np.ndarray, height: int, width: int, spreads: list[float]) -> np.ndarray:
    out = np.zeros((height, width))
    weights, rows, columns = gaussian_map(boxes, height, width, spreads)
    out[rows, columns] = weights
    return out


def test_gaussian_maps_equal_the_published_ones(arrays: dict[str, np.ndarray]) -> None:
    boxes = arrays["gauss_boxes"].astype(np.float64)
    # Beyond four standard deviations a Gaussian is cut: 3.4e-4 there, a tenth of a grey level.
    np.testing.assert_allclose(full_map(boxes, 80, 96, [1.0, 1.0]), arrays["gauss_noratio"].clip(max=1), atol=7e-4)
    for name, splits in SPREADS.items():
        spreads = [colour_spread(area, splits) for area in box_areas(boxes).tolist()]
        np.testing.assert_allclose(
            full_map(boxes, 80, 96, spreads), arrays[f"gauss_area_{name}"].clip(max=1), atol=7e-4
        )


def test_box_probabilities_equal_the_published_ones(facts: dict) -> None:
    case = facts["box_sample_prob"]
    splits = scaled_splits(640, 640)
    assert list(splits) == pytest.approx(case["splits"])
    boxes = np.array(case["boxes"], np.float64)
    assert 0.3 * class_weights(boxes, splits, WEIGHTS) == pytest.approx(case["area_ratios_7_5_1"])
    assert 0.3 * class_weights(boxes, splits, (1 / 3, 1 / 3, 1 / 3)) == pytest.approx(case["prob_ratios_3_3_3"])


def grey_levels(planes: np.ndarray) -> np.ndarray:
    """float `[3, H, W]` in 0..1 -> float `[H, W, 3]` in 0..255."""
    return planes.transpose(1, 2, 0) * 255


def as_image(planes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.rint(grey_levels(planes)).astype(np.uint8))


@pytest.mark.parametrize("level", [2, 4, 8])
@pytest.mark.parametrize(
    ("operation", "name"),
    [("color", "Color"), ("brightness", "Brightness"), ("sharpness", "Sharpness"), ("solarize_add", "SolarizeAdd")],
)
def test_colours_equal_the_published_ones(operation: Colour, name: str, level: int, arrays: dict) -> None:
    result = recolour(as_image(arrays["color_input"]), operation, level)
    expected = grey_levels(arrays[f"color_{name}_level{level}"])
    difference = np.abs(result - expected)
    if operation == "solarize_add":  # rounding moves pixels over the threshold
        difference = difference[np.abs(grey_levels(arrays["color_input"]) - 127.5) > 1]
    assert difference.max() <= 2


def test_colour_around_boxes_equals_the_published_one(arrays: dict, facts: dict) -> None:
    image = as_image(arrays["box_input"])
    change_colour(image, arrays["box_boxes"].astype(np.float64), tuple(facts["boxcolor_splits"]), "brightness", 4)
    assert np.abs(image - grey_levels(arrays["boxcolor_Brightness4"])).max() <= 1.5


@pytest.mark.parametrize("sign", ["pos", "neg"])
@pytest.mark.parametrize(
    ("operation", "name", "level"),
    [
        ("hflip", "hflip1", 1),
        ("rotate", "rotate2", 2),
        ("shear_x", "shearX6", 6),
        ("translate_x", "translateX4", 4),
        ("translate_y", "translateY8", 8),
    ],
)
def test_geometry_equals_the_published_one(operation: Geometry, name: str, level: int, sign: str, arrays: dict) -> None:
    image = as_image(arrays["box_input"])
    boxes = arrays["box_boxes"].astype(np.float64)
    copies, sources = change_geometry(image, boxes, operation, level if sign == "pos" else -level, Scratch())
    np.testing.assert_allclose(np.concatenate([boxes, copies]), arrays[f"geo_{name}_{sign}_boxes"], atol=1e-4)
    labels = arrays["box_labels"]
    np.testing.assert_array_equal(np.concatenate([labels, labels[sources]]), arrays[f"geo_{name}_{sign}_labels"])
    difference = np.abs(image - grey_levels(arrays[f"geo_{name}_{sign}"]))
    if operation in ("rotate", "shear_x"):  # the edges of a turned crop are drawn otherwise
        assert np.percentile(difference, 98) <= 2
    else:
        assert difference.max() <= 1
