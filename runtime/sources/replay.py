"""Replay: a session, or a recording of any number of people, as live streams; at its own rate, scaled, or at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.openpose import read_openpose
from edgelift.poses.formats.pose2d import read_pose2d
from edgelift.poses.recordings import Recording
from edgelift.poses.sessions import Session, load_session
from edgelift.poses.skeletons import Skeleton, skeleton
from edgelift.runtime.counts import Live
from edgelift.runtime.frames import Float32, Frame

CLOCK = "recording"  # t_ns counts on the recording's own timeline
Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Track:
    """One camera's frames, to be replayed. people: for each frame float32 (people, joints, 3); camera: if known."""

    stream: str
    timestamps: NDArray[np.float64]
    people: Sequence[Float32]
    skeleton: Skeleton
    size: Size | None
    camera: Camera | None
    ids: tuple[int, ...] | None


def session_tracks(session: Session, chosen: Sequence[str] = ()) -> list[Track]:
    """Return the views of a session, or those of the chosen cameras; its person is number 0."""
    views = [session.view(name) for name in chosen or session.camera_names]
    return [
        Track(
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


def recording_tracks(recording: Recording, chosen: Sequence[str] = ()) -> list[Track]:
    """Return the views of a recording, or the chosen ones; who its people are is not known."""
    names = [view.name for view in recording.views]
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise EdgeliftError(
            f"views of {recording.name}", ", ".join(unknown), f"some of {', '.join(names)}", "Give these to --camera."
        )
    return [
        Track(view.name, view.timestamps, view.people, recording.skeleton, None, None, None)
        for view in recording.views
        if not chosen or view.name in chosen
    ]


def read_tracks(path: Path, chosen: Sequence[str], skeleton_name: str | None, fps: float | None) -> list[Track]:
    """Read what can be replayed: a session `.npz`, pose2d `.jsonl`, or a folder of a detector's files.

    skeleton_name and fps are asked for where the files do not say them: a folder of OpenPose JSON.
    """
    given = [flag for flag, value in (("--skeleton", skeleton_name), ("--fps", fps)) if value is not None]
    openpose = path.is_dir() and not any(path.glob("*.jsonl"))
    if given and not openpose:
        raise EdgeliftError(f"--source {path}", f"{' and '.join(given)} as well", "files that say it", "Leave it out.")
    if path.suffix == ".npz":
        return session_tracks(load_session(path), chosen)
    if not openpose:
        return recording_tracks(read_pose2d(path), chosen)
    if skeleton_name is None or fps is None:
        raise EdgeliftError(
            f"--source {path}", "a folder of OpenPose JSON, which says neither", "--skeleton and --fps", "Give both."
        )
    return recording_tracks(read_openpose(path, skeleton(skeleton_name), fps), chosen)


class Replay:
    """A source that gives tracks' frames when they are due. rate: 1 as recorded, 2 twice as fast; None: at once.

    At once means one moment of all tracks each time it is asked.
    """

    ended = False

    def __init__(self, name: str, tracks: Sequence[Track], live: Live, rate: float | None = 1.0) -> None:
        if rate is not None and not rate > 0:
            raise EdgeliftError("--rate", f"{rate}", "a positive factor", "Give 1 for the recording's own rate.")
        self.name, self.tracks, self.live, self.rate = name, tracks, live, rate
        times = [np.rint(track.timestamps * 1e9).astype(np.int64) for track in tracks]
        order = [(int(t), number, seq) for number, own in enumerate(times) for seq, t in enumerate(own)]
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
            t_ns, number, seq = self.order[self.place]
            due = now if self.rate is None else self._due(t_ns)
            if due > now or (self.rate is None and t_ns > moment):
                break
            frames.append(self._frame(self.tracks[number], seq, t_ns, due))
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

    def _frame(self, track: Track, seq: int, t_ns: int, arrived_ns: int) -> Frame:
        people = np.asarray(track.people[seq], np.float32)
        return Frame(
            track.stream, seq, t_ns, CLOCK, track.skeleton, people, track.ids if len(people) else (), track.size,
            arrived_ns,
        )  # fmt: skip
