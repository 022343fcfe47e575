"""Poses that writers read a block at a time: a take may be longer than memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from edgelift.poses.skeletons import FloatArray

BLOCK = 1024  # frames; at 33 joints 400 kB, or 3 MB as Python's numbers


class Poses(Protocol):
    """Poses (frames, joints, 3): an array, or something that computes the frames it is cut to."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(frames, joints, 3)."""

    def __getitem__(self, frames: slice, /) -> FloatArray:
        """Return these frames as an array."""


def blocks(poses: Poses) -> Iterator[FloatArray]:
    """Yield all frames, in order, as arrays (at most BLOCK, joints, 3)."""
    for start in range(0, poses.shape[0], BLOCK):
        yield poses[start : start + BLOCK]
