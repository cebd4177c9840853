"""`import maenas`: what a notebook does with it."""

import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import maenas
from maenas.api.doctor import PARTS, diagnose, format_diagnosis
from maenas.api.report import compare
from maenas.api.search import Watch, search
from maenas.latency.predictor import load_predictor
from maenas.latency.predictor import predict as predict_kernels
from maenas.lowering import lower
from maenas.spec import load_spec, published_spec
from tests.conftest import Maenas

QUICK = {"space": "k1kx-tiny", "generations": 2, "population": 64}


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_packages_of_the_public_names_tell_type_checkers_their_types() -> None:
    homes = {import_module(home.partition(".")[0]) for home in maenas._HOME.values()}
    assert {home.__name__ for home in homes} == {"maenas", "detector"}
    assert all((Path(home.__file__ or "").parent / "py.typed").is_file() for home in homes)


def test_every_public_name_is_there_and_documented() -> None:
    assert sorted(maenas._HOME) == sorted(set(maenas.__all__) - {"__version__"})
    for name in maenas._HOME:
        assert getattr(maenas, name).__doc__
    assert set(dir(maenas)) >= {"search", "predict", "load_spec"}
    with pytest.raises(AttributeError, match="serach"):
        _ = maenas.serach  # type: ignore[attr-defined]


def test_no_package_has_the_name_of_a_public_function() -> None:
    folder = Path(maenas.__file__).parent
    assert not {path.stem for path in folder.iterdir()} & {*maenas._HOME}


def test_importing_and_searching_load_no_torch() -> None:
    assert not loaded_by("import maenas") & {"numpy", "torch", "pydantic", "yaml", "typer"}
    assert not loaded_by("import maenas; maenas.search('3ms', generations=0)") & {"torch", "onnx", "cv2", "typer"}


def test_a_search_gives_designs_that_are_saved_predicted_and_read_back(tmp_path: Path) -> None:
    result = maenas.search("2.3ms", device="t4", classes=20, top_k=3, **QUICK)
    best = result.best
    assert len(result.candidates) == 3
    assert best is next(iter(result))
    assert best.spec.head.num_classes == 20
    assert best.latency_ms <= 2.3
    assert result.gap is not None
    assert result.gap >= 0
    stored = load_spec(str(best.save(tmp_path / "mine.json")))
    assert (stored.name, stored.detector) == ("mine", best.spec)
    assert stored.provenance is not None
    assert stored.provenance["latency"][0]["ms"] == pytest.approx(best.latency_ms, rel=1e-7)
    assert maenas.predict(best).latency_ms == pytest.approx(best.latency_ms, rel=1e-12)


def test_the_file_of_a_design_is_the_one_that_the_command_writes(tmp_path: Path, maenas: Maenas) -> None:
    command = ["search", "--space", "k1kx-tiny", "--budget", "2.3ms", "--generations", "2", "--population", "64"]
    assert maenas(*command, "--name", "mine").code == 0
    design = search("2.3ms", **QUICK).best
    assert design.save(tmp_path / "mine.json").read_bytes() == (tmp_path / "searched_models" / "mine.json").read_bytes()


def test_a_result_shows_itself_as_text_and_as_html() -> None:
    result = maenas.search("2.3ms", **QUICK)
    assert "detector" in repr(result)
    assert result._repr_html_().startswith("<pre>")
    assert "ms, score" in repr(result.best)


def test_a_caller_hears_of_every_generation() -> None:
    seen: list[int] = []
    maenas.search("2.3ms", watch=Watch(on_generation=lambda state: seen.append(state.generation)), **QUICK)
    assert seen == [1, 2]


