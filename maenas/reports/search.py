"""What a report says about the search that a network came from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from maenas.latency.predictor import predict
from maenas.nas.depth_bound import kernels_in_scope
from maenas.nas.provenance import Provenance
from maenas.nas.run import gap_to
from maenas.reports.blocks import Block, Facts, Meters, Note, Plot, Section, Table
from maenas.reports.figures import progress_figure
from maenas.reports.landscape import Progress
from maenas.reports.networks import Devices, Network
from maenas.score_names import SCORES
from maenas.units import format_bytes, format_count, format_latency, number_of

PROGRESS_ROWS = 12
SAME = 1e-6  # relative difference up to which a latency is the one that the file states


def search_blocks(network: Network, devices: Devices) -> list[Block]:
    """What the network was searched for, how much of each budget it uses, and how good it could have been."""
    origin = network.origin
    if origin is None:
        return [Note("This network was not searched by maenas: its file states no budget and no bound.")]
    facts = [
        ("search", _settings(origin)),
        ("searched for", f"the {origin.score.name} score, reached {origin.score.value:.4f}"),
        ("equation", SCORES[origin.score.name].equation),
        ("source", SCORES[origin.score.name].source),
        ("evidence", f"{SCORES[origin.score.name].evidence_text} (docs/score.md)"),
        ("optimality", _optimality(origin)),
        ("depth", _depth(origin)),
    ]
    if network.changed and network.searched is not None:
        size, classes = network.searched.input, network.searched.head.num_classes
        shape = f"{size.height}x{size.width} and {number_of(classes, 'class')}"
        facts.append(("trained", f"from the detector of {shape} that was searched; all above is about that one"))
    m = origin.measurement
    if m is not None:
        spread = f"interquartile range {m.iqr_ms:.4f} ms, {m.samples} samples"
        facts.append(("measured", f"{m.ms:.4f} ms with {m.runtime} ({spread})"))
    return [Facts(facts), Meters(_budget_use(origin)), *_changed(network, origin, devices)]


def _settings(origin: Provenance) -> str:
    text = f"space {origin.space} (id {origin.space_id}), scope {origin.scope}, rank {origin.rank}, {origin.solver}"
    if origin.solver == "evolution":
        text += f" with population {origin.population}, {origin.generations} generations, seed {origin.seed}"
    return text


def _optimality(origin: Provenance) -> str:
    stated = origin.optimality
    if stated.gap is None or stated.bound is None:
        return "unknown: this score is not additive over stages, so there is no bound"
    if not stated.proven:
        return f"within {stated.gap:.3%} of an upper bound; the proof was given up as too large"
    if stated.gap == 0:
        return "proven: no architecture of the space scores higher within these limits (gap 0)"
    return f"{stated.gap:.4%} below the proven optimum {stated.bound:.4f}"


def _depth(origin: Provenance) -> str:
    bound = origin.depth_bound
    limit = "no limit on layers" if bound.max_layers is None else f"at most {bound.max_layers} layers"
    reached = f"; sits on {', '.join(bound.reached)}" if bound.reached else ""
    return f"{limit}: {bound.reason}{reached}"


def _budget_use(origin: Provenance) -> list[tuple[str, float, str]]:
    used: Mapping[str, float] = {
        "params": origin.params,
        "flops": origin.flops,
        "activation memory": origin.activation_bytes,
        **{f"latency on {row.device}": row.ms / 1e3 for row in origin.latency},
    }
    rows = []
    for name, limit in origin.budgets.items():
        if name not in used or limit <= 0:
            continue
        show = format_latency if name.startswith("latency") else format_bytes if "memory" in name else format_count
        share = used[name] / limit
        rows.append((name, share, f"{show(used[name])} of {show(limit)} ({share:.2%})"))
    return rows


def _changed(network: Network, origin: Provenance, devices: Devices) -> list[Block]:
    """A note where the file states another latency than the one predicted now."""
    kernels = kernels_in_scope(network.searched or network.spec, origin.scope)
    notes: list[Block] = []
    for stated in origin.latency:
        conditions = (stated.device, stated.precision, stated.batch)
        for name, predictor in zip(devices.names, devices.predictors, strict=True):
            now = predict(kernels, predictor).seconds * 1e3
            if conditions == (name, predictor.precision, predictor.batch) and abs(now / stated.ms - 1) > SAME:
                change = f"the file states {stated.ms:.4f} ms, and {now:.4f} ms is predicted now"
                notes.append(Note(f"On {name} {change}: the latency table changed since."))
    return notes


def progress_section(progress: Progress, origin: Provenance) -> Section:
    """How the evolution got there."""
    bound = origin.optimality.bound
    figure = progress_figure(progress, bound, origin.score.name)
    picked = np.unique(np.geomspace(1, len(progress.scores), PROGRESS_ROWS).round().astype(int)) - 1
    rows = []
    for index in picked:
        score = progress.scores[index]
        gap = "" if score is None or bound is None else f"{gap_to(bound, score):.4%}"
        rows.append(
            [
                str(index + 1),
                f"{progress.evaluated[index]:,}",
                "none fits yet" if score is None else f"{score:.4f}",
                gap,
            ]
        )
    table = Table("Search progress", ["generation", "candidates", f"best {origin.score.name}", "below the bound"], rows)
    about = Note(
        f"The evolution was run again for this page with the stored settings (population {origin.population}, "
        f"{origin.generations} generations, seed {origin.seed}) and ended with the same network."
    )
    plot = Plot(
        "Best score while searching",
        "Step curve of the best score, rising to the last row of the table.",
        figure,
        table,
        height=320,
    )
    return Section("Search progress", [about, plot])
