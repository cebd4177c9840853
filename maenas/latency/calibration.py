"""Fit the constants of the kernel model to measured whole networks, and say how far off it is on networks left out.

Loss: mean over the networks of sqrt(e^2 + d^2) - d, e = ln(predicted / measured), d = 2 %: the absolute log error,
rounded at zero, so that one odd measurement does not drag the rest. Constants may be tied (kept as they are) when the
measurements cannot tell them apart, or pulled towards what other devices have (`Pull`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from maenas.errors import MaenasError
from maenas.kernels import Kernel
from maenas.latency.device import Device, Precision
from maenas.latency.kernel_model import Constants, KernelWork, kernel_work, work_seconds
from maenas.strict import STRICT

CONSTANT_NAMES = tuple(field.name for field in dataclasses.fields(Constants))
FREE_NAMES = CONSTANT_NAMES[:4]  # what a fit without a pull determines
START = Constants(compute_efficiency=0.5, memory_efficiency=0.5, launch_s=5e-6, serial_cycles=28.0)
ROUNDING = 0.02  # d of the loss


@dataclass(frozen=True)
class Pull:
    """Lets few families determine all constants: ln(constant) is drawn to that of `centre`, with a standard deviation.

    Adds scale / (2 families) sum z^2 to the loss, z in units of `log_spread`. So one family at an error of `scale`
    weighs as much as one constant at one standard deviation: errors within a family are alike, and count once.
    """

    centre: Constants
    log_spread: tuple[float, ...]
    scale: float = 0.04

    def starts(self) -> tuple[Constants, ...]:
        """Where the fit begins: launches bound by the device, by the host, or by either."""
        c = self.centre
        return tuple(
            dataclasses.replace(c, launch_s=c.launch_s * a, issue_s=c.issue_s * b)
            for a, b in ((1.0, 1.0), (0.6, 2.5), (1.7, 0.5))
        )


# Rounded medians of nine devices fitted almost freely; launches are left nearly free (docs/lab/devices.md).
PULL = Pull(Constants(1.0, 0.6, 7e-6, 6.3, 6e-6, 3.6), (0.25, 0.4, 2.0, 0.5, 2.0, 0.5))


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
    fitted: Sequence[str] = FREE_NAMES,
    start: Constants = START,
    pull: Pull | None = None,
) -> Calibration:
    """Fit the constants named in `fitted`, the others staying as in `start`; then once more without each family.

    With a `pull`, all constants are fitted from it. Raises `MaenasError` if there are fewer families than fitted
    constants plus one, or with a pull fewer than two.
    """
    unknown = [name for name in fitted if name not in CONSTANT_NAMES]
    if unknown or not fitted:
        raise MaenasError(
            f"cannot fit {', '.join(unknown) or 'nothing'}; the constants are {', '.join(CONSTANT_NAMES)}"
        )
    families = list(dict.fromkeys(network.family for network in networks))
    names = CONSTANT_NAMES if pull else tuple(name for name in CONSTANT_NAMES if name in fitted)
    if len(families) < (2 if pull else len(names) + 2):
        raise MaenasError(
            f"{len(families)} network families cannot determine {len(names)} constants and leave one out; "
            f"measure at least {2 if pull else len(names) + 2}, or fit fewer constants"
        )
    data = _stack(networks, device=device, precision=precision, batch=batch)
    starts = pull.starts() if pull else (start,)
    constants = _fit(data, names, starts, pull, len(families))
    fitted_s = data.predict(constants)
    left_out_s = np.empty_like(fitted_s)
    members = np.array([network.family for network in networks])
    for family in families:
        rest = data.pick(np.flatnonzero(members != family))
        without = _fit(rest, names, starts, pull, len(families) - 1)
        left_out_s[members == family] = data.predict(without)[members == family]
    residuals = tuple(
        Residual(n.name, n.family, n.scored, _ms(n.seconds), _ms(fit), _ms(left))
        for n, fit, left in zip(networks, fitted_s, left_out_s, strict=True)
    )
    return Calibration(constants, names, residuals)


def network_work(kernels: Sequence[Kernel], *, device: Device, precision: Precision, batch: int) -> KernelWork:
    """The work of all kernels, as one `KernelWork` of arrays `[kernels]`."""
    works = [kernel_work(k, device=device, precision=precision, batch=batch) for k in kernels]
    columns = {
        name: np.array([getattr(w, name) for w in works], dtype=np.float64)
        for name in ("compute_s", "serial_s", "memory_s", "launches", "concat_s")
    }
    return KernelWork(**columns)  # pyright: ignore[reportArgumentType]  # launches: one a kernel


def _ms(seconds: float) -> float:
    return round(float(seconds) * 1e3, 4)


@dataclass(frozen=True)
class _Stack:
    """Kernels of all networks one after another; network i begins at `begins[i]` and took `seconds[i]`."""

    work: KernelWork
    begins: np.ndarray
    seconds: np.ndarray

    def predict(self, constants: Constants) -> np.ndarray:
        """Seconds `[networks]`."""
        return np.add.reduceat(work_seconds(self.work, constants), self.begins)

    def pick(self, networks: np.ndarray) -> _Stack:
        """The networks of these numbers only."""
        ends = np.append(self.begins[1:], len(self.work.compute_s))
        parts = [np.arange(int(self.begins[i]), int(ends[i])) for i in networks]
        kernels = np.concatenate(parts)
        work = KernelWork(*(getattr(self.work, field.name)[kernels] for field in dataclasses.fields(KernelWork)))
        sizes = [len(part) for part in parts]
        return _Stack(work, np.cumsum([0, *sizes[:-1]]), self.seconds[networks])


def _stack(networks: Sequence[Measured], *, device: Device, precision: Precision, batch: int) -> _Stack:
    kernels = [kernel for network in networks for kernel in network.kernels]
    work = network_work(kernels, device=device, precision=precision, batch=batch)
    sizes = [len(network.kernels) for network in networks]
    return _Stack(work, np.cumsum([0, *sizes[:-1]]), np.array([network.seconds for network in networks]))


def _fit(
    data: _Stack, names: tuple[str, ...], starts: Sequence[Constants], pull: Pull | None, families: int
) -> Constants:
    def at(x: np.ndarray) -> Constants | None:
        try:
            return dataclasses.replace(starts[0], **dict(zip(names, np.exp(x).tolist(), strict=True)))
        except MaenasError:  # out of bounds
            return None

    centre = _logs(pull.centre, names) if pull else 0.0
    weight = pull.scale / (2 * families) if pull else 0.0

    def loss(x: np.ndarray) -> float:
        constants = at(x)
        if constants is None:
            return math.inf
        errors = np.log(data.predict(constants) / data.seconds)
        far = weight * float(np.sum(((x - centre) / pull.log_spread) ** 2)) if pull else 0.0
        return float(np.mean(np.hypot(errors, ROUNDING))) - ROUNDING + far

    begun = [(_logs(start, names), step) for start in starts for step in (0.1, -0.3)]
    best = min((minimise(loss, x0, step) for x0, step in begun), key=loss)
    best = minimise(loss, best, 0.05)  # a fresh simplex: the first may have collapsed
    constants = at(best)
    assert constants is not None
    if constants.issue_s <= constants.launch_s:  # the device is never faster than the host, so it does not matter
        constants = dataclasses.replace(constants, issue_s=0.0)
    return dataclasses.replace(constants, **{name: float(f"{getattr(constants, name):.4g}") for name in names})


def _logs(constants: Constants, names: tuple[str, ...]) -> np.ndarray:
    return np.log([getattr(constants, name) for name in names])


def minimise(loss: Callable[[np.ndarray], float], start: np.ndarray, step: float) -> np.ndarray:
    """Nelder-Mead simplex (Nelder and Mead 1965), no randomness. Returns the best point found."""
    points = [start, *(start + step * axis for axis in np.eye(len(start)))]
    values = [loss(point) for point in points]
    for _ in range(400):
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