@pytest.mark.parametrize("name", ["damo-yolo-t", "damo-yolo-m"])
def test_predict_is_the_predictor_on_the_lowered_network(name: str) -> None:
    latency = maenas.predict(name, device="t4")
    expected = predict_kernels(lower(published_spec(name)), load_predictor("t4"))
    assert latency.latency_ms == expected.seconds * 1e3
    assert latency.interval_ms == (expected.low * 1e3, expected.high * 1e3)
    assert sum(latency.parts_ms.values()) == pytest.approx(latency.latency_ms)
    assert latency.kind == "modelled"
    assert "modelled" in repr(latency)
    assert maenas.predict(published_spec(name)).latency_ms == latency.latency_ms


def test_what_load_spec_gives_is_predicted_under_its_name_and_trained() -> None:
    stored = load_spec("damo-yolo-nano-s")
    assert maenas.predict(stored).text() == maenas.predict("damo-yolo-nano-s").text()
    pytest.importorskip("torch")
    from detector.job import _spec_file

    assert _spec_file(stored) is stored


def test_pareto_rises_and_ends_at_its_budget() -> None:
    front = maenas.pareto("1.6ms", space="k1kx-tiny")
    scores = [point.score for point in front.points]
    assert scores == sorted(scores)
    assert front.points[-1].latency_s <= 1.6e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": "3"}, "give a unit"),
        ({"budget": "3ms", "score": "zen"}, "choose"),
        ({"budget": ["3ms", "4ms"]}, "one --budget for each --device"),
        ({"budget": "3ms", "max_params": "10"}, "unit"),
    ],
)
def test_wrong_arguments_are_refused_with_one_message(arguments: dict, message: str) -> None:
    with pytest.raises(maenas.MaenasError, match=message):
        maenas.search(**arguments)


@pytest.mark.parametrize("size", ["640", 640.0, [640, 640], (640,), ("640", 640)])
def test_an_input_size_of_another_type_is_refused_with_one_message(size: object) -> None:
    for call in (lambda: maenas.predict("any.onnx", input_size=size), lambda: maenas.search("3ms", input_size=size)):
        with pytest.raises(maenas.MaenasError, match=r"input height is|input_size is"):
            call()  # type: ignore


def test_compare_is_what_the_command_prints(maenas: Maenas) -> None:
    found = compare(["damo-yolo-t", "damo-yolo-s"], device=["t4"])
    printed = json.loads(maenas("compare", "damo-yolo-t", "damo-yolo-s", "--device", "t4", "--json").out)
    milliseconds = [row.predictions[0].seconds * 1e3 for row in found.rows]
    assert [row["latency"][0]["ms"] for row in printed["networks"]] == pytest.approx(milliseconds)


def test_one_network_and_one_device_need_no_list_and_may_be_paths() -> None:
    table = Path(__file__).resolve().parents[1] / "latency_tables" / "t4-damo-yolo-report-fp16-b1.json"
    listed = compare(["damo-yolo-t"], device=[str(table)])
    alone = compare("damo-yolo-t", device=table)
    assert alone.rows == listed.rows
    ms = listed.rows[0].predictions[0].seconds * 1e3
    assert maenas.predict("damo-yolo-t", device=table).latency_ms == pytest.approx(ms)


def test_the_doctor_names_every_package_of_the_extras_and_loads_none() -> None:
    project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    named = {name for parts in PARTS.values() for name in parts}
    wanted = [*project["project"]["dependencies"]]
    for extra in ("detector", "export", "openvino", "report", "cluster", "gpu"):
        wanted += project["project"]["optional-dependencies"][extra]
    required = {re.match(r"[\w.-]+", requirement)[0] for requirement in wanted}  # type: ignore[index]
    assert required - {"tqdm"} <= named
    assert not loaded_by("from maenas.api.doctor import diagnose; diagnose()") & {"torch", "onnx", "cv2", "plotly"}
    text = format_diagnosis(diagnose())
    assert all(name in text for name in named)


def test_a_design_builds_the_network_that_is_trained() -> None:
    pytest.importorskip("torch")
    net = maenas.search("2.3ms", classes=3, **QUICK).best.build()
    assert net.spec.head.num_classes == 3
    assert sum(parameter.numel() for parameter in net.parameters()) > 0
