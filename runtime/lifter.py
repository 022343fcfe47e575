"""The library's front door: a bundle opened as a lifter of raw pixels, and the state that a stream of them needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, camera_to_world
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import clean_keypoints
from edgelift.poses.skeletons import Skeleton, check_joints, convert
from edgelift.poses.skeletons import skeleton as named_skeleton
from edgelift.poses.windows import MISSING, Stream
from edgelift.runtime.backends import Backend, open_backend
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.frames import CoordinateFrame, Float32
from edgelift.runtime.people import FORGET_S, Sides, SwapPolicy, Tracker, mirrored, remembered
from edgelift.runtime.registries import load_current
from edgelift.runtime.smoothing import OneEuro, OneEuroSettings

Size = tuple[int, int]


class Lifter:
    """A bundle, or the current one of a registry, opened on a backend; a context manager.

        with Lifter("bundles/first", skeleton="coco17") as lift:
            poses = lift(keypoints, camera)

    backend, precision: as `edgelift lift` has them; what cannot run is an EdgeliftError, never another one. A backend
    that is open already, with this bundle's weights, is closed with the lifter. skeleton: the detector's; without it
    keypoints come in the bundle's own.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        backend: str | Backend = "cpu",
        precision: str = "fp32",
        skeleton: str | None = None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else load_current(bundle)
        self.input = self.bundle.input
        self.source = self.input.skeleton if skeleton is None else named_skeleton(skeleton)
        self.backend = backend if isinstance(backend, Backend) else open_backend(self.bundle, backend, precision)
        # whoever watches a swap: windows, intrinsics, poses and ms of each lifting; and what lifts where this one fails
        self.on_lift: Callable[[Float32, Float32, Float32, float], None] | None = None
        self.on_failure: Callable[[Exception, Float32, Float32], Float32] | None = None

    @property
    def skeleton(self) -> Skeleton:
        """Of the poses that come out."""
        return self.input.skeleton

    @property
    def name(self) -> str:
        """Of the bundle: its directory's."""
        return self.bundle.path.name

    def __call__(
        self, keypoints: NDArray[np.floating], camera: Camera | None = None, size: Size | None = None
    ) -> Float32:
        """Lift keypoints (..., joints, 3), raw pixels x, y and confidence, to poses (..., joints, 3) in metres.

        Every item is lifted as if its person had just appeared; a lifter of sequences hears no past here, use `stream`.
        camera: who took them, for a rays lifter. size: (width, height) of the image in pixels, for a screen lifter
        without a camera. Poses are in the camera's frame, root not removed; NaN where no joint is seen. Missing joints
        (confidence not > 0, or NaN) are guessed by the lifter.
        """
        check_joints(keypoints, self.source)
        flat = clean_keypoints(keypoints).reshape(-1, *keypoints.shape[-2:])
        fed = self.input.pixels(convert(flat, self.source, self.skeleton), camera)
        row = self.input.intrinsics(camera, size if camera is None else camera.size)
        poses = self.lift(self._alone(fed), np.tile(row, (len(fed), 1)))
        poses[~(fed[..., 2] > 0).any(-1)] = np.nan
        return poses.reshape(*keypoints.shape[:-2], len(self.skeleton.joints), 3)

    def _alone(self, fed: Float32) -> Float32:
        """Windows (n, frames, joints, 3) in which only the newest slot is known."""
        windows = np.full((len(fed), self.input.frames, *fed.shape[1:]), np.nan, np.float32)
        windows[..., 2] = 0
        windows[:, -1] = fed
        return windows

    def lift(self, windows: Float32, intrinsics: Float32) -> Float32:
        """Lift windows (n, frames, joints, 3) as the graph takes them, any n, to (n, joints, 3) metres."""
        if self.on_lift is None and self.on_failure is None:
            return self._lift(windows, intrinsics)
        began = time.perf_counter()
        try:
            poses = self._lift(windows, intrinsics)
            if self.on_failure is not None and not np.isfinite(poses).all():
                raise _not_finite(self.name)
        except Exception as error:  # whatever it is: somebody stands by to lift in its place
            if self.on_failure is None:
                raise
            return self.on_failure(error, windows, intrinsics)
        if self.on_lift is not None:
            self.on_lift(windows, intrinsics, poses, (time.perf_counter() - began) * 1e3)
        return poses

    def _lift(self, windows: Float32, intrinsics: Float32) -> Float32:
        most = self.backend.max_batch or 256
        if 0 < len(windows) <= most:
            return self.backend(windows, intrinsics)
        parts = [self.backend(windows[i : i + most], intrinsics[i : i + most]) for i in range(0, len(windows), most)]
        return np.concatenate([np.empty((0, len(self.skeleton.joints), 3), np.float32), *parts])

    def stream(
        self, camera: Camera | None = None, size: Size | None = None, settings: StreamSettings | None = None
    ) -> PoseStream:
        """Return the state for one camera's live stream; it outlives neither this lifter nor its camera's place."""
        return PoseStream(self, camera, size, settings or StreamSettings())

    def close(self) -> None:
        """Release what the backend holds."""
        self.backend.close()

    def __enter__(self) -> Lifter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _not_finite(name: str) -> EdgeliftError:
    return EdgeliftError(f"lifter {name}", "a pose that is not finite", "metres", "Export the bundle again.")


