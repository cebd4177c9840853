import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from detector.confidence import CONFIDENCES, f1_of, over_confidence
from detector.data.dataset import Dataset
from detector.data.sample import Sample
from detector.evaluate import Metrics, confusion_matrix, evaluate, write_report
from detector.postprocess import Detections
from detector.resample import match
from detector.truth_picture import truth_and_predictions
from maenas.run_files import ClassResult, confused_pairs, most_confused, read_evaluation

NAMES = ("a", "b", "c", "none")


def make_dataset(rng: np.random.Generator, images: int = 40, *, crowds: bool = True) -> Dataset:
    samples = []
    for id in range(3, 3 + images):
        count, crowd = int(rng.integers(0, 12)), int(rng.integers(0, 2)) if crowds else 0
        boxes = random_boxes(rng, count + crowd)
        labels = rng.integers(0, 3, count + crowd)
        areas = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * rng.uniform(0.5, 1, len(boxes))).astype(np.float32)
        samples.append(
            Sample(
                Path(f"{id}.jpg"),
                id,
                300,
                200,
                boxes[:count],
                labels[:count],
                areas[:count],
                boxes[count:],
                labels[count:],
            )
        )
    return Dataset(NAMES, tuple(samples))


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner = rng.uniform(0, [150, 100], (count, 2))
    return np.concatenate([corner, corner + rng.uniform(4, [150, 100], (count, 2))], axis=1).astype(np.float32)


def realistic(rng: np.random.Generator, dataset: Dataset) -> dict[int, Detections]:
    """Moved copies of most boxes, some twice or of a wrong class, and false ones; scores tell them apart a little."""
    found = {}
    for sample in dataset.samples:
        boxes = np.concatenate([sample.boxes, sample.boxes, sample.crowd_boxes, random_boxes(rng, 6)])
        boxes = boxes + rng.normal(0, 4, boxes.shape)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        labels = np.concatenate([sample.labels, sample.labels, sample.crowd_labels, rng.integers(0, 4, 6)])
        labels = np.where(rng.random(len(labels)) < 0.1, rng.integers(0, 4, len(labels)), labels)
        scores = rng.random(len(boxes)) ** (1 + (np.arange(len(boxes)) >= len(sample.boxes)))
        kept = np.flatnonzero(rng.random(len(boxes)) < 0.8)
        order = kept[np.argsort(-scores[kept])]
        found[sample.id] = Detections(
            torch.tensor(boxes[order], dtype=torch.float32),
            torch.tensor(scores[order], dtype=torch.float32),
            torch.tensor(labels[order]),
        )
    return found


def by_pycocotools(dataset: Dataset, detections: dict[int, Detections]) -> tuple[np.ndarray, np.ndarray]:
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    annotations = []
    for sample in dataset.samples:
        for boxes, labels, crowd in ((sample.boxes, sample.labels, 0), (sample.crowd_boxes, sample.crowd_labels, 1)):
            for i, (box, label) in enumerate(zip(boxes.astype(float), labels, strict=True)):
                area = float(np.prod(box[2:] - box[:2])) if crowd else float(sample.areas[i])
                entry = {"id": len(annotations) + 1, "image_id": sample.id, "category_id": int(label), "area": area}
                annotations.append(entry | {"bbox": [*box[:2], *(box[2:] - box[:2])], "iscrowd": crowd})
    truth = coco.COCO()
    truth.dataset = {
        "images": [{"id": sample.id} for sample in dataset.samples],
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(dataset.names)],
    }
    truth.createIndex()
    rows = []
    for id, found in detections.items():
        for box, score, label in zip(found.boxes.double().numpy(), found.scores, found.labels, strict=True):
            rows.append([id, *box[:2], *(box[2:] - box[:2]), float(score), int(label)])
    run = evaluation.COCOeval(truth, truth.loadRes(np.array(rows)), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run.stats, run.eval["precision"]


@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dataset = make_dataset(rng)
    detections = realistic(rng, dataset)
    expected, precision = by_pycocotools(dataset, detections)
    metrics = evaluate(dataset, detections)
    np.testing.assert_allclose(list(metrics.summary.values()), expected, atol=1e-6)
    assert 0.1 < metrics.scalars()["AP"] < 0.9
    for label, entry in enumerate(metrics.per_class[:3]):
        assert entry.ap == pytest.approx(precision[:, :, label, 0, 2].mean(), abs=1e-6)
        assert entry.ap50 == pytest.approx(precision[0, :, label, 0, 2].mean(), abs=1e-6)
    np.testing.assert_allclose(metrics.precision[:3], precision[0, :, :3, 0, 2].T, atol=1e-6)


def nothing() -> Detections:
    return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))


def perfect(sample: Sample) -> Detections:
    return Detections(torch.tensor(sample.boxes), torch.ones(len(sample.labels)), torch.tensor(sample.labels))


