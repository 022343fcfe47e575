"""From spooled rows to takes, a person of a stream each, as file formats want them: upright, in time, gaps shown.

A take costs some 30 bytes of memory a frame; poses are read from the spool when they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.blocks import Poses
from edgelift.poses.timeline import MAX_GAP_S, SNAP_S
from edgelift.poses.windows import plan
from edgelift.runtime.frames import CoordinateFrame, Float32
from edgelift.runtime.sinks.spool import Rows

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

S_PER_NS = np.float64(1e-9)
GAP = 2.5  # intervals between two frames of which the one in between was lost
MAX_FRAMES = 10_000_000  # of a regular grid: four days at 30 a second


@dataclass(frozen=True, eq=False)
class Take:
    """One person from first to last seen.

    rows: of the whole spool; own (n,): indices of this person's, their times rising; t_ns: the times of all frames of
    the stream meanwhile, rising, with the person or without. frame: of the rows; what comes out is Z-up.
    """

    stream: str
    person: int
    frame: CoordinateFrame
    rows: Rows
    own: Int64
    t_ns: Int64

    @property
    def seen_ns(self) -> Int64:
        """(n,) when the person was seen."""
        seen: Int64 = self.rows["t_ns"][self.own]
        return seen

    def as_recorded(self) -> tuple[Float64, Poses]:
        """Times (frames,) in seconds of the source's clock, and poses, metres, Z-up; NaN where the person is absent."""
        row = np.full(len(self.t_ns), -1)
        row[np.searchsorted(self.t_ns, self.seen_ns)] = self.own

        def cut(frames: slice) -> Float32:
            poses = self._upright(row[frames])
            poses[row[frames] < 0] = np.nan
            return poses

        seconds: Float64 = self.t_ns * S_PER_NS
        return seconds, _Cut(self._shape(len(row)), cut)

    def regular(self) -> tuple[float, float, Poses, int]:
        """When it starts, the interval (the stream's median one), both in seconds, and poses at it, metres, Z-up.

        Linearly interpolated in time, the last one as recorded; NaN where two poses are farther apart than
        timeline.MAX_GAP_S, or GAP intervals of a slow stream. The last number is how many of them are NaN.
        """
        interval_s = float(np.median(np.diff(self.t_ns))) * S_PER_NS
        seconds = (self.seen_ns - self.seen_ns[0]) * S_PER_NS
        count = int((seconds[-1] + SNAP_S) / interval_s) + 1
        if count > MAX_FRAMES:
            raise EdgeliftError(
                f"person {self.person} of {self.stream}", f"{seconds[-1]:.0f} s in steps of {interval_s:.4f} s",
                f"{MAX_FRAMES} frames at most", "Its clock jumped; .csv and .npz keep the times as they are.",
            )  # fmt: skip
        grid = plan(seconds, count, interval_s, last=1, max_gap_s=max(MAX_GAP_S, GAP * interval_s))
        lower, upper, along, empty = (part[0] for part in (grid.lower, grid.upper, grid.along, grid.empty))

        def cut(frames: slice) -> Float32:
            before, after = (self._upright(self.own[part[frames]]) for part in (lower, upper))
            share = along[frames, None, None]
            poses: Float32 = before * (1 - share) + after * share
            poses[empty[frames]] = np.nan
            return poses

        start_s = float(self.seen_ns[-1] * S_PER_NS) - (count - 1) * interval_s
        return start_s, interval_s, _Cut(self._shape(count), cut), int(empty.sum())

    def _shape(self, frames: int) -> tuple[int, ...]:
        return (frames, *self.rows["xyz"].shape[1:])

    def _upright(self, index: Int64) -> Float32:
        xyz: Float32 = self.rows["xyz"][index]
        # a camera's frame: x right, y down, z forward; its y stands upright as far as the camera does
        return xyz if self.frame == "world" else xyz[..., [0, 2, 1]] * np.array([1, 1, -1], np.float32)


@dataclass(frozen=True, eq=False)
class _Cut:
    """Poses that are computed where they are cut."""

    shape: tuple[int, ...]
    cut: Callable[[slice], Float32]

    def __getitem__(self, frames: slice, /) -> Float32:
        return self.cut(frames)


def takes(rows: Rows, streams: list[str], frame: CoordinateFrame) -> tuple[list[Take], int]:
    """Split rows into takes, by stream and id, and count the rows left out because their time did not rise."""
    found: list[Take] = []
    late = 0
    for number, stream in enumerate(streams):
        of_stream = np.flatnonzero(rows["stream"] == number)
        newest = np.maximum.accumulate(rows["t_ns"][of_stream])
        in_time = rows["t_ns"][of_stream] == newest
        times = np.unique(newest)
        present = rows["present"][of_stream]
        for own in _by_person(rows, of_stream[in_time & present]):
            seen = rows["t_ns"][own]
            rising = np.diff(seen, prepend=seen[0] - 1) > 0
            late += int((~rising).sum())
            first, last = np.searchsorted(times, (seen[0], seen[-1]))
            person = int(rows["person"][own[0]])
            found.append(Take(stream, person, frame, rows, own[rising], times[first : last + 1]))
        late += int((~in_time & present).sum())
    return found, late


def _by_person(rows: Rows, index: Int64) -> Iterator[Int64]:
    """Yield the rows among these of one person after the other, each in the order they were written."""
    person = rows["person"][index]
    order = np.argsort(person, kind="stable")
    ends = np.flatnonzero(np.diff(person[order])) + 1
    yield from (part for part in np.split(index[order], ends) if len(part))
