"""Collected device latencies -> `benchmarks/data/published_devices.json.gz`, which `device_calibration.py` reads.

    python benchmarks/collect_device_latencies.py FOLDER

FOLDER holds `published_devices.json` (setups and measurements) and `graphs.json.gz` (node lists of the networks, by
name and input size). A network that was measured at another size than its graph's is scaled: maps by the ratio of the
sizes, tokens by its square. Networks without a graph, CPUs and setups of unknown precision are left out.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import gzip
import json
import re
from pathlib import Path
from typing import Any

from maenas.files import write_atomic
from maenas.latency.onnx.lower import kernels_from_json
from maenas.latency.published import Published, PublishedLatency, PublishedNetwork, PublishedSetup, kernel_rows

OUT = Path(__file__).parent / "data" / "published_devices.json.gz"
STRIDES = (1, 2, 4, 8, 16, 32, 64)
HARNESS = {
    "trtutils": "wall time from Python round execution and synchronisation, no CUDA graph, so small inputs are "
    "bound by the host; NMS of 100 boxes (YOLOv10: top-k) inside; inputs 160 to 1280; power mode and clocks not stated",
    "ultralytics": "the harness of the package; inference without pre- and post-processing; clocks not stated",
}
SERIES = re.compile(r"yolov?\d+|yolox|resnext|resnet|res2net|regnet|mobilenet|efficientnet|mixnet|squeezenet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    document = json.loads((folder / "published_devices.json").read_text())
    graphs = json.loads(gzip.decompress((folder / "graphs.json.gz").read_bytes()))
    setups = [s for s in document["setups"] if s["precision"] in ("fp32", "fp16", "int8") and "cpu" not in s["setup"]]
    setups = [s for s in setups if "openvino" not in s["setup"]]
    names = {s["setup"] for s in setups}
    networks: dict[str, PublishedNetwork] = {}
    latencies = []
    for row in document["measurements"]:
        name = f"{row['model']}-{row['input_size']}"
        graph = _graph(graphs, row["model"], row["input_size"])
        if row["setup"] not in names or graph is None:
            continue
        if name not in networks:
            networks[name] = PublishedNetwork(name, kernels=kernel_rows(kernels_from_json(graph, name)))
        latencies.append(
            PublishedLatency(
                setup=row["setup"], network=name, family=series(row["model"]), latency_ms=row["latency_ms"]
            )
        )
    parts = (tuple(map(_setup, setups)), tuple(networks.values()), tuple(latencies))
    published = dataclasses.asdict(Published("maenas/published-latencies@1", *parts))
    data = json.dumps(published, separators=(",", ":")).encode()
    OUT.parent.mkdir(exist_ok=True)
    write_atomic(OUT, gzip.compress(data, 9, mtime=0))
    print(f"wrote {OUT}: {len(networks)} networks, {len(latencies)} latencies, {OUT.stat().st_size} bytes")


def series(model: str) -> str:
    """Networks of one series are alike, and are left out of a fit together; a detector's classifier is apart."""
    found = SERIES.match(model)
    return (found[0] if found else model) + ("-cls" if model.endswith("-cls") else "")


def _setup(row: dict[str, Any]) -> PublishedSetup:
    conditions = HARNESS.get(re.sub(r"-(fp16|int8)$", "", row["setup"].partition("@")[2]), "see the source")
    fields = (row["setup"], row["device"], row["runtime"], row["precision"], row["batch"], row["nms_included"])
    return PublishedSetup(*fields, conditions, row["source"])


def _graph(graphs: dict[str, Any], model: str, size: int) -> dict[str, Any] | None:
    """The node list of `model` at an input of `size`, or None."""
    sizes = [int(name.rpartition("-")[2]) for name in graphs if name.rpartition("-")[0] == model]
    if not sizes:
        return None
    own = size if size in sizes else max(sizes, key=lambda s: s == 640)
    return rescaled(graphs[f"{model}-{own}"], size)


def rescaled(graph: dict[str, Any], size: int) -> dict[str, Any]:
    """The same nodes for a square input of `size`: sides and numbers of tokens of every computed tensor."""
    old = graph["input"][-1]
    if old == size:
        return graph
    sides = {old // s: size // s for s in STRIDES if old % s == 0}
    tokens = {(old // s) ** 2: (size // s) ** 2 for s in STRIDES[3:]}
    for strides in (STRIDES[3:6], STRIDES[3:7]):  # the levels of a head, one after the other
        tokens[sum((old // s) ** 2 for s in strides)] = sum((size // s) ** 2 for s in strides)
    graph = copy.deepcopy(graph)
    computed = {0, *(tensor for node in graph["nodes"] for tensor, _ in node["out"])}

    def scale(tensor: int, shape: list[int]) -> list[int]:
        if tensor not in computed or len(shape) < 3:
            return shape
        if len(shape) == 4 and shape[2] in sides and shape[3] in sides:
            return [*shape[:2], sides[shape[2]], sides[shape[3]]]
        return [shape[0], *(tokens.get(side, side) for side in shape[1:])]

    for node in graph["nodes"]:
        for ends in ("in", "out"):
            node[ends] = [[tensor, scale(tensor, shape)] for tensor, shape in node[ends]]
    graph["input"] = [1, 3, size, size]
    return graph


if __name__ == "__main__":
    main()
