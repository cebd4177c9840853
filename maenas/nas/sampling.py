"""Detectors drawn at random from a search space: to measure, to validate with, to test on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from maenas.errors import MaenasError
from maenas.nas.genome import stage_genes
from maenas.nas.space import SearchSpace
from maenas.presets import detector_around, get_neck_preset, reaching
from maenas.spec import DetectorSpec, HeadSpec

TRIES = 1000  # for a genome in which all widths fit
MAX_DRAWN_DEPTH = 4  # units in a stage: spaces allow far more than fits into a latency anyone wants


def random_detector(space: SearchSpace, rng: np.random.Generator, *, input_size: int | None = None) -> DetectorSpec:
    """Widths, bottlenecks, kernels and depths drawn evenly from what the space allows, stage after stage.

    Raises `MaenasError` where the space has next to nothing: hardly any widths that may follow each other.
    """
    genomes = (_drawn(space, rng) for _ in range(TRIES))
    genome = next((genome for genome in genomes if genome is not None), None)
    if genome is None:
        raise MaenasError(f"space {space.name}: its widths and bottlenecks hardly ever fit each other; change them")
    side = input_size or space.input_size
    backbone, preset = space.spec_of(np.array(genome)), reaching(get_neck_preset(space.neck), side)
    return detector_around(backbone, preset, side=side, num_classes=HeadSpec().num_classes)


def _drawn(space: SearchSpace, rng: np.random.Generator) -> list[int] | None:
    """A genome; None where no width of a stage may follow the one before it."""
    genome = [int(rng.integers(len(space.choices[0])))]
    width = space.choices[0][genome[0]]
    for number in range(len(space.stages)):
        outs, kernels, bottlenecks, depths = space.choices[stage_genes(number)]
        pairs = [
            (out, bottleneck)
            for out, bottleneck in itertools.product(range(len(outs)), range(len(bottlenecks)))
            if space.width_fits(np.array(width), np.array(outs[out]))
            and space.bottleneck_fits(np.array(outs[out]), np.array(bottlenecks[bottleneck]))
        ]
        if not pairs:
            return None
        out, bottleneck = pairs[int(rng.integers(len(pairs)))]
        depth = int(rng.integers(min(MAX_DRAWN_DEPTH, len(depths))))
        genome += [out, int(rng.integers(len(kernels))), bottleneck, depth]
        width = outs[out]
    return genome


def random_detectors(
    spaces: Sequence[SearchSpace], count: int, *, seed: int, input_size: int | None = None
) -> Iterator[tuple[str, DetectorSpec]]:
    """`count` detectors with names, taking the spaces in turns; the first ones do not depend on `count`."""
    rng = np.random.default_rng(seed)
    for number, space in enumerate(itertools.islice(itertools.cycle(spaces), count)):
        yield f"{space.name} #{number}", random_detector(space, rng, input_size=input_size)
