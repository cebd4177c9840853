"""Damaged files: whatever happens to a text, the reader returns a valid object or raises MaenasError.

Warnings are errors here too (pyproject.toml), so that a reader that only warns fails as well. Readers that need torch:
`detector/test_fuzz_files.py`.
"""

import dataclasses
import gzip
import json
import re
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maenas.errors import MaenasError
from maenas.files import SHIPPED, DataKind, data_dir, shipped_file
from maenas.latency.device import Device, devices_from_yaml
from maenas.latency.find import table_files
from maenas.latency.importers import COLUMNS, import_kernels
from maenas.latency.measured import Failure, MeasuredTable, make_table, measured_from_json, measured_to_json
from maenas.latency.measured import content_id as measured_id
from maenas.latency.measured import read_measured as read_measured_table
from maenas.latency.published import Published, network_kernels
from maenas.latency.table import LatencyTable, content_id, table_from_json, table_to_json
from maenas.lowering import lower
from maenas.nas.checkpoint import read_checkpoint, write_checkpoint
from maenas.nas.evolution import EvolutionSettings, start
from maenas.nas.provenance import provenance
from maenas.nas.request import Request, prepare
from maenas.nas.run import run
from maenas.nas.space import SearchSpace, space_from_yaml
from maenas.reports.origin import read_origin, setup_of
from maenas.reports.training import training_sections
from maenas.spec import BackboneSpec, SpecFile, read_spec, spec_from_json, spec_to_json
from maenas.strict import parse_json
from maenas.structure import format_structure, parse_structure
from tests.mutations import damage, damaged_text, fuzz


@pytest.fixture(params=[150, pytest.param(2500, marks=pytest.mark.slow)])
def count(request: pytest.FixtureRequest) -> int:
    """Damaged inputs of a test."""
    return request.param


def texts_of(kind: DataKind, pattern: str) -> list[str]:
    names = [name for name in SHIPPED[kind] if fnmatch(name, pattern)]
    return [shipped_file(kind, name).read_text(encoding="utf-8") for name in names]


def with_fitting_id(read: Callable[[str], Any], message: str) -> Callable[[str], Any]:
    """`read` with the id written anew where the rest can be read: it stands against nearly every change."""

    def again(text: str) -> Any:
        try:
            return read(text)
        except MaenasError as error:
            fitting = re.search(message + r" ([0-9a-f]{12})", str(error))
            if fitting is None:
                raise
            return read(re.sub(r'"id": "[^"]*"', f'"id": "{fitting[1]}"', text, count=1))

    return again


def assert_both(outcomes: Counter[str]) -> None:
    """Some inputs were read: the damage is not all of one kind."""
    assert min(outcomes["read"], outcomes["refused"]) > 0.01 * outcomes.total()


# Specs, spaces, structures ------------------------------------------------------------------------------------------


def test_damaged_specs_are_read_or_refused(count: int) -> None:
    def check(file: SpecFile) -> None:
        assert spec_from_json(spec_to_json(file.detector, file.name, file.provenance)) == file
        lower(file.detector)

    texts = texts_of("searched_models", "*.json")
    assert_both(fuzz(count, damaged_text(*texts), lambda text: spec_from_json(text, "fuzz"), check))


def test_damaged_specs_whose_id_fits_are_read_or_refused(count: int) -> None:
    read = with_fitting_id(lambda text: spec_from_json(text, "fuzz"), "but this detector's is")
    texts = texts_of("searched_models", "*.json")
    assert_both(fuzz(count, damaged_text(*texts), read, lambda file: check_backbone(file.detector.backbone)))


def check_backbone(backbone: BackboneSpec) -> None:
    strides = np.cumprod([2] + [stage.stride for stage in backbone.stages])
    assert [strides[tap] for tap in backbone.taps] == [8, 16, 32]


