"""What TensorRT says without words (nothing in place of an object, a Python error) becomes a message, or no harm."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("onnx")

from maenas.deploy.engine import EngineBuilder
from maenas.errors import MaenasError

GIVEN: list[bytes] = []  # timings that builds were offered


class Logger:
    """What a logger of TensorRT derives from."""

    Severity = SimpleNamespace(ERROR="error", INTERNAL_ERROR="internal")


class Config:
    """Settings of a build, with a timing cache that takes what `known` is, as TensorRT does with those of its own."""

    def __init__(self, known: bytes) -> None:
        self.known, self.used = known, None

    def create_timing_cache(self, stored: bytes) -> Any:
        GIVEN.append(stored)
        return None if stored == b"cut" else SimpleNamespace(stored=stored, serialize=lambda: stored + b"+new")

    def set_timing_cache(self, timings: Any, ignore: bool) -> bool:
        if timings is None:
            raise TypeError("set_timing_cache(): incompatible function arguments")
        if timings.stored not in (self.known, b"") and not timings.stored.endswith(b"+new"):
            return False
        self.used = timings
        return True

    def get_timing_cache(self) -> Any:
        return self.used

    def set_memory_pool_limit(self, kind: Any, size: int) -> None: ...

    def set_flag(self, flag: Any) -> None: ...


class Engine:
    """A builder, a runtime and an engine in one, without a GPU that has memory left."""

    def __init__(self, log: Any) -> None:
        self.log = log

    def create_network(self, flags: int) -> Any:
        return self

    def create_builder_config(self) -> Config:
        return Config(b"known")

    def build_serialized_network(self, network: Any, config: Config) -> bytes:
        return b"plan"

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        return self if plan == b"plan" else None

    def create_execution_context(self) -> None:
        self.log.log("error", "Requested amount of GPU memory (9 bytes) could not be allocated")


def nothing(log: Any) -> None:
    log.log("error", "CUDA initialization failure with error: 35")
    raise TypeError("pybind11::init(): factory function returned nullptr")


def module(**replaced: Any) -> SimpleNamespace:
    parser = SimpleNamespace(parse=lambda model: model != b"odd", num_errors=1, get_error=lambda n: SimpleNamespace())
    parts: dict[str, Any] = {
        "__name__": "tensorrt",
        "__version__": "11.4.0",
        "ILogger": Logger,
        "Builder": Engine,
        "Runtime": Engine,
        "OnnxParser": lambda network, log: parser,
        "NetworkDefinitionCreationFlag": SimpleNamespace(STRONGLY_TYPED=1),
        "MemoryPoolType": SimpleNamespace(WORKSPACE=0),
        "ProfilingVerbosity": SimpleNamespace(DETAILED=2),
        "BuilderFlag": SimpleNamespace(TF32=1),
    }
    return SimpleNamespace(**(parts | replaced))


def builder(monkeypatch: pytest.MonkeyPatch, trt: SimpleNamespace, cache: Path | None = None) -> EngineBuilder:
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.delenv("MAENAS_TRT", raising=False)
    return EngineBuilder(timing_cache=cache)


def test_without_a_gpu_the_reason_is_said_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MaenasError, match=r"tensorrt 11\.4\.0 finds no GPU that it can use: .*error: 35"):
        builder(monkeypatch, module(Builder=nothing))
    with pytest.raises(MaenasError, match="finds no GPU that it can use"):
        builder(monkeypatch, module(Runtime=nothing)).load(b"plan")


def test_an_engine_that_finds_no_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    made = builder(monkeypatch, module())
    with pytest.raises(MaenasError, match="cannot load its own engine"):
        made.load(b"another")
    with pytest.raises(MaenasError, match=r"cannot run its own engine: Requested amount of GPU memory"):
        made.context(made.load(b"plan"))


@pytest.mark.parametrize(
    ("stored", "kept"), [(None, b"+new"), (b"known", b"known+new"), (b"of another GPU", b"+new"), (b"cut", b"+new")]
)
def test_timings_that_are_of_no_use_are_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stored: bytes | None, kept: bytes
) -> None:
    """As they are behind an update of TensorRT, and in a file that was cut off."""
    cache = tmp_path / "timings"
    if stored is not None:
        cache.write_bytes(stored)
    assert builder(monkeypatch, module(), cache).build_model(b"model") == b"plan"
    assert cache.read_bytes() == kept


def test_what_one_build_timed_the_next_one_knows_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    made = builder(monkeypatch, module())
    GIVEN.clear()
    made.build_model(b"model")
    made.build_model(b"model")
    assert GIVEN == [b"", b"+new"]
