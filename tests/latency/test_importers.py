"""Published kernel tables become measured tables; whatever is wrong is an error with file and line."""

import gzip
from pathlib import Path

import pytest

from maenas.errors import MaenasError
from maenas.latency.importers import COLUMNS, import_kernels
from maenas.latency.measured import measured_from_json, measured_to_json

HEADER = ",".join(COLUMNS)
CSV = f"""{HEADER}
regular,1,64,56,56,64,3,1,0,0.0169
regular,1,64,56,56,64,3,1,1,0.0181

depthwise,1,64,56,57,64,5,2,0,0.009
regular,32,64,56,56,64,3,1,0,0.2
regular,32,64,56,56,64,3,1,0,0.3
regular,32,64,56,56,64,3,1,0,0.4
"""
TEXT = """{Regular,1,64,56,56,64,3,1,0} 0.0169
{Regular,1,64,56,56,64,3,1,1} 0.0181

{Depthwise, 1, 64, 56, 57, 64, 5, 2, 0} 0.009
"""


def written(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def test_rows_become_kernels_by_batch(tmp_path: Path) -> None:
    tables = import_kernels(written(tmp_path, CSV), precision="fp16", source="here")
    assert list(tables) == [1, 32]
    assert [tuple(row) for row in tables[1].rows] == [
        ("conv", 64, 64, 56, 56, 3, 1, 1, "", 1.69e-5, None, 1),
        ("conv", 64, 64, 56, 56, 3, 1, 1, "add", 1.81e-5, None, 1),
        ("conv", 64, 64, 56, 57, 5, 2, 64, "", 9e-6, None, 1),
    ]
    assert (tables[1].device, tables[1].precision, tables[32].batch) == ("v100", "fp16", 32)
    assert tables[1].runtime == "TensorRT (version not published)"
    assert tables[1].conditions["source"] == "here"
    assert "lone launches" in tables[1].conditions["timing"]
    assert measured_from_json(measured_to_json(tables[1])) == tables[1]


def test_rows_for_one_kernel_are_merged_into_median_and_interquartile_range(tmp_path: Path) -> None:
    (row,) = import_kernels(written(tmp_path, CSV), precision="fp16")[32].rows
    assert (row.median_s, row.iqr_s, row.samples) == (pytest.approx(3e-4), pytest.approx(1e-4), 3)


def test_text_lines_columns_and_compressed_columns_give_the_same_rows(tmp_path: Path) -> None:
    columns = import_kernels(written(tmp_path, CSV), precision="fp16")[1].rows
    packed = import_kernels(written(tmp_path, CSV, "t.csv.gz"), precision="fp16")[1].rows
    lines = import_kernels(written(tmp_path, TEXT, "t.txt"), precision="fp16")[1].rows
    assert columns == packed == lines


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("regular,1,64,56,56,64,3,1,0", "9 values, but 10 are needed"),
        ("grouped,1,64,56,56,64,3,1,0,0.1", "conv is 'grouped'"),
        ("regular,1,64,56,56,64,3,1,2,0.1", "residual_add is 2"),
        ("regular,0,64,56,56,64,3,1,0,0.1", "batch is '0'"),
        ("regular,1,6.4,56,56,64,3,1,0,0.1", "in_channels is '6.4'"),
        ("regular,1,64,-5,56,64,3,1,0,0.1", "in_height is '-5'"),
        ("regular,1,64,56,56,9999999,3,1,0,0.1", "out_channels is '9999999'"),
        ("depthwise,1,64,56,56,32,3,1,0,0.1", "64 to 32 channels; they must be equal"),
        ("regular,1,64,56,56,64,3,1,0,fast", "latency_ms is 'fast'"),
        ("regular,1,64,56,56,64,3,1,0,nan", "latency_ms is 'nan'"),
        ("regular,1,64,56,56,64,3,1,0,0", "latency_ms is '0'"),
        ("regular,1,64,56,56,64,3,1,0,-1", "latency_ms is '-1'"),
    ],
)
def test_a_wrong_line_is_an_error_that_names_it(tmp_path: Path, line: str, message: str) -> None:
    path = written(tmp_path, f"{HEADER}\nregular,1,8,8,8,8,1,1,0,1\n{line}\n")
    with pytest.raises(MaenasError, match=message) as caught:
        import_kernels(path, precision="fp16")
    assert str(caught.value).startswith(f"{path}:3: ")


def test_a_wrong_text_line_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = written(tmp_path, TEXT + "{Regular,1,64,56,56,64,3,1} 0.1\n", "t.txt")
    with pytest.raises(MaenasError, match=r"t\.txt:5: 9 values"):
        import_kernels(path, precision="fp16")
    path = written(tmp_path, "Regular 1 64\n", "u.txt")
    with pytest.raises(MaenasError, match=r"u\.txt:1: not of the form \{conv,"):
        import_kernels(path, precision="fp16")


def test_foreign_damaged_and_empty_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(MaenasError, match=r"t\.csv:1: the columns must be conv,batch"):
        import_kernels(written(tmp_path, "a,b\n1,2\n"), precision="fp16")
    with pytest.raises(MaenasError, match="there is no kernel in it"):
        import_kernels(written(tmp_path, HEADER + "\n"), precision="fp16")
    with pytest.raises(MaenasError, match="there is no such file"):
        import_kernels(tmp_path / "none.csv", precision="fp16")
    for name, data in (("a.csv.gz", b"not gzip"), ("b.csv.gz", gzip.compress(CSV.encode())[:-9]), ("c.csv.gz", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MaenasError, match=name):
            import_kernels(tmp_path / name, precision="fp16")
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress(b"\xff\xfe"))
    with pytest.raises(MaenasError, match="not UTF-8"):
        import_kernels(tmp_path / "d.csv.gz", precision="fp16")
    with pytest.raises(MaenasError, match="there is no such file"):
        import_kernels(tmp_path / "none.csv.gz", precision="fp16")
