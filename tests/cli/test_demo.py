"""`maenas demo` shows three commands and runs them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.conftest import Maenas


@pytest.mark.slow
def test_the_demonstration_leaves_a_spec_weights_and_plots_and_goes_on_when_repeated(
    maenas: Maenas, tmp_path: Path
) -> None:
    out = tmp_path / "my demo"
    command = ["demo", "--out", str(out), "--epochs", "1", "--device", "cpu"]
    first = maenas(*command)
    assert first.code == 0
    shown = [shlex.split(line)[2:] for line in first.out.splitlines() if line.startswith("$ maenas")]
    assert [words[0] for words in shown] == ["search", "train", "eval"]
    assert all({str(out), f"{out}/demo.json", f"{out}/weights.safetensors"} & {*words} for words in shown)
    for name in ("demo.json", "weights.safetensors", "plots/metrics.json"):
        assert (out / name).is_file()
    weights = (out / "weights.safetensors").read_bytes()
    assert maenas(*command).code == 0
    assert (out / "weights.safetensors").read_bytes() == weights
