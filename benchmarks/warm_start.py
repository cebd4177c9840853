"""What does a warm start bring a searched network? AP against epochs with and without `maenas train --init`.

    python benchmarks/warm_start.py [--data shapes|FOLDER] [--source RUN] [--seeds 3] [--epochs 20]

A source is trained first (or given with `--source`). Then students of other widths and depths train with the same
recipe, data and seeds: from random weights, and from the source's. The students are the optima of a lower and of a
higher latency than the source's. Runs lie in `--folder`; repeated, the command goes on where it stopped. Writes
benchmarks/results/warm_start_DATA.json.
"""

from __future__ import annotations

from pathlib import Path

from trained_curves import Curve, begin, experiment_parser, searched, train_curve, write_curves

from maenas.spec import load_spec


def main() -> None:
    parser = experiment_parser(__doc__, folder="warm_start", epochs=20)
    parser.add_argument(
        "--budgets", nargs=3, default=["0.7ms", "0.64ms", "0.9ms"], help="of the source, of the students"
    )
    parser.add_argument("--source-epochs", type=int, default=20)
    parser.add_argument("--source", type=Path, help="a finished run, in place of one trained here")
    parser.add_argument("--eval-every", type=int, default=2)
    given, data, options = begin(parser)
    folder = given.folder
    options["settings"] = [f"eval_every={given.eval_every}", "workers=0"]
    source = given.source
    if source is None:
        source, spec = folder / "source-run", searched(folder, "source", given.budgets[0], given)
        train_curve(source, spec, data, epochs=given.source_epochs, seed=100, **options)
    rows: dict[str, list[Curve]] = {}
    specs: dict[str, str] = {}
    for name, budget in zip(("smaller", "larger"), given.budgets[1:], strict=True):
        spec = searched(folder, name, budget, given)
        specs[name] = load_spec(str(spec)).detector.id
        for seed in range(given.seeds):
            for start, init in (("random", None), ("inherited", source)):
                out = folder / f"{name}-{start}-{seed}"
                curve = train_curve(out, spec, data, epochs=given.epochs, seed=seed, init=init, **options)
                rows.setdefault(f"{name}, {start}", []).append(curve)
                print(out.name, curve, flush=True)
    write_curves(rows, given, f"warm_start_{Path(given.data).name}.json", benchmark="warm_start", specs=specs)


if __name__ == "__main__":
    main()