@dataclass(frozen=True)
class StreamSettings:
    """How a stream is treated.

    swaps: whole-body exchanges of left and right are mended and flagged, flagged, or not looked for. min_confidence: a
    joint below it is missing. smooth: One-Euro filter of the poses; None, the default: as the lifter gives them. frame:
    poses in the camera's frame or the world's, which needs a camera with extrinsics.
    """

    swaps: SwapPolicy = "mend"
    min_confidence: float = 0.0
    smooth: OneEuroSettings | None = None
    frame: CoordinateFrame = "camera"


@dataclass(frozen=True, eq=False)
class People:
    """What one frame gave: ids one a person, xyz (people, joints, 3) metres, conf (people, joints) in [0, 1].

    conf is the confidence of the keypoints behind a joint, 0 where it was missing. flags: `swapped` where left and
    right were exchanged. keypoints (people, joints, 3): raw pixels as they were lifted.
    """

    ids: tuple[int, ...]
    xyz: Float32
    conf: Float32
    flags: tuple[tuple[str, ...], ...]
    keypoints: Float32


@dataclass(frozen=True, eq=False)
class Prepared:
    """A frame ready for the lifter: windows (people, frames, joints, 3), undistorted pixels; the rest as in People."""

    at_s: float
    ids: tuple[int, ...]
    keypoints: Float32
    windows: Float32
    flags: tuple[tuple[str, ...], ...]


@dataclass(eq=False)
class _Person:
    """What is kept of one person between frames."""

    sides: Sides
    window: Stream
    seen_s: float
    filter: OneEuro | None = None


