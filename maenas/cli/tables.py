"""`maenas tables`: look at measured latency tables, compare them, join them, import published ones."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maenas.choices import FilePrecision
from maenas.cli import options
from maenas.errors import MaenasError

if TYPE_CHECKING:
    from maenas.latency.measured import KernelKey, MeasuredTable

tables_app = typer.Typer(help="Measured latency tables: list, show, diff, merge, import.", no_args_is_help=True)

TableName = Annotated[str, typer.Argument(help="A measured table: a file (.json), a name, or cpu.")]
WIDE = 0.05  # interquartile range over median, above which a row is uncertain


@tables_app.command("list")
def tables_list(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder.", show_default="latency_tables, and the shipped tables")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """List the measured tables of a folder."""
    from maenas.latency.find import table_files
    from maenas.latency.measured import read_measured

    if folder is not None and not folder.is_dir():
        raise MaenasError(f"{folder}: there is no such folder")
    rows: list[dict[str, Any]] = []
    for path in table_files(folder):
        try:
            rows.append({"path": str(path), **_document(read_measured(path))})
        except MaenasError as error:
            rows.append({"path": str(path), "error": str(error)})
    if as_json:
        options.print_json("tables list", tables=rows)
        return
    if not rows:
        print(f"no measured tables{'' if folder is None else f' in {folder}'}")
    for row in rows:
        print(row["error"] if "error" in row else f"{Path(row['path']).name}: {_line(row)}")


@tables_app.command("show")
def tables_show(table: TableName, as_json: options.AsJson = False) -> None:
    """Conditions, method and spread of a table."""
    from maenas.latency.find import load_measured
    from maenas.latency.measured_predictor import whole_texts

    measured = load_measured(table)
    if as_json:
        options.print_json("tables show", **_document(measured))
        return
    for name, value in _document(measured).items():
        if isinstance(value, dict):
            print(f"{name}:")
            print("\n".join(f"  {key}: {text}" for key, text in value.items()))
        else:
            print(f"{name}: {value}")
    spreads = [row.iqr_s / row.median_s for row in measured.rows if row.iqr_s is not None]
    if spreads:
        wide = sum(spread > WIDE for spread in spreads)
        print(f"spread: median {statistics.median(spreads):.1%}, {wide} of {len(measured.rows)} kernels above 5 %")
    for text in whole_texts(measured):
        print(text)
    for failure in measured.failed:
        print(f"failed: {failure.what}: {failure.reason}")


@tables_app.command("diff")
def tables_diff(first: TableName, second: TableName, as_json: options.AsJson = False) -> None:
    """Times of the second table over those of the first one, kernel by kernel."""
    from maenas.latency.find import load_measured
    from maenas.latency.joining import compare_tables, differences

    one, two = load_measured(first), load_measured(second)
    found = compare_tables(one, two)
    if as_json:
        options.print_json(
            "tables diff",
            common=len(found.ratios),
            only_first=found.only_first,
            only_second=found.only_second,
            geometric_mean=found.geometric_mean,
            median=found.median,
            least=[found.ratios[found.least], list(found.least)],
            most=[found.ratios[found.most], list(found.most)],
            total=found.total,
        )
        return
    print(f"{len(found.ratios)} kernels in both, {found.only_first} and {found.only_second} in one only")
    print(f"ratio of the sums {found.total:.3f}; of kernels: geometric mean {found.geometric_mean:.3f}")
    for label, key in (("least", found.least), ("most", found.most)):
        print(f"{label:<6}{found.ratios[key]:.3f}  {_kernel_text(key)}")
    for name, here, there in differences(one, two):
        print(f"{name} differs: {here!r}, {there!r}")


@tables_app.command("merge")
def tables_merge(
    files: Annotated[list[Path], typer.Argument(help="Tables of one setup; the last one wins where rows clash.")],
    out: Annotated[Path, typer.Option("--out", help="File for the joined table.", callback=options.output_file)],
    force: Annotated[bool, typer.Option("--force", help="Join even if conditions or methods differ.")] = False,
) -> None:
    """Join tables measured under the same conditions."""
    from maenas.latency.joining import merge_tables
    from maenas.latency.measured import read_measured, write_measured

    table = merge_tables(
        [read_measured(file) for file in files], [str(file) for file in files], across_conditions=force
    )
    write_measured(out, table)
    print(f"wrote {out} (id {table.id}): {len(table.rows)} kernels")


@tables_app.command("import")
def tables_import(
    file: Annotated[
        Path, typer.Argument(help="Published kernels: lines {Regular,1,64,56,56,64,3,1,0} 0.0169, or CSV.")
    ],
    device: Annotated[str, typer.Option("--device", help="What they were measured on (see `maenas devices`).")],
    precision: Annotated[FilePrecision, typer.Option("--precision", help="Arithmetic of the kernels.")],
    runtime: Annotated[
        str, typer.Option("--runtime", help="Runtime and version.")
    ] = "TensorRT (version not published)",
    source: Annotated[str, typer.Option("--source", help="Where the file comes from.")] = "published kernel table",
    licence: Annotated[str, typer.Option("--licence", help="Licence of the data.")] = "not stated",
    out: Annotated[
        Path,
        typer.Option("--out", help="Folder for the tables, one for each batch size.", callback=options.output_folder),
    ] = Path("latency_tables"),
) -> None:
    """Published kernel latencies to measured tables, one for each batch in the file."""
    from maenas.latency.device import get_device
    from maenas.latency.importers import import_kernels
    from maenas.latency.measured import write_measured

    known = get_device(device).id
    tables = import_kernels(file, precision=precision, device=known, runtime=runtime, source=source, licence=licence)
    stem = file.name.removesuffix(".gz").removesuffix(".csv").removesuffix(".txt")
    for batch, table in tables.items():
        path = out / f"{stem}-b{batch}.json"
        write_measured(path, table)
        print(f"wrote {path} (id {table.id}): {len(table.rows)} kernels of {known}, {precision}, batch {batch}")


def _document(table: MeasuredTable) -> dict[str, Any]:
    names = ("id", "device", "runtime", "precision", "batch", "conditions", "method")
    counts = {kind: len(getattr(table, kind)) for kind in ("blocks", "networks", "failed")}
    caches = {"caches": asdict(table.caches)} if table.caches else {}
    return {**{name: getattr(table, name) for name in names}, **caches, "kernels": len(table.rows), **counts}


def _line(row: dict[str, Any]) -> str:
    setup = "{device}, {runtime}, {precision}, batch {batch}, {kernels} kernels".format_map(row)
    return f"{setup}, {row['conditions'].get('date', 'no date')}"


def _kernel_text(key: KernelKey) -> str:
    epilogue = f" {key.epilogue}" if key.epilogue else ""
    size = f"{key.kernel}x{key.kernel}/{key.stride}"
    groups = f" groups {key.groups}" if key.groups > 1 else ""
    return f"{key.op} {key.in_channels}-{key.out_channels} {size}{groups} at {key.height}x{key.width}{epilogue}"
