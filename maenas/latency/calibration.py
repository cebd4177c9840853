"""Fit the constants of the kernel model to measured whole networks, and say how far off it is on networks left out.

Loss: mean over the networks of sqrt(e^2 + d^2) - d, e = ln(predicted / measured), d = 2 %: the absolute log error,
rounded at zero, so that one odd measurement does not drag the rest. Constants may be tied (kept as they are) when the
measurements cannot tell them apart.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from maenas.errors import MaenasError
from maenas.latency.device import Device, Precision
from maenas.latency.kernel_model import Constants, KernelWork, kernel_work, work_seconds
from maenas.lowering import Kernel
from maenas.strict import STRICT

CONSTANT_NAMES = tuple(field.name for field in dataclasses.fields(Constants))
START = Constants(compute_efficiency=0.5, memory_efficiency=0.5, launch_s=5e-6, serial_cycles=28.0)
ROUNDING = 0.02  # d of the loss


@dataclass(frozen=True)
class Measured:
    """One measured network. Networks of one `family` are left out together; only `scored` ones count in the errors."""

    name: str
    kernels: tuple[Kernel, ...]
    seconds: float
    family: str
    scored: bool = True


@dataclass(frozen=True)
class Residual:
    """Predictions for one network: with all networks in the fit, and with its family left out. Milliseconds."""

    __pydantic_config__: ClassVar = STRICT
    network: str
    family: str
    scored: bool
    measured_ms: float
    fitted_ms: float
    left_out_ms: float

    @property
    def fit_error(self) -> float:
        """Predicted / measured - 1, all networks in the fit."""
        return self.fitted_ms / self.measured_ms - 1

    @property
    def left_out_error(self) -> float:
        """Predicted / measured - 1, the network's family not in the fit."""
        return self.left_out_ms / self.measured_ms - 1


@dataclass(frozen=True)
class Calibration:
    """Constants, which of them were fitted, and the residuals."""

    constants: Constants
    fitted: tuple[str, ...]
    residuals: tuple[Residual, ...]

    @property
    def fit_mean_error(self) -> float:
        """Mean absolute relative error on the scored networks of the fit."""
        return float(np.mean([abs(r.fit_error) for r in self.residuals if r.scored]))

    @property
    def left_out_mean_error(self) -> float:
        """Mean absolute relative error on scored networks, each with its family left out."""
        return float(np.mean([abs(r.left_out_error) for r in self.residuals if r.scored]))


def calibrate(
    networks: Sequence[Measured],
    *,
    device: Device,
    precision: Precision,
    batch: int,
    fitted: Sequence[str] = CONSTANT_NAMES,
    start: Constants = START,
) -> Calibration:
    """Fit the constants named in `fitted`, the others staying as in `start`; then once more without each family.

    Raises `MaenasError` if there are fewer scored families than fitted constants plus one.
    """
    unknown = [name for name in fitted if name not in CONSTANT_NAMES]
    if unknown or not fitted:
        raise MaenasError(
            f"cannot fit {', '.join(unknown) or 'nothing'}; the constants are {', '.join(CONSTANT_NAMES)}"
        )
    families = list(dict.fromkeys(network.family for network in networks))
    if len(families) <= len(fitted) + 1:
        raise MaenasError(
            f"{len(families)} network families cannot determine {len(fitted)} constants and leave one out; "
            f"measure at least {len(fitted) + 2}, or fit fewer constants"
        )
    works = [network_work(n.kernels, device=device, precision=precision, batch=batch) for n in networks]
    names = tuple(name for name in CONSTANT_NAMES if name in fitted)
    constants = _fit(list(zip(works, networks, strict=True)), names, start)
    left_out: dict[str, Constants] = {}
    for family in families:
        rest = [(w, n) for w, n in zip(works, networks, strict=True) if n.family != family]
        left_out[family] = _fit(rest, names, start)
    residuals = tuple(
        Residual(
            n.name,
            n.family,
            n.scored,
            _ms(n.seconds),
            _ms(np.sum(work_seconds(w, constants))),
            _ms(np.sum(work_seconds(w, left_out[n.family]))),
        )
        for w, n in zip(works, networks, strict=True)
    )
    return Calibration(constants, names, residuals)


def network_work(kernels: Sequence[Kernel], *, device: Device, precision: Precision, batch: int) -> KernelWork:
    """The work of all kernels, as one `KernelWork` of arrays `[kernels]`."""
    works = [kernel_work(k, device=device, precision=precision, batch=batch) for k in kernels]
    columns = {
        name: np.array([getattr(w, name) for w in works], dtype=np.float64)
        for name in ("compute_s", "serial_s", "memory_s", "launches")
    }
    return KernelWork(**columns)  # pyright: ignore[reportArgumentType]  # launches: one a kernel


def _ms(seconds: float) -> float:
    return round(float(seconds) * 1e3, 4)


def _fit(rows: Sequence[tuple[KernelWork, Measured]], names: tuple[str, ...], start: Constants) -> Constants:
    def at(x: np.ndarray) -> Constants | None:
        try:
            return dataclasses.replace(start, **dict(zip(names, np.exp(x).tolist(), strict=True)))
        except MaenasError:  # out of bounds
            return None

    def loss(x: np.ndarray) -> float:
        constants = at(x)
        if constants is None:
            return math.inf
        errors = [math.log(float(np.sum(work_seconds(w, constants))) / n.seconds) for w, n in rows]
        return float(np.mean(np.hypot(errors, ROUNDING))) - ROUNDING

    x0 = np.log([getattr(start, name) for name in names])
    best = min((minimise(loss, x0, step) for step in (0.1, -0.3)), key=loss)
    best = minimise(loss, best, 0.05)  # a fresh simplex: the first may have collapsed
    constants = at(best)
    assert constants is not None
    return dataclasses.replace(constants, **{name: float(f"{getattr(constants, name):.4g}") for name in names})


def minimise(loss: Callable[[np.ndarray], float], start: np.ndarray, step: float, *, rounds: int = 400) -> np.ndarray:
    """Nelder-Mead simplex (Nelder and Mead 1965), no randomness. Returns the best point found."""
    points = [start, *(start + step * axis for axis in np.eye(len(start)))]
    values = [loss(point) for point in points]
    for _ in range(rounds):
        order = np.argsort(values, kind="stable")
        points, values = [points[i] for i in order], [values[i] for i in order]
        if values[-1] - values[0] < 1e-10 and np.max(np.ptp(points, axis=0)) < 1e-5:
            break
        centre = np.mean(points[:-1], axis=0)
        outward = centre - points[-1]
        trial, value = _tried(loss, centre + outward)
        if value < values[0]:
            farther, value_farther = _tried(loss, centre + 2 * outward)
            if value_farther < value:
                trial, value = farther, value_farther
        elif value >= values[-2]:
            sign = 0.5 if value < values[-1] else -0.5
            trial, value = _tried(loss, centre + sign * outward)
        if value < values[-1]:
            points[-1], values[-1] = trial, value
        else:  # shrink towards the best point
            points = [points[0], *(0.5 * (points[0] + point) for point in points[1:])]
            values = [values[0], *(loss(point) for point in points[1:])]
    return points[int(np.argmin(values))]


def _tried(loss: Callable[[np.ndarray], float], point: np.ndarray) -> tuple[np.ndarray, float]:
    return point, loss(point)
