"""The process of a detector: images of a video or camera in, pose2d messages out, one JSON object a line.

It runs by path in the detector's own environment (python -I worker.py DETECTOR SOURCE ...), without edgelift; what is
not in the standard library is imported inside functions. Three more kinds of line tell the command how it goes:
`about` (frames that a video announces), `skipped` (one that came too late) and `error` (the four parts of an error).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Told = dict[str, Any]
TRIED = 10  # frames of a video whose times are looked at before they are believed
MOST_FPS = 1000.0  # containers without a frame rate announce 90000 and the like
PIXEL_DECIMALS, CONFIDENCE_DECIMALS = 2, 4


class WorkerError(Exception):
    """What the user can mend: subject, received, expected, remedy."""


@dataclass(frozen=True)
class Shot:
    """An image (height, width, 3) BGR, its number from 0 and its time: of the video, or since the epoch (cameras).

    The image is None where it came too late to be looked at.
    """

    seq: int
    t_ns: int
    image: Any


def main() -> int:
    """Run a detector over its source; standard output gets nothing but the lines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("detector")
    parser.add_argument("source")
    parser.add_argument("--stream", required=True)
    for flag in ("live", "rate", "mirrored"):
        parser.add_argument(f"--{flag}", action="store_true")
    given = parser.parse_args()
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not come between the lines
    try:
        for told in _work(given):
            lines.write(json.dumps(told, separators=(",", ":"), allow_nan=False) + "\n")
            lines.flush()
    except WorkerError as error:
        lines.write(json.dumps({"type": "error", "parts": error.args}) + "\n")
        lines.flush()
        return 2
    return 0


def _work(given: argparse.Namespace) -> Iterator[Told]:
    detector = _load(Path(__file__).with_name(f"{given.detector}_worker.py"))
    try:
        import cv2

        find = detector.open_finder()
    except ModuleNotFoundError as error:
        remedy = f"Set it up: edgelift detect --setup --detector {given.detector}"
        where = f"environment {sys.prefix}"
        raise WorkerError(where, f"no module {error.name}", "the detector's packages", remedy) from error
    except OSError as error:
        received = f"{type(error).__name__}: {error}"
        raise WorkerError(f"detector {given.detector}", received, detector.NEEDS, detector.REMEDY) from error
    capture = _open(given.source, given.live)
    if not given.live:
        yield {"type": "about", "frames": round(capture.get(cv2.CAP_PROP_FRAME_COUNT))}
    shots = _camera(capture, given.source) if given.live else _video(capture, given.source, given.rate)
    for shot in shots:
        if shot.image is None:
            yield {"type": "skipped", "seq": shot.seq}
            continue
        # a mirrored image shows a left hand where the right one is: mended before detection, or every side is wrong
        image = cv2.flip(shot.image, 1) if given.mirrored else shot.image
        fields = {"stream": given.stream, "seq": shot.seq, "t_ns": shot.t_ns}
        fields |= {"clock": "unix" if given.live else "recording", "size": [image.shape[1], image.shape[0]]}
        persons = [{"kpts": [_joint(*joint) for joint in person]} for person in find(image)]
        yield {"v": 1, "type": "pose2d", **fields, "skeleton": detector.SKELETON, "persons": persons}


