"""Calibrate the kernel model on every device with published latencies; write the tables that are good enough.

    python benchmarks/device_calibration.py            # writes benchmarks/results/device_calibration.json
    python benchmarks/device_calibration.py --tables   # and latency_tables/*.json, for what is within its limit
    python benchmarks/device_calibration.py --ablation # and what each part of the form is worth (4 minutes)

Errors are those of whole series left out, and of whole devices (with their kind) left out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from maenas.files import data_dir, write_atomic
from maenas.latency.calibration import PULL, Pull, calibrate
from maenas.latency.device import get_device
from maenas.latency.kernel_model import kernel_seconds
from maenas.latency.published import Published, measured_networks, read_published
from maenas.latency.table import LatencyTable, calibrate_table, shipped_table, table_name, write_table
from maenas.latency.transfer import FILE, Source, Transfer, transfer_from, write_transfer

HERE = Path(__file__).parent
DATA, RESULT = HERE / "data" / "published_devices.json.gz", HERE / "results" / "device_calibration.json"
LIMIT, HOST_BOUND_LIMIT = 0.06, 0.08  # mean error of series left out
HOST_BOUND = "bound by the host"  # in the conditions of such a setup
ABLATED = ("a100@ultralytics", "rtx3090@trtutils", "orin-agx@trtutils", "orin-nx@trtutils", "xavier-nx@trtutils")
KINDS = {
    "t4": "Turing",
    "titan-rtx": "Turing",
    "xavier-nx": "Volta, Jetson",
    "a100": "Ampere, data centre",
    "rtx3090": "Ampere, GeForce",
    "rtx3080ti": "Ampere, GeForce",
    "orin-agx": "Ampere, Jetson",
    "orin-nx": "Ampere, Jetson",
    "orin-nano": "Ampere, Jetson",
    "orin-nano-super": "Ampere, Jetson",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="write the tables, too")
    parser.add_argument("--ablation", action="store_true", help="fit without parts of the form, too")
    options = parser.parse_args()
    begin, published = time.perf_counter(), read_published(DATA)
    rows, shipped = [], []
    for setup in published.setups:
        if not measured_networks(published, setup.setup):
            continue
        table = calibrate_table(published, setup.setup)
        limit = HOST_BOUND_LIMIT if HOST_BOUND in setup.conditions else LIMIT
        good = table.calibration.mean_error_left_out <= limit
        rows.append({"setup": setup.setup, **_summary(table), "limit": limit, "shipped": good})
        print(json.dumps(rows[-1]), flush=True)
        if good:
            shipped.append((setup.setup, table))
    transfer = transfer_from(_sources(published, shipped))
    result = {
        "setups": rows,
        "shared": asdict(transfer.constants),
        "held_out": [asdict(row) for row in transfer.held_out],
        "held_out_mean_error": round(transfer.mean_error, 4),
        "held_out_range": round(float(np.exp(transfer.log_half_width)), 3),
        "int8_from_fp16_constants": _other_precision(published, dict(shipped)),
        "t4_constants": {name: _t4_constants(published, name) for name, _ in shipped},
        "ablation": _ablation(published, ABLATED) if options.ablation else None,
        "seconds": round(time.perf_counter() - begin, 1),
    }
    write_atomic(RESULT, json.dumps(result, indent=1) + "\n")
    for row in transfer.held_out:
        print(json.dumps(asdict(row)))
    print(f"wrote {RESULT}; devices left out: {transfer.mean_error:.1%}, range x/÷ {result['held_out_range']}")
    if options.tables:
        _write(shipped, transfer)


def _summary(table: LatencyTable) -> dict[str, Any]:
    """What is said of one setup: constants, and the errors by series and by input size."""
    scored = table.calibration.scored
    errors = np.array([r.left_out_error for r in scored])
    logs = np.log1p(errors)
    series = np.array([r.family for r in scored])
    sizes = np.array([int(r.network.rpartition("-")[2]) for r in scored])
    measured = np.array([r.measured_ms for r in scored])
    predicted = np.array([r.left_out_ms for r in scored])
    return {
        "device": table.device,
        "precision": table.precision,
        "latencies": len(scored),
        "networks": len({r.network.rpartition("-")[0] for r in scored}),
        "series": table.calibration.families,
        "mean_error_fit": table.calibration.mean_error_fit,
        "mean_error_left_out": table.calibration.mean_error_left_out,
        "worst_left_out": round(float(errors[np.argmax(np.abs(errors))]), 4),
        "rms_log_left_out": round(float(np.sqrt(np.mean(logs**2))), 4),
        "tau_left_out": round(_tau(measured, predicted), 3),
        "by_series": {s: round(float(np.mean(np.abs(errors[series == s]))), 4) for s in dict.fromkeys(series.tolist())},
        "by_size": {str(s): round(float(np.mean(np.abs(errors[sizes == s]))), 4) for s in sorted(set(sizes.tolist()))},
        "constants": asdict(table.constants),
        "pulled": table.calibration.pulled,
    }


def _tau(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's tau-a of the pairs that differ in `a`."""
    first, second = np.triu_indices(len(a), 1)
    signs = np.sign(a[first] - a[second]) * np.sign(b[first] - b[second])
    return float(np.mean(signs[a[first] != a[second]]))


