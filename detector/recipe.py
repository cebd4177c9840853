"""What a training run can be told: one frozen dataclass, its presets, and how YAML and `--set` change them.

The defaults are the published settings. Where the technical report and the released code differ, the default is what
the code does, and the comment names the report's value.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, NamedTuple

from detector.data.settings import AugmentSettings, require_range
from maenas.errors import MaenasError
from maenas.files import read_text
from maenas.strict import STRICT, parse_json, parse_yaml
from maenas.units import number_of


@dataclass(frozen=True)
class Distillation:
    """What a teacher is for; without one it has no effect.

    The loss between features is multiplied by a factor that falls from `weight` to a tenth of it along half a cosine
    over the whole run. `start` is teacher or random: what the student begins with where no weights are given. It
    inherits from a teacher of its own style only.
    """

    __pydantic_config__: ClassVar = STRICT
    kind: Literal["cwd", "mgd", "mimic"] = "cwd"
    start: Literal["teacher", "random"] = "random"
    weight: float = 1.0
    off_epochs: int = 0  # last epochs without distillation (report: 16)
    clip_norm: float | None = 30.0  # largest gradient norm with a teacher

    def __post_init__(self) -> None:
        require_range("distill.weight", self.weight, 0, 1e6)
        require_range("distill.off_epochs", self.off_epochs, 0, 1_000_000)
        if self.clip_norm is not None:
            require_range("distill.clip_norm", self.clip_norm, 1e-6, 1e9)


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run, except device, data, spec and weights.

    An epoch is one pass over the images. A step updates the weights once, with `batch * accumulate` images over all
    processes together.
    """

    __pydantic_config__: ClassVar = STRICT
    # Length
    epochs: int = 300
    warmup_epochs: float = 5.0  # the rate rises with the square of the step
    plain_epochs: int = 16  # last epochs, at the lowest rate, without mosaic and mixup
    # Batch: images of all processes together. On a CPU auto is 16. On a GPU it is the most that fits; small sets get
    # less, so that an epoch has 16 steps, but never less than 16.
    batch: int | Literal["auto"] = "auto"
    accumulate: int = 1  # batches whose gradients are averaged before a step
    # Optimizer
    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    lr_per_image: float = 0.01 / 64  # the rate is this times the images of a step: 0.04 at 256 (report: 0.4)
    min_lr_ratio: float = 0.05  # the cosine ends at this fraction of the full rate
    momentum: float = 0.9  # Nesterov momentum, for SGD only
    weight_decay: float = 5e-4  # for convolution weights and the three box scales
    clip_norm: float | None = None  # largest gradient norm; null: no limit
    # Moving average of the weights
    ema_decay: float = 0.9998
    ema_ramp_steps: float = 2000.0  # the decay nears its value as 1 - exp(-step / this)
    bn_momentum: float = 0.03  # weight of a step in the statistics of batch norm, which evaluations use
    # Losses
    cls_weight: float = 1.0
    box_weight: float = 2.0
    dfl_weight: float = 0.25
    early_matches: int = 1  # fewest priors for a box at the start; falls to 1 by the middle of the run
    # Data
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    multi_scale: tuple[int, ...] = ()  # longer sides in pixels, one drawn for each batch; empty: the input of the spec
    workers: int = 4  # processes that load images for one training process
    cache: Literal["none", "ram"] = "ram"  # ram: keep decoded images in up to half of the free memory
    # Arithmetic
    amp: Literal["auto", "none", "bf16", "fp16"] = (
        "auto"  # auto: none on a CPU; on a GPU bf16 if it has that, else fp16
    )
    compile: bool = False
    # Batch statistics over all processes; auto: where one has fewer than 16 images
    sync_bn: bool | Literal["auto"] = "auto"
    deterministic: bool = False  # refuse operations whose result may differ from run to run
    # Course
    seed: int = 0
    eval_every: int = 10  # epochs between evaluations; every plain epoch is evaluated
    patience: int = 0  # the run ends after this many epochs without a better AP; 0: never
    checkpoint_minutes: float = 5.0
    # Teacher
    distill: Distillation = field(default_factory=Distillation)

    def __post_init__(self) -> None:
        if self.batch != "auto":
            require_range("batch", self.batch, 1, 1_000_000)
        for name, (low, high) in _RANGES.items():
            require_range(name, getattr(self, name), low, high)
        if self.clip_norm is not None:
            require_range("clip_norm", self.clip_norm, 1e-6, 1e9)
        for side in self.multi_scale:
            if side < 32 or side % 32:
                raise MaenasError(f"multi_scale has {side}; a side must be a positive multiple of 32")
        if self.plain_epochs > self.epochs:
            raise MaenasError(f"plain_epochs is {self.plain_epochs}, more than the {self.epochs} epochs")
        if self.warmup_epochs > self.epochs:
            raise MaenasError(f"warmup_epochs is {self.warmup_epochs:g}, more than the {self.epochs} epochs")


