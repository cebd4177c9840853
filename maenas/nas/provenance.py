"""What a searched spec's file says about where it comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from maenas import __version__
from maenas.latency.predictor import provenance_word
from maenas.nas.run import SearchResult
from maenas.nas.space import SearchSpace


def provenance(result: SearchResult, index: int, measured: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the spec file of candidate `index` says about where it comes from; the same for the same request.

    `measured` is what measuring the whole network gave, where that was done.
    """
    setup, winner = result.setup, result.candidates[index]
    request = setup.request
    return {
        "made_by": f"maenas {__version__}",
        "numpy": np.__version__,
        "rank": index + 1,
        "space": setup.space.name,
        "space_id": space_id(setup.space),
        "scope": request.scope,
        "score": {"name": request.score, "value": _rounded(winner.score)},
        "mae": _rounded(winner.mae),
        "effectiveness": _rounded(winner.effectiveness),
        "params": winner.params,
        "flops": winner.flops,
        "activation_bytes": winner.activation_bytes,
        "layers": winner.layers,
        "latency": [
            {
                "kind": provenance_word(predictor),
                "device": device,
                "ms": _rounded(prediction.seconds * 1e3),
                "interval_90_ms": [_rounded(prediction.low * 1e3), _rounded(prediction.high * 1e3)],
                "parts_ms": {part: _rounded(value * 1e3) for part, value in prediction.parts.items()},
                "conditions": predictor.conditions,
            }
            for device, predictor, prediction in zip(request.devices, setup.predictors, winner.predictions, strict=True)
        ],
        **({} if measured is None else {"measured": dict(measured)}),
        "budgets": {budget.name: _rounded(budget.limit) for budget in result.budgets},
        "depth_bound": {
            "max_layers": setup.depths.max_layers,
            "max_depth": list(setup.depths.max_depth),
            "max_effectiveness": setup.depths.max_effectiveness,
            "reason": setup.depths.reason,
            "reached": list(result.on_bound) if index == 0 else None,
        },
        "solver": request.solver if setup.problem.objective is not None else "evolution",
        "seed": request.seed,
        "population": request.population,
        "generations": request.generations,
        "optimality": {
            "gap": None if result.gap is None else _rounded(result.gap),
            "proven": result.proven,
            "bound": None if result.optimum is None else _rounded(result.optimum),
        },
    }


def _rounded(value: float) -> float:
    """Eight significant digits: what a file states does not depend on the last bit of a machine's logarithm."""
    return float(f"{value:.8g}")


def space_id(space: SearchSpace) -> str:
    """First 12 hex digits of the SHA-256 of the space's canonical JSON."""
    return hashlib.sha256(json.dumps(asdict(space), sort_keys=True).encode()).hexdigest()[:12]