def test_perfect_detections_have_ap_1() -> None:
    dataset = make_dataset(np.random.default_rng(0))
    metrics = evaluate(dataset, {sample.id: perfect(sample) for sample in dataset.samples})
    assert metrics.scalars()["AP"] == pytest.approx(1)
    assert (metrics.confusion == np.diag(metrics.confusion.diagonal())).all()
    assert metrics.confusion.sum() == sum(len(sample.labels) for sample in dataset.samples)


def test_no_detection_at_all_has_ap_0() -> None:
    dataset = make_dataset(np.random.default_rng(0))
    metrics = evaluate(dataset, {sample.id: nothing() for sample in dataset.samples})
    assert metrics.scalars()["AP"] == 0
    assert metrics.confusion[:, -1].sum() == metrics.confusion.sum() > 0


def test_a_class_without_boxes_does_not_count() -> None:
    dataset = make_dataset(np.random.default_rng(0))
    metrics = evaluate(dataset, {sample.id: perfect(sample) for sample in dataset.samples})
    assert metrics.per_class[3] == ClassResult("none", 0, None, None)
    assert np.isnan(metrics.precision[3]).all()


def test_nothing_to_find_has_no_ap() -> None:
    dataset = make_dataset(np.random.default_rng(0), 2)
    empty = Dataset(
        NAMES, tuple(s for s in make_dataset(np.random.default_rng(2), 60).samples if len(s.labels) == 0)[:2]
    )
    assert len(empty) > 0
    metrics = evaluate(empty, {sample.id: nothing() for sample in empty.samples})
    assert metrics.scalars() == {}
    assert evaluate(dataset, {}).images == 0


def test_images_that_were_not_looked_at_do_not_count() -> None:
    dataset = make_dataset(np.random.default_rng(0))
    metrics = evaluate(dataset, {sample.id: perfect(sample) for sample in dataset.samples[:20]})
    assert (metrics.images, metrics.listed_images) == (20, 40)
    assert metrics.scalars()["AP"] == pytest.approx(1)
    with pytest.raises(ValueError, match="does not have"):
        evaluate(dataset, {999: nothing()})


def test_the_confusion_matrix_counts_each_box_once() -> None:
    truth = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], np.float32)
    crowd = np.array([[60, 0, 90, 30]], np.float32)
    sample = Sample(Path("x"), 1, 100, 50, truth, np.array([0, 1, 2]), np.full(3, 100.0), crowd, np.array([0]))
    boxes = torch.tensor(
        [
            [0.0, 0, 10, 10],  # right
            [1, 0, 11, 10],  # again: false
            [20, 0, 30, 10],  # of the wrong class
            [70, 5, 80, 15],  # in the crowd: not counted
            [40, 0, 50, 10],  # unsure: not counted
            [40, 30, 50, 40],  # nothing there: false
        ]
    )
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.2, 0.5])
    found = Detections(boxes, scores, torch.tensor([0, 0, 2, 1, 2, 1]))
    matrix = confusion_matrix([sample], {1: found}, 3)
    assert matrix.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0]]


def slow_confusion(dataset: Dataset, detections: dict[int, Detections]) -> np.ndarray:
    """One pair of a detection and a box after the other; without crowds."""
    classes = len(dataset.names)
    matrix = np.zeros((classes + 1, classes + 1), int)
    for sample in dataset.samples:
        found, free = detections[sample.id], list(range(len(sample.labels)))
        for row in sorted(range(len(found.scores)), key=lambda row: -float(found.scores[row])):
            if found.scores[row] < 0.25:
                continue
            box = found.boxes[row : row + 1].double()
            overlaps = {
                column: float(box_iou(box, torch.from_numpy(sample.boxes[column : column + 1]).double()))
                for column in free
            }
            best = max(free, key=overlaps.__getitem__, default=None)
            if best is not None and overlaps[best] >= 0.5:
                free.remove(best)
                matrix[sample.labels[best], found.labels[row]] += 1
            else:
                matrix[classes, found.labels[row]] += 1
        for column in free:
            matrix[sample.labels[column], classes] += 1
    return matrix


@pytest.mark.parametrize("seed", range(3))
def test_confusion_and_counts_are_those_of_the_loops_over_detections_and_boxes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dataset = make_dataset(rng, crowds=False)
    found = realistic(rng, dataset)
    metrics = evaluate(dataset, found)
    matrix = slow_confusion(dataset, found)
    assert matrix.trace() > 100
    assert metrics.confusion.tolist() == matrix.tolist()
    assert metrics.boxes.tolist() == matrix[:-1].sum(axis=1).tolist()


def report(folder: Path) -> Metrics:
    rng = np.random.default_rng(0)
    dataset = make_dataset(rng)
    metrics = evaluate(dataset, realistic(rng, dataset))
    write_report(metrics, folder)
    return metrics


