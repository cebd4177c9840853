"""OpenVINO changes the stack of signal handlers in a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

# Two models, dropped in the order in which they came; then a signal whose handler runs on that stack.
DROPPED = """
import gc, os, signal, torch
from detector.model.net import DetectorNet
from detector.runtime.load import net_runtime
from tests.detector.conftest import TINY
net = DetectorNet(TINY).eval()
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
where = {"device": "cpu", "threads": 1, "runtime": "openvino", "where": "net"}
first, second = (net_runtime(net, ("a", "b", "c", "d"), **where) for _ in range(2))
for each in (first, second):
    each.network(torch.zeros(1, 3, 64, 64))  # compiles it
each = None
del first
gc.collect()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
print("handled", len(seen))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_signal_is_handled_after_models_were_dropped_in_any_order() -> None:
    pytest.importorskip("openvino")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = f"import faulthandler; faulthandler.enable()\n{DROPPED}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled 1\n"), done.stderr
