"""What people type who come from other tools, and what it is called here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import typer
from typer.core import TyperCommand

from maenas.errors import MaenasError

# Options of other trainers, without their dashes. An option that a command has is never looked up here.
HINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "img": "--input N (train) or --size N (export)",
        "imgsz": "--input N (train) or --size N (export)",
        "img-size": "--input N (train) or --size N (export)",
        "input-size": "--input N (train) or --size N (export)",
        "batch-size": "--batch N",
        "model": "the first argument: a spec file, a shipped name, or weights",
        "cfg": "the first argument: a spec file or a shipped name, and --recipe for the training",
        "weights": "the first argument of eval and export, --weights of detect, --finetune of train",
        "pretrained": "--finetune WEIGHTS",
        "source": "the first argument of detect",
        "project": "--out FOLDER",
        "name": "--out FOLDER",
        "half": "--precision fp16 (export); training chooses its arithmetic itself, see --set amp=none",
        "int8": "--precision int8 (export)",
        "dynamic": "--batch dynamic (export)",
        "opset": "nothing: the opset is fixed, and every export is checked against torch",
        "lr": "--set lr_per_image=X: the learning rate is that times the images of a step",
        "lr0": "--set lr_per_image=X: the learning rate is that times the images of a step",
        "optimizer": "--set optimizer=muon, adamw or sgd",
        "workers": "--set workers=N",
        "amp": "--set amp=bf16, fp16 or none",
        "hyp": "--recipe FILE",
        "conf-thres": "--conf X",
        "conf-thresh": "--conf X",
        "iou-thres": "--iou X",
        "iou-thresh": "--iou X",
        "max-det": "--max-det of export; detect keeps at most 300",
        "save-dir": "--out FOLDER",
        "exist-ok": "--resume to go on with a run, or another --out",
        "nproc": "torchrun --nproc-per-node N -m maenas train ...",
        "gpu": "--device cuda:N",
        "gpus": "torchrun --nproc-per-node N -m maenas train ...",
        "cuda": "--device cuda",
        "cpu": "--device cpu",
    }
)


class HintedCommand(TyperCommand):
    """A command that knows what its options are called in other tools."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """As the parent; raises `MaenasError` for an unknown option that has a hint."""
        own = {name for parameter in self.params for name in (*parameter.opts, *parameter.secondary_opts)}
        for text in args:
            if text == "--":
                break
            name = text.partition("=")[0]
            hint = HINTS.get(name.lstrip("-").replace("_", "-")) if name.startswith("--") else None
            if hint is not None and name not in own:
                raise MaenasError(f"there is no option {name} here; what you look for is {hint}")
        return super().parse_args(ctx, args)


def add_hints(app: typer.Typer) -> None:
    """Have every command of `app` and of the groups in it give hints."""
    for command in app.registered_commands:
        command.cls = HintedCommand
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_hints(group.typer_instance)