def test_damaged_spaces_are_read_or_refused(count: int) -> None:
    def check(space: SearchSpace) -> None:
        last = np.array([len(row) - 1 for row in space.choices])
        check_backbone(space.spec_of(last))
        assert space.contains(space.spec_of(space.smallest))

    texts = [re.sub(r"(?m)^(#|description|source).*\n", "", text) for text in texts_of("search_spaces", "*.yaml")]
    texts = [text.replace("schema", "description: ''\nsource: ''\nschema") for text in texts]
    assert_both(fuzz(count, damaged_text(*texts), lambda text: space_from_yaml(text, "fuzz"), check))


@pytest.mark.parametrize(("family", "model"), [("res", "t"), ("csp", "m"), ("mob", "nano-s")])
def test_damaged_structures_are_read_or_refused(family: Any, model: str, count: int) -> None:
    backbone = read_spec(data_dir("searched_models") / f"damo-yolo-{model}.json").detector.backbone

    def read(text: str) -> BackboneSpec:
        return parse_structure(text, family=family, focus=True, act="relu", where="fuzz")

    assert_both(fuzz(count, damaged_text(format_structure(backbone)), read, check_backbone))


# Latency ------------------------------------------------------------------------------------------------------------


def test_damaged_tables_are_read_or_refused(count: int) -> None:
    def check(table: LatencyTable) -> None:
        assert content_id(table) == table.id
        assert table_from_json(table_to_json(table)) == table

    read = with_fitting_id(lambda text: table_from_json(text, "fuzz"), "the content's is")
    assert_both(fuzz(count, damaged_text(*texts_of("latency_tables", "t4-*.json")), read, check))


def test_damaged_measured_tables_are_read_or_refused(count: int) -> None:
    whole = read_measured_table(next(table_files()))
    parts = {"rows": whole.rows[:6], "blocks": whole.blocks[:4], "networks": whole.networks[:1]}
    kept = {name: getattr(whole, name) for name in ("device", "runtime", "precision", "batch", "conditions", "method")}
    text = measured_to_json(make_table(**kept, **parts, failed=(Failure("conv", "out of memory"),)))

    def check(table: MeasuredTable) -> None:
        assert measured_id(table) == table.id
        assert measured_from_json(measured_to_json(table)) == table
        assert int(table.conditions.get("threads", "1")) >= 0

    read = with_fitting_id(lambda text: measured_from_json(text, "fuzz"), "the content's is")
    assert_both(fuzz(count, damaged_text(text), read, check))


def test_damaged_published_latencies_are_read_or_refused(count: int) -> None:
    document = json.loads((data_dir("latency_tables") / "published" / "t4.json").read_text(encoding="utf-8"))
    document["networks"] = [network for network in document["networks"] if network["kernels"]][:2]
    for network in document["networks"]:
        network["kernels"] = network["kernels"][:12]
    names = {network["name"] for network in document["networks"]}
    document["measurements"] = [row for row in document["measurements"] if row["network"] in names]

    def check(published: Published) -> None:
        for network in published.networks:
            network_kernels(dataclasses.replace(network, spec=None) if network.kernels is not None else network)

    make = damaged_text(json.dumps(document, indent=1))
    assert_both(fuzz(count, make, lambda text: parse_json(text, Published, where="fuzz"), check))


def test_damaged_device_catalogues_are_read_or_refused(count: int) -> None:
    text = texts_of("latency_tables", "devices.yaml")[0]
    part = "\n".join(
        line for line in text[: text.index("  - id: v100")].split("\n") if not line.strip().startswith("#")
    )

    def check(devices: dict[str, Device]) -> None:
        assert all(device.sm_count.value > 0 for device in devices.values())

    assert_both(fuzz(count, damaged_text(part), lambda text: devices_from_yaml(text, "fuzz"), check))


KERNELS_CSV = "\n".join(
    [",".join(COLUMNS), *(f"regular,1,{width},56,56,{width},3,1,0,0.0{width}" for width in (8, 16, 32))]
)
KERNELS_TEXT = "{Regular,1,64,56,56,64,3,1,0} 0.0169\n{Depthwise,4,64,56,56,64,3,1,1} 0.0269\n"


