"""Measuring what a processor's caches save."""

import dataclasses
from pathlib import Path

import pytest

from maenas.deploy.clock import Reference, TimingSettings
from maenas.deploy.program import Program
from maenas.errors import MaenasError
from maenas.latency.device import Precision
from maenas.profiler.caches import last_level_bytes, measure_caches
from maenas.profiler.setup import Setup

FAST = TimingSettings(warm_up_s=1e-4, max_warm_up_s=1e-3, rounds=3, attempts=1)
WORK_S, PRODUCT_S, OTHER_S, BYTE_S = 1e-4, 3e-6, 1e-6, 5e-11


@dataclasses.dataclass
class CachedRunner:
    """Its first run after another one's takes longer by what its kernels lack."""

    program: Program
    machine: "Machine"

    def time_once(self) -> float:
        cold = 0.0
        if self.machine.last not in (self.program, self.partner):
            probes = [k for k in self.program.kernels if k.name.startswith("probe")]
            products = [k for k in probes if k.op in ("conv", "matmul")]
            weights = sum((k.in_channels // k.groups * k.kernel**2 + 1) * k.out_channels for k in products)
            cold = len(products) * PRODUCT_S + (len(probes) - len(products)) * OTHER_S + 4 * weights * BYTE_S
        self.machine.last = self.program
        return WORK_S * (1 + len(self.program.kernels)) + cold

    @property
    def partner(self) -> Program | None:
        return self.machine.partners.get(id(self.program))

    def close(self) -> None:
        pass


@dataclasses.dataclass
class Machine:
    """A backend with a cache that holds a probe and its baseline."""

    runtime: str = "fake-cpu 1"
    device_name: str = "Fake"
    gpu: int | None = None
    conditions: dict[str, str] = dataclasses.field(default_factory=dict)
    refuses: bool = False
    last: Program | None = None
    built: list[Program] = dataclasses.field(default_factory=list)
    partners: dict[int, Program] = dataclasses.field(default_factory=dict)
    merges: bool = False

    def build(self, program: Program, *, precision: Precision, batch: int) -> CachedRunner:
        if self.refuses:
            raise MaenasError("not on this machine")
        self.built.append(program)
        if len(self.built) % 2 == 0:
            one, two = self.built[-2:]
            self.partners |= {id(one): two, id(two): one}
        return CachedRunner(program, self)


def test_the_figures_of_a_machine_with_known_ones_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maenas.profiler.caches.last_level_bytes", lambda: 1 << 20)
    setup = Setup(Machine(), settings=FAST)  # type: ignore[arg-type]
    found = measure_caches(setup, Reference(lambda: 1e-3, FAST), sink_s=0.0, flops_per_s=1e11)
    assert found is not None
    assert found.bytes == 1 << 20
    assert found.product_s == pytest.approx(PRODUCT_S, rel=0.01)
    assert found.other_s == pytest.approx(OTHER_S, rel=0.01)
    assert found.byte_s == pytest.approx(BYTE_S, rel=0.01)


@pytest.mark.parametrize(
    ("machine", "size"),
    [(Machine("fake-cuda 1"), 1 << 20), (Machine(), None), (Machine(refuses=True), 1 << 20)],
    ids=["a GPU", "size not told", "no probe runs"],
)
def test_where_nothing_can_be_said_there_are_none(
    machine: Machine, size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maenas.profiler.caches.last_level_bytes", lambda: size)
    setup = Setup(machine, settings=FAST)  # type: ignore[arg-type]
    assert measure_caches(setup, Reference(lambda: 1e-3, FAST), sink_s=0.0, flops_per_s=1e11) is None


def test_the_last_level_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    for index, (level, size) in enumerate([("1", "32K"), ("1", "64K"), ("3", "32768K"), ("2", "1024K")]):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        (folder / "level").write_text(f"{level}\n")
        (folder / "size").write_text(f"{size}\n")
    (tmp_path / "index9").mkdir()
    (tmp_path / "index9" / "level").write_text("4\n")  # and no size
    assert last_level_bytes(tmp_path) == 32 << 20
    assert last_level_bytes(tmp_path / "none") is None
