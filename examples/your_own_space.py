"""A search space of your own: a shipped one with narrower widths, and the best detector in it.

Usage: python examples/your_own_space.py
"""

from pathlib import Path

import yaml

import maenas
from maenas.files import shipped_file

document = yaml.safe_load(shipped_file("search_spaces", "k1kx-tiny.yaml").read_text(encoding="utf-8"))
document["name"] = "mine"
document["description"] = "k1kx-tiny with a last stage of at most 320 channels"
document["stages"][-1]["width"]["max"] = 320
Path("mine.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")

for space in ("k1kx-tiny", "mine.yaml"):
    best = maenas.search("2.3ms", device="t4", space=space).best
    print(space, best)