@pytest.mark.parametrize("kind", ["csv", "txt", "csv.gz", "damaged csv.gz"])
def test_damaged_kernel_tables_are_read_or_refused(kind: str, count: int, tmp_path: Path) -> None:
    path = tmp_path / f"kernels.{kind.removeprefix('damaged ')}"
    packed = gzip.compress(KERNELS_CSV.encode(), mtime=0)

    def make(number: int, rng: np.random.Generator) -> bytes:
        if kind == "damaged csv.gz":
            return damage(packed, rng)
        text = damaged_text(KERNELS_TEXT if kind == "txt" else KERNELS_CSV)(number, rng)
        data = text.encode("utf-8", "surrogatepass")
        return gzip.compress(data, 1) if kind == "csv.gz" else data

    def read(data: bytes) -> dict[int, MeasuredTable]:
        path.write_bytes(data)
        return import_kernels(path, precision="fp16")

    outcomes = fuzz(count, make, read, where=str(path))
    assert outcomes["refused"] > 0.1 * count


# Searches and reports -----------------------------------------------------------------------------------------------


def test_damaged_search_checkpoints_are_resumed_or_refused(count: int, tmp_path: Path) -> None:
    setup = prepare(Request(space="k1kx-tiny", latency_s=(2.2e-3,), population=64, generations=10))
    path = tmp_path / "search.ckpt.json"
    begun = start(setup.problem, EvolutionSettings(64, 10))
    write_checkpoint(path, setup, begun)
    text = path.read_text()

    def read(damaged: str) -> Any:
        path.write_text(damaged, encoding="utf-8", errors="surrogatepass")
        return read_checkpoint(path, setup)

    def check(state: Any) -> None:
        assert state.genes.shape[0] == begun.genes.shape[0]
        assert np.random.default_rng().bit_generator.state.keys() == state.generator.keys()

    assert_both(fuzz(count, damaged_text(text), read, check, where=str(path)))


def test_specs_with_a_damaged_provenance_are_reported_or_refused(count: int) -> None:
    setup = prepare(Request(space="k1kx-tiny", latency_s=(2.2e-3,), population=64, generations=2))
    result = run(setup)
    spec, origin = result.candidates[0].spec, provenance(result, 0, None)
    whole = spec_to_json(spec, "fuzz")

    def read(text: str) -> None:
        stored = spec_from_json(whole.replace('"provenance": null', f'"provenance": {text}'), "fuzz")
        found = read_origin(stored, "fuzz")
        if found is not None and found.space == setup.space.name:
            try:
                setup_of(found, spec, None)
            except MaenasError as error:
                raise MaenasError(f"fuzz: {error}") from error

    fuzz(count // 10, damaged_text(json.dumps(origin, indent=1)), read)


EPOCH = '{"epoch": 1, "step": 4, "losses": {"total": 2.5, "cls": 1.0, "box": 1.0, "dfl": 0.5}, "seconds": 1.5}\n'
RATED = EPOCH.replace('"seconds"', '"metrics": {"AP": 0.5, "AP50": 0.75}, "seconds"').replace("1,", "2,", 1)
METRICS = {
    "images": 4,
    "summary": {"AP": 0.5, "AP50": None},
    "per_class": [{"name": "cat", "boxes": 3, "ap": 0.5, "ap50": 0.6}],
    "confusion": {"score": 0.25, "iou": 0.5, "matrix": [[2, 1], [1, 0]]},
    "precision_at_iou50": {"recalls": [0.0, 0.5, 1.0], "classes": {"cat": [1.0, 0.5, 0.0]}},
}


@pytest.mark.parametrize("file", ["epochs.jsonl", "evaluation/metrics.json"])
def test_damaged_logs_of_a_training_are_reported_or_refused(file: str, count: int, tmp_path: Path) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)

    def read(text: str) -> Any:
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        return training_sections(tmp_path)

    text = EPOCH + RATED if file == "epochs.jsonl" else json.dumps(METRICS, indent=1)
    assert_both(fuzz(count, damaged_text(text), read, where=str(path)))
