"""Published kernel timings, imported and searched on."""

import json
import re
from pathlib import Path

import pytest

from maenas.files import shipped_file
from maenas.latency.measured import Row, read_measured
from tests.conftest import Maenas

COLLECTED = Path(__file__).parents[3] / "shared" / "latency" / "v100-tensorrt-fp16-batch32-yolo.csv.gz"


def text_line(row: Row, batch: int) -> str:
    kind = "Depthwise" if row.groups > 1 else "Regular"
    sizes = (batch, row.in_channels, row.height, row.width, row.out_channels, row.kernel, row.stride)
    return f"{{{kind},{','.join(map(str, sizes))},{int('add' in row.epilogue)}}} {row.median_s * 1e3 * batch:.6g}"


def test_published_lines_become_a_table_that_a_backbone_is_searched_on(maenas: Maenas, tmp_path: Path) -> None:
    """Every 80th row of the shipped V100 table, as text lines of batch 32."""
    rows = read_measured(shipped_file("latency_tables", "published/v100-tensorrt-fp16-b1.json")).rows[::80]
    (tmp_path / "kernels.txt").write_text("\n".join(text_line(row, 32) for row in rows), encoding="utf-8")
    done = maenas("tables", "import", "kernels.txt", "--device", "v100", "--precision", "fp16", "--out", "tables")
    assert done.code == 0, done.err
    path = Path("tables") / "kernels-b32.json"
    table = read_measured(path)
    assert (table.device, table.batch, len(table.rows)) == ("v100", 32, len(rows))
    options = ("--batch", "32", "--scope", "backbone", "--space", "k1kx-tiny", "--max-layers", "20")
    done = maenas("search", "--device", path, "--budget", "200ms", *options, "--solver", "exact", "--out", "net.json")
    assert done.code == 0, done.err
    assert "proven: no architecture of the space scores higher" in done.out
    assert re.search(r"% of it estimated from bytes, since the table has no .*space_to_depth", done.out)


def test_a_damaged_table_is_listed_with_its_error(maenas: Maenas, tmp_path: Path) -> None:
    good = shipped_file("latency_tables", "published/v100-tensorrt-fp16-b1.json").read_text(encoding="utf-8")
    for name, text in (("cut", good[:2000]), ("good", good)):
        (tmp_path / "tables").mkdir(exist_ok=True)
        (tmp_path / "tables" / f"{name}.json").write_text(text, encoding="utf-8")
    done = maenas("tables", "list", "tables")
    assert done.code == 0, done.err
    first, second = done.out.splitlines()
    assert "cut.json" in first
    assert re.match(r"good\.json: v100, TensorRT.*, fp16, batch 1, \d+ kernels", second)
    rows = json.loads(maenas("tables", "list", "tables", "--json").out)["tables"]
    assert [set(row) & {"error", "kernels"} for row in rows] == [{"error"}, {"kernels"}]


def test_a_foreign_file_and_an_unknown_device_are_refused(maenas: Maenas, tmp_path: Path) -> None:
    (tmp_path / "k.txt").write_text("nonsense", encoding="utf-8")
    for device, message in (("v100", "not of the form"), ("v101", "unknown device")):
        done = maenas("tables", "import", "k.txt", "--device", device, "--precision", "fp16", "--out", "tables")
        assert done.code == 2
        assert message in done.err
    assert not (tmp_path / "tables").exists()


@pytest.mark.slow
def test_the_published_tiny_space_at_its_budget_ends_with_the_proven_optimum(maenas: Maenas) -> None:
    """80 us an image of the backbone, batch 32, at most 20 layers, on the authors' own table."""
    if not COLLECTED.exists():
        pytest.skip("the collected kernel tables are not beside this checkout")
    maenas("tables", "import", COLLECTED, "--device", "v100", "--precision", "fp16", "--out", "tables")
    table = Path("tables") / f"{COLLECTED.name.partition('.')[0]}-b32.json"
    options = ("--batch", "32", "--scope", "backbone", "--space", "k1kx-tiny", "--max-layers", "20")
    done = maenas("search", "--device", table, "--budget", "2.56ms", *options, "--out", "net.json")
    assert done.code == 0, done.err
    assert "proven: no architecture of the space scores higher" in done.out


def test_the_help_calls_the_commands_as_they_are_called(maenas: Maenas) -> None:
    head, _, commands = maenas("tables", "--help").out.partition("Commands:\n")
    named = re.findall(r"\w+", head.partition("Measured latency tables:")[2].partition(".")[0])
    assert named == [line.split()[0] for line in commands.splitlines()]
