"""The best detector for a latency budget on a device, saved for the trainer.

Usage: python examples/search_for_a_budget.py [BUDGET] [DEVICE]
"""

import sys

import maenas

budget = sys.argv[1] if len(sys.argv) > 1 else "3ms"
device = sys.argv[2] if len(sys.argv) > 2 else "t4"
result = maenas.search(budget, device=device, classes=20, top_k=3)
print(result)
for design in result:
    print(design)
path = result.best.save("mine.json")
print(f"wrote {path}; next: maenas train {path} --data DATA")
