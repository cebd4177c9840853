"""How fast a search is: candidates a second, time to the optimum, time of the proof, time and memory of the commands.

Usage: python benchmarks/search.py [RESULT.json]

Prints the results and the table of docs/lab/speed.md, and writes them with their conditions. Everything but the whole
commands runs on one core. Nothing else should be running; the load at the start is among the conditions.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from maenas import __version__
from maenas.latency.find import processor
from maenas.latency.predictor import predict
from maenas.lowering import lower
from maenas.nas.evolution import OFFSPRING, EvolutionSettings, State, evolve
from maenas.nas.exact import solve
from maenas.nas.problem import scores_of
from maenas.nas.request import Request, Setup, detector_of, prepare
from maenas.score import score_of

T = TypeVar("T")

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "search.json"
RUNS = 5
HEADLINE = ("search", "--budget", "3ms", "--device", "t4")
WITHIN = 0.999
ONE_AT_A_TIME = 200  # genomes in a run of the plain reference
BUDGETS_MS = {
    "k1kx-tiny": 2.2857,  # the modelled latencies of T, S, M, L and Ns, rounded
    "k1kx-small": 3.494,
    "k1kx": 3.0,
    "kxkx-medium": 5.122,
    "kxkx-large": 7.304,
    "csp": 5.122,
    "k1kxk1": 4.0,
    "mob": 1.22,
}
PUBLISHED_TOOL = {
    "candidates_per_second": 50,
    "source": "the project's notes on the published tool: about 50 candidates/s on one core of an AMD EPYC",
    "measured_here": False,
}


def main(arguments: Sequence[str]) -> None:
    path = Path(arguments[0]) if arguments else RESULT
    conditions, cores = describe_conditions(), pin_to_one_core()
    setup, build_s = timed(lambda: prepare(Request(latency_s=(3e-3,))))
    results: dict[str, Any] = {
        "evolution": measure_rate(setup),
        "one_at_a_time": measure_reference(setup),
        "published_tool": PUBLISHED_TOOL,
        "to_0.1_percent": measure_convergence(setup),
        "exact": [measure_exact(space, budget) for space, budget in BUDGETS_MS.items()],
    }
    results["evolution"]["build_tables_s"] = round(build_s, 4)
    if cores is not None:
        os.sched_setaffinity(0, cores)
    results["commands"] = [measure_command(arguments) for arguments in (HEADLINE, ("--help",))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"conditions": conditions, "results": results}, indent=1) + "\n", encoding="utf-8")
    print(format_report(conditions, results), speed_table(conditions, results), sep="\n\n")
    print(f"wrote {path}")


def describe_conditions() -> dict[str, Any]:
    """Machine, versions and state of the machine."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain", "--", "maenas", "search_spaces", "latency_tables")),
        "maenas": __version__,
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": "1 core, 1 thread; whole commands on all cores",
        "load_average_1min_at_start": load,
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def pin_to_one_core() -> set[int] | None:
    """Keep this process on one core; the cores it had before, or None where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    return before


def timed(call: Callable[[], T]) -> tuple[T, float]:
    begin = time.perf_counter()
    value = call()
    return value, time.perf_counter() - begin


def measure_rate(setup: Setup) -> dict[str, Any]:
    """Candidates a second of the default evolution: mutation, repair, costs, score and selection all counted."""
    runs = [timed(lambda: evolve(setup.problem, EvolutionSettings())) for _ in range(RUNS)]
    seconds = [elapsed for _, elapsed in runs]
    count = runs[0][0].evaluated
    return {
        "candidates": count,
        "seconds": [round(value, 4) for value in seconds],
        "candidates_per_second": round(count / statistics.median(seconds)),
    }


def measure_reference(setup: Setup) -> dict[str, Any]:
    """The same work for one architecture at a time: spec, lowering, score and predicted latency of random genomes."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(len(choices), size=ONE_AT_A_TIME) for choices in setup.space.choices]
    genomes = np.stack(rows, axis=1)  # [P, G]
    [predictor] = setup.predictors

    def evaluate_one(genome: np.ndarray) -> tuple[float, float]:
        kernels = lower(detector_of(setup, genome))
        return score_of(setup.request.score, kernels), predict(kernels, predictor).seconds

    runs = [timed(lambda: [evaluate_one(genome) for genome in genomes]) for _ in range(RUNS)]
    scores = np.array([score for score, _ in runs[0][0]])
    assert np.allclose(scores, scores_of(setup.problem, genomes) * 1e-9, atol=1e-6), "tables and lowering disagree"
    median = statistics.median(elapsed for _, elapsed in runs)
    return {"candidates": ONE_AT_A_TIME, "candidates_per_second": round(ONE_AT_A_TIME / median)}


def measure_convergence(setup: Setup) -> dict[str, Any]:
    """Time and candidates until the best is within 0.1 % of the proven optimum, for several seeds."""
    certificate = solve(setup.problem)
    assert certificate.proven
    optimum, runs = float(certificate.solutions[0].score), []
    for seed in range(RUNS):
        begin, reached = time.perf_counter(), []

        def look(state: State, begin: float = begin, reached: list = reached) -> None:
            if not reached and state.fitness[0] >= WITHIN * optimum:
                reached.extend((time.perf_counter() - begin, state.evaluated))

        final = evolve(setup.problem, EvolutionSettings(seed=seed), on_generation=look)
        seconds, candidates = reached or (None, None)
        runs.append(
            {
                "seed": seed,
                "seconds": None if seconds is None else round(seconds, 4),
                "candidates": candidates,
                "final_gap": round(1 - float(final.fitness[0]) / optimum, 8),
            }
        )
    return {"space": setup.space.name, "budget_ms": setup.request.latency_s[0] * 1e3, "runs": runs}


