"""Where in a genome each gene stands.

A genome is a row of indices into the choices of a space: the stem's width, then width, kernel, bottleneck and depth of
each stage (`GENES`). Populations are integer arrays `[P, 1 + 4 S]`, in evolution `[1 + 4 S, P]`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GENES = ("width", "kernel", "bottleneck", "depth")

Genome = NDArray[np.int64]  # [1 + 4 S]


def stage_genes(stage: int) -> slice:
    """Where the genes of a stage, counted from 0, stand."""
    first = 1 + len(GENES) * stage
    return slice(first, first + len(GENES))


def width_gene(stages: int) -> int:
    """Where the width behind so many stages stands: 0 is the stem's, and a tap's own number gives the tapped one."""
    return stage_genes(stages - 1).start if stages else 0


def genome_key(genome: Genome) -> tuple[int, ...]:
    """Hashable form of a genome."""
    return tuple(int(gene) for gene in genome)
