"""A latency table of this machine, and a search on it whose winner is measured.

Usage: python examples/your_own_device.py [MINUTES] [BUDGET]    (the package onnxruntime must be there)
"""

import sys

import maenas

minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 14.0
budget = sys.argv[2] if len(sys.argv) > 2 else "60ms"
request = maenas.ProfileRequest(device="cpu", threads=1, spaces=("k1kx-tiny",), specs=("damo-yolo-t",), input_size=320)
table = maenas.profile(request, path="this-cpu.json", minutes=minutes)
print(f"{len(table.rows)} kernels measured on {table.conditions['hardware']}")
print(maenas.predict("damo-yolo-t", device="this-cpu.json"))
result = maenas.search(budget, device="this-cpu.json", space="k1kx-tiny", input_size=320, verify=3)
print(result.best, result.best.provenance["measured"])
