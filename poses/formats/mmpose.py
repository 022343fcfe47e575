"""MMPose's JSON (RTMPose too): what its demos and its inferencer save of 2D poses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgelift.poses.cameras import Float64
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.detections import PEAK, Detections, Frame, field, person, read_views, to_recording
from edgelift.poses.formats.untrusted import load_json
from edgelift.poses.recordings import Recording
from edgelift.poses.skeletons import Skeleton

EXPECTED = 'MMPose\'s {"meta_info": ..., "instance_info": [...]}, or a list of its frames or instances'


def read_mmpose(path: Path, skeleton: Skeleton, fps: float) -> Recording:
    """Read a video's JSON (one view), a folder of them (a view each) or of one JSON an image, or a folder of those.

    Raw pixels; time = frame / fps. Frames count from the first one of the file, because `frame_id` begins at 1 in the
    demos and at 0 in the inferencer; a file that begins elsewhere is refused, because it does not say which. An image's
    JSON (a bare list of instances) has its frame in its name. Scores are peaks of the network's answer: not positive is
    missing, up to 1.5 counts as 1, above is refused. What the 3D demos save is refused: its axes are exchanged. Where
    `meta_info` names the joints, they must agree with the skeleton. The order of people is no identity.
    """
    return to_recording(parse_mmpose(path), path, skeleton, fps)


def parse_mmpose(path: Path) -> list[Detections]:
    """Read the same without knowing skeleton and rate."""
    return read_views(path, ".json", EXPECTED, _load)


def _load(path: Path) -> Detections | Frame:
    where = str(path)
    told = load_json(path, EXPECTED)
    names: tuple[str, ...] = ()
    if isinstance(told, dict):
        names = _names(told.get("meta_info"))
        told = field(where, told, "instance_info", list)
    if not isinstance(told, list):
        raise EdgeliftError(where, f"a {type(told).__name__}", EXPECTED, "Give a file of --save-predictions.")
    of_frames = [isinstance(item, dict) and "frame_id" in item for item in told]
    if any(of_frames) or (names and not told):
        return Detections(path.stem, where, _frames(where, told), names)
    return Frame(where, [_person(f"{where}, instance {i}", instance) for i, instance in enumerate(told)])


def _names(meta: Any) -> tuple[str, ...]:
    """Joint names in the order of their numbers, nothing where the file does not tell them."""
    named = meta.get("keypoint_id2name") if isinstance(meta, dict) else None
    if not isinstance(named, dict):
        return ()
    return tuple(str(named[str(i)]) for i in range(len(named)) if str(i) in named)


def _frames(where: str, told: list[Any]) -> dict[int, Frame]:
    ids = [field(where, item, "frame_id", int) for item in told]
    if not ids or min(ids) not in (0, 1) or len(set(ids)) < len(ids):
        received = f"frame_id from {min(ids)} to {max(ids)} in {len(ids)} frames" if ids else "no frame"
        raise EdgeliftError(
            where, received, "frame_id from 0 or 1, none twice", "Save the predictions of the whole video again."
        )
    frames = {}
    for number, item in zip(ids, told, strict=True):
        place = f"{where}, frame_id {number}"
        instances = field(place, item, "instances", list)
        frames[number - min(ids)] = Frame(place, [_person(place, instance) for instance in instances])
    return frames


def _person(where: str, instance: Any) -> Float64:
    points = _plain(instance, "keypoints")
    scores = _plain(instance, "keypoint_scores")
    if isinstance(points, list) and any(isinstance(p, list) and (len(p) == 3 or _nested(p)) for p in points):
        raise EdgeliftError(
            where, "keypoints in 3D", "2D keypoints in pixels",
            "The 3D demos exchange axes and put the lowest joint on the ground: save the predictions of a 2D model.",
        )  # fmt: skip
    if not isinstance(points, list) or not isinstance(scores, list) or len(points) != len(scores):
        counts = [f"{len(v)}" if isinstance(v, list) else "no" for v in (points, scores)]
        received = f"{counts[0]} keypoints and {counts[1]} keypoint_scores"
        raise EdgeliftError(where, received, "a list of each, equally long", "Save the predictions again.")
    if not all(isinstance(p, list) and len(p) == 2 for p in points):
        raise EdgeliftError(where, "keypoints that are no pairs", "x, y of each joint", "Save the predictions again.")
    return person(where, [v for p, score in zip(points, scores, strict=True) for v in (*p, score)], PEAK)


def _plain(instance: Any, key: str) -> Any:
    """A field as a list: json_tricks, with which the demos write, wraps arrays in an object."""
    value = instance.get(key) if isinstance(instance, dict) else None
    return value.get("__ndarray__") if isinstance(value, dict) else value


def _nested(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[0], list)
