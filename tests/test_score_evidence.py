"""The structures behind docs/score.md are those that were published, and the page says what the benchmark found."""

import csv
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maenas.cost import total_cost
from maenas.score_names import DEFAULT_SCORE, SCORES, ScoreName

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import score_evidence as evidence  # noqa: E402
import trained_networks as trained  # noqa: E402

FOLDER = ROOT.parent / "shared" / "evidence"
COLUMNS = ("Intel CPU", "Jetson Nano", "A40", "RegNets", "NAS-Bench-Macro")
needs_evidence = pytest.mark.skipif(not FOLDER.is_dir(), reason="the public results lie beside the repository only")


def result() -> dict[str, Any]:
    return json.loads(evidence.RESULT.read_text(encoding="utf-8"))


# The structures ------------------------------------------------------------------------------------------------------


def test_darknet_has_the_operations_and_convolutions_of_the_yolov3_paper() -> None:
    """18.7e9 at 256 pixels with the classifier, 52 convolutions before it."""
    cost = total_cost(trained.yolo("yolo3l_256"))
    assert cost.layers == 52
    assert cost.flops == pytest.approx(18.7e9, rel=0.01)


@needs_evidence
def test_regnets_have_the_published_operations_and_activations() -> None:
    """The classifier with its biases is added. RegNetY differ by squeeze-excitation, which is not on the main path."""
    for row in json.loads((FOLDER / "imagenet_regnets.json").read_text()):
        if row["name"].startswith("RegNet"):
            cost = total_cost(trained.regnet(row))
            operations = cost.flops // 2 + 1000 * (row["widths"][-1] + 1)
            rest = {"rel": 0.003} if row["squeeze_excite"] else {"abs": 0}
            assert operations == pytest.approx(row["flops_multiply_adds"], **rest)
            assert cost.activations + 1000 == pytest.approx(row["activations"], **rest)


@needs_evidence
def test_networks_of_nas_bench_macro_have_the_published_operations() -> None:
    with gzip.open(FOLDER / "nasbench_macro_cifar10.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    for row in rows[::97]:
        flops = total_cost(trained.macro(row["architecture"])).flops
        assert flops / 2 + 10 * trained.MACRO_LAST == float(row["flops"])


def test_a_name_tells_family_factors_and_side() -> None:
    assert trained.parse_yolo("yolo5d33w25_320") == ("yolo5", 0.33, 0.25, 320)
    assert trained.parse_yolo("yolo6s-d6w1_160") == ("yolo6s", 0.6, 1.0, 160)
    assert trained.parse_yolo("yolo8m_480") == ("yolo8", 0.67, 0.75, 480)
    with pytest.raises(ValueError, match="not a name"):
        trained.parse_yolo("resnet50")


# The statistics ------------------------------------------------------------------------------------------------------


def network(group: str, accuracy: float, seconds: float) -> evidence.Network:
    return evidence.Network(group, 320, (), accuracy, {"A40": seconds})


def test_concordance_counts_the_pairs_of_equal_latency_that_a_score_orders_rightly() -> None:
    networks = [network("yolo5a", 10, 1.0), network("yolo5b", 20, 1.04), network("yolo8c", 15, 0.995)]
    networks.append(network("yolo8d", 99, 2.0))  # of another latency
    table = {"right": np.array([1.0, 3.0, 2.0, 0.0]), "tied": np.ones(4), "wrong": np.array([3.0, 1.0, 2.0, 0.0])}
    pairs, shares = evidence.concordance(networks, table, "A40")
    assert pairs == 3
    assert [shares[name][0] for name in table] == [1.0, 0.5, 0.0]
    pairs, _ = evidence.concordance(networks, table, "A40", within=True)
    assert pairs == 1


def test_partial_tau_is_that_of_its_three_taus() -> None:
    rng = np.random.default_rng(3)
    x, y, z = rng.random((3, 30)).round(1)
    networks = [network(str(n), a, s) for n, (a, s) in enumerate(zip(y, z, strict=True))]

    def tau(a: np.ndarray, b: np.ndarray) -> float:
        first, second = (np.sign(np.subtract.outer(v, v)) for v in (a, b))
        return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))

    xy, xz, yz = tau(x, y), tau(x, z), tau(y, z)
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert evidence.partial_tau(networks, {"x": x}, "A40", 5)["x"][0] == pytest.approx(expected, abs=1e-5)


# What is said --------------------------------------------------------------------------------------------------------


def test_what_the_tool_says_about_its_scores_is_what_was_found() -> None:
    columns = result()["columns"]
    for name, about in SCORES.items():
        found = [columns[title]["scores"][name]["value"] for title in COLUMNS]
        assert [None if value is None else round(value, 2) for value in found] == list(about.evidence), name


def test_the_default_score_is_above_flops_beyond_noise_on_every_device_and_never_below_mae() -> None:
    columns = result()["columns"]
    for title, column in columns.items():
        if "yolo6s" in title:
            continue
        best, mae = column["scores"][DEFAULT_SCORE], column["scores"]["mae"]
        assert best["value"] > mae["value"], title
        if title in ("Intel CPU", "Jetson Nano", "A40"):
            assert best["minus_flops_interval_90"][0] > 0


def test_the_page_shows_the_table_of_the_results() -> None:
    page, columns = (ROOT / "docs" / "score.md").read_text(encoding="utf-8"), result()["columns"]
    for name in evidence.SCORES:
        row = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
        for title, cell in zip(COLUMNS, row.split("|")[2:], strict=False):
            value = columns[title]["scores"][name]["value"]
            assert cell.split()[0] == ("-" if value is None else f"{value:.2f}"), (name, title)


@needs_evidence
@pytest.mark.slow
def test_the_results_are_those_of_the_public_data() -> None:
    names: tuple[ScoreName, ...] = ("balanced", "mae", "flops")
    found = evidence.columns(FOLDER, {name: evidence.SCORES[name] for name in names})
    for title, column in result()["columns"].items():
        for name in names:
            value, stored = found[title]["scores"][name]["value"], column["scores"][name]["value"]
            assert value == pytest.approx(stored, abs=0.002) if stored is not None else value is None
