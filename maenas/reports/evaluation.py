"""What a report says about an evaluation: COCO metrics, classes, curves, confusion.

Of many classes the page draws the worst and the best, and carries all of them as a table file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np

from maenas.reports.blocks import Block, Download, Note, Plot, Section, Table
from maenas.reports.training_figures import confidence_figure, confusion_figure, precision_figure
from maenas.run_files import (
    ClassResult,
    Confusion,
    Curves,
    Evaluation,
    OverConfidence,
    confused_pairs,
    most_confused,
    ordered_by_ap,
)

MOST_CLASSES = 100  # rows of the table by class: half of them the worst, half the best
MOST_CURVES = 20
MOST_CONFUSED = 40
CONFIDENCE_ROWS = range(5, 100, 5)  # of the curves over confidence, in percent
FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would compute a cell that begins so


def evaluation_section(result: Evaluation) -> Section:
    """All about one evaluation."""
    numbers = [number_text(value) or "none" for value in result.summary.values()]
    summary = Table("COCO metrics", ["images", *result.summary], [[str(result.images), *numbers]])
    order = ordered_by_ap(result.per_class)
    blocks: list[Block] = [summary, *_class_blocks(result.per_class, order)]
    if result.over_confidence is not None:
        blocks.append(_confidence_plot(result.over_confidence))
    blocks += [_precision_plot(result, order), *_confusion_blocks(result.confusion, result.per_class)]
    return Section("Evaluation", blocks)


def number_text(value: float | None) -> str:
    """A metric with four decimals; nothing for None."""
    return "" if value is None else f"{value:.4f}"


def _row(result: ClassResult) -> list[str]:
    return [result.name, str(result.boxes), number_text(result.ap), number_text(result.ap50)]


def _class_blocks(results: Sequence[ClassResult], order: Sequence[int]) -> list[Block]:
    header = ["class", "boxes", "AP", "AP50"]
    if len(results) <= MOST_CLASSES:
        return [Table("By class", header, [_row(result) for result in results])]
    half = MOST_CLASSES // 2
    ends = [("worst", order[:half]), ("best", order[half:][::-1][:half])]
    tables = [
        Table(f"The {len(chosen)} {which} of {len(results)} classes", header, [_row(results[i]) for i in chosen])
        for which, chosen in ends
    ]
    text = f"All {len(results)} classes as a table (CSV)"
    return [*tables, Download(text, "classes.csv", "text/csv", class_table(results))]


def class_table(results: Sequence[ClassResult]) -> str:
    """All classes as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["class", "boxes", "ap", "ap50"])
    for result in results:
        name = f"'{result.name}" if result.name.startswith(FORMULAS) else result.name
        writer.writerow([name, result.boxes, result.ap, result.ap50])
    return buffer.getvalue()


def _precision_plot(result: Evaluation, order: Sequence[int]) -> Plot:
    curves: Curves = result.precision_at_iou50
    names = [row.name for row in result.per_class]
    with_curve = [index for index, name in enumerate(names) if name in curves.classes]
    more = ""
    if len(with_curve) > MOST_CURVES:
        half = MOST_CURVES // 2
        rated = [index for index in order if names[index] in curves.classes]
        more = f"; the {half} worst and the {half} best of {len(with_curve)} classes"
        with_curve = sorted({*rated[:half], *rated[-half:]})
    mean = np.mean(list(curves.classes.values()), axis=0).round(6).tolist() if curves.classes else []
    drawn = {index: (names[index], curves.classes[names[index]]) for index in with_curve}
    return Plot(
        f"Precision over recall at IoU 0.5{more}",
        f"Falling curves for {len(drawn)} classes and their mean; the AP50 of each is in the table by class.",
        precision_figure(curves.recalls, drawn, mean),
        height=420,
    )


def _confidence_plot(curves: OverConfidence) -> Plot:
    best = curves.best
    at_best = f"F1 {curves.f1[best]:.3f} at confidence {curves.confidences[best]:.2f}"
    rows = [
        [f"{curves.confidences[i]:.2f}", *(f"{row[i]:.4f}" for row in (curves.precision, curves.recall, curves.f1))]
        for i in CONFIDENCE_ROWS
        if i < len(curves.confidences)
    ]
    table = Table("Means over the classes at IoU 0.5", ["confidence", "precision", "recall", "F1"], rows)
    text = f"Precision rises and recall falls with the least confidence that counts; the best is {at_best}."
    return Plot(f"Precision, recall and F1 over confidence: {at_best}", text, confidence_figure(curves), table)


def _confusion_blocks(confusion: Confusion, results: Sequence[ClassResult]) -> list[Block]:
    names = [row.name for row in results]
    whole = np.array(confusion.matrix)
    matrix, labels = most_confused(whole, names, MOST_CONFUSED)
    title = f"Confusion at score {confusion.score:g} and IoU {confusion.iou:g}"
    if len(names) <= MOST_CONFUSED:
        cells = [[name, *map(str, row)] for name, row in zip(labels, matrix.tolist(), strict=True)]
        table = Table("Truth (rows) by prediction (columns)", ["", *labels], cells)
        note = []
    else:
        pairs = [
            [names[row], names[column], str(count)] for row, column, count in confused_pairs(whole, MOST_CLASSES // 2)
        ]
        table = Table("Confused most often", ["is", "found as", "count"], pairs, left=2)
        note = [Note(f"The {MOST_CONFUSED} classes that were confused most; the others are one row and one column.")]
    figure = confusion_figure(matrix.tolist(), labels)
    text = "Heat map of the truth by the prediction, as the share of each row; counts are in the table."
    return [Plot(title, text, figure, table, height=min(1100, 240 + 26 * len(labels))), *note]
