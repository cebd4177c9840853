"""What an exported model says about itself: enough to feed it and to read its outputs.

An ONNX file holds it in its metadata, an engine in the file beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

from maenas import __version__
from maenas.errors import MaenasError
from maenas.headers import EXPORT_SCHEMA, KEY, Exported, FilePrecision, NmsSettings
from maenas.spec import DetectorSpec, SpecFile
from maenas.strict import dump_json, parse_json


def exported(
    spec: DetectorSpec,
    names: tuple[str, ...],
    *,
    precision: FilePrecision,
    nms: NmsSettings | None,
    spec_file: SpecFile | None = None,
) -> Exported:
    """What an export of this detector says; raises `MaenasError` if names are missing."""
    return Exported(EXPORT_SCHEMA, names, precision, nms, spec, spec_file)


def to_properties(export: Exported) -> dict[str, str]:
    """As the metadata of an ONNX file: one entry for maenas, and what other programs need in entries of their own."""
    size = export.detector.input
    return {
        KEY: dump_json(export),
        "version": __version__,
        "names": json.dumps(export.names),
        "height": str(size.height),
        "width": str(size.width),
        "resize": size.resize,
        "channel_order": size.channel_order,
        "value_range": json.dumps(size.value_range),
        "precision": export.precision,
        "nms": "none" if export.nms is None else json.dumps(asdict(export.nms)),
        "spec_id": export.detector.id,
    }


def from_properties(properties: Mapping[str, str], *, where: str) -> Exported:
    """Strict inverse of `to_properties`; raises `MaenasError`, naming the file `where`."""
    if KEY not in properties:
        raise MaenasError(
            f"{where}: nothing in it says which detector it is, so its input and outputs are unknown; "
            "write it with `maenas export`"
        )
    return parse_json(properties[KEY], Exported, where=where)