_RANGES: Final = MappingProxyType(
    {
        "epochs": (1, 1_000_000),
        "warmup_epochs": (0, 1_000_000),
        "plain_epochs": (0, 1_000_000),
        "accumulate": (1, 10_000),
        "lr_per_image": (0, 100),
        "min_lr_ratio": (0, 1),
        "momentum": (0, 0.9999),
        "weight_decay": (0, 10),
        "ema_decay": (0, 1),
        "ema_ramp_steps": (1, 1e9),
        "bn_momentum": (1e-6, 1),
        "cls_weight": (0, 1000),
        "box_weight": (0, 1000),
        "dfl_weight": (0, 1000),
        "early_matches": (1, 10),
        "workers": (0, 1024),
        "seed": (0, 2**63 - 1),
        "eval_every": (1, 1_000_000),
        "patience": (0, 1_000_000),
        "checkpoint_minutes": (0, 1e6),
    }
)

_DAMO: Final = Recipe()
# The published weight holds a short run back, and a student that begins as its teacher needs fewer epochs: both in
# docs/lab/recipes.md
_SHORT_DISTILLATION: Final = Distillation(start="teacher", weight=0.1)
# What was tried for it, with numbers: docs/lab/recipes.md
_SMALL_DATA: Final = replace(
    _DAMO,
    epochs=60,
    plain_epochs=12,
    batch=8,
    optimizer="muon",
    lr_per_image=0.002 / 8,
    weight_decay=1e-2,
    clip_norm=30.0,
    ema_decay=0.999,
    ema_ramp_steps=500.0,
    bn_momentum=0.1,  # with 0.03, AP in the middle of a run is that of statistics that lag
    early_matches=10,
    augment=AugmentSettings(
        mosaic_prob=0.5,
        mosaic_size=320,
        mosaic_scale=(0.5, 1.5),
        degrees=0.0,
        shear=0.0,
        translate=0.1,
        single_prob=0.5,
        single_scale=(0.75, 1.25),
        hue=0.015,
        saturation=0.4,
        brightness=0.3,
    ),
    distill=_SHORT_DISTILLATION,
)

PRESETS: Final = MappingProxyType(
    {
        "damo": _DAMO,
        "nano": replace(_DAMO, optimizer="adamw", lr_per_image=0.001 / 64, weight_decay=1e-2),
        "small-data": _SMALL_DATA,
        "finetune": replace(_SMALL_DATA, epochs=20, warmup_epochs=1.0, plain_epochs=4, eval_every=5),
        "demo": replace(
            _DAMO,
            epochs=10,
            warmup_epochs=1.0,
            plain_epochs=1,
            batch=16,
            optimizer="muon",
            lr_per_image=0.002 / 16,
            weight_decay=1e-2,
            clip_norm=30.0,
            ema_decay=0.99,
            ema_ramp_steps=50.0,
            bn_momentum=0.1,  # as for small data
            augment=AugmentSettings(mosaic_prob=0.0, box_prob=0.0),
            workers=1,
            eval_every=2,
            distill=_SHORT_DISTILLATION,
        ),
    }
)


AUTO: Final = "auto"
SMALL_DATA: Final = 5000  # images up to which a set counts as small


