"""The scores by name: equation, source, and what trained networks say about each. `score` computes them.

F is the FLOPs of a convolution of the main path; the other letters are those of `score`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ScoreName = Literal["balanced", "power-0.5", "power-0.6", "power-0.75", "mae", "mae-flat", "deepmad", "flops"]
DEFAULT_SCORE: ScoreName = "balanced"


@dataclass(frozen=True)
class About:
    """A score in words. `evidence` is docs/score.md's: concordant pairs on Intel CPU, Jetson Nano and A40, partial
    tau of the RegNets at equal V100 time, and of NAS-Bench-Macro at equal FLOPs (None: the score is FLOPs)."""

    equation: str
    source: str
    evidence: tuple[float, float, float, float, float | None]
    additive: bool = True  # over stages, so that the exact solver can prove its optimum
    prices_layers: bool = False  # so that depth needs no other bound

    @property
    def evidence_text(self) -> str:
        """One line for people."""
        cpu, nano, a40, regnet, macro = self.evidence
        given = "" if macro is None else f", Macro {macro:+.2f}"
        return (
            f"pairs of trained networks right: CPU {cpu:.2f}, Jetson {nano:.2f}, A40 {a40:.2f}; "
            f"tau: RegNets {regnet:+.2f}{given}"
        )


POWER_SOURCE = "maenas; p seen on the evidence"
SCORES: dict[ScoreName, About] = {
    "balanced": About(
        "sum over stages of ln(sum of sqrt(F)) - 0.03 layers",
        "maenas; form seen on the evidence",
        (0.83, 0.85, 0.81, 0.72, 0.35),
        prices_layers=True,
    ),
    "power-0.5": About("sum of F^0.5 over main-path convolutions", POWER_SOURCE, (0.83, 0.85, 0.72, 0.60, 0.29)),
    "power-0.6": About("sum of F^0.6 over main-path convolutions", POWER_SOURCE, (0.77, 0.82, 0.79, 0.60, 0.26)),
    "power-0.75": About("sum of F^0.75 over main-path convolutions", POWER_SOURCE, (0.67, 0.73, 0.74, 0.61, 0.20)),
    "mae": About(
        "sum of w_i (H_i + ln c_i), w = (0, 0, 1, 1, 16)", "MAE-DET, arXiv 2111.13336", (0.70, 0.73, 0.52, 0.14, 0.23)
    ),
    "mae-flat": About(
        "sum of w_i (H_i + ln c_i), w = (1, 1, 1, 1, 1)", "MAE-DET, other weights", (0.71, 0.73, 0.52, 0.18, 0.41)
    ),
    "deepmad": About(
        "sum of w_i H_i (ln c_i + ln r_i^2), w = (1, 1, 1, 1, 8)",
        "DeepMAD, arXiv 2303.02165",
        (0.70, 0.73, 0.52, 0.22, 0.27),
        additive=False,
    ),
    "flops": About("FLOPs of the backbone", "a baseline", (0.63, 0.70, 0.70, 0.67, None)),
}


def scores_help() -> str:
    """Every score in words, for --help."""
    rows = (f"{name}: {about.equation} ({about.source}; {about.evidence_text})" for name, about in SCORES.items())
    return ". ".join(rows) + ". docs/score.md explains."
