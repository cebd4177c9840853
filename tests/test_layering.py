"""The direction of imports, read from the source with ast: also imports inside functions count."""

import ast
import graphlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "maenas"

# A module or package of maenas may import from itself and from what stands before it.
ORDER = [
    "errors",
    "choices",
    "palette",
    "signals",
    "unused",
    "files",
    "locks",
    "memory",
    "outputs",
    "units",
    "strict",
    "run_files",
    "spec",
    "headers",
    "kernels",
    "lowering",
    "presets",
    "structure",
    "cost",
    "score_names",
    "score",
    "latency",
    "nas",
    "deploy",
    "profiler",
    "racing",
    "reports",
    "api",
    "cli",
    "__main__",
]


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it, but for what stands under `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield from executed(child)


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything that a file imports when it runs; `from a import b` gives a and a.b."""
    for node in executed(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_imports_only_from_earlier_ones(path: Path) -> None:
    own = layer(path)
    if own == "__init__":
        assert not any(name.startswith("maenas.") for name in imports(path))
        return
    assert own in ORDER, f"give {own} its place in ORDER"
    allowed = {*ORDER[: ORDER.index(own) + 1], "__version__"}
    used = {name.split(".")[1] for name in imports(path) if name.startswith("maenas.")}
    assert used <= allowed, f"{own} comes before {sorted(used - allowed)}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    paths = {module(path): path for path in [*FILES, *sorted((ROOT / "detector").rglob("*.py"))]}
    graph = {name: {other for other in imports(path) if other in paths} - {name} for name, path in paths.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_only_the_profiler_imports_torch() -> None:
    users = {
        layer(path) for path in FILES if any(name.split(".")[0] in ("torch", "torchvision") for name in imports(path))
    }
    assert users <= {"profiler"}


def test_only_the_api_and_the_command_line_import_the_detector() -> None:
    users = {layer(path) for path in FILES if any(name.split(".")[0] == "detector" for name in imports(path))}
    assert users <= {"api", "cli"}


def test_the_detector_knows_the_network_and_nothing_of_the_search() -> None:
    edges = {"errors", "palette", "unused", "files", "locks", "memory", "outputs", "units", "strict", "run_files"}
    allowed = {*edges, "spec", "headers", "kernels", "lowering", "presets", "cost", "deploy", "__version__"}
    paths = sorted((ROOT / "detector").rglob("*.py"))
    used = {name.split(".")[1] for path in paths for name in imports(path) if name.startswith("maenas.")}
    assert used <= allowed


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(result.stdout.split())


def test_importing_maenas_loads_only_the_standard_library() -> None:
    heavy = {"torch", "onnx", "onnxruntime", "scipy", "numpy", "pydantic", "yaml", "typer", "tqdm"}
    assert not loaded_by("import maenas") & heavy


@pytest.mark.skipif(importlib.util.find_spec("maenas.cli.main") is None, reason="there is no command line yet")
def test_importing_the_command_line_loads_no_heavy_library() -> None:
    heavy = {"torch", "torchvision", "onnx", "onnxruntime", "scipy", "cv2", "numpy", "pydantic", "yaml", "tqdm"}
    assert not loaded_by("import maenas.cli.main") & heavy


def test_importing_a_dataclass_with_a_strict_reader_does_not_load_pydantic() -> None:
    assert "pydantic" not in loaded_by("import maenas.latency.device")