def _sources(published: Published, shipped: list[tuple[str, LatencyTable]]) -> list[Source]:
    """One fp16 setup a device; the T4's from its own file."""
    t4 = shipped_table("t4", "tensorrt10")
    sources = [Source(t4, measured_networks(read_published(), "tensorrt10"), KINDS["t4"])]
    for name, table in shipped:
        if table.precision == "fp16":
            sources.append(Source(table, measured_networks(published, name), KINDS[table.device]))
    return sources


def _t4_constants(published: Published, setup: str) -> float:
    """Mean error with the constants of the T4, as every device was predicted before."""
    return round(_with_constants_of(shipped_table("t4", "tensorrt10"), published, setup), 4)


def _ablation(published: Published, setups: Sequence[str]) -> dict[str, dict[str, float]]:
    """Mean error of series left out, by variant and setup: a constant is held by a pull that does not give way."""
    off, stiff = 1e-9, 1e-3
    centre, (compute, memory, launch, serial, issue, concat) = PULL.centre, PULL.log_spread
    no_concat, no_issue = replace(centre, concat_passes=off), replace(centre, issue_s=off)
    variants = {
        "shipped form": PULL,
        "concats free": Pull(no_concat, (compute, memory, launch, serial, issue, stiff)),
        "no host bound": Pull(no_issue, (compute, memory, launch, serial, stiff, concat)),
        "neither": Pull(replace(no_concat, issue_s=off), (compute, memory, launch, serial, stiff, stiff)),
        "hardly a pull": Pull(centre, (2.0,) * 6),
    }
    table: dict[str, dict[str, float]] = {}
    for variant, pull in variants.items():
        table[variant] = {}
        for setup in setups:
            conditions = published.find_setup(setup)
            fit = calibrate(
                measured_networks(published, setup),
                device=get_device(conditions.device),
                precision=conditions.precision,
                batch=conditions.batch,
                pull=pull,
            )
            table[variant][setup] = round(fit.left_out_mean_error, 4)
        print(variant, json.dumps(table[variant]), flush=True)
    return table


def _other_precision(published: Published, tables: dict[str, LatencyTable]) -> dict[str, float]:
    """Mean error of int8 where only the constants of fp16 are used."""
    device, setup = "orin-nano-super", "orin-nano-super@ultralytics"
    as_int8 = _with_constants_of(tables[f"{setup}-fp16"], published, f"{setup}-int8")
    return {device: round(as_int8, 4)}


def _with_constants_of(table: LatencyTable, published: Published, setup: str) -> float:
    conditions, errors = published.find_setup(setup), []
    device = get_device(conditions.device)
    for network in measured_networks(published, setup):
        options: dict[str, Any] = {"device": device, "precision": conditions.precision, "batch": conditions.batch}
        seconds = sum(kernel_seconds(k, **options, constants=table.constants) for k in network.kernels)
        errors.append(abs(seconds / network.seconds - 1))
    return float(np.mean(errors))


def _write(shipped: list[tuple[str, LatencyTable]], transfer: Transfer) -> None:
    folder = data_dir("latency_tables")
    for _, table in shipped:
        write_table(folder / f"{table_name(table)}.json", table)
    write_transfer(folder / FILE, transfer)


if __name__ == "__main__":
    main()
