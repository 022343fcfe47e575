"""SLEAP's analysis files (HDF5): dense arrays of tracks by frame, in an axis order that the file tells."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.detections import CONFIDENCE, PEAK, Detections, read_views
from edgelift.poses.formats.hdf5 import read_hdf5
from edgelift.poses.formats.untrusted import to_real
from edgelift.poses.formats.views import named_recording, to_frames
from edgelift.poses.recordings import Recording
from edgelift.poses.skeletons import Skeleton

Arrays = Mapping[str, NDArray[Any]]

EXPECTED = "a SLEAP analysis .h5 file, or a folder with one a view"
REMEDY = "Export it again (Export Analysis HDF5)."
AXES = ("frame", "track", "node", "xy")
# of files that do not tell: SLEAP itself has always transposed what it wrote, unless it said so
OLD_ORDER = ("track", "xy", "node", "frame")
OLD_UNTURNED = OLD_ORDER[::-1]


def read_sleap(path: Path, skeleton: Skeleton, fps: float, joints: Mapping[str, str] | None = None) -> Recording:
    """Read one file or a folder with one a view: raw pixels, confidence = point score, every track a person.

    joints: nodes to joints of the skeleton; equal names need no word, and a joint that no node stands for is missing
    everywhere. A point without a score was placed by hand: it has confidence 1. A score is the peak of a confidence
    map and overshoots 1 at times: it is cut to [0, 1]. Time is frame / fps: SLEAP must have exported all frames,
    because a file that begins later does not say so. Needs h5py (extra `files`). EdgeliftError on anything else.
    """
    return named_recording(parse_sleap(path), path, skeleton, fps, joints)


def parse_sleap(path: Path) -> list[Detections]:
    """Read the same without skeleton and rate: all nodes, by their own names."""
    return read_views(path, ".h5", EXPECTED, _read_view)


def _read_view(path: Path) -> Detections:
    arrays = read_hdf5(path, ("tracks", "point_scores", "node_names"), EXPECTED)
    lacking = [name for name in ("tracks", "node_names") if name not in arrays]
    if lacking:
        raise EdgeliftError(str(path), f"no dataset {' and no '.join(lacking)}", EXPECTED, REMEDY)
    names = _node_names(path, arrays)
    order = _order(path, arrays)
    xy = _turned(path, arrays, "tracks", order, AXES)
    if xy.shape[2:] != (len(names), 2):
        received = f"{xy.shape[2]} nodes of {xy.shape[3]} numbers"
        raise EdgeliftError(f"{path}: tracks", received, f"{len(names)} of x and y", REMEDY)
    people = np.concatenate([xy, _confidence(path, arrays, order, xy)[..., None]], axis=-1)
    frames = to_frames(str(path), np.arange(len(people)), people)
    return Detections(path.stem.removesuffix(".analysis"), str(path), frames, names)


def _node_names(path: Path, arrays: Arrays) -> tuple[str, ...]:
    names = arrays["node_names"]
    if names.ndim != 1 or names.dtype.kind != "U" or len(set(names.tolist())) < len(names) or not len(names):
        raise EdgeliftError(f"{path}: node_names", f"{names.dtype} of shape {names.shape}", "a name a node", REMEDY)
    return tuple(names.tolist())


def _order(path: Path, arrays: Arrays) -> Sequence[str]:
    """Return the axes of the tracks."""
    unturned = "@transpose" in arrays and not arrays["@transpose"].any()
    return _dims(path, arrays, "tracks") or (OLD_UNTURNED if unturned else OLD_ORDER)


def _dims(path: Path, arrays: Arrays, name: str) -> tuple[str, ...] | None:
    """Return the names of a dataset's axes where it tells them, as a JSON list in an attribute."""
    told = arrays.get(f"{name}@dims")
    if told is None:
        return None
    try:
        dims = json.loads(str(told))
    except (ValueError, RecursionError):
        dims = None
    if not isinstance(dims, list) or not all(isinstance(axis, str) for axis in dims):
        raise EdgeliftError(f"{path}: {name} dims", f"{told!s:.80}", "a JSON list of the axes' names", REMEDY)
    return tuple(dims)


def _turned(path: Path, arrays: Arrays, name: str, order: Sequence[str], axes: Sequence[str]) -> NDArray[np.float64]:
    """Return an array whose axes are `order` with the axes `axes`."""
    array = arrays[name]
    if sorted(order) != sorted(axes) or array.ndim != len(axes) or array.dtype.kind != "f":
        received = f"{array.dtype} of shape {array.shape}, axes {', '.join(order)}"
        raise EdgeliftError(f"{path}: {name}", received, f"floats by {', '.join(axes)}", REMEDY)
    return to_real(f"{path}: {name}", array.transpose([order.index(axis) for axis in axes]), np.float64)


def _confidence(path: Path, arrays: Arrays, order: Sequence[str], xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """(frames, tracks, nodes): the scores, NaN where they are and 1 at points that were placed by hand."""
    scores = np.full(xy.shape[:3], np.nan)
    if "point_scores" in arrays:
        own = _dims(path, arrays, "point_scores") or tuple(axis for axis in order if axis != "xy")
        scores = _turned(path, arrays, "point_scores", own, AXES[:3])
    if scores.shape != xy.shape[:3]:
        raise EdgeliftError(f"{path}: point_scores", f"shape {scores.shape}", f"{xy.shape[:3]} as the tracks", REMEDY)
    if ((scores < PEAK[0]) | (scores > PEAK[1])).any():
        received = f"{np.nanmin(scores):g} to {np.nanmax(scores):g}"
        raise EdgeliftError(f"{path}: point_scores", received, "scores about [0, 1]", REMEDY)
    placed = np.isnan(scores) & ~np.isnan(xy).any(-1)
    return np.where(placed, 1.0, np.clip(scores, *CONFIDENCE))
