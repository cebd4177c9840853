"""An hour of random commands: no traceback, no hang, no memory above the limit, no mixed or lost result.

The grammar is read off the command line itself: every command, with any of its options, and values of their types,
good ones and bad ones. Commands are signalled at random moments, some are run twice at once, some may write little.
`python benchmarks/soak.py --seconds 60` is a short one; `make soak` runs it for an hour. A number of the log and the
seed give the same command again: --only NUMBER.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import typing
from dataclasses import dataclass
from pathlib import Path

from maenas.cli.tree import Parameter, commands

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
MEMORY = 4 * 2**30  # bytes, of a command and its children
PATIENCE_S = 90.0  # from a signal to the end
NUMBERS = (0, 1, 2, 3, 4, 8, 16, 64, 320, 640)
WORDS = ["tiny.json", "net.safetensors", "run", "data", "net.onnx", "table.json", "kernels.txt", "structure.txt"]
WORDS += ["a.png", "clip.mp4", "missing.json", "broken.json", "fifo", "loop", "damo-yolo-t", "k1kx-tiny", "nothing"]
WORDS += ["t4", "cpu", "3ms", "2.2ms", "10M", "1,2", "auto", "", "data/**", "epochs=1", "seed=1", "x" * 300, "-1"]
OUTPUTS = ["out/a.json", "out/b.png", "out/c.onnx", "out/new/d", "out/run", "out", "fifo", "loop", "file/below"]
# Where a word of the right kind makes a command do more than refuse it. Options that are not here take any word.
USUAL = {
    "--budget": ["2.2ms", "3ms", "1.2ms"],
    "--device": ["t4", "cpu", "auto", "table.json"],
    "--data": ["data"],
    "--spec": ["tiny.json", "damo-yolo-t"],
    "--space": ["k1kx-tiny", "mob"],
    "--weights": ["net.safetensors", "run"],
    "WEIGHTS": ["net.safetensors", "run"],
    "SPEC": ["tiny.json"],
    "NETWORK": ["tiny.json", "damo-yolo-t", "net.onnx"],
    "NETWORKS": ["tiny.json", "net.safetensors"],
    "FILES": ["net.safetensors", "table.json"],
    "SOURCE": ["a.png", "data", "clip.mp4"],
    "--set": ["workers=0", "plain_epochs=1", "amp=none"],
    "--recipe": ["demo", "small-data"],
}
# So that a command has a chance to end while it is watched.
SMALL = {
    "search": ["--generations", "2", "--population", "16"],
    "train": ["--epochs", "1", "--batch", "4", "--input", "64"],
    "profile": ["--minutes", "0.05"],
    "demo": ["--epochs", "1"],
    "data shapes": ["--images", "10", "--size", "64"],
    "validate": ["--random", "1", "--input", "64"],
}


@dataclass(frozen=True)
class Case:
    """A command of the soak and what happens to it."""

    number: int
    words: list[str]
    after_s: float  # until the signal
    signal: signal.Signals
    twice: bool
    most_bytes: int | None  # of a file


@dataclass
class End:
    """How a process ended."""

    code: int
    seconds: float
    peak: int
    error: str
    hung: bool = False


def make_case(number: int, seed: int, known: dict[str, list[Parameter]]) -> Case:
    """The case of this number, of the commands `known`; the same for the same seed."""
    rng = random.Random(f"{seed}/{number}")
    name = rng.choice(sorted(known))
    words = [*name.split(), *(SMALL.get(name, []) if rng.random() < 0.8 else [])]
    for parameter in known[name]:
        if (parameter.required and rng.random() < 0.97) or rng.random() < 0.12:
            for _ in range(rng.choice((1, 1, 2)) if parameter.repeats else 1):
                words += _given(parameter, rng)
    asked = rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
    most = rng.choice([0, 4096, 100_000, 2_000_000]) if rng.random() < 0.15 else None
    return Case(number, words, rng.expovariate(1 / 15), asked, rng.random() < 0.15, most)


def _given(parameter: Parameter, rng: random.Random) -> list[str]:
    if parameter.kind is bool:
        return [parameter.name]
    return parameter.given(_value(parameter, rng))


def _value(parameter: Parameter, rng: random.Random) -> str:
    choices = [str(choice) for choice in typing.get_args(parameter.kind)] or [
        str(choice.value) for choice in getattr(parameter.kind, "__members__", {}).values()
    ]
    if choices:
        return rng.choice(choices) if rng.random() < 0.95 else "nonsense"
    if parameter.kind in (int, float):
        return _number(parameter, rng)
    if parameter.check is not None and parameter.check.__name__.startswith("output"):
        return rng.choice(OUTPUTS)
    usual = USUAL.get(parameter.name)
    return rng.choice(usual) if usual and rng.random() < 0.8 else rng.choice(WORDS)


def _number(parameter: Parameter, rng: random.Random) -> str:
    least, most = parameter.least or 0, parameter.most or 0
    if rng.random() < 0.1:
        return rng.choice([str(least - 1), str(most + 1), str(most), "nan", "1e999", "x", str(10**30)])
    if parameter.kind is float:
        return f"{least + (min(most, 1) - least) * rng.random():.3f}"
    return str(max(int(least), rng.choice(NUMBERS)))


def make_given(place: Path) -> None:
    """The files that commands read, most of them written by the command itself."""
    from maenas.files import shipped_file

    table = shipped_file("latency_tables", "cpu-amd-epyc-onnxruntime-t1-fp32-b1.json")
    (place / "table.json").write_bytes(table.read_bytes())
    (place / "kernels.txt").write_text("{Regular,1,64,56,56,64,3,1,0} 0.0169\n")
    (place / "broken.json").write_text("{")
    (place / "file").write_text("kept")
    (place / "out").mkdir()
    os.mkfifo(place / "fifo")
    (place / "loop").symlink_to("loop")
    for words in (
        "search --space demo --max-flops 350M --name tiny --out . --generations 2 --population 16",
        "data shapes data --images 10 --size 64",
        "train tiny.json --data data --input 64 --epochs 1 --batch 4 --out run --set workers=0 --set plain_epochs=1",
        "export run --out net.onnx",
    ):
        subprocess.run([sys.executable, "-m", "maenas", *words.split()], cwd=place, check=True, env=ENVIRONMENT)
    (place / "net.safetensors").write_bytes((place / "run" / "weights.safetensors").read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "maenas", "structure", "export", "damo-yolo-t"], check=True, capture_output=True
    )
    (place / "structure.txt").write_bytes(done.stdout)
    _write_pictures(place)


def _write_pictures(place: Path) -> None:
    import cv2
    import numpy as np

    frames = np.random.default_rng(0).integers(256, size=(8, 64, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(place / "a.png"), frames[0])
    writer = cv2.VideoWriter(str(place / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 8, (64, 64))
    for frame in frames:
        writer.write(frame)
    writer.release()


def run_case(case: Case, place: Path) -> list[End]:
    """Run it, once or twice at once, and signal it when its time has come."""

    def limit() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)  # a shell's background command, as this may be, ignores Ctrl-C
        if case.most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (case.most_bytes, case.most_bytes))

    began = time.monotonic()
    errors = [tempfile.TemporaryFile() for _ in range(1 + case.twice)]  # noqa: SIM115 - closed below
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "maenas", *case.words],
            cwd=place,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=error,
            start_new_session=True,
            preexec_fn=limit,
        )
        for error in errors
    ]
    ends = [_watch(process, case, began) for process in processes]
    for end, error in zip(ends, errors, strict=True):
        error.seek(0)
        end.error = error.read().decode(errors="replace")
        error.close()
    return ends


def _watch(process: subprocess.Popen[bytes], case: Case, began: float) -> End:
    peak, signalled = 0, False
    while process.poll() is None:
        used = _memory(process.pid)
        peak = max(peak, used)
        passed = time.monotonic() - began
        if not signalled and passed > case.after_s:
            process.send_signal(case.signal)
            signalled = True
        if passed > case.after_s + PATIENCE_S or peak > MEMORY:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return End(process.returncode, passed, peak, "", hung=peak <= MEMORY)
        time.sleep(0.05)
    return End(process.returncode, time.monotonic() - began, peak, "")


def _memory(pid: int) -> int:
    """Resident bytes of a process group: what several share counts once, for the first of them."""
    total = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) == pid:
                resident, shared = (int(word) for word in (path / "statm").read_text().split()[1:3])
                total += resident - (shared if int(path.name) != pid else 0)
        except (OSError, ValueError):
            continue
    return total * resource.getpagesize()


def faults_of(case: Case, ends: list[End], place: Path, before: dict[str, bytes]) -> list[str]:
    """What is wrong with how it ended, and with what it left."""
    faults = []
    for end in ends:
        if end.hung:
            faults.append(f"hang: still there {PATIENCE_S:.0f} s after the signal")
        elif end.peak > MEMORY:
            faults.append(f"memory: {end.peak / 2**30:.1f} GiB")
        elif end.code not in (0, 1, 2, -case.signal) and not _while_loading(case, end):
            faults.append(f"exit code {end.code}")
        if "Traceback" in end.error and not _before_our_first_line(end.error):
            faults.append("traceback")
    for name, data in before.items():
        if not (place / name).is_file() or (place / name).read_bytes() != data:
            faults.append(f"input {name} was changed")
    if not (place / "fifo").is_fifo() or not (place / "loop").is_symlink():
        faults.append("a special file was replaced")
    killed = case.signal == signal.SIGKILL and any(end.code == -signal.SIGKILL for end in ends)
    return faults + _left(place / "out", killed=killed)


def _while_loading(case: Case, end: End) -> bool:
    """Python ends as by SIGINT, whatever we say, where a signal came while a module made its classes.

    A command that may write nothing cannot say it either.
    """
    said = case.most_bytes == 0 or end.error.rstrip().endswith("error: interrupted")
    return end.code == -signal.SIGINT and said


def _before_our_first_line(text: str) -> bool:
    """Ctrl-C while Python itself starts."""
    return "KeyboardInterrupt" in text and "maenas/cli" not in text and "detector/" not in text


def _left(out: Path, *, killed: bool) -> list[str]:
    """What is wrong with the files of the output folder: parts, mixtures, leftovers."""
    faults = []
    for path in out.rglob("*"):
        if path.name.endswith((".tmp", ".lock")) or ".tmp." in path.name:
            if not killed:
                faults.append(f"{path.name} was left")
            path.unlink(missing_ok=True)
        elif path.suffix == ".json" and path.is_file():
            try:
                json.loads(path.read_text())
            except ValueError:
                faults.append(f"{path.name} is no JSON")
        elif path.name == "steps.csv":
            steps = [line.partition(",")[0] for line in path.read_text().splitlines(keepends=True)[1:] if "\n" in line]
            if steps != [str(number + 1) for number in range(len(steps))]:
                faults.append(f"{path} has steps of several runs")
    return faults


def main() -> None:
    """Soak for a time; exit code 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this one case")
    parser.add_argument("--log", type=Path, default=Path("soak.jsonl"))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, chosen.log.open("w") as log:
        place = Path(folder)
        make_given(place)
        before = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file() and path.name != "fifo"}
        end, known = time.monotonic() + chosen.seconds, commands()
        number, bad, peak = chosen.only or 0, 0, 0
        while time.monotonic() < end:
            case = make_case(number, chosen.seed, known)
            ends = run_case(case, place)
            found = faults_of(case, ends, place, before)
            peak = max(peak, *(one.peak for one in ends))
            bad += bool(found)
            row = {"number": number, "words": case.words, "signal": case.signal.name, "after_s": round(case.after_s, 2)}
            row |= {"twice": case.twice, "most_bytes": case.most_bytes, "codes": [one.code for one in ends]}
            row |= {"seconds": round(max(one.seconds for one in ends), 2), "faults": found}
            log.write(json.dumps(row) + "\n")
            log.flush()
            if found:
                print(f"{number}: {case.words} {case.signal.name}: {'; '.join(found)}", flush=True)
                print("\n".join(one.error[-1500:] for one in ends), flush=True)
            number += 1
            if chosen.only is not None:
                break
        print(f"{number} commands, seed {chosen.seed}: {bad} with faults; at most {peak / 2**30:.1f} GiB; {chosen.log}")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
