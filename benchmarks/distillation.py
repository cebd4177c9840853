"""Does a teacher help? AP of a student without one, and with one at several weights of the distillation loss.

    python benchmarks/distillation.py [--data shapes|FOLDER] [--teacher RUN] [--epochs 10] [--weights 0.1 1] [--seeds 3]

The teacher is trained first (or given with `--teacher`). The student, the optimum of a lower latency, trains with the
same recipe, data and seeds without a teacher and with it, from random weights and (`--starts random teacher`) from
those of the teacher. Runs lie in `--folder`; repeated, the command goes on where it stopped. Writes
benchmarks/results/distillation_DATA_EPOCHS.json.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from trained_curves import Curve, begin, experiment_parser, searched, train_curve, write_curves

from maenas.spec import load_spec


def main() -> None:
    parser = experiment_parser(__doc__, epochs=10, folder="distillation")
    parser.add_argument("--budgets", nargs=2, default=["0.9ms", "0.64ms"], help="of the teacher, of the student")
    parser.add_argument("--teacher-epochs", type=int, default=30)
    parser.add_argument("--teacher", type=Path, help="a finished run, in place of one trained here")
    parser.add_argument("--weights", nargs="+", type=float, default=[0.1, 1.0])
    parser.add_argument("--starts", nargs="+", default=["random"], choices=("random", "teacher"), help="of the student")
    parser.add_argument("--set", nargs="*", default=[], help="settings of all trainings, as key=value")
    given, data, options = begin(parser)
    folder = given.folder
    common = ["workers=0", f"eval_every={given.epochs}", "distill.start=random", *given.set]
    teacher = given.teacher
    if teacher is None:
        teacher, spec = folder / "teacher-run", searched(folder, "teacher", given.budgets[0], given)
        train_curve(teacher, spec, data, epochs=given.teacher_epochs, seed=100, settings=common, **options)
    student = searched(folder, "student", given.budgets[1], given)
    rows: dict[str, list[Curve]] = {}
    for seed, start in itertools.product(range(given.seeds), given.starts):
        for weight in (0.0, *given.weights):
            out = folder / f"student-{given.epochs}-{weight:g}-{seed}{'' if start == 'random' else '-inherited'}"
            guided = {"teacher": teacher} if weight else {}
            begun = {"init": teacher} if start == "teacher" else {}
            settings = [*common, *([f"distill.weight={weight:g}"] if weight else [])]
            run = {**options, **guided, **begun, "seed": seed, "settings": settings}
            curve = train_curve(out, student, data, epochs=given.epochs, **run)
            condition = f"weight {weight:g}" if weight else "no teacher"
            rows.setdefault(condition + (", inherited" if begun else ""), []).append(curve)
            print(out.name, curve, flush=True)
    name = f"distillation_{Path(given.data).name}_{given.epochs}.json"
    write_curves(rows, given, name, benchmark="distillation", student=load_spec(str(student)).detector.id)


if __name__ == "__main__":
    main()
