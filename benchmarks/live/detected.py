"""People as a detector would see them: cmu17's test people, filmed by a rig, in coco17, as pose2d messages."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, project
from edgelift.poses.motion import Clip, load_motion, resample
from edgelift.poses.skeletons import skeleton
from edgelift.poses.studio import rig_middle

Float64 = NDArray[np.float64]
Packing = Literal["json", "msgpack"]
COCO17, H36M17 = skeleton("coco17"), skeleton("h36m17")
RIG = "h36m_S9"
NOISE_PX = 1.0
STAY_M = 2.0  # or they would walk into the camera
APART_M = 0.6  # several people stand in rows of four
PLACE = 0x7123_4567_89AB_CDEF  # stands where the time of sending goes


def rig_of(data: Path) -> str:
    """What `--cameras` is given: four cameras with distortion."""
    return f"{data / 'rigs.json'}:{RIG}"


def coco17_poses(poses: NDArray[np.floating]) -> Float64:
    """(frames, 17, 3) in Human3.6M's order to coco17's; the face is put around the nose and the head."""
    named = dict(zip(H36M17.joints, np.moveaxis(np.asarray(poses, np.float64), 1, 0), strict=True))
    left = _unit(named["left_shoulder"] - named["right_shoulder"])
    up = _unit(named["head"] - named["neck_nose"])
    nose, middle = named["neck_nose"], (named["neck_nose"] + named["head"]) / 2
    named |= {"nose": nose, "left_ear": middle + 0.07 * left, "right_ear": middle - 0.07 * left}
    named |= {"left_eye": nose + 0.03 * left + 0.04 * up, "right_eye": nose - 0.03 * left + 0.04 * up}
    return np.stack([named[joint] for joint in COCO17.joints], 1)


def _unit(vectors: Float64) -> Float64:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9))


def test_clips(data: Path, fps: float) -> list[Clip]:
    """Clips of people that no lifter was trained on and who stay where they are, the longest first."""
    clips = [clip for clip in load_motion(data / "mocap" / "cmu17.npz", "test") if clip.subject != "mix"]
    near = [clip for clip in clips if np.ptp(clip.poses[:, 0, :2], axis=0).max() < STAY_M]
    return [resample(clip, fps) for clip in sorted(near, key=lambda clip: -len(clip.poses) / clip.fps)]


def filmed(data: Path, rig: Sequence[Camera], people: int, frames: int, fps: float = 60.0) -> Float64:
    """(views, frames, people, 17, 3) pixels and confidence; clips are played to and fro, so that nobody jumps."""
    clips, middle = test_clips(data, fps), rig_middle(rig)
    seen = []
    for k in range(people):
        poses = coco17_poses(clips[k % len(clips)].poses)
        place = [middle[0], middle[1]] + APART_M * np.array([k % 4 - 1.5 * (people > 1), k // 4])
        poses[..., :2] += place - poses[..., :2].mean((0, 1))
        poses = poses[_to_and_fro(len(poses), frames)]
        seen.append(np.stack([project(poses, camera) for camera in rig]))
    rng, pixels = np.random.default_rng(0), np.stack(seen, 2)
    pixels += NOISE_PX * rng.standard_normal(pixels.shape)
    confidence = rng.uniform(0.5, 1, (*pixels.shape[:-1], 1))
    return np.concatenate([pixels.round(2), confidence.round(3)], -1)


def _to_and_fro(length: int, frames: int) -> NDArray[np.int64]:
    period = max(1, 2 * (length - 1))
    place = np.arange(frames) % period
    return np.asarray(np.minimum(place, period - place))


def message(
    stream: str, seq: int, t_ns: int, people: NDArray[np.floating], size: tuple[int, int], ids: bool = False
) -> dict[str, Any]:
    """A pose2d message of people (n, 17, 3), as detectors send them: without ids, unless `ids`."""
    persons = [{"kpts": kpts} | ({"id": k} if ids else {}) for k, kpts in enumerate(people.tolist())]
    told = {"v": 1, "type": "pose2d", "stream": stream, "seq": seq, "t_ns": t_ns, "clock": "mono"}
    return told | {"size": list(size), "skeleton": "coco17", "persons": persons}


@dataclass(frozen=True)
class Stamped:
    """A message whose time is put in as it is sent."""

    before: bytes
    after: bytes
    packing: Packing

    @classmethod
    def of(cls, told: dict[str, Any], packing: Packing = "json") -> Stamped:
        """Encode a message around its time."""
        told = told | {"t_ns": PLACE}
        if packing == "json":
            before, _, after = json.dumps(told, separators=(",", ":")).encode().partition(str(PLACE).encode())
        else:
            import msgpack

            before, _, after = msgpack.packb(told).partition(struct.pack(">Q", PLACE))
        return cls(before, after, packing)

    def at(self, t_ns: int) -> bytes:
        """The whole message, with its time."""
        return self.before + (str(t_ns).encode() if self.packing == "json" else struct.pack(">Q", t_ns)) + self.after
