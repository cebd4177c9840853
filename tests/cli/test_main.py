"""The command line: what it writes and prints, that it repeats itself and resumes, and how it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
import yaml

from maenas import __version__
from maenas.cli import main as cli
from maenas.files import data_dir
from maenas.latency.device import load_devices
from maenas.latency.table import SETUPS
from maenas.lowering import lower
from maenas.nas.checkpoint import read_checkpoint, write_checkpoint
from maenas.nas.evolution import EvolutionSettings, start
from maenas.nas.request import Request, prepare
from maenas.nas.space import space_names
from maenas.spec import PUBLISHED, read_spec
from tests.conftest import Maenas

TINY = ["search", "--space", "k1kx-tiny", "--neck", "preset", "--population", "64", "--generations", "10"]
LONG = [
    "search",
    "--space",
    "k1kx-tiny",
    "--neck",
    "preset",
    "--budget",
    "2.2ms",
    "--generations",
    "300",
    "--population",
    "4096",
]
SHIPPED = sorted(PUBLISHED)


def process(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "maenas", *map(str, arguments)]


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What it writes and prints -------------------------------------------------------------------------------------------


def test_help_mentions_every_command_and_every_command_has_help(maenas: Maenas) -> None:
    told = maenas("--help").out
    names = [info.name or info.callback.__name__ for info in cli.app.registered_commands if info.callback]
    assert {"search", "pareto", "predict", "spaces", "devices", "calibrate"} <= set(names)
    for name in [*names, "structure"]:
        assert re.search(rf"\b{name}\b", told)
        assert maenas(name, "--help").code == 0
    structure = maenas("structure", "--help").out
    assert "import" in structure
    assert "export" in structure


def test_the_version_is_the_package_s(tmp_path: Path) -> None:
    done = process("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"maenas {__version__}\n", "")


def test_a_search_writes_its_spec_and_says_modelled_of_every_latency(tmp_path: Path) -> None:
    done = process(*TINY, "--budget", "2.2ms", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert list(files_in(tmp_path)) == ["searched_models/k1kx-tiny-t4-2.2ms.json"]
    stored = read_spec(tmp_path / "searched_models" / "k1kx-tiny-t4-2.2ms.json")
    assert stored.name == "k1kx-tiny-t4-2.2ms"
    assert f"wrote      {Path('searched_models', 'k1kx-tiny-t4-2.2ms.json')} (id {stored.id})" in done.stdout
    (latency,) = [line for line in done.stdout.splitlines() if line.startswith("latency")]
    (device,) = [line for line in done.stdout.splitlines() if line.startswith("device")]
    assert "modelled on NVIDIA T4" in latency
    assert "modelled" in device
    assert "within" in done.stdout or "proven" in done.stdout


def test_out_may_name_the_file_of_the_spec(maenas: Maenas, tmp_path: Path) -> None:
    done = maenas(*TINY, "--budget", "2.2ms", "--out", "new/mine.json")
    assert (done.code, done.err) == (0, "")
    assert list(files_in(tmp_path)) == ["new/mine.json"]
    assert read_spec(tmp_path / "new" / "mine.json").name == "mine"
    done = maenas(*TINY, "--budget", "2.2ms", "--out", "other.json", "--name", "another")
    assert done.code == 2
    assert done.err == "error: --out other.json names the spec, and so does --name another; give one of them\n"
    (tmp_path / "folder.json").mkdir()
    assert maenas(*TINY, "--budget", "2.2ms", "--out", "folder.json", "--name", "mine").code == 0
    assert (tmp_path / "folder.json" / "mine.json").is_file()


def test_json_prints_one_document_as_the_last_line_and_nothing_else(tmp_path: Path) -> None:
    done = process(*TINY, "--budget", "2.2ms", "--json", "--top-k", "2", cwd=tmp_path)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["command"] == "search"
    assert len(document["specs"]) == 2
    for row in document["specs"]:
        stored = read_spec(tmp_path / row["path"])
        assert row["id"] == stored.id
        assert row["latency"][0]["kind"] == "modelled"
        assert stored.provenance == {key: value for key, value in row.items() if key not in ("path", "id")}


def test_the_k_best_are_k_distinct_files_best_first(maenas: Maenas, tmp_path: Path) -> None:
    assert maenas(*TINY, "--budget", "2.2ms", "--top-k", "4", "--out", "specs", "--name", "mine").code == 0
    names = ["mine.json", "mine-2.json", "mine-3.json", "mine-4.json"]
    assert sorted(files_in(tmp_path / "specs")) == sorted(names)
    stored = [read_spec(tmp_path / "specs" / name) for name in names]
    assert len({spec.id for spec in stored}) == 4
    assert [f"{spec.name}.json" for spec in stored] == names
    scores = [spec.provenance["score"]["value"] for spec in stored if spec.provenance]
    assert scores == sorted(scores, reverse=True)


def test_the_file_is_named_after_the_space_the_devices_and_the_limits(maenas: Maenas, tmp_path: Path) -> None:
    two = ["--device", "t4", "--device", "v100", "--budget", "2.2 ms", "--budget", "3ms", "--max-params", "9M"]
    assert maenas(*TINY, *two).code == 0
    assert list(files_in(tmp_path)) == ["searched_models/k1kx-tiny-t4-2.2ms-v100-3ms-9M.json"]


@pytest.mark.parametrize("solver", ["evolution", "exact"])
def test_the_same_seed_gives_the_same_bytes_in_another_run_and_folder(solver: str, tmp_path: Path) -> None:
    count = {"evolution": 3, "exact": 1}[solver]
    arguments = [*TINY, "--budget", "2.2ms", "--seed", "5", "--top-k", str(count), "--solver", solver]
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "other folder"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        environment = dict(os.environ, PYTHONHASHSEED=str(number + 1))
        done = subprocess.run(command(*arguments), cwd=folder, env=environment, capture_output=True, check=True)
        assert done.stderr == b""
    one, two, other = (files_in(folder) for folder in folders)
    assert len(one) == count
    assert one == two == other


def test_another_seed_is_recorded(maenas: Maenas, tmp_path: Path) -> None:
    assert maenas(*TINY, "--budget", "2.2ms", "--seed", "7").code == 0
    (path,) = (tmp_path / "searched_models").iterdir()
    stored = read_spec(path)
    assert stored.provenance is not None
    assert stored.provenance["seed"] == 7


# Interrupted ---------------------------------------------------------------------------------------------------------


def interrupted(folder: Path, how: signal.Signals, *, at_checkpoint: bool) -> subprocess.Popen[str]:
    """Start the long search in `folder` and send it a signal, once its checkpoint is there or a little earlier."""
    # A process started in the background may ignore Ctrl-C; this one must not.
    started = subprocess.Popen(
        command(*LONG),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    checkpoint, end = folder / "searched_models" / "k1kx-tiny-t4-2.2ms.ckpt.json", time.monotonic() + 120
    while started.poll() is None and time.monotonic() < end:
        if checkpoint.exists() or (not at_checkpoint and checkpoint.parent.exists()):
            break
        time.sleep(0.02)
    started.send_signal(how)
    return started


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert process(*LONG, cwd=folder).returncode == 0
    files = files_in(folder)
    assert list(files) == ["searched_models/k1kx-tiny-t4-2.2ms.json"]
    return files


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_after_ctrl_c_resume_ends_with_the_same_bytes(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    started = interrupted(tmp_path, signal.SIGINT, at_checkpoint=True)
    _, err = started.communicate(timeout=120)
    assert started.returncode == 2
    assert err.splitlines() == [
        "error: interrupted; searched_models/k1kx-tiny-t4-2.2ms.ckpt.json is stored: "
        "repeat the command with --resume to go on"
    ]
    assert list(files_in(tmp_path)) == ["searched_models/k1kx-tiny-t4-2.2ms.ckpt.json"]
    done = process(*LONG, "--resume", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert files_in(tmp_path) == uninterrupted
    candidates = re.search(r"([\d,]+) candidates", done.stdout)
    assert candidates is not None
    assert int(candidates[1].replace(",", "")) < 16 * 4096 * 301


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("at_checkpoint", [False, True])
def test_killed_outright_it_leaves_no_spec_and_a_whole_checkpoint_or_none(at_checkpoint: bool, tmp_path: Path) -> None:
    started = interrupted(tmp_path, signal.SIGKILL, at_checkpoint=at_checkpoint)
    started.communicate(timeout=120)
    assert started.returncode == -signal.SIGKILL
    left = [name for name in files_in(tmp_path) if not name.endswith((".tmp", ".lock"))]  # which hinder nobody
    assert left == (["searched_models/k1kx-tiny-t4-2.2ms.ckpt.json"] if at_checkpoint else [])
    setup = prepare(Request(space="k1kx-tiny", neck="preset", latency_s=(2.2e-3,), population=4096, generations=300))
    for name in left:
        state = read_checkpoint(tmp_path / name, setup)
        assert 0 < state.generation < 300
        assert state.genes.shape == (21, 4096)


def test_a_checkpoint_of_another_search_is_refused_and_kept(maenas: Maenas, tmp_path: Path) -> None:
    setup = prepare(Request(space="k1kx-small", neck="preset", latency_s=(2.2e-3,), population=64, generations=10))
    path = tmp_path / "searched_models" / "k1kx-tiny-t4-2.2ms.ckpt.json"
    path.parent.mkdir()
    write_checkpoint(path, setup, start(setup.problem, EvolutionSettings(64, 10)))
    before = files_in(tmp_path)
    refused = maenas(*TINY, "--budget", "2.2ms", "--resume")
    assert refused.code == 2
    assert "this checkpoint belongs to another search" in refused.err
    assert files_in(tmp_path) == before
    assert maenas("search", "--space", "k1kx-small", *TINY[3:], "--budget", "2.2ms", "--resume",
                  "--name", "k1kx-tiny-t4-2.2ms").code == 0  # fmt: skip


# Refusals ------------------------------------------------------------------------------------------------------------


def space_yaml(**changes: Any) -> str:
    document = yaml.safe_load((data_dir("search_spaces") / "k1kx-tiny.yaml").read_text(encoding="utf-8"))
    return yaml.safe_dump(document | changes)


T_JSON = (data_dir("searched_models") / "damo-yolo-t.json").read_text(encoding="utf-8")
INPUTS = {
    "odd.yaml": space_yaml(stem={"kind": "focus", "width": {"min": 16, "max": 36, "step": 4}}).encode(),
    "malformed.yaml": b"schema: [maenas/space@1\nname: x\n",
    "empty.yaml": b"",
    "malformed.json": T_JSON[:-40].encode(),
    "chain.json": T_JSON.replace('"in_channels": 64', '"in_channels": 72', 1).encode(),
    "edited.json": T_JSON.replace('"depth": 2', '"depth": 3', 1).encode(),
    "extra.json": T_JSON.replace('"spp": true', '"spp": true, "sppp": 1', 1).encode(),
    "empty.json": b"",
    "binary.json": bytes(range(256)) * 16,
    "list.json": b"[1, 2]",
    "nested.json": b"[" * 100_000,
    "file": b"a regular file\n",
    "structure.txt": b"[{'class': 'ConvKXBNRELU', 'in': 3, 'out': 24, 'k': 3, 's': 1}]",
}
SEARCH = ("search", "--space", "k1kx-tiny", "--neck", "preset")
GOOD = (*SEARCH, "--budget", "2.2ms")
REFUSALS: dict[str, tuple[tuple[str, ...], str]] = {
    "budget without a unit": ((*SEARCH, "--budget", "3"), "3: give a unit, for example 3ms"),
    "negative budget": ((*SEARCH, "--budget", "-3ms"), "-3ms: must be more than zero"),
    "budget in words": ((*SEARCH, "--budget", "abc"), "abc: not a latency"),
    "budget of nothing": ((*SEARCH, "--budget", "0ms"), "0ms: must be more than zero"),
    "budget of infinity": ((*SEARCH, "--budget", "1e999s"), "1e999s: too large"),
    "empty budget": ((*SEARCH, "--budget", ""), "not a latency"),
    "wrong unit": ((*SEARCH, "--budget", "3MB"), "unknown unit 'MB'"),
    "bad parameters": ((*GOOD, "--max-params", "10"), "10: give a unit, for example 30M"),
    "bad FLOPs": ((*GOOD, "--max-flops", "10MB"), "unknown unit 'MB'"),
    "bad memory": ((*GOOD, "--max-activations", "10G"), "unknown unit 'G'"),
    "missing budget": (SEARCH, "no budget: give --budget 3ms"),
    "two devices, one budget": ((*GOOD, "--device", "t4", "--device", "v100"), "give one --budget for each --device"),
    "one device, two budgets": ((*GOOD, "--budget", "3ms"), "give one --budget for each --device"),
    "unknown device": ((*GOOD, "--device", "t5"), "t5"),
    "unknown setup": ((*GOOD, "--device", "t4@mine"), "there is no setup 'mine' of t4"),
    "missing table": ((*GOOD, "--device", "no.json"), "there is no such file"),
    "table that is none": ((*GOOD, "--device", "chain.json"), "chain.json:"),
    "unknown space": (("search", "--space", "k1ky", "--budget", "3ms"), "unknown space 'k1ky'"),
    "unknown score": ((*GOOD, "--score", "zen"), "--score is 'zen'; choose balanced, power-0.5"),
    "unknown solver": ((*GOOD, "--solver", "ilp"), "'--solver': 'ilp' is not one of"),
    "unknown scope": ((*GOOD, "--scope", "neck"), "'--scope': 'neck' is not one of"),
    "unknown neck": ((*GOOD, "--neck", "xl"), "unknown neck 'xl'; the presets are t, s, m, l, nano"),
    "unknown precision": ((*GOOD, "--precision", "fp8"), "'--precision': 'fp8' is not one of"),
    "precision that the device lacks": (
        (*GOOD, "--device", "p100", "--precision", "int8"), "NVIDIA Tesla P100 SXM2 16 GB has no int8 arithmetic",
    ),
    "width of 20": (("search", "--space", "odd.yaml", "--budget", "3ms"), "stem out_channels is 20; channels must be"),
    "malformed space": (("search", "--space", "malformed.yaml", "--budget", "3ms"), "malformed.yaml:"),
    "empty space": (("search", "--space", "empty.yaml", "--budget", "3ms"), "empty.yaml"),
    "space in a folder": (("search", "--space", "./", "--budget", "3ms"), "this is a folder"),
    "input of 100": ((*GOOD, "--input", "100"), "input height is 100; it must be a positive multiple of 32"),
    "input of 0": ((*GOOD, "--input", "0"), "for '--input': it must be greater"),
    "no classes": ((*GOOD, "--classes", "0"), "for '--classes': it must be greater"),
    "too many classes": ((*GOOD, "--classes", "100000"), "for '--classes': it must be less"),
    "top 0": ((*GOOD, "--top-k", "0"), "for '--top-k': it must be greater"),
    "population of 1": ((*GOOD, "--population", "1"), "for '--population': it must be greater"),
    "negative generations": ((*GOOD, "--generations", "-1"), "for '--generations': it must be greater"),
    "negative seed": ((*GOOD, "--seed", "-1"), "for '--seed': it must be greater"),
    "no batch": ((*GOOD, "--batch", "0"), "for '--batch': it must be greater"),
    "negative effectiveness": ((*GOOD, "--max-effectiveness", "-1"), "for '--max-effectiveness': it must be greater"),
    "effectiveness not a number": ((*GOOD, "--max-effectiveness", "nan"), "'--max-effectiveness': it must be less"),
    "impossible budget": ((*SEARCH, "--budget", "1ms"), "impossible budget: latency on t4 is limited to 1.00 ms"),
    "limits that exclude each other": (
        (*SEARCH, "--budget", "1.53812ms", "--max-params", "4.3256M"), "",
    ),
    "output under a file": ((*GOOD, "--out", "file/specs"), "cannot write into file/specs: not a directory"),
    "output that is a file": ((*GOOD, "--out", "file"), "cannot write into file"),
    "name in a missing folder": ((*GOOD, "--name", "a/b"), "a/b"),
    "predict nothing there": (("predict", "damo-yolo-x"), "unknown network 'damo-yolo-x'"),
    "predict malformed": (("predict", "malformed.json"), "malformed.json:"),
    "predict stages that do not chain": (
        ("predict", "chain.json"), "stage 2 takes 72 channels, but what comes before it gives 64",
    ),
    "predict an edited spec": (("predict", "edited.json"), "the file was edited"),
    "predict an unknown key": (("predict", "extra.json"), "sppp: unknown key; did you mean spp?"),
    "predict an empty file": (("predict", "empty.json"), "empty.json"),
    "predict a binary file": (("predict", "binary.json"), "binary.json:"),
    "predict a list": (("predict", "list.json"), "list.json"),
    "predict a deep nest": (("predict", "nested.json"), "nested.json"),
    "predict a folder": (("predict", "."), "there is no weights.safetensors in this folder"),
    "predict on an unknown device": (("predict", "damo-yolo-t", "--device", "gpu"), "gpu"),
    "predict int8 on a p100": (("predict", "damo-yolo-t", "--device", "p100", "--precision", "int8"), "no int8"),
    "predict bf16 on a gpu": (
        ("predict", "damo-yolo-t", "--precision", "bf16"), "bf16 is not modelled for NVIDIA T4, only measured on CPUs",
    ),
    "pareto backwards": (("pareto", "--from", "3ms", "--budget", "2ms"), "--from 3.00 ms is not below --budget"),
    "pareto impossible": (("pareto", "--budget", "0.5ms"), "impossible budget"),
    "pareto of deepmad": (("pareto", "--score", "deepmad", "--budget", "2ms"), "the deepmad score is not additive"),
    "pareto into a file's folder": (
        ("pareto", "--budget", "1.545ms", "--max-layers", "11", "--out", "file/front.json"), "cannot write",
    ),
    "calibrate on nothing": (("calibrate", "no.json"), "there is no such file"),
    "calibrate on a spec": (("calibrate", "chain.json"), "chain.json"),
    "import a bare stem": (
        ("structure", "import", "structure.txt", "--family", "res", "--out", "x.json"), "there is no stage after",
    ),
    "import an unknown family": (
        ("structure", "import", "structure.txt", "--family", "vit", "--out", "x.json"), "'vit' is not one of",
    ),
    "import nothing": (("structure", "import", "no.txt", "--family", "res", "--out", "x.json"), "no such file"),
    "export in an unknown spelling": (("structure", "export", "damo-yolo-t", "--spelling", "x"), "'x' is not one of"),
}  # fmt: skip
USAGE: dict[str, tuple[str, ...]] = {
    "unknown command": ("serach",),
    "unknown option": (*GOOD, "--bugdet", "3ms"),
    "word for a number": (*GOOD, "--input", "big"),
    "option without a value": ("search", "--budget"),
    "missing argument": ("predict",),
    "argument too many": ("predict", "damo-yolo-t", "damo-yolo-s"),
    "missing option": ("structure", "import", "structure.txt"),
}


@pytest.fixture
def with_inputs(tmp_path: Path) -> Path:
    for name, data in INPUTS.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_ends_with_one_message_and_no_file(case: str, maenas: Maenas, with_inputs: Path) -> None:
    arguments, message = REFUSALS[case]
    done = maenas(*arguments)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("error:") == 1
    assert message in done.err
    assert "Traceback" not in done.err + done.out
    assert files_in(with_inputs) == INPUTS


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_ends_with_one_message_and_no_file(case: str, maenas: Maenas, with_inputs: Path) -> None:
    done = maenas(*USAGE[case])
    assert done.code == 2
    assert len(re.findall(r"\berror\b", done.err, re.IGNORECASE)) == 1
    assert "Traceback" not in done.err + done.out
    assert files_in(with_inputs) == INPUTS


@pytest.mark.parametrize("case", ["budget without a unit", "predict a binary file", "output under a file"])
def test_bad_input_ends_the_process_with_code_2(case: str, with_inputs: Path) -> None:
    arguments, message = REFUSALS[case]
    done = process(*arguments, cwd=with_inputs)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert files_in(with_inputs) == INPUTS


# The other commands --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_predict_takes_a_shipped_name_or_a_path_and_says_modelled(name: str, maenas: Maenas, tmp_path: Path) -> None:
    (tmp_path / "copy.json").write_bytes((data_dir("searched_models") / f"{name}.json").read_bytes())
    by_name, by_path = maenas("predict", name), maenas("predict", "copy.json")
    assert by_name.code == by_path.code == 0
    assert by_name.out == by_path.out
    assert "modelled on NVIDIA T4" in by_name.out
    rows = dict(re.findall(r"^(\w+) +(\d+\.\d+) ", by_name.out, re.MULTILINE))
    parts = [float(rows[part]) for part in ("backbone", "neck", "head")]
    assert float(rows["whole"]) == pytest.approx(sum(parts), abs=3e-4)


@pytest.mark.parametrize("name", ["damo-yolo-t", "damo-yolo-nano-s", "damo-yolo-l"])
def test_predict_layers_is_a_line_for_every_kernel_that_add_up(name: str, maenas: Maenas) -> None:
    kernels = lower(read_spec(data_dir("searched_models") / f"{name}.json").detector)
    lines = maenas("predict", name, "--layers").out.splitlines()
    table = lines[next(n for n, line in enumerate(lines) if line.startswith("kernel ")) + 1 :]
    assert [line.split()[0] for line in table] == [kernel.name for kernel in kernels]
    document = json.loads(maenas("predict", name, "--layers", "--json").out)
    (row,) = document["predictions"]
    assert [kernel["name"] for kernel in row["kernels_us"]] == [kernel.name for kernel in kernels]
    assert sum(kernel["us"] for kernel in row["kernels_us"]) == pytest.approx(row["ms"] * 1e3)
    assert [float(line.split()[-2]) for line in table] == pytest.approx([k["us"] for k in row["kernels_us"]], abs=0.006)


def test_predict_json_is_one_document_for_all_devices(maenas: Maenas) -> None:
    done = maenas("predict", "damo-yolo-s", "--device", "t4", "--device", "v100", "--json", "--batch", "8")
    document = json.loads(done.out.splitlines()[-1])
    assert done.out.count("\n") == 1
    assert document["command"] == "predict"
    assert document["network"].startswith("damo-yolo-s (id ")
    assert [row["conditions"]["device"] for row in document["predictions"]] == ["t4", "v100"]
    for row in document["predictions"]:
        assert row["kind"] == "modelled"
        assert row["conditions"]["batch"] == 8
        assert row["interval_90_ms"][0] < row["ms"] < row["interval_90_ms"][1]
        assert sum(row["parts_ms"].values()) == pytest.approx(row["ms"])
        assert "kernels_us" not in row


def test_spaces_lists_every_shipped_space(maenas: Maenas) -> None:
    text, document = maenas("spaces").out, json.loads(maenas("spaces", "--json").out)
    assert [row["name"] for row in document["spaces"]] == space_names()
    assert [line.split()[0] for line in text.splitlines()[1 : 1 + len(space_names())]] == space_names()
    assert all(row["architectures"] > 10**9 for row in document["spaces"])


def test_devices_lists_the_catalogue_and_which_are_calibrated(maenas: Maenas) -> None:
    text, document = maenas("devices").out, json.loads(maenas("devices", "--json").out)
    assert list(document["devices"]) == list(load_devices())
    assert document["devices"]["t4"] == ["tensorrt10", "damo-yolo-report", "detr-papers"]
    lines = {line.split()[0]: line for line in text.splitlines()[1:]}
    assert list(lines) == list(load_devices())
    for name, line in lines.items():
        assert ("none: constants that devices share" in line) == (not document["devices"][name])


def test_calibrate_writes_the_shipped_tables_again(maenas: Maenas, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    done = maenas("calibrate", "--out", "tables")
    assert done.code == 0
    assert done.out.count("leave-one-out") == 2
    written = files_in(tmp_path / "tables")
    setups = [setup for setup in SETUPS["t4"] if setup != "detr-papers"]  # whose networks are not shipped
    assert set(written) == {f"t4-{setup}-fp16-b1.json" for setup in setups}
    for name, data in written.items():
        shipped, again = json.loads((data_dir("latency_tables") / name).read_text(encoding="utf-8")), json.loads(data)
        assert again["constants"] == pytest.approx(shipped["constants"], rel=1e-3)
    predicted = maenas("predict", "damo-yolo-t", "--device", "tables/t4-tensorrt10-fp16-b1.json")
    assert predicted.code == 0


IMPORT = {
    "damo-yolo-t": ["--family", "res", "--neck", "t"],
    "damo-yolo-s": ["--family", "res", "--neck", "s"],
    "damo-yolo-m": ["--family", "csp", "--neck", "m", "--act", "silu"],
    "damo-yolo-l": ["--family", "csp", "--neck", "l", "--act", "silu"],
    **{
        f"damo-yolo-nano-{size}": ["--family", "mob", "--neck", "nano", "--act", "silu", "--stem", "conv"]
        for size in "sml"
    },
}


@pytest.mark.parametrize("spelling", ["damo-yolo", "nas-toolbox"])
@pytest.mark.parametrize("name", SHIPPED)
def test_a_structure_exported_and_imported_is_the_same_detector(
    name: str, spelling: str, maenas: Maenas, tmp_path: Path
) -> None:
    stored = read_spec(data_dir("searched_models") / f"{name}.json")
    exported = maenas("structure", "export", name, "--spelling", spelling)
    assert exported.code == 0
    (tmp_path / "net.txt").write_text(exported.out, encoding="utf-8")
    size = ["--input", str(stored.detector.input.height)]
    done = maenas("structure", "import", "net.txt", *IMPORT[name], *size, "--out", "net.json")
    assert done.code == 0, done.err
    assert read_spec(tmp_path / "net.json").id == stored.id
    assert done.out == f"wrote net.json (id {stored.id})\n"


def test_pareto_prints_a_table_and_writes_the_whole_front(maenas: Maenas, tmp_path: Path) -> None:
    narrow = ["pareto", "--space", "k1kx-tiny", "--budget", "1.6ms", "--points", "5"]
    done = maenas(*narrow, "--out", "front.json")
    assert done.code == 0
    assert done.out.splitlines()[0].startswith("modelled: NVIDIA T4")
    assert done.out.splitlines()[-1] == "wrote front.json"
    rows = [line.split() for line in done.out.splitlines() if re.match(r"\d\.\d{4} ", line)]
    assert len(rows) == 5
    document = json.loads((tmp_path / "front.json").read_text(encoding="utf-8"))
    points = document["points"]
    assert document["proven"]
    assert f"{len(points)} points on the front of k1kx-tiny (proven)" in done.out
    assert (rows[0][0], rows[-1][0]) == (f"{points[0]['latency_ms']:.4f}", f"{points[-1]['latency_ms']:.4f}")
    assert document["conditions"]["kind"] == "modelled"
    for key in ("latency_ms", "score"):
        assert [point[key] for point in points] == sorted({point[key] for point in points})
    assert points[-1]["latency_ms"] <= 1.6
    as_json = maenas(*narrow, "--json")
    assert as_json.out.count("\n") == 1
    assert json.loads(as_json.out) == document


def test_the_point_of_a_front_is_what_a_search_at_its_latency_writes(maenas: Maenas, tmp_path: Path) -> None:
    front = json.loads(maenas("pareto", *SEARCH[1:], "--budget", "1.6ms", "--json").out)
    point = front["points"][len(front["points"]) // 2]
    found = json.loads(
        maenas(*SEARCH, "--solver", "exact", "--budget", f"{point['latency_ms'] + 1e-8:.9f}ms", "--json").out
    )
    assert found["specs"][0]["score"]["value"] == pytest.approx(point["score"], rel=1e-7)
    assert found["specs"][0]["latency"][0]["ms"] == pytest.approx(point["latency_ms"], rel=1e-7)


def parameters(group: typer.Typer) -> Iterator[tuple[str, Any]]:
    """Every argument and option of every command."""
    for command in group.registered_commands:
        assert command.callback is not None
        for name, annotation in get_type_hints(command.callback, include_extras=True).items():
            for info in get_args(annotation)[1:]:
                yield f"{command.name} {name}", info
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from parameters(inner.typer_instance)


def test_help_shows_every_default_and_swallows_none() -> None:
    """Square brackets in a help text are taken for markup and vanish: a default is said with `show_default`."""
    found = dict(parameters(cli.app))
    assert len(found) > 100
    assert not [name for name, info in found.items() if "[" in (info.help or "")]
