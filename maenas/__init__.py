"""maenas designs object detectors for the hardware they will run on.

result = maenas.search("3ms", device="t4", classes=20)
result.best.save("mine.json")
maenas.predict(result.best, device="h100").latency_ms

Everything is loaded when it is first used: `import maenas` alone reads no other module, and searching needs no torch.
Only what `__all__` names is promised.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from maenas.api.measure import Validation, profile, validate
    from maenas.api.predict import Latency, predict
    from maenas.api.report import Comparison, compare, report
    from maenas.api.search import Design, SearchResult, pareto, search
    from maenas.errors import MaenasError
    from maenas.nas.space import load_space
    from maenas.profiler.job import ProfileRequest
    from maenas.spec import DetectorSpec, load_spec

# Where each public name lives.
_HOME = {
    "Comparison": "maenas.api.report",
    "Design": "maenas.api.search",
    "DetectorSpec": "maenas.spec",
    "Latency": "maenas.api.predict",
    "MaenasError": "maenas.errors",
    "ProfileRequest": "maenas.profiler.job",
    "SearchResult": "maenas.api.search",
    "Validation": "maenas.api.measure",
    "compare": "maenas.api.report",
    "load_space": "maenas.nas.space",
    "load_spec": "maenas.spec",
    "pareto": "maenas.api.search",
    "predict": "maenas.api.predict",
    "profile": "maenas.api.measure",
    "report": "maenas.api.report",
    "search": "maenas.api.search",
    "validate": "maenas.api.measure",
}

__all__ = [
    "Comparison",
    "Design",
    "DetectorSpec",
    "Latency",
    "MaenasError",
    "ProfileRequest",
    "SearchResult",
    "Validation",
    "__version__",
    "compare",
    "load_space",
    "load_spec",
    "pareto",
    "predict",
    "profile",
    "report",
    "search",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'maenas' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
