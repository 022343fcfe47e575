"""Replay: a session, or a recording of any number of people, as live streams; at its own rate, scaled, or at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.openpose import read_openpose
from edgelift.poses.formats.pose2d import Pose2d, read_streams
from edgelift.poses.sessions import Session, load_session
from edgelift.poses.skeletons import Skeleton, skeleton
from edgelift.runtime.counts import Live
from edgelift.runtime.frames import Float32, Frame

CLOCK = "recording"  # t_ns counts on the recording's own timeline
Size = tuple[int, int]


class Track(Protocol):
    """One camera's frames, to be replayed."""

    @property
    def stream(self) -> str:
        """Its name."""

    @property
    def camera(self) -> Camera | None:
        """Which one, where the file tells it."""

    @property
    def size(self) -> Size | None:
        """Of the images, (width, height) in pixels, where it is known."""

    @property
    def clock(self) -> str:
        """On what timeline its times count."""

    @property
    def t_ns(self) -> NDArray[np.int64]:
        """(frames,) times, rising."""

    def frame(self, seq: int, arrived_ns: int) -> Frame:
        """Return one of the frames, by its place."""


@dataclass(frozen=True, eq=False)
class MessageTrack:
    """The messages of one stream, replayed as they were sent."""

    stream: str
    messages: Sequence[Pose2d]
    camera: Camera | None = None

    @property
    def size(self) -> Size | None:
        """As the first message tells it."""
        return self.messages[0].size

    @property
    def clock(self) -> str:
        """As the first message tells it."""
        return self.messages[0].clock

    @property
    def t_ns(self) -> NDArray[np.int64]:
        """The messages' own."""
        return np.array([message.t_ns for message in self.messages], np.int64)

    def frame(self, seq: int, arrived_ns: int) -> Frame:
        """Return a message as a frame."""
        told = self.messages[seq]
        return Frame(
            self.stream, told.seq, told.t_ns, told.clock, told.skeleton, told.keypoints, told.ids, told.size, arrived_ns
        )


@dataclass(frozen=True, eq=False)
class ArrayTrack:
    """Frames of a file without messages. people: for each frame float32 (people, joints, 3)."""

    stream: str
    timestamps: NDArray[np.float64]
    people: Sequence[Float32]
    skeleton: Skeleton
    size: Size | None
    camera: Camera | None
    ids: tuple[int, ...] | None
    clock = CLOCK

    @cached_property
    def t_ns(self) -> NDArray[np.int64]:
        """On the recording's own timeline."""
        return np.rint(self.timestamps * 1e9).astype(np.int64)

    def frame(self, seq: int, arrived_ns: int) -> Frame:
        """Return one of the frames; its number is its place."""
        people = np.asarray(self.people[seq], np.float32)
        ids = self.ids if len(people) else ()
        t_ns = int(self.t_ns[seq])
        return Frame(self.stream, seq, t_ns, self.clock, self.skeleton, people, ids, self.size, arrived_ns)


def session_tracks(session: Session, chosen: Sequence[str] = ()) -> list[ArrayTrack]:
    """Return the views of a session, or those of the chosen cameras; its person is number 0."""
    views = [session.view(name) for name in chosen or session.camera_names]
    return [
        ArrayTrack(
            stream=session.camera_names[view],
            timestamps=session.timestamps + session.time_offset_s[view],
            people=session.keypoints[view][:, None],
            skeleton=session.skeleton,
            size=session.size(view),
            camera=None if session.cameras is None else session.cameras[view],
            ids=(0,),
        )
        for view in views
    ]


def _chosen(path: Path, tracks: Sequence[Track], chosen: Sequence[str]) -> list[Track]:
    names = [track.stream for track in tracks]
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise EdgeliftError(
            f"views of {path.name}", ", ".join(unknown), f"some of {', '.join(names)}", "Give these to --camera."
        )
    return [track for track in tracks if not chosen or track.stream in chosen]


def read_tracks(path: Path, chosen: Sequence[str], skeleton_name: str | None, fps: float | None) -> list[Track]:
    """Read what can be replayed: a session `.npz`, pose2d `.jsonl`, or a folder of a detector's files.

    skeleton_name and fps are asked for where the files do not say them: a folder of OpenPose JSON.
    """
    given = [flag for flag, value in (("--skeleton", skeleton_name), ("--fps", fps)) if value is not None]
    openpose = path.is_dir() and not any(path.glob("*.jsonl"))
    if given and not openpose:
        raise EdgeliftError(f"--source {path}", f"{' and '.join(given)} as well", "files that say it", "Leave it out.")
    if path.suffix == ".npz":
        return [*session_tracks(load_session(path), chosen)]
    if not openpose:
        return _chosen(path, [MessageTrack(name, messages) for name, messages in read_streams(path)], chosen)
    if skeleton_name is None or fps is None:
        raise EdgeliftError(
            f"--source {path}", "a folder of OpenPose JSON, which says neither", "--skeleton and --fps", "Give both."
        )
    found = read_openpose(path, skeleton(skeleton_name), fps)
    views = [ArrayTrack(v.name, v.timestamps, v.people, found.skeleton, None, None, None) for v in found.views]
    return _chosen(path, views, chosen)


class Replay:
    """A source that gives tracks' frames when they are due. rate: 1 as recorded, 2 twice as fast; None: at once.

    At once means one moment of all tracks each time it is asked.
    """

    ended = False

    def __init__(self, name: str, tracks: Sequence[Track], live: Live, rate: float | None = 1.0) -> None:
        if rate is not None and not rate > 0:
            raise EdgeliftError("--rate", f"{rate}", "a positive factor", "Give 1 for the recording's own rate.")
        clocks = sorted({track.clock for track in tracks})
        if len(clocks) > 1:
            raise EdgeliftError(name, f"clocks {', '.join(clocks)}", "one", "Replay each clock's files by themselves.")
        self.name, self.tracks, self.live, self.rate = name, tracks, live, rate
        order = [(int(t), number, seq) for number, track in enumerate(tracks) for seq, t in enumerate(track.t_ns)]
        self.order = sorted(order)
        self.place = 0
        self.started_ns: int | None = None
        self.ended = not self.order

    def filenos(self) -> Sequence[int]:
        """None: time is what it waits for."""
        return ()

    def wake_ns(self) -> int | None:
        """When the next frame is due; the first one is now."""
        if self.ended:
            return None
        if self.started_ns is None:
            self.started_ns = time.perf_counter_ns()
        return self.started_ns if self.rate is None else self._due(self.order[self.place][0])

    def take(self) -> list[Frame]:
        """Every frame that is due, or all of the next moment."""
        now = time.perf_counter_ns()
        moment = self.order[self.place][0]
        frames: list[Frame] = []
        while self.place < len(self.order):
            t_ns, number, place = self.order[self.place]
            due = now if self.rate is None else self._due(t_ns)
            if due > now or (self.rate is None and t_ns > moment):
                break
            frames.append(self.tracks[number].frame(place, due))
            self.place += 1
        self.ended = self.place == len(self.order)
        self.live.counts.frames += len(frames)
        return frames

    def close(self) -> None:
        """Nothing is held."""

    def _due(self, t_ns: int) -> int:
        assert self.rate is not None
        assert self.started_ns is not None
        return self.started_ns + round((t_ns - self.order[0][0]) / self.rate)
