"""Measured tables side by side: what differs, how their times compare, and several joined into one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from maenas.errors import MaenasError
from maenas.latency.measured import KernelKey, MeasuredTable, make_table

HARD = ("device", "runtime", "precision", "batch")  # without these a time means nothing
OUR_CONDITIONS = ("date", "maenas", "gpu_state", "merged_from")  # may differ between a run and its continuation


@dataclass(frozen=True)
class Ratios:
    """Times of a second table over those of a first one, for the kernels in both; `total` is that of their sums."""

    ratios: dict[KernelKey, float]
    only_first: int
    only_second: int
    total: float

    @property
    def geometric_mean(self) -> float:
        return math.exp(statistics.fmean(math.log(ratio) for ratio in self.ratios.values()))

    @property
    def median(self) -> float:
        return statistics.median(self.ratios.values())

    @property
    def least(self) -> KernelKey:
        return min(self.ratios, key=lambda key: self.ratios[key])

    @property
    def most(self) -> KernelKey:
        return max(self.ratios, key=lambda key: self.ratios[key])


def compare_tables(one: MeasuredTable, two: MeasuredTable) -> Ratios:
    """Kernel by kernel. Raises `MaenasError` where the tables have none in common."""
    times = {row.key: row.median_s for row in one.rows}
    ratios = {row.key: row.median_s / times[row.key] for row in two.rows if row.key in times}
    if not ratios:
        raise MaenasError(f"the tables {one.id} and {two.id} have no kernel in common")
    total = math.fsum(times[key] * ratio for key, ratio in ratios.items()) / math.fsum(times[key] for key in ratios)
    return Ratios(ratios, len(one.rows) - len(ratios), len(two.rows) - len(ratios), total)


def differences(one: MeasuredTable, two: MeasuredTable) -> list[tuple[str, str, str]]:
    """Name, first and second value of everything but rows that differs."""
    pairs = [(name, str(getattr(one, name)), str(getattr(two, name))) for name in HARD]
    for left, right in ((one.conditions, two.conditions), (one.method, two.method)):
        pairs += [(key, left.get(key, "-"), right.get(key, "-")) for key in {**left, **right}]
    return [pair for pair in pairs if pair[1] != pair[2]]


def merge_tables(tables: Sequence[MeasuredTable], names: Sequence[str], *, across_conditions: bool) -> MeasuredTable:
    """Tables of one setup as one; where rows clash the last table counts. `names` are for messages.

    Raises `MaenasError` where device, runtime, precision or batch differ, and, unless `across_conditions`, where any
    other condition does.
    """
    first = tables[0]
    for name, table in zip(names[1:], tables[1:], strict=True):
        differ = [what for what, _, _ in differences(first, table)]
        if hard := [what for what in differ if what in HARD]:
            raise MaenasError(f"{names[0]} and {name} cannot be joined: different {', '.join(hard)}")
        soft = [what for what in differ if what not in (*OUR_CONDITIONS, "reference")]
        if soft and not across_conditions:
            raise MaenasError(
                f"{names[0]} and {name} were measured under different conditions ({', '.join(soft)}); "
                "--force joins them all the same"
            )
    conditions = dict(first.conditions)
    if len(tables) > 1:
        conditions["merged_from"] = ", ".join(table.id for table in tables)
    return make_table(
        device=first.device,
        runtime=first.runtime,
        precision=first.precision,
        batch=first.batch,
        conditions=conditions,
        method=first.method,
        rows=tuple({row.key: row for table in tables for row in table.rows}.values()),
        blocks=tuple({block.key: block for table in tables for block in table.blocks}.values()),
        networks=tuple({entry.detector.id: entry for table in tables for entry in table.networks}.values()),
        caches=next((table.caches for table in reversed(tables) if table.caches), None),
    )
