"""A detector inside a loop of your own: say what a camera sees, frame by frame.

python examples/camera_loop.py runs/mine --source 0 --fallback clip.mp4
"""

import argparse
from collections import Counter

import cv2

import maenas


def open_source(source: str, fallback: str | None) -> cv2.VideoCapture:
    """The camera, stream or file `source`; the file `fallback` where that gives no picture."""
    capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    if not capture.isOpened() and fallback is not None:
        print(f"{source} gives no picture; {fallback} takes its place")
        capture = cv2.VideoCapture(fallback)
    if not capture.isOpened():
        raise SystemExit(f"{source} gives no picture")
    return capture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", help="folder of a run, weights, an exported ONNX file, or an engine")
    parser.add_argument("--source", default="0", help="number of a camera, address of a stream, or a file")
    parser.add_argument("--fallback", help="a video file to use where there is no camera")
    parser.add_argument("--frames", type=int, default=1000, help="stop after so many")
    parser.add_argument("--conf", type=float, default=0.25)
    arguments = parser.parse_args()

    detector = maenas.Detector.load(arguments.weights)
    capture = open_source(arguments.source, arguments.fallback)
    frames = 0
    while frames < arguments.frames:
        there, picture = capture.read()
        if not there:
            break
        frames += 1
        (result,) = detector.predict(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), conf=arguments.conf)
        found = ", ".join(f"{count} {name}" for name, count in Counter(result.names).most_common())
        print(f"frame {frames}: {found or 'nothing'}")
    capture.release()
    print(f"{frames} frames")


if __name__ == "__main__":
    main()
