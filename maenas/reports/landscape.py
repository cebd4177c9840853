"""Where networks lie between latency and score: the exact front of a space, and the published detectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from maenas.cost import total_cost
from maenas.errors import MaenasError
from maenas.latency.predictor import AnyPredictor, predict
from maenas.lowering import lower
from maenas.nas.depth_bound import kernels_in_scope
from maenas.nas.evolution import State, evolve
from maenas.nas.pareto import Front, pareto_front
from maenas.nas.problem import feasible
from maenas.nas.request import Request, Setup
from maenas.nas.space import load_space, space_names
from maenas.reports.networks import Network
from maenas.reports.origin import neck_of, prepare_bounded, setup_of
from maenas.score import score_of
from maenas.spec import DetectorSpec, published_specs
from maenas.units import number_of

STEP_S = 1e-9
BELOW, ABOVE = 0.75, 1.15  # of the latencies shown: the part of the front that is computed


@dataclass(frozen=True)
class Place:
    """One network on the plane: latency in seconds of what the budget counts, with its 90 % interval, and score."""

    name: str
    seconds: float
    low: float
    high: float
    score: float
    layers: int


@dataclass(frozen=True)
class Landscape:
    """`networks` and `published` detectors beside the `front`, under one model.

    The published ones have the front's input size and classes. One that is among `networks` is left out, and one with
    kernels that the model cannot predict.
    """

    front: Front
    networks: tuple[Place, ...]
    published: tuple[Place, ...]


@dataclass(frozen=True)
class Progress:
    """Best score after each generation (None: nothing within the limits yet) of a search that was run again."""

    evaluated: tuple[int, ...]
    scores: tuple[float | None, ...]


def survey(
    networks: Sequence[Network],
    predictor: AnyPredictor,
    device: str,
    *,
    space: str | None = None,
    low_s: float | None = None,
    high_s: float | None = None,
) -> Landscape:
    """The front of the search that the first searched network came from, on `device`.

    Without a searched one: of the first space that holds the first network, under the space's own bound on depth. It
    reaches from `low_s` to `high_s`, by default somewhat beyond the networks and the budget. Raises `MaenasError` where
    there is no such space, or the search cannot be set up again.
    """
    chosen = next((network for network in networks if network.origin is not None), networks[0])
    request = _request(chosen, predictor, device, space)
    weights = load_space(request.space).score_weights

    def place(name: str, spec: DetectorSpec) -> Place:
        return _place(name, spec, predictor, request, weights)

    places = tuple(place(network.name, network.spec) for network in networks)
    high = high_s or ABOVE * max([*(p.seconds for p in places), *request.latency_s[:1]])
    setup = prepare_bounded(replace(request, latency_s=(high, *request.latency_s[1:])), request.max_layers)
    front = pareto_front(setup, low_s or BELOW * min(p.seconds for p in places))
    shown = {network.spec for network in networks}
    published = []
    for name, spec in _published(setup.input_size, request.num_classes):
        if spec not in shown:
            with suppress(MaenasError):  # a table measured for one space lacks the kernels of others
                published.append(place(name, spec))
    return Landscape(front, places, tuple(published))


def _request(network: Network, predictor: AnyPredictor, device: str, space: str | None) -> Request:
    """What the network was searched for, with `device` first; its other budgets stay."""
    if network.origin is None:
        seconds = predict(lower(network.spec), predictor).seconds
        return _guessed(network, predictor, device, space, seconds)
    setup = setup_of(network.origin, network.spec, space)
    request = setup.request
    if device == request.devices[0] and request.latency_s and not network.changed:
        return request
    layers = request.max_layers if device != request.devices[0] else setup.depths.max_layers
    return replace(
        request,
        devices=(device,),
        latency_s=(predict(lower(network.spec), predictor).seconds,),
        max_layers=layers,
        precision=predictor.precision,
        batch=predictor.batch,
    )


def _guessed(network: Network, predictor: AnyPredictor, device: str, space: str | None, seconds: float) -> Request:
    spec = network.spec
    neck = neck_of(spec)
    if neck is None:
        raise MaenasError(f"{network.name}: its neck or head is none of the presets that a search knows")
    return Request(
        space=space or _holding(network),
        devices=(device,),
        latency_s=(seconds,),
        precision=predictor.precision,
        batch=predictor.batch,
        input_size=spec.input.height,
        num_classes=spec.head.num_classes,
        neck=neck,
    )


def _holding(network: Network) -> str:
    default = Request().space
    for name in (default, *space_names()):
        if load_space(name).contains(network.spec.backbone):
            return name
    raise MaenasError(f"no shipped space holds the backbone of {network.name}: give one with --space")


def _place(name: str, spec: DetectorSpec, predictor: AnyPredictor, request: Request, weights: Sequence[float]) -> Place:
    kernels = kernels_in_scope(spec, request.scope)
    prediction = predict(kernels, predictor)
    score = score_of(request.score, kernels, weights)
    return Place(name, prediction.seconds, prediction.low, prediction.high, score, total_cost(kernels).layers)


def _published(input_size: int, classes: int) -> Iterator[tuple[str, DetectorSpec]]:
    for name, spec in published_specs(input_size).items():
        yield name, replace(spec, head=replace(spec.head, num_classes=classes))


def progress_of(network: Network, space: str | None = None) -> Progress | None:
    """The evolution that found the network, run again with its stored settings and seed.

    None if it was not found by evolution. Raises `MaenasError` if the search cannot be set up again, or ends without
    this network: another version of NumPy or of a latency table.
    """
    origin = network.origin
    if origin is None or origin.solver != "evolution":
        return None
    setup = setup_of(origin, network.searched or network.spec, space)
    states: list[State] = []
    evolve(setup.problem, setup.request.evolution, None, states.append)
    genome = setup.space.genome_of(network.spec.backbone)
    if not states or not (states[-1].genes == genome[:, None]).all(axis=0).any():
        raise MaenasError(
            "the repeated search ends with another network: NumPy or the latency table has another version"
        )
    unit = 1.0 if origin.score.name == "flops" else 1e-9
    fits = feasible(setup.problem, np.stack([state.genes[:, 0] for state in states]))
    best = tuple(float(state.fitness[0]) * unit if fit else None for state, fit in zip(states, fits, strict=True))
    return Progress(tuple(state.evaluated for state in states), best)


def excess_over_front(landscape: Landscape, place: Place) -> float:
    """Relative score above (or, negative, below) the best of the front at the network's latency, to the nanosecond."""
    points = landscape.front.points
    return place.score / max(point.score for point in points if point.latency_s <= place.seconds + STEP_S) - 1


def setup_text(setup: Setup) -> str:
    """One line about the space and what holds for all of its front."""
    classes = number_of(setup.request.num_classes, "class")
    size = f"{setup.input_size}x{setup.input_size}, {classes}, neck {setup.space.neck}"
    return f"{setup.space.name}: {setup.space.description} ({setup.space.size:.2e} architectures); {size}"
