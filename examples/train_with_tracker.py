"""Train a detector, tell MLflow or Weights & Biases about it where one is installed, and stop once it is good enough.

python examples/train_with_tracker.py damo-yolo-nano-s --data shapes --epochs 5 --enough 0.5
"""

import argparse
from importlib.util import find_spec

import maenas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", help="a spec file, or the name of a shipped one")
    parser.add_argument("--data", default="shapes", help="a data set, or the word shapes")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--enough", type=float, default=0.8, help="AP at which to stop")
    parser.add_argument("--out", help="folder of the run")
    arguments = parser.parse_args()

    def stop_when_good(event: maenas.Event) -> None:
        if isinstance(event, maenas.EvaluationEvent):
            ap = event.metrics.summary["AP"] or 0.0
            print(f"epoch {event.epoch}: AP {ap:.3f}{', the best so far' if event.is_best else ''}")
            if ap >= arguments.enough:
                raise maenas.StopTraining

    trackers = [maenas.tracker(name) for name in ("mlflow", "wandb") if find_spec(name)]
    run = maenas.train(
        arguments.spec,
        arguments.data,
        epochs=arguments.epochs,
        settings=["eval_every=1"],
        out=arguments.out,
        callbacks=[stop_when_good, *trackers],
    )
    print(f"{run.reason}: {run.weights}")


if __name__ == "__main__":
    main()
