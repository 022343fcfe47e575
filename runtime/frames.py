"""What passes through the live loop: a frame of keypoints in, a frame of poses out, and the message each of them is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from edgelift.poses.errors import missing_extra
from edgelift.poses.skeletons import Skeleton

VERSION = 1  # of both messages; schemas/pose2d.schema.json and schemas/pose3d.schema.json
Float32 = NDArray[np.float32]
CoordinateFrame = Literal["camera", "world"]

XYZ_DECIMALS, CONFIDENCE_DECIMALS, PIXEL_DECIMALS = 5, 4, 2  # of messages: 10 micrometres, 1e-4, a hundredth of a pixel


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of one camera, as a source gives it: what a pose2d message says.

    seq, t_ns: the source's own count and time, echoed in what comes out; clock: on what timeline t_ns counts.
    keypoints (people, joints, 3): raw pixels x, y and confidence; missing = NaN, NaN, 0. ids: who the people are, one
    each, or None where the source does not track them. size: (width, height) of the image in pixels where it is told.
    arrived_ns: when it came in, on time.perf_counter_ns.
    """

    stream: str
    seq: int
    t_ns: int
    clock: str
    skeleton: Skeleton
    keypoints: Float32
    ids: tuple[int, ...] | None
    size: tuple[int, int] | None
    arrived_ns: int


@dataclass(frozen=True, eq=False)
class Seen:
    """The 2D input behind a lifted frame: one view's people, as they were lifted (swaps mended), in raw pixels.

    keypoints (people, joints, 3) in the skeleton of the poses, ids one each; people may be missing in some views.
    """

    stream: str
    seq: int
    t_ns: int
    size: tuple[int, int] | None
    ids: tuple[int, ...]
    keypoints: Float32

    def to_message(self, echo: bool) -> dict[str, Any]:
        """Return it as a pose3d message holds it; without its people unless they are to be echoed."""
        told = {"stream": self.stream, "seq": self.seq, "t_ns": self.t_ns}
        told |= {"size": None if self.size is None else list(self.size)}
        if not echo:
            return told
        return told | {"persons": [{"id": i, "kpts": _kpts(k)} for i, k in zip(self.ids, self.keypoints, strict=True)]}


@dataclass(frozen=True, eq=False)
class LiftedFrame:
    """The poses of one frame: what a pose3d message says.

    xyz (people, joints, 3) metres, in the camera's frame (x right, y down, z forward) or the world's; conf (people,
    joints) confidence in [0, 1] of the keypoints behind them, 0 where a joint was missing and the lifter guessed it.
    flags: for each person what was done to them: `swapped` (left and right exchanged). seen_by (people, joints): how
    many views triangulated a joint, 0 where the lifter gave it; None unless views were fused. views: the 2D input;
    in messages its people are told only if `echo`. latency_ms: see docs/messages.md. dropped: frames so far.
    """

    stream: str
    seq: int
    t_ns: int
    clock: str
    skeleton: Skeleton
    frame: CoordinateFrame
    provider: str
    lifter: str
    ids: tuple[int, ...]
    xyz: Float32
    conf: Float32
    flags: tuple[tuple[str, ...], ...]
    latency_ms: dict[str, float]
    dropped: int
    views: tuple[Seen, ...] = field(default=())
    seen_by: NDArray[np.int64] | None = None
    echo: bool = False

    @cached_property
    def message(self) -> dict[str, Any]:
        """The pose3d message."""
        told: dict[str, Any] = {
            "v": VERSION,
            "type": "pose3d",
            "stream": self.stream,
            "seq": self.seq,
            "t_ns": self.t_ns,
            "clock": self.clock,
            "skeleton": self.skeleton.name,
            "units": "m",
            "frame": self.frame,
            "scale": "metric",
            "provider": self.provider,
            "lifter": self.lifter,
            "latency_ms": {name: round(value, 4) for name, value in self.latency_ms.items()},
            "dropped": self.dropped,
            "persons": self._persons(),
        }
        if self.echo or self.seen_by is not None:
            told["views"] = [view.to_message(self.echo) for view in self.views]
        return told

    @cached_property
    def json(self) -> bytes:
        """The message as one line of JSON, with its line end."""
        return orjson.dumps(self.message, option=orjson.OPT_APPEND_NEWLINE)

    @cached_property
    def msgpack(self) -> bytes:
        """The message in MessagePack."""
        try:
            import msgpack
        except ModuleNotFoundError as error:
            raise missing_extra("msgpack", "stream") from error
        packed: bytes = msgpack.packb(self.message)
        return packed

    def _persons(self) -> list[dict[str, Any]]:
        # rounded as float64: a float32 prints with digits that it does not have
        xyz = self.xyz.astype(np.float64).round(XYZ_DECIMALS).tolist()
        conf = self.conf.astype(np.float64).round(CONFIDENCE_DECIMALS).tolist()
        persons: list[dict[str, Any]] = []
        for k, number in enumerate(self.ids):
            person = {"id": number, "root": xyz[k][self.skeleton.root], "xyz": xyz[k], "conf": conf[k]}
            person["flags"] = list(self.flags[k])
            if self.seen_by is not None:
                person["seen_by"] = self.seen_by[k].tolist()
            persons.append(person)
        return persons


def _kpts(keypoints: Float32) -> list[list[float] | None]:
    x, y, confidence = np.moveaxis(keypoints.astype(np.float64), -1, 0)
    rows = np.stack([x.round(PIXEL_DECIMALS), y.round(PIXEL_DECIMALS), confidence.round(CONFIDENCE_DECIMALS)], -1)
    return [row if seen else None for row, seen in zip(rows.tolist(), (confidence > 0).tolist(), strict=True)]


class Sink(Protocol):
    """Where lifted frames go: a context manager. `write` may raise OSError: the frame is lost there, the loop goes on.

    name: as the user wrote it. lost: frames that it could not take, for whatever reason.
    """

    name: str
    lost: int

    @property
    def notes(self) -> Sequence[str]:
        """What a user should know of what was written; once it is finished."""

    def write(self, lifted: LiftedFrame) -> None:
        """Take one frame; never waits for a slow reader."""

    def __enter__(self) -> Sink:
        """Open it; EdgeliftError where that cannot be."""

    def __exit__(self, *exception: object) -> None:
        """Finish it. What was taken is kept, however the stream ended."""
