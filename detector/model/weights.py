"""Weights with the detector they belong to, in one safetensors file; and the released checkpoints.

The state is the training form's (`DetectorNet.state_dict()`). Everything else - schema, spec, class names and what the
writer notes - is one JSON document in the file's metadata.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from detector.model.coco import COCO_NAMES
from detector.model.net import DetectorNet
from detector.model.published import BINS, published_names
from detector.model.unpickle import read_tensors
from maenas.errors import MaenasError
from maenas.files import refuse_pipe, write_atomic
from maenas.headers import KEY, WEIGHTS_SCHEMA, WeightsHeader
from maenas.run_files import weights_hint, weights_path
from maenas.spec import DetectorSpec, HeadSpec, SpecFile
from maenas.strict import dump_json, parse_json

CLASS_CONVOLUTIONS = "head.cls"
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)
MOST_SHOWN = 4

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Weights:
    """Tensors by our names, the spec they belong to, class names, and free notes of the writer."""

    spec: DetectorSpec
    names: tuple[str, ...]
    state: State
    metadata: Mapping[str, str]
    spec_file: SpecFile | None = None  # what they were trained from


class LoadReport(NamedTuple):
    """What `load_into` did not take from the file, by tensor name.

    `missing` are not in the weights and `reinitialised` are those of another class count: both keep the values that
    the network had. `unexpected` are not in the network.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reinitialised: tuple[str, ...]


def write_weights(
    path: str | Path,
    source: nn.Module | State,
    spec: DetectorSpec,
    names: tuple[str, ...],
    metadata: Mapping[str, str] | None = None,
    spec_file: SpecFile | None = None,
) -> None:
    """Write the network or state `source` atomically; equal arguments give equal bytes.

    Raises `MaenasError` if it is not the complete, finite state of `DetectorNet(spec)` or the file cannot be written.
    """
    state = source.state_dict() if isinstance(source, nn.Module) else source
    _check_complete(state, spec, names, where=f"weights for {path}")
    header = dump_json(WeightsHeader(WEIGHTS_SCHEMA, tuple(names), dict(metadata or {}), spec, spec_file))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_atomic(path, safetensors.torch.save(tensors, metadata={KEY: header}))


