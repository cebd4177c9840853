"""An option that would have no effect beside the others is refused, and what it is for is named."""

from pathlib import Path

import pytest

from maenas.errors import MaenasError
from maenas.unused import refuse_unused
from tests.conftest import Maenas

SHORTLIST = "a search without --shortlist"


@pytest.mark.parametrize(
    ("command", "options", "needs"),
    [
        ("export net.safetensors", "--conf 0.4 --iou 0.5", "--nms in-graph"),
        ("export net.safetensors", "--max-det 10", "--nms in-graph"),
        ("export net.safetensors", "--candidates 300", "--nms in-graph"),
        ("export net.safetensors --precision fp16", "--data shapes", "--precision int8"),
        ("export net.safetensors", "--calibration minmax --calibration-images 8", "--precision int8"),
        ("export net.safetensors", "--target cpu", "--precision int8"),
        ("export net.safetensors", "--rest fp16", "--precision int8"),
        ("export net.safetensors", "--opt-level 5 --workspace 1GiB", "--format engine"),
        ("export net.safetensors", "--timing-cache cache", "--format engine"),
        ("race a.json b.json --data shapes", "--shortlist 4 --space mob", "a race that makes its own shortlist"),
        ("race a.json b.json --data shapes", "--ray-cpus 2 --ray-gpus 0.5", "--ray"),
        ("race a.json b.json --data shapes --rungs 1", "--eta 4", "--rungs of 2 and more"),
        ("profile --device cuda --runtime torch --plan", "--threads 4 --clock cpu", "--device cpu"),
        ("profile --plan", "--opt-level 5 --timing-cache cache", "--runtime tensorrt"),
        ("search --budget 2ms --shortlist 4", "--solver exact", SHORTLIST),
        ("search --budget 2ms --shortlist 4", "--top-k 3 --verify 2 --resume", SHORTLIST),
    ],
)
def test_an_option_without_effect_is_refused(maenas: Maenas, command: str, options: str, needs: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("torch")
    outcome = maenas(*command.split(), *options.split())
    assert (outcome.code, outcome.out) == (2, "")
    named = [word for word in options.split() if word.startswith("--")]
    verb = "is" if len(named) == 1 else "are"
    assert outcome.err == f"error: {', '.join(named)} {verb} for {needs}, and would have no effect here\n"


def test_frames_are_not_of_a_folder(maenas: Maenas, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from detector.detect import DetectSettings, detect

    settings = DetectSettings(tmp_path, None, None, None, save_txt=False, save_json=False, frames=2)
    with pytest.raises(MaenasError, match="--frames is for a video, a camera or a stream, and"):
        detect(None, str(tmp_path), settings)  # type: ignore[arg-type]


def test_what_has_its_default_is_not_refused() -> None:
    def take(*, first: int = 1, second: str | None = None) -> None: ...

    refuse_unused(take, {"first": 1, "second": None}, ("first", "second"), needs="more")
