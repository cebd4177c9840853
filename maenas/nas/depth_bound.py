"""The bound on depth in force for one search; why it is needed is in docs/concepts.md."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from maenas.errors import MaenasError
from maenas.kernels import Kernel
from maenas.lowering import lower
from maenas.nas.space import SearchSpace
from maenas.nas.stage_tables import Quantity, Scope
from maenas.spec import DetectorSpec, InputSpec, published_spec

# Layer budgets that the report states for its four k1kx and kxkx backbones.
PUBLISHED_LAYERS = (("damo-yolo-t", 20), ("damo-yolo-s", 25), ("damo-yolo-m", 35), ("damo-yolo-l", 45))
PRICED = "every layer has a price in the score"
TOLERANCE = 0.01  # of a layer: a budget written with four digits, at a published model's own cost, gets its layers
FIRST_STAGE_DEPTH = 2  # published limit of the first stage


@dataclass(frozen=True)
class Depths:
    """Limits on depth: main-path convolutions in all, units per stage, effectiveness; `reason` says where from."""

    max_layers: int | None
    max_depth: tuple[int, ...]
    max_effectiveness: float | None
    reason: str


def published_cost(name: str, quantity: Quantity, *, input_size: int, num_classes: int, scope: Scope) -> float:
    """`quantity` of a published detector rebuilt for another input size and number of classes."""
    spec = published_spec(name)
    head = replace(spec.head, num_classes=num_classes)
    kernels = kernels_in_scope(replace(spec, input=InputSpec(input_size, input_size), head=head), scope)
    return float(sum(map(quantity.of_kernel, kernels)) + quantity.fixed)


def kernels_in_scope(spec: DetectorSpec, scope: Scope) -> list[Kernel]:
    """The deployed kernels that a budget of this scope counts."""
    return [kernel for kernel in lower(spec) if scope == "detector" or kernel.stage >= 0]


def published_layers(cost: float, pairs: list[tuple[float, int]]) -> int:
    """Layers that the published family spends at `cost`: linear between its (cost, layers) pairs and beyond them."""
    segments = list(pairwise(sorted(pairs)))
    (x0, y0), (x1, y1) = next((s for s in segments if cost <= s[1][0]), segments[-1])
    return int(y0 + (cost - x0) * (y1 - y0) / (x1 - x0) + TOLERANCE)


def resolve_depths(
    space: SearchSpace,
    budgets: list[tuple[Quantity, float]],
    *,
    input_size: int,
    num_classes: int,
    scope: Scope,
    max_layers: int | None = None,
    max_effectiveness: float | None = None,
    prices_layers: bool = False,
) -> Depths:
    """Bound of `space` under `budgets` (quantity, limit), or the caller's own `max_layers` and `max_effectiveness`.

    A bound that follows the budget, and effectiveness with it, does not hold for a score that `prices_layers`.
    Raises `MaenasError` where the space's bound follows a budget and there is none to follow.
    """
    bound = space.depth_bound
    own = tuple(stage.max_depth for stage in space.stages)
    rho = bound.max_effectiveness if max_effectiveness is None else max_effectiveness
    if prices_layers and bound.max_layers == "published" and max_layers is None:
        return Depths(None, own, max_effectiveness, PRICED)
    if max_layers is not None:
        layers, reason = max_layers, "set by you"
    elif bound.max_layers == "published":
        if not budgets:
            raise MaenasError(f"the depth bound of {space.name} follows the budget: give one, or --max-layers")
        layers = min(
            published_layers(
                limit,
                [
                    (published_cost(name, q, input_size=input_size, num_classes=num_classes, scope=scope), n)
                    for name, n in PUBLISHED_LAYERS
                ],
            )
            for q, limit in budgets
        )
        layers = max(layers, 1 + 2 * len(space.stages))
        reason = "as many as the published T, S, M and L spend at this budget"
    else:
        return Depths(bound.max_layers, own, rho, f"of the space {space.name}")
    if bound.max_layers == "published":
        share = max(1, layers // 2 // (len(space.stages) - 1))
        limits = (min(FIRST_STAGE_DEPTH, own[0]), *(min(share, depth) for depth in own[1:]))
        return Depths(layers, limits, rho, reason)
    return Depths(layers, own, rho, reason)
