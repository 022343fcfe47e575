"""Poses as CSV for spreadsheets, a row a frame: `frame,time_s,<joint>_x_m,<joint>_y_m,<joint>_z_m,...`.

Metres, Z-up as our world is. frame counts from 0; an unknown coordinate is an empty cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.files import replaced
from edgelift.poses.formats.blocks import Poses, blocks
from edgelift.poses.formats.tables import read_rows, to_numbers

Float64 = NDArray[np.float64]

LEAD = ["frame", "time_s"]
ENDS = ("_x_m", "_y_m", "_z_m")
EXPECTED = "poses as CSV: frame,time_s,<joint>_x_m,<joint>_y_m,<joint>_z_m,..."


def write_csv_poses(path: Path, poses: Poses, timestamps: Float64, joint_names: Sequence[str]) -> None:
    """Write poses (frames, joints, 3) world metres at timestamps (frames,) seconds; NaN becomes empty cells.

    Coordinates to six decimals, times exactly; the file is complete or not at all.
    """
    if poses.shape != (len(timestamps), len(joint_names), 3):
        raise EdgeliftError(
            str(path), f"poses {poses.shape}, {len(timestamps)} timestamps, {len(joint_names)} joint names",
            "(frames, joints, 3), (frames,) and a name a joint", "Give arrays of one recording.",
        )  # fmt: skip
    numbers = ",%.6f" * (3 * len(joint_names)) + "\n"
    times = iter(enumerate(timestamps.tolist()))
    with replaced(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(",".join([*LEAD, *_columns(joint_names)]) + "\n")
        for block in blocks(poses):
            for row in block.reshape(len(block), -1).tolist():
                frame, time = next(times)
                file.write(f"{frame},{time!r}" + (numbers % tuple(row)).replace("nan", ""))


def read_csv_poses(path: Path) -> tuple[Float64, Float64, tuple[str, ...]]:
    """Return poses (frames, joints, 3) world metres, NaN where empty, timestamps (frames,) seconds, and joint names.

    EdgeliftError on anything that `write_csv_poses` does not write.
    """
    rows = read_rows(path, EXPECTED)
    header = next(rows, [])
    names = tuple(cell.removesuffix(ENDS[0]) for cell in header[2::3])
    if header != [*LEAD, *_columns(names)] or not names or len(set(names)) < len(names):
        raise EdgeliftError(str(path), f"a header {','.join(header)[:80]!r}", EXPECTED, "Write the file again.")
    table = to_numbers(path, rows, len(header), range(1, len(header)))
    times, poses = table[:, 0], table[:, 1:].reshape(len(table), len(names), 3)
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all()) or np.isinf(poses).any():
        raise EdgeliftError(
            str(path), "times that do not rise, or an infinity", "rising seconds, finite metres", "Write it again."
        )
    return poses, times, names


def _columns(joint_names: Sequence[str]) -> list[str]:
    return [f"{name}{end}" for name in joint_names for end in ENDS]
