# %% [markdown]
# # Train a searched detector and use it
#
# A notebook as text: Jupyter with Jupytext, VS Code and PyCharm open it; Python runs it. `data` may be a folder in
# COCO, YOLO or Pascal VOC form; here it is a set of generated shapes. This takes seconds to minutes on a CPU.

# %%
from pathlib import Path

import maenas
from detector.data.shapes import write_shapes

write_shapes(Path("shapes"), images=40, size=96, seed=0)

# %%
design = maenas.search(max_flops="350M", space="demo", input_size=96, classes=4).best
design  # noqa: B018

# %% [markdown]
# A callback hears of steps, epochs and evaluations, and may stop the run.

# %%
history = []


def remember(event: maenas.Event) -> None:
    """Keep the AP of every evaluation."""
    if isinstance(event, maenas.EvaluationEvent):
        history.append((event.epoch, event.metrics.summary["AP"]))


run = maenas.train(
    design, data="shapes", epochs=2, settings=["eval_every=1", "workers=0"], out="run", callbacks=[remember]
)
history  # noqa: B018

# %% [markdown]
# The trained detector on one image; boxes are in its pixels.

# %%
detector = maenas.Detector.load("run")
picture = next(iter(sorted(Path("shapes/images").rglob("*.*"))))
found = detector.predict(picture, conf=0.01)[0]
found.plot().save("found.jpg")
found  # noqa: B018
