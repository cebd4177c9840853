"""The report: networks and devices to sections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from maenas.errors import MaenasError
from maenas.reports.blocks import Note, Section
from maenas.reports.landscape import progress_of, survey
from maenas.reports.networks import Devices, Network, summarise
from maenas.reports.search import progress_section, search_blocks
from maenas.reports.sections import (
    conditions_section,
    front_section,
    network_section,
    overview,
)
from maenas.reports.training import detections_section, training_sections
from maenas.units import format_latency


def report_sections(
    networks: Sequence[Network],
    devices: Devices,
    *,
    space: str | None = None,
    low_s: float | None = None,
    high_s: float | None = None,
    detections: Path | None = None,
    on_step: Callable[[str], None] = lambda text: None,
) -> list[Section]:
    """All sections of a report about `networks`; `on_step` hears what is being computed.

    `detections` is a folder of pictures that `maenas detect` wrote.
    `space`, `low_s` and `high_s` are those of `survey`. Where no front can be drawn, the page says why, unless `space`
    was given: then it is an error.
    """
    if low_s is not None and high_s is not None and low_s >= high_s:
        raise MaenasError(f"--from {format_latency(low_s)} is not below --to {format_latency(high_s)}")
    rows = [summarise(network, devices.predictors) for network in networks]
    sections = [overview(rows, devices)]
    on_step("front")
    try:
        landscape = survey(networks, devices.predictors[0], devices.names[0], space=space, low_s=low_s, high_s=high_s)
        sections.append(front_section(landscape))
    except MaenasError as error:
        if space is not None:
            raise
        sections.append(Section("Pareto front", [Note(f"Not shown: {error}.")]))
    for row in rows:
        on_step(row.network.name)
        network = row.network
        search = [] if network.run and network.origin is None else search_blocks(network, devices)
        inner = [*_search_progress(network, space), *(training_sections(network.run) if network.run else ())]
        sections.append(network_section(row, devices, search, inner))
    if detections is not None:
        sections.append(detections_section(detections))
    return [*sections, conditions_section(devices)]


def _search_progress(network: Network, space: str | None) -> list[Section]:
    if network.origin is None:
        return []
    try:
        progress = progress_of(network, space)
    except MaenasError as error:
        return [Section("Search progress", [Note(f"Not shown: {error}.")])]
    if progress is None:
        return [
            Section(
                "Search progress", [Note("Found by the exact solver, which proves and does not improve step by step.")]
            )
        ]
    return [progress_section(progress, network.origin)]