def test_the_report_has_plots_and_json(tmp_path: Path) -> None:
    metrics = report(tmp_path / "new folder")
    files = {path.name: path.read_bytes() for path in (tmp_path / "new folder").iterdir()}
    assert set(files) == {"metrics.json", "precision_recall.png", "confidence.png", "confusion.png"}
    assert all(data.startswith(b"\x89PNG") for name, data in files.items() if name.endswith(".png"))
    document = json.loads(files["metrics.json"])
    assert document == json.loads(json.dumps(metrics.document()))
    assert read_evaluation(tmp_path / "new folder" / "metrics.json") == metrics.stored()
    assert document["summary"]["AP"] == metrics.scalars()["AP"]
    assert document["per_class"][3] == {"name": "none", "boxes": 0, "ap": None, "ap50": None}
    assert set(document["precision_at_iou50"]["classes"]) == {"a", "b", "c"}


def test_precision_and_recall_are_those_of_the_detections_that_are_left() -> None:
    """Counted one by one, at each confidence: false detections below the last hit count, too."""
    rng = np.random.default_rng(5)
    dataset = make_dataset(rng)
    found = realistic(rng, dataset)
    whole = evaluate(dataset, found)
    precision, recall = over_confidence(whole.scores[:3], whole.boxes[:3], whole.found[:3])
    for place in (0, 20, 50, 80, 95):
        left = {id: Detections(*(t[d.scores >= CONFIDENCES[place]] for t in d)) for id, d in found.items()}
        matches = match(dataset, left)
        for label in range(3):
            hits, ignored = int(matches[label].found[0].sum()), int(matches[label].ignored[0].sum())
            count = len(matches[label].images) - ignored
            assert recall[label, place] == pytest.approx(hits / whole.boxes[label], abs=1e-9)
            if count:
                assert precision[label, place] == pytest.approx(hits / count, abs=0.03)  # crowds are judged by half


def test_false_detections_of_low_confidence_move_the_best_one_up() -> None:
    box, none = torch.tensor([[10.0, 10.0, 50.0, 50.0]]), np.zeros((0, 4), np.float32)
    one = np.zeros(1, np.int64)
    samples = [
        Sample(Path(f"{id}.jpg"), id, 99, 99, box.numpy(), one, one + 1600.0, none, one[:0]) for id in range(1, 11)
    ]
    wrong = torch.tensor([[60.0, 60.0, 90.0, 90.0]]).repeat(10, 1)
    labels, scores = torch.zeros(11, dtype=torch.int64), torch.tensor([0.9] + [0.3] * 10)
    found = {id: Detections(torch.cat([box, wrong]), scores, labels) for id in range(1, 11)}
    curves = evaluate(Dataset(("cat",), samples), found).stored().over_confidence
    assert curves is not None
    assert curves.precision[0] == curves.precision[29] == pytest.approx(1 / 11, abs=1e-6)
    assert curves.f1[0] == pytest.approx(1 / 6, abs=1e-6)
    assert (curves.f1[50], curves.precision[50], curves.precision[95]) == (1.0, 1.0, 1.0)
    assert curves.confidences[curves.best] > 0.3


def test_f1_is_the_harmonic_mean() -> None:
    assert f1_of(np.array([0.5, 1, 0]), np.array([0.5, 0.5, 0])) == pytest.approx([0.5, 2 / 3, 0])


def test_the_most_confused_classes_stay_and_no_box_is_lost() -> None:
    matrix = np.random.default_rng(0).integers(0, 3, (41, 41))
    matrix[7, 9] = 500
    small, names = most_confused(matrix, [f"c{number}" for number in range(40)], 10)
    assert small.shape == (12, 12)
    assert small.sum() == matrix.sum()
    assert {"c7", "c9"} <= set(names)
    assert names[-2:] == ["30 other classes", "background"]
    assert small[names.index("c7"), names.index("c9")] == 500
    assert (small[:10, -1] == matrix[[int(name[1:]) for name in names[:10]], -1]).all()
    assert confused_pairs(matrix, 3)[0] == (7, 9, 500)


def test_a_picture_shows_truth_and_predictions_and_leaves_out_what_cannot_be_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dataset = make_dataset(rng, 3)
    Image.new("RGB", (300, 200), "grey").save(tmp_path / "a.png")
    first = dataclasses.replace(dataset.samples[0], path=tmp_path / "a.png")
    dataset = dataclasses.replace(dataset, samples=(first, *dataset.samples[1:]))
    found = realistic(rng, dataset)
    with Image.open(io.BytesIO(truth_and_predictions(dataset, found))) as picture:
        assert picture.format == "JPEG"
        assert picture.width > 2 * 320


def test_a_detection_without_area_lies_in_no_crowd_that_is_elsewhere() -> None:
    crowd, none = np.array([[500, 500, 600, 600]], np.float32), np.zeros((0, 4), np.float32)
    no = np.zeros(0, np.int64)
    sample = Sample(Path("a.jpg"), 1, 640, 640, none, no, none[:, 0], crowd, np.zeros(1, np.int64))
    for width in (0.0, 1.0):
        found = Detections(torch.tensor([[0.0, 0.0, width, 50.0]]), torch.tensor([0.9]), torch.tensor([0]))
        assert confusion_matrix([sample], {1: found}, 1).tolist() == [[0, 0], [1, 0]]
