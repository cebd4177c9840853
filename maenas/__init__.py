"""maenas designs object detectors for the hardware they will run on.

result = maenas.search("3ms", device="t4", classes=20)
result.best.save("mine.json")
maenas.predict(result.best, device="h100").latency_ms
run = maenas.train("mine.json", data="shapes", epochs=3)
run.detector().predict("street.jpg")[0].plot().save("out.jpg")

Everything is loaded when it is first used: `import maenas` alone reads no other module, and searching needs no torch.
Only what `__all__` names is promised.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from detector.events import BeginEvent, EndEvent, EpochEvent, EvaluationEvent, Event, StepEvent, StopTraining
    from detector.export.export import ExportReport, export
    from detector.predict import Detector
    from detector.rate import EvaluationResult, evaluate
    from detector.result import Result
    from detector.run import TrainingRun, train
    from detector.trackers import tracker
    from maenas.api.benchmark import Benchmark, benchmark
    from maenas.api.measure import Validation, profile, validate
    from maenas.api.predict import Latency, predict
    from maenas.api.race import RaceResult, race
    from maenas.api.report import Comparison, compare, report
    from maenas.api.search import Design, SearchResult, pareto, search
    from maenas.errors import MaenasError
    from maenas.nas.space import load_space
    from maenas.profiler.job import ProfileRequest
    from maenas.spec import DetectorSpec, load_spec

# Where each public name lives.
_HOME = {
    "BeginEvent": "detector.events",
    "Benchmark": "maenas.api.benchmark",
    "Comparison": "maenas.api.report",
    "Design": "maenas.api.search",
    "Detector": "detector.predict",
    "DetectorSpec": "maenas.spec",
    "EndEvent": "detector.events",
    "EpochEvent": "detector.events",
    "EvaluationEvent": "detector.events",
    "EvaluationResult": "detector.rate",
    "Event": "detector.events",
    "ExportReport": "detector.export.export",
    "Latency": "maenas.api.predict",
    "MaenasError": "maenas.errors",
    "ProfileRequest": "maenas.profiler.job",
    "RaceResult": "maenas.api.race",
    "Result": "detector.result",
    "SearchResult": "maenas.api.search",
    "StepEvent": "detector.events",
    "StopTraining": "detector.events",
    "TrainingRun": "detector.run",
    "Validation": "maenas.api.measure",
    "benchmark": "maenas.api.benchmark",
    "compare": "maenas.api.report",
    "evaluate": "detector.rate",
    "export": "detector.export.export",
    "load_space": "maenas.nas.space",
    "load_spec": "maenas.spec",
    "pareto": "maenas.api.search",
    "predict": "maenas.api.predict",
    "profile": "maenas.api.measure",
    "race": "maenas.api.race",
    "report": "maenas.api.report",
    "search": "maenas.api.search",
    "tracker": "detector.trackers",
    "train": "detector.run",
    "validate": "maenas.api.measure",
}

__all__ = [
    "BeginEvent",
    "Benchmark",
    "Comparison",
    "Design",
    "Detector",
    "DetectorSpec",
    "EndEvent",
    "EpochEvent",
    "EvaluationEvent",
    "EvaluationResult",
    "Event",
    "ExportReport",
    "Latency",
    "MaenasError",
    "ProfileRequest",
    "RaceResult",
    "Result",
    "SearchResult",
    "StepEvent",
    "StopTraining",
    "TrainingRun",
    "Validation",
    "__version__",
    "benchmark",
    "compare",
    "evaluate",
    "export",
    "load_space",
    "load_spec",
    "pareto",
    "predict",
    "profile",
    "race",
    "report",
    "search",
    "tracker",
    "train",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'maenas' has no attribute {name!r}")
    try:
        value = getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        needed = f"maenas.{name} needs the package {error.name}: pip install 'maenas[detector,export]'"
        raise import_module("maenas.errors").MaenasError(needed) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
