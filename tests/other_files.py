"""Files of MediaPipe, FreeMoCap, DeepLabCut and SLEAP as those tools write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelift.poses.skeletons import skeleton

MEDIAPIPE, COCO = skeleton("mediapipe33"), skeleton("coco17")
SIZE = (640, 480)
NAMES = [name.upper() for name in MEDIAPIPE.joints]
Floats = NDArray[np.floating]


def some_landmarks() -> Floats:
    """(frames, 33, 4): x, y normalised, z, visibility; the third frame shows nobody."""
    rng = np.random.default_rng(0)
    out = rng.uniform(0.1, 0.9, (5, 33, 4))
    out[0, 5, 0] = 3.7  # far beside the image, as happens with a foot
    out[1, 7, 3] = 0.0
    return out


def as_dict(row: Floats) -> dict[str, float]:
    return dict(zip(("x", "y", "z", "visibility"), row.tolist(), strict=True))


JSON_SHAPES: dict[str, Callable[[list[list[dict[str, float]]]], Any]] = {
    "people": lambda frames: [[person] for person in frames],
    "landmarks": lambda frames: frames,
    "task result": lambda frames: [{"pose_landmarks": [f], "pose_world_landmarks": [f]} for f in frames],
    "MessageToDict": lambda frames: {"frames": [{"poseLandmarks": {"landmark": f}} for f in frames]},
    "numbered": lambda frames: [{"frame": i, "landmarks": f, "world": f} for i, f in enumerate(frames)],
    "lists": lambda frames: [[list(landmark.values()) for landmark in f] for f in frames],
}


def wide_csv(landmarks: Floats, header: list[str]) -> str:
    rows = [",".join(["walk", *map(repr, frame.ravel().tolist())]) for frame in landmarks]
    return "\n".join([",".join(["class", *header]), *rows])


def long_csv(landmarks: Floats, names: list[Any]) -> str:
    rows = [
        ",".join(map(str, [f, names[j], *landmark.tolist()]))
        for f, frame in enumerate(landmarks) for j, landmark in enumerate(frame)
    ]  # fmt: skip
    return "\n".join(["Frame,Landmark,x,y,z,Visibility", *rows])


CSV_SHAPES: dict[str, Callable[[Floats], str]] = {
    "x1": lambda a: wide_csv(a, [f"{axis}{i}" for i in range(1, 34) for axis in "xyzv"]),
    "x_0": lambda a: wide_csv(a, [f"{axis}_{i}" for i in range(33) for axis in "xyzv"]),
    "names": lambda a: wide_csv(a, [f"{n}_{axis}" for n in NAMES for axis in ("x", "y", "z", "visibility")]),
    "landmark_0": lambda a: wide_csv(a, [f"landmark_{i}_{axis}" for i in range(33) for axis in "xyzv"]),
    "long": lambda a: long_csv(a, list(range(33))),
    "long with names": lambda a: long_csv(a, NAMES),
}


def freemocap(
    folder: Path, points: Floats, name: str = "mediapipe_2dData", videos: tuple[str, ...] = ("c_2", "c_10")
) -> Path:
    raw = folder / "output_data" / "raw_data"
    raw.mkdir(parents=True)
    np.save(raw / f"{name}_numCams_numFrames_numTrackedPoints_pixelXY.npy", points)
    (folder / "synchronized_videos").mkdir()
    for video in videos:
        (folder / "synchronized_videos" / f"{video}.mp4").touch()
    return folder


SCORER = "DLC_resnet50_walkJan1shuffle1_50000"
JOINTS = {"snout": "nose", "L hip": "left_hip"}


def tracked_people() -> Floats:
    """(frames, 2 people, 3 parts, 3) pixels and likelihood; the second person is there from the third frame on."""
    people = np.random.default_rng(0).uniform(20, 400, (6, 2, 3, 3))
    people[..., 2] = np.random.default_rng(1).uniform(0.1, 1, people.shape[:3])
    people[:2, 1] = np.nan
    people[4, 0, 1] = np.nan
    return people


def dlc(path: Path, people: Floats, parts: list[str], individuals: list[str] | None = None) -> Path:
    """Write people (frames, people, parts, 3) as DeepLabCut does; NaN is an empty cell."""
    count = people.shape[1]
    header = [["scorer"] + [SCORER] * (count * len(parts) * 3)]
    if individuals is not None:
        header.append(["individuals", *(who for who in individuals for _ in range(3 * len(parts)))])
    header.append(["bodyparts", *(part for _ in range(count) for part in parts for _ in range(3))])
    header.append(["coords", *["x", "y", "likelihood"] * (count * len(parts))])
    rows = [
        [str(f), *("" if np.isnan(v) else repr(v) for v in frame.ravel().tolist())] for f, frame in enumerate(people)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(",".join(row) for row in [*header, *rows]) + "\n", encoding="utf-8")
    return path


MATLAB, STANDARD = ("track", "xy", "node", "frame"), ("frame", "track", "node", "xy")
OLD = MATLAB[::-1]


def sleap(path: Path, people: Floats, nodes: list[str], order: tuple[str, ...], dims: bool) -> Path:
    """Write people (frames, tracks, nodes, 3) as SLEAP does."""
    h5py = pytest.importorskip("h5py")
    axes = [STANDARD.index(axis) for axis in order]
    short = [axis for axis in order if axis != "xy"]
    with h5py.File(path, "w") as file:
        tracks = np.transpose(people[..., :2], axes)
        scores = np.transpose(people[..., 2], [STANDARD.index(axis) for axis in short])
        for name, array, told in (("tracks", tracks, list(order)), ("point_scores", scores, short)):
            file.create_dataset(name, data=array, compression="gzip")
            if dims:
                file[name].attrs["dims"] = json.dumps(told)
        file["node_names"] = [node.encode() for node in nodes]
        file["track_names"] = [f"track_{i}".encode() for i in range(people.shape[1])]
        file["track_occupancy"] = np.isfinite(people[..., 0]).any(-1).astype(np.uint8)
        if order == OLD:
            file.attrs["transpose"] = False
    return path