def read_weights(path: str | Path) -> Weights:
    """Read a file that `write_weights` wrote, or the one in the folder of a run.

    Raises `MaenasError` for a file that is missing, cut off, of another format, or not the complete, finite state of
    the spec inside it.
    """
    path = weights_path(path)
    where = f"weights {path}"
    refuse_pipe(path, what="weights")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(KEY)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except OSError as error:
        raise MaenasError(f"{where}: cannot be read: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise MaenasError(f"{where}: not a whole safetensors file ({error}){weights_hint(path)}") from error
    if header is None:
        raise MaenasError(f"{where}: there is no {KEY!r} document in it; it was not written by maenas")
    document = parse_json(header, WeightsHeader, where=where)
    _check_complete(state, document.detector, document.names, where=where)
    return Weights(document.detector, document.names, state, document.metadata, document.spec_file)


def read_published(path: str | Path, spec: DetectorSpec, names: tuple[str, ...] | None = None) -> Weights:
    """Read a released checkpoint of the detector `spec`.

    Takes a `.pth` whose top level, entry "model" or entry "state_dict" maps names to tensors, with or without the
    prefix "module.". The class count is the file's; without `names`, 80 classes are COCO's and others are numbered.
    Tensors may be missing, and unknown ones keep their names: `load_into` reports both. No code in the file is run.

    Raises `MaenasError` for a file that is missing, cut off or holds code, for tensors that are not finite, and for
    those of another network.
    """
    where = f"checkpoint {path}"
    released = read_tensors(Path(path))
    ours = {theirs: name for name, theirs in published_names(spec).items()}
    state = {ours.get(name, name): tensor for name, tensor in released.items() if name != BINS}
    if not any(name in state for name in ours.values()):
        raise MaenasError(f"{where}: no tensor in it is of this detector, but for example {next(iter(released))!r}")
    first = state.get(f"{CLASS_CONVOLUTIONS}0.weight")
    classes = spec.head.num_classes if first is None or first.ndim == 0 else len(first)
    spec = _with_classes(spec, classes)
    if names is None:
        names = COCO_NAMES if classes == len(COCO_NAMES) else tuple(f"class {number}" for number in range(classes))
    _check_names(names, spec, where)
    _check_tensors(state, _empty_state(spec), where)
    return Weights(spec, names, state, {})


def load_net(path: str | Path) -> tuple[DetectorNet, Weights]:
    """The network in a file that `write_weights` wrote, in training form and eval mode. Raises `MaenasError`."""
    weights = read_weights(path)
    with torch.device("meta"):  # initial values would be overwritten
        net = DetectorNet(weights.spec)
    net.to_empty(device="cpu").load_state_dict(weights.state)
    return net.eval(), weights


def load_into(net: DetectorNet, weights: Weights) -> LoadReport:
    """Load what fits into `net`, whose spec may differ in the class count and the input.

    Another class count keeps everything but the class convolutions, which stay as they are in `net`.
    Raises `MaenasError` if the weights are of another network.
    """
    classes, size = weights.spec.head.num_classes, weights.spec.input
    if dataclasses.replace(_with_classes(net.spec, classes), input=size) != weights.spec:
        parts = [
            part for part in ("backbone", "neck", "head") if getattr(net.spec, part) != getattr(weights.spec, part)
        ]
        raise MaenasError(
            f"the weights are of another detector ({weights.spec.id}; the network is {net.spec.id}): "
            f"{' and '.join(parts)} differ; only the class count and the input may"
        )
    own = net.state_dict()
    same_classes = classes == net.spec.head.num_classes
    kept = {name for name in own if not same_classes and name.startswith(CLASS_CONVOLUTIONS)}
    net.load_state_dict(
        {name: t for name, t in weights.state.items() if name in own and name not in kept}, strict=False
    )
    return LoadReport(
        missing=tuple(name for name in own if name not in weights.state),
        unexpected=tuple(name for name in weights.state if name not in own),
        reinitialised=tuple(name for name in own if name in kept and name in weights.state),
    )


def _with_classes(spec: DetectorSpec, num_classes: int) -> DetectorSpec:
    head = HeadSpec(num_classes, spec.head.reg_max, spec.head.kernel)
    return dataclasses.replace(spec, head=head)


def _empty_state(spec: DetectorSpec) -> State:
    """Every tensor of the training form, without values."""
    with torch.device("meta"):
        return DetectorNet(spec).state_dict()


def _check_complete(state: State, spec: DetectorSpec, names: tuple[str, ...], where: str) -> None:
    own = _empty_state(spec)
    missing, unexpected = (sorted(set(a) - set(b)) for a, b in ((own, state), (state, own)))
    problems = [f"missing {_shown(missing)}"] * bool(missing) + [f"unexpected {_shown(unexpected)}"] * bool(unexpected)
    if problems:
        raise MaenasError(f"{where}: not the state of its detector ({spec.id}): {'; '.join(problems)}")
    _check_names(names, spec, where)
    _check_tensors(state, own, where)


def _check_names(names: tuple[str, ...], spec: DetectorSpec, where: str) -> None:
    if len(names) != spec.head.num_classes:
        raise MaenasError(f"{where}: {len(names)} class names for a detector of {spec.head.num_classes} classes")


def _check_tensors(state: State, own: State, where: str) -> None:
    """Tensors must be of common types and finite, and those in `own` of its shapes and kinds of numbers."""
    known = [(name, tensor, own[name]) for name, tensor in state.items() if name in own]
    wrong = [f"{name} is {list(a.shape)}, not {list(b.shape)}" for name, a, b in known if a.shape != b.shape]
    if wrong:
        raise MaenasError(f"{where}: the tensors are of another network: {_shown(wrong)}")
    odd = [f"{name} is {tensor.dtype}" for name, tensor in state.items() if tensor.dtype not in DTYPES]
    odd += [f"{name} is {a.dtype}" for name, a, b in known if a.is_floating_point() != b.is_floating_point()]
    if odd:
        raise MaenasError(f"{where}: not the numbers of a detector: {_shown(odd)}")
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise MaenasError(f"{where}: not finite (NaN or infinity): {_shown(broken)}; the training had diverged")


def _shown(entries: list[str]) -> str:
    more = f" and {len(entries) - MOST_SHOWN} more" if len(entries) > MOST_SHOWN else ""
    return ", ".join(entries[:MOST_SHOWN]) + more