@dataclass(eq=False)
class PoseStream:
    """One camera's stream: who is who, which side is left, what came before, and the filter; of every person.

    Memory is bounded: who is not seen for a second is forgotten.
    """

    lifter: Lifter
    camera: Camera | None
    size: Size | None
    settings: StreamSettings
    people: dict[int, _Person] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.settings.frame == "world" and self.camera is None:
            raise EdgeliftError("poses in the world", "no camera", "a camera with extrinsics", "Give the rig's camera.")
        fed = self.lifter.input
        self.intrinsics = fed.intrinsics(self.camera, self.size if self.camera is None else self.camera.size)[None]
        self.table = None if self.camera is None or fed.camera_input == "screen" else self.camera.pixel_table
        self.tracker = Tracker(fed.skeleton)
        self.nobody = np.full((len(fed.skeleton.joints), 3), np.nan, np.float32)
        self.nobody[:, 2] = 0

    def push(self, at_s: float, keypoints: NDArray[np.floating], ids: Sequence[int] | None = None) -> People:
        """Lift one frame: keypoints (people, joints, 3) of the lifter's source skeleton, raw pixels; time must rise.

        ids: who they are; None: they are tracked. A person without a joint is left out.
        """
        check_joints(keypoints, self.lifter.source)
        prepared = self.prepare(at_s, clean_keypoints(keypoints), self.lifter.source, ids)
        return self.finish(prepared, self.lift(prepared))

    def lift(self, prepared: Prepared) -> Float32:
        """Lift what was prepared: (people, joints, 3) metres, camera frame."""
        return self.lifter.lift(prepared.windows, np.repeat(self.intrinsics, len(prepared.ids), axis=0))

    def prepare(self, at_s: float, keypoints: Float32, source: Skeleton, ids: Sequence[int] | None = None) -> Prepared:
        """Turn a frame's people (n, joints, 3) into windows; remembers them."""
        fed, settings = self.lifter.input, self.settings
        if settings.min_confidence > 0:
            keypoints = np.where(keypoints[..., 2:] >= settings.min_confidence, keypoints, MISSING)
        own = convert(keypoints, source, fed.skeleton)
        there = np.logical_or.reduce(own[..., 2] > 0, -1)
        if not there.all():
            own, ids = own[there], ids and [number for number, seen in zip(ids, there, strict=True) if seen]
        numbers = self.tracker.assign(own, at_s) if ids is None else tuple(ids)
        people = [self._person(number, at_s) for number in numbers]
        swapped = [settings.swaps != "ignore" and p.sides.swapped(k, at_s) for p, k in zip(people, own, strict=True)]
        if settings.swaps == "mend":
            own = mirrored(own, swapped, fed.skeleton)
        pixels = fed.pixels(own, self.camera, self.table)
        windows = self._windows(at_s, numbers, pixels)
        return Prepared(at_s, numbers, own, windows, tuple(("swapped",) if s else () for s in swapped))

    def finish(self, prepared: Prepared, xyz: Float32) -> People:
        """Turn what the lifter gave, camera frame, into what goes out: the frame asked for, filtered if asked."""
        if not np.isfinite(xyz).all():
            raise _not_finite(self.lifter.name)
        if self.settings.frame == "world" and self.camera is not None:
            xyz = camera_to_world(xyz, self.camera).astype(np.float32)
        if self.settings.smooth is not None:
            for k, number in enumerate(prepared.ids):
                xyz[k] = self._filter(number)(prepared.at_s, xyz[k])
        return People(prepared.ids, xyz, prepared.keypoints[..., 2], prepared.flags, prepared.keypoints)

    def _person(self, number: int, at_s: float) -> _Person:
        if number not in self.people:
            fed = self.lifter.input
            self.people[number] = _Person(Sides(fed.skeleton), Stream(fed.frames, fed.frame_interval_s), at_s)
        self.people[number].seen_s = at_s
        return self.people[number]

    def _filter(self, number: int) -> OneEuro:
        person = self.people[number]
        if person.filter is None:
            assert self.settings.smooth is not None
            person.filter = OneEuro(self.settings.smooth, len(self.lifter.skeleton.joints))
        return person.filter

    def _forget(self, at_s: float, most: int) -> None:
        gone = [n for n, person in self.people.items() if at_s - person.seen_s > FORGET_S]
        if len(self.people) - len(gone) > most:
            gone = sorted(self.people, key=lambda n: self.people[n].seen_s)[:-most]
        for number in gone:
            del self.people[number]

    def _windows(self, at_s: float, numbers: tuple[int, ...], pixels: Float32) -> Float32:
        self._forget(at_s, remembered(len(numbers)))
        if self.lifter.input.frames == 1:
            return pixels[:, None]
        for number in self.people.keys() - set(numbers):  # they hear of the frames they are not in, as offline
            self.people[number].window.push(at_s, self.nobody)
        windows = [self.people[number].window.push(at_s, row) for number, row in zip(numbers, pixels, strict=True)]
        return np.stack(windows) if windows else np.empty((0, self.lifter.input.frames, *pixels.shape[1:]), np.float32)