def _load(path: Path) -> Any:
    """Import a module by its path: isolated, Python looks for nothing beside the script."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _joint(x: float, y: float, confidence: float) -> list[float] | None:
    """Return a joint as messages hold it; scores may leave [0, 1] a little."""
    if not (math.isfinite(x) and math.isfinite(y) and confidence > 0):
        return None
    return [round(x, PIXEL_DECIMALS), round(y, PIXEL_DECIMALS), round(min(confidence, 1.0), CONFIDENCE_DECIMALS)]


def _open(source: str, live: bool) -> Any:
    import cv2

    if live:
        capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # where the driver knows it: frames in a queue are late frames
        wrong = "none that opens", "a camera that this user may open", "See what else uses it, and rights."
    else:
        capture = cv2.VideoCapture(source)
        remedy = "Convert it, for instance with ffmpeg to H.264 in .mp4."
        wrong = "a file that OpenCV cannot open", "a video in a format that it reads", remedy
    if not capture.isOpened():
        raise WorkerError(_camera_name(source) if live else source, *wrong)
    return capture


def _camera_name(source: str) -> str:
    """Return what messages call it: an address may hold a password."""
    return f"camera {source}" if source.isdecimal() else "the camera"


def _video(capture: Any, source: str, at_rate: bool) -> Iterator[Shot]:
    """Yield every frame as fast as it is asked for; at the video's rate, late ones without their image."""
    import cv2

    timed = _tells_times(source)
    fps = capture.get(cv2.CAP_PROP_FPS)
    if not timed and not 0 < fps <= MOST_FPS:
        raise WorkerError(source, f"no times, and {fps:g} frames/s", "times or a frame rate", "Convert it with ffmpeg.")
    seq = 0
    pace = Pace() if at_rate else None
    t_ns = -1
    while capture.grab():
        told = capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6 if timed else seq * 1e9 / fps
        t_ns = max(round(told), t_ns + 1)  # a damaged file may tell one time twice
        in_time = pace is None or pace.wait(t_ns)
        yield Shot(seq, t_ns, _retrieve(capture, source) if in_time else None)
        seq += 1
    if not seq:
        raise WorkerError(source, "no frame that can be decoded", "a video", "Convert it with ffmpeg.")


def _retrieve(capture: Any, source: str) -> Any:
    decoded, image = capture.retrieve()
    if not decoded:
        raise WorkerError(source, "an image that cannot be decoded", "a whole video", "Copy or convert it again.")
    return image


def _tells_times(source: str) -> bool:
    """Whether the first frames have times that rise; some containers and backends tell none, or always 0."""
    import cv2

    capture = cv2.VideoCapture(source)
    times = [capture.get(cv2.CAP_PROP_POS_MSEC) for _ in range(TRIED) if capture.grab()]
    capture.release()
    return all(math.isfinite(t) for t in times) and all(a < b for a, b in zip([-1.0, *times], times, strict=False))


class Pace:
    """Holds a video to its own rate."""

    def __init__(self) -> None:
        self.started_ns: int | None = None
        self.interval_ns = 0
        self.last_ns = 0

    def wait(self, t_ns: int) -> bool:
        """Wait until the frame of that time is due; False at once where the next one is due already."""
        now = time.monotonic_ns()
        if self.started_ns is None:
            self.started_ns, self.last_ns = now - t_ns, t_ns
        self.interval_ns, self.last_ns = t_ns - self.last_ns, t_ns
        due = self.started_ns + t_ns
        if now > due + self.interval_ns:
            return False
        time.sleep(max(0, due - now) / 1e9)
        return True


def _camera(capture: Any, source: str) -> Iterator[Shot]:
    """Yield the newest frame whenever one is asked for; a detector slower than its camera would else fall behind."""
    newest: queue.Queue[Shot | None] = queue.Queue(maxsize=1)

    def watch() -> None:
        seq = 0
        try:
            while capture.grab():
                t_ns = time.time_ns()
                decoded, image = capture.retrieve()
                if decoded:
                    _replace(newest, Shot(seq, t_ns, image))
                seq += 1
        finally:  # whatever OpenCV raises, the detector waits no longer
            newest.put(None)

    threading.Thread(target=watch, daemon=True).start()
    while (shot := newest.get()) is not None:
        yield shot
    raise WorkerError(_camera_name(source), "no more images", "a camera until Ctrl-C", "Check its cable or network.")


def _replace(newest: queue.Queue[Shot | None], shot: Shot) -> None:
    """Put a frame into the queue of one, in place of one that nobody took; only one thread ever puts."""
    with contextlib.suppress(queue.Empty):
        newest.get_nowait()
    newest.put(shot)


if __name__ == "__main__":
    sys.exit(main())
