"""What a benchmark times, from the names of files: detectors in their setups, and the images to detect in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from detector.benchmark import Subject, random_net
from detector.choices import RuntimeName
from detector.export.parity import natural_images
from detector.images import read_image
from detector.runtime.interface import Runtime
from detector.runtime.load import load_runtime, net_runtime
from detector.sources import find_images
from maenas.errors import MaenasError
from maenas.run_files import weights_path
from maenas.spec import InputSpec, load_spec

MAX_BATCH = 1024
SYNTHETIC_IMAGES = 4


def make_subjects(
    files: Sequence[str], *, batches: Sequence[int], threads: Sequence[int], device: str, runtime: RuntimeName | None
) -> list[Subject]:
    """Every file with every number of threads and every batch; raises `MaenasError` for a batch that one cannot take.

    Without a `runtime` weights and specs (with random weights) run in PyTorch, other files in their own.
    """
    subjects = []
    for file in files:
        for count in threads:
            loaded = load_subject(file, device=device, threads=count, runtime=runtime)
            for batch in batches:
                if loaded.batch not in (None, batch):
                    raise MaenasError(
                        f"{file} takes batches of {loaded.batch}, not {batch}; give --batch {loaded.batch}, or export "
                        "it with --batch dynamic"
                    )
                subjects.append(Subject(Path(file).name, loaded, batch, count))
    return subjects


def load_subject(file: str, *, device: str, threads: int, runtime: RuntimeName | None) -> Runtime:
    """The runtime of a file, or of the weights in the folder of a run; a spec gets random weights."""
    path = weights_path(file)
    if path.suffix.lower() in (".onnx", ".engine", ".safetensors"):
        return load_runtime(path, device, threads=threads, runtime=runtime)
    net, names = random_net(load_spec(file).detector)
    return net_runtime(net, names, device, threads=threads, runtime=runtime, where=file)


def read_pictures(source: str | None, on_left_out: Callable[[str], object]) -> tuple[list[np.ndarray], str]:
    """Images, uint8 RGB `[H, W, 3]`, and what they are; synthetic ones without a source.

    `on_left_out` is told about each that cannot be read. Raises `MaenasError` if none can.
    """
    if source is None:
        return natural_images(SYNTHETIC_IMAGES, InputSpec(480, 640)), f"{SYNTHETIC_IMAGES} synthetic, 640x480"
    images, broken = [], []
    for file in find_images(source):
        try:
            images.append(read_image(file))
        except MaenasError as error:
            broken.append(error)
            on_left_out(str(error))
        if len(images) == MAX_BATCH:
            break
    if not images:
        raise MaenasError(f"{source}: none of the {len(broken)} images can be read; the first: {broken[0]}")
    sizes = sorted({f"{image.shape[1]}x{image.shape[0]}" for image in images})
    return images, f"{len(images)} of {source}, {', '.join(sizes[:4])}{' ...' if len(sizes) > 4 else ''}"