def measure_exact(space: str, budget_ms: float) -> dict[str, Any]:
    """Building the tables, and the proof from nothing, without help from evolution."""
    setup, build_s = timed(lambda: prepare(Request(space=space, latency_s=(budget_ms * 1e-3,))))
    certificate, solve_s = timed(lambda: solve(setup.problem))
    return {
        "space": space,
        "budget_ms": budget_ms,
        "architectures": float(setup.space.size),
        "build_tables_s": round(build_s, 4),
        "solve_s": round(solve_s, 4),
        "proven": certificate.proven,
        "labels": certificate.labels,
        "options": certificate.options,
    }


def measure_command(arguments: Sequence[str]) -> dict[str, Any]:
    """Wall time and peak memory of a whole command, imports and files included."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [run_command(arguments, folder) for _ in range(RUNS)]
    return {
        "command": " ".join(["maenas", *arguments]),
        "seconds": [round(seconds, 3) for seconds, _ in runs],
        "median_seconds": round(statistics.median(seconds for seconds, _ in runs), 3),
        "peak_memory_mb": round(max(memory for _, memory in runs) / 1e6, 1),
    }


# Times its arguments as a command. Linux counts the memory of the starting process as the child's until it has loaded
# its own program, so the starter has to be small.
STARTER = """
import resource, subprocess, sys, time
begin = time.perf_counter()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def run_command(arguments: Sequence[str], folder: str) -> tuple[float, float]:
    """Seconds and peak resident bytes of one run in `folder`."""
    command = [sys.executable, "-c", STARTER, sys.executable, "-m", "maenas", *arguments]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    seconds, memory = done.stdout.split()
    return float(seconds), float(memory) * (1 if sys.platform == "darwin" else 1024)


def speed_table(conditions: dict[str, Any], results: dict[str, Any]) -> str:
    """The table of docs/lab/speed.md, which tests/test_docs.py compares with the stored results."""
    exact = {row["space"]: row for row in results["exact"]}
    default, slowest = exact["k1kx"], max(exact.values(), key=lambda row: row["build_tables_s"] + row["solve_s"])
    runs = results["to_0.1_percent"]["runs"]
    search, show_help = results["commands"]

    def solved(row: dict[str, Any]) -> str:
        return f"{row['build_tables_s']:.2f} s / {row['solve_s']:.2f} s"

    rows = (
        (f"one core of {conditions['cpu']}, Python {conditions['python']}, NumPy {conditions['numpy']}", "value"),
        ("---", "---"),
        (
            "evolution, everything counted (mutation, repair, costs, score, selection), tables built",
            f"{results['evolution']['candidates_per_second']:,} candidates/s",
        ),
        (
            "one architecture at a time (spec, lowering, score, latency)",
            f"{results['one_at_a_time']['candidates_per_second']:,} candidates/s",
        ),
        (
            "the published search tool, from our notes: one core of an AMD EPYC, not measured by the benchmark",
            f"about {results['published_tool']['candidates_per_second']} candidates/s",
        ),
        (
            f"until within 0.1 % of the optimum, most of {len(runs)} seeds",
            f"{max(run['seconds'] for run in runs):.2f} s, {max(run['candidates'] for run in runs):,} candidates",
        ),
        ("tables / exact solution from nothing", solved(default)),
        (f"the same, slowest shipped space: `{slowest['space']}`, {slowest['budget_ms']:g} ms", solved(slowest)),
        (
            f"`{search['command']}`, whole command, {conditions['cores']} cores, median of {len(search['seconds'])}",
            f"{search['median_seconds']:.1f} s, {search['peak_memory_mb']:.0f} MB",
        ),
        (f"`{show_help['command']}`", f"{show_help['median_seconds']:.2f} s"),
    )
    return "\n".join(f"| {what} | {value} |" for what, value in rows)


def format_report(conditions: dict[str, Any], results: dict[str, Any]) -> str:
    rate, plain = results["evolution"]["candidates_per_second"], results["one_at_a_time"]["candidates_per_second"]
    lines = [f"{key}: {value}" for key, value in conditions.items()]
    lines += [
        "",
        f"evolution        {rate:,} candidates/s (median of {RUNS}; {OFFSPRING} x population a generation)",
        f"one at a time    {plain:,} candidates/s: {rate / plain:,.0f} times slower",
    ]
    for run in results["to_0.1_percent"]["runs"]:
        reached = (
            "not reached" if run["seconds"] is None else f"{run['seconds']:.2f} s, {run['candidates']:,} candidates"
        )
        lines.append(f"to 0.1 %         seed {run['seed']}: {reached}; final gap {run['final_gap']:.4%}")
    for row in results["exact"]:
        status = "proven" if row["proven"] else "NOT proven"
        lines.append(
            f"exact            {row['space']} {row['budget_ms']} ms: tables {row['build_tables_s']:.2f} s, "
            f"solve {row['solve_s']:.2f} s, {status}"
        )
    for row in results["commands"]:
        lines.append(f"{row['command']}: {row['median_seconds']:.2f} s, {row['peak_memory_mb']:.0f} MB")
    return "\n".join(lines)


if __name__ == "__main__":
    if any(os.environ.get(name) != "1" for name in THREAD_VARIABLES):  # NumPy reads them once, when it is imported
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | dict.fromkeys(THREAD_VARIABLES, "1"))
    main(sys.argv[1:])