class Choice(NamedTuple):
    """The name of a preset, and why it was chosen."""

    name: str
    why: str


def choose_recipe(*, images: int, classes: int, device: str, start: bool, shapes: bool, depthwise: bool) -> Choice:
    """The preset for a training set of so many images and classes on a kind of device ("cpu", "cuda").

    `start` says whether there are weights to begin with, `shapes` whether the data are the built-in shapes, and
    `depthwise` whether the backbone is one of the nano kind.
    """
    if shapes:
        return Choice("demo", "the built-in shapes")
    kinds = f"{number_of(images, 'image')} of {number_of(classes, 'class')}"
    if images <= SMALL_DATA:  # with weights to begin with, too: docs/lab/recipes.md
        return Choice("small-data", f"{kinds}, at most {SMALL_DATA} images")
    if start:
        return Choice("finetune", f"{kinds}, and weights to begin with")
    if device != "cuda":
        return Choice("small-data", f"{kinds}, but no GPU for 300 epochs")
    if depthwise:
        return Choice("nano", f"{kinds}, a network of depthwise convolutions")
    return Choice("damo", kinds)


def load_recipe(name: str) -> Recipe:
    """A preset by its name, or a YAML (or JSON) file whose keys replace those of the preset `damo`.

    Raises MaenasError for an unknown preset, and for an unknown key or a wrong value in the file.
    """
    if name in PRESETS:
        return PRESETS[name]
    if not name.endswith((".yaml", ".yml", ".json")):
        near = difflib.get_close_matches(name, PRESETS, n=1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise MaenasError(f"unknown recipe {name!r}{guess}; choose {', '.join(PRESETS)}, or name a .yaml file")
    return parse_yaml(read_text(name, what="recipe"), Recipe, where=name)


def scaled(recipe: Recipe, epochs: int) -> Recipe:
    """`recipe` over so many epochs: its warm-up, plain epochs and epochs without a teacher in proportion.

    A phase that the recipe has keeps at least one epoch, but for the warm-up, which may be a part of one. A
    single epoch is neither plain nor without a teacher.
    """
    if not 1 <= epochs <= 1_000_000:
        return replace(recipe, epochs=epochs)  # which tells the limits
    share = epochs / recipe.epochs
    plain, off = recipe.plain_epochs, recipe.distill.off_epochs
    return replace(
        recipe,
        epochs=epochs,
        warmup_epochs=recipe.warmup_epochs * share,
        plain_epochs=max(round(plain * share), min(plain, 1, epochs - 1)),
        distill=replace(recipe.distill, off_epochs=max(round(off * share), min(off, 1, epochs - 1))),
    )


def override(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """`recipe` with `key=value` texts applied, for example `epochs=30` or `augment.mosaic_prob=0.5`.

    A value is read as JSON, and as plain text where it is none. The texts are applied together, so that their order
    and the checks between keys do not get in each other's way. Another number of epochs scales the phases of the
    recipe (see `scaled`); texts about the phases count after that.

    Raises MaenasError for a text without a key, an unknown key (naming the nearest one) or a wrong value.
    """
    values: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not (equals and key.strip()):
            raise MaenasError(f"--set {text!r}: write it as key=value, for example --set epochs=30")
        values[key.strip()] = _value(value.strip())
    epochs = values.get("epochs")
    document = dataclasses.asdict(scaled(recipe, epochs) if type(epochs) is int else recipe)
    for key, value in values.items():
        _place(document, key.split("."), value)
    try:
        return parse_json(json.dumps(document), Recipe, where="--set")
    except MaenasError as error:
        raise MaenasError(str(error).replace("--set:1: ", "--set ")) from error


def _place(document: dict[str, Any], path: list[str], value: Any) -> None:
    """Sets `path` in nested mappings; unknown keys are left for the strict reader to refuse."""
    for part in path[:-1]:
        inner = document.get(part)
        if not isinstance(inner, dict):
            known = ", ".join(name for name, item in document.items() if isinstance(item, dict))
            raise MaenasError(f"--set {'.'.join(path)}: {part} has no keys of its own; groups are {known}")
        document = inner
    document[path[-1]] = value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
