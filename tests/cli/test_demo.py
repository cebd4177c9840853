"""`maenas demo` shows three commands and runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Maenas


@pytest.mark.slow
def test_the_demonstration_leaves_a_spec_weights_and_plots_and_goes_on_when_repeated(
    maenas: Maenas, tmp_path: Path
) -> None:
    command = ["demo", "--out", str(tmp_path / "demo"), "--epochs", "1", "--device", "cpu"]
    first = maenas(*command)
    assert first.code == 0
    assert [line.split()[2] for line in first.out.splitlines() if line.startswith("$ maenas")] == [
        "search",
        "train",
        "eval",
    ]
    for name in ("demo.json", "weights.safetensors", "plots/metrics.json"):
        assert (tmp_path / "demo" / name).is_file()
    weights = (tmp_path / "demo" / "weights.safetensors").read_bytes()
    assert maenas(*command).code == 0
    assert (tmp_path / "demo" / "weights.safetensors").read_bytes() == weights
