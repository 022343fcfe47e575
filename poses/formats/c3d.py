"""C3D marker trajectories, the binary format of motion capture and biomechanics.

Millimetres, Z-up as our world is (X_SCREEN +X, Y_SCREEN +Z: seen from the front, X runs right and Z up). A joint is a
point; where it is unknown its residual is -1, elsewhere 0, which C3D calls modelled: no camera measured it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError, missing_extra
from edgelift.poses.files import replaced
from edgelift.poses.formats.blocks import Poses, blocks

MM_PER_M = 1000
_NO_ANALOG = np.empty((0, 0))  # channels, samples a frame


def write_c3d(path: Path, poses: Poses, rate_hz: float, joint_names: Sequence[str]) -> None:
    """Write poses (frames, joints, 3), metres, Z-up, rate_hz frames a second; NaN becomes residual -1.

    Complete or not at all. Frames count from 1. EdgeliftError where there is no frame, or no c3d package.
    """
    try:
        import c3d
    except ModuleNotFoundError as error:
        raise missing_extra("c3d", "files") from error
    if len(poses.shape) != 3 or poses.shape[1:] != (len(joint_names), 3) or not poses.shape[0]:
        raise EdgeliftError(
            str(path), f"poses {poses.shape}, {len(joint_names)} joint names", "(frames, joints, 3) and a name a joint",
            "Give one frame at least.",
        )  # fmt: skip
    writer = c3d.Writer(point_rate=rate_hz, point_scale=-1.0, point_units="mm")
    writer.set_point_labels(joint_names)
    writer.set_screen_axis("+X", "+Z")
    # add_frames would hold every frame as Python objects; write only counts, looks at the first and iterates
    writer._frames = _Frames(poses)
    with warnings.catch_warnings(), replaced(path) as temporary, temporary.open("wb") as file:
        warnings.filterwarnings("ignore", "No analog data")
        writer.write(file)


class _Frames:
    """Frames as the c3d package takes them: points (joints, 5) x, y, z mm, residual, cameras; and no analog data."""

    def __init__(self, poses: Poses) -> None:
        self.poses = poses

    def __len__(self) -> int:
        return self.poses.shape[0]

    def __getitem__(self, frame: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        return _points(self.poses[frame : frame + 1])[0], _NO_ANALOG

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float64]]]:
        for block in blocks(self.poses):
            for points in _points(block):
                yield points, _NO_ANALOG


def _points(block: NDArray[np.floating]) -> NDArray[np.float32]:
    points = np.zeros((*block.shape[:2], 5), np.float32)
    known = np.isfinite(block).all(-1)
    points[..., :3] = np.where(known[..., None], block * MM_PER_M, 0)
    points[..., 3] = np.where(known, 0, -1)
    return points
