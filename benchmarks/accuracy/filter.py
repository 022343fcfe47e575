"""How much of the keypoints' noise the past can tell at all: the best linear causal filters of 27 frames.

python benchmarks/accuracy/filter.py --data ../shared/data -o benchmarks/results

Fitted by least squares on the training side of a protocol, exact keypoints plus its noise, and scored on the test
side: what is left of a keypoint's error, in pixels, when it hears its own past, or that of the whole body. Beside noise
like a detector's, which lasts 0.2 s, noise as large that is new in every frame.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from protocols import NOISE_PX, SEEN, Case, sessions, studio

from edgelift.poses.sessions import Session

Float64 = NDArray[np.float64]
FRAMES, BODY_FRAMES = 27, 14  # of a window; of what every joint of the body contributes
STRIDE = 6  # one window in so many
RIDGE = 1e-3  # of a keypoint's mean square


def windows(filmed: list[Session], noise: list[Session]) -> Iterator[tuple[Float64, Float64]]:
    """Noisy (n, frames, joints, 2) and what has to be added to the newest frame (n, joints, 2), pixels."""
    for exact, noisy in zip(filmed, noise, strict=True):
        clean, seen = (s.keypoints[list(SEEN), ..., :2].astype(np.float64) for s in (exact, noisy))
        for end in range(FRAMES, clean.shape[1] + 1, STRIDE):
            window = seen[:, end - FRAMES : end]
            whole = np.isfinite(window).all((1, 2, 3)) & np.isfinite(clean[:, end - 1]).all((1, 2))
            yield window[whole], (clean[:, end - 1] - seen[:, end - 1])[whole]


def examples(data: Path, protocol: str, noise: str, testing: bool) -> tuple[Float64, Float64]:
    """All windows of one side: earlier frames less the newest (n, frames - 1, joints, 2), and the answer."""
    exact, noisy = (Case(protocol, 0, kind, "views_best") for kind in ("exact", noise))
    whole = replace(studio(noisy, testing), missing=0.0)
    pairs = windows(sessions(data, exact, testing), sessions(data, noisy, testing, whole))
    seen, answer = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return seen[:, :-1] - seen[:, -1:], answer


def solve(given: Float64, wanted: Float64) -> Float64:
    """Least squares, a little shrunk: (n, inputs) to (n, outputs)."""
    square = given.T @ given
    shrink = RIDGE * np.trace(square) / len(square)
    solution: Float64 = np.linalg.solve(square + shrink * np.eye(len(square)), given.T @ wanted)
    return solution


def left(data: Path, protocol: str, noise: str) -> dict[str, Any]:
    """Mean error left, as a share of the noise's mean, by filters of one joint and of the body."""
    (given, wanted), (seen, answer) = (examples(data, protocol, noise, testing) for testing in (False, True))
    alone = np.empty_like(answer)
    for joint in range(answer.shape[1]):
        rows, new = (x[:, :, joint].swapaxes(1, 2).reshape(-1, FRAMES - 1) for x in (given, seen))
        alone[:, joint] = (new @ solve(rows, wanted[:, joint].reshape(-1, 1))).reshape(-1, 2)
    rows, new = (x[:, -BODY_FRAMES:].reshape(len(x), -1) for x in (given, seen))
    body = (new @ solve(rows, wanted.reshape(len(wanted), -1))).reshape(answer.shape)
    error, own, whole = (float(np.linalg.norm(e, axis=-1).mean()) for e in (answer, answer - alone, answer - body))
    return {
        "protocol": protocol, "noise": noise, "px": NOISE_PX[protocol], "windows": len(given),
        "error_px": round(error, 2), "own_past": round(own / error, 3), "body_past": round(whole / error, 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    found = []
    for protocol in ("M", "H"):
        for noise in ("noisy", "independent"):
            found.append(left(options.data, protocol, noise))
            print(json.dumps(found[-1]), flush=True)
    path = options.output / f"filter_cpu_{date.today()}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
