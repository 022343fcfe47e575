"""TRC marker trajectories, the tab-separated text that OpenSim and Pose2Sim read and write.

TRC is Y-up and ours Z-up: (x, y, z) in the file is (y, z, x) of the world, the cyclic swap that Pose2Sim applies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.files import replaced
from edgelift.poses.formats.blocks import Poses, blocks
from edgelift.poses.formats.untrusted import read_text

Float64 = NDArray[np.float64]

METRES_PER_UNIT = {"m": 1.0, "cm": 0.01, "mm": 0.001}
HEADER_LINES = 5
TO_Y_UP, _TO_Z_UP = [1, 2, 0], [2, 0, 1]
_OWN = ("DataRate", "CameraRate", "NumFrames", "NumMarkers", "Units")
_KEYS = (*_OWN, "OrigDataRate", "OrigDataStartFrame", "OrigNumFrames")


def write_trc(path: Path, poses: Poses, timestamps: Float64, joint_names: Sequence[str]) -> None:
    """Write poses (frames, joints, 3) world metres, Z-up, at timestamps (frames,) seconds; NaN becomes empty cells.

    The file is in metres to six decimals, and complete or not at all. Its data rate is the mean one.
    """
    _check(path, poses, timestamps, joint_names)
    with replaced(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("\n".join([*_header(path.name, timestamps, joint_names), ""]))
        file.writelines(_rows(poses, timestamps))


def read_trc(path: Path) -> tuple[Float64, Float64, tuple[str, ...]]:
    """Return poses (frames, joints, 3) world metres, Z-up, timestamps (frames,) seconds, and joint names.

    Empty cells are NaN. Units m, cm and mm are converted; a malformed or cut file is an EdgeliftError.
    """
    lines = _lines(path)
    fields = dict(zip(lines[1].split(), lines[2].split(), strict=False))
    unit = METRES_PER_UNIT.get(fields.get("Units", ""))
    if unit is None:
        raise _malformed(path, f"units {fields.get('Units')!r}", f"Units {', '.join(METRES_PER_UNIT)}")
    names = tuple(cell.strip() for cell in lines[3].split("\t")[2:] if cell.strip())
    if not names or str(len(names)) != fields.get("NumMarkers"):
        raise _malformed(path, f"{len(names)} marker names", f"NumMarkers {fields.get('NumMarkers')}")
    rows = [_numbers(path, n, line, 2 + 3 * len(names)) for n, line in enumerate(lines) if n > 4 and line.strip()]
    if not rows or str(len(rows)) != fields.get("NumFrames"):
        raise _malformed(path, f"{len(rows)} rows of data", f"NumFrames {fields.get('NumFrames')}")
    table = np.array(rows)
    if not np.isfinite(table[:, 1]).all():
        raise _malformed(path, "a row without a time", "seconds in every row")
    return table[:, 2:].reshape(len(rows), len(names), 3)[..., _TO_Z_UP] * unit, table[:, 1], names


def _check(path: Path, poses: Poses, timestamps: Float64, joint_names: Sequence[str]) -> None:
    if len(poses.shape) != 3 or poses.shape[1:] != (len(joint_names), 3) or timestamps.shape != poses.shape[:1]:
        raise EdgeliftError(
            str(path), f"poses {poses.shape}, timestamps {timestamps.shape}, {len(joint_names)} joint names",
            "(frames, joints, 3), (frames,) and a name a joint", "Give arrays of one recording.",
        )  # fmt: skip
    if len(timestamps) < 2 or not np.isfinite(timestamps).all() or not (np.diff(timestamps) > 0).all():
        raise EdgeliftError(
            f"{path}: timestamps", f"{len(timestamps)} frames, or times that do not rise",
            "two frames or more at rising seconds", "A TRC states a data rate, which one frame does not have.",
        )  # fmt: skip
    if len(set(joint_names)) < len(joint_names) or any(n.split() != [n] for n in joint_names):
        raise EdgeliftError(
            f"{path}: joint names",
            ", ".join(map(repr, joint_names)),
            "names that differ, without blanks",
            "Rename them.",
        )


def _header(file_name: str, timestamps: Float64, names: Sequence[str]) -> list[str]:
    frames = len(timestamps)
    rate = f"{(frames - 1) / (timestamps[-1] - timestamps[0]):.6g}"
    values = [rate, rate, str(frames), str(len(names)), "m", rate, "1", str(frames)]
    axes = [f"{axis}{i}" for i in range(1, len(names) + 1) for axis in "XYZ"]
    return [
        f"PathFileType\t4\t(X/Y/Z)\t{file_name}",
        "\t".join(_KEYS),
        "\t".join(values),
        "\t".join(["Frame#", "Time", *(cell for name in names for cell in (name, "", ""))]),
        "\t".join(["", "", *axes]),
    ]


def _rows(poses: Poses, timestamps: Float64) -> Iterator[str]:
    frame = 0
    for block in blocks(poses):
        for row in block[..., TO_Y_UP].reshape(len(block), -1).tolist():
            yield "\t".join([str(frame + 1), f"{timestamps[frame]:.6f}", *map(_cell, row)]) + "\n"
            frame += 1


def _cell(value: float) -> str:
    return f"{value:.6f}" if math.isfinite(value) else ""


def _lines(path: Path) -> list[str]:
    lines = read_text(path, "a .trc file, tab-separated text").split("\n")
    if len(lines) <= HEADER_LINES or not lines[0].startswith("PathFileType"):
        raise _malformed(path, f"a first line {lines[0][:40]!r}", "PathFileType and four more header lines")
    return lines


def _numbers(path: Path, index: int, line: str, width: int) -> list[float]:
    cells = [cell.strip() for cell in line.rstrip("\r").split("\t")]
    if len(cells) < width or any(cells[width:]):  # some writers end rows with a tab
        raise _malformed(path, f"{len(cells)} cells in line {index + 1}", f"{width}: frame, time, three a marker")
    try:
        return [float(cell) if cell else math.nan for cell in cells[:width]]
    except ValueError as error:
        raise _malformed(path, f"line {index + 1}: {error!s:.80}", "numbers or empty cells") from error


def _malformed(path: Path, received: str, expected: str) -> EdgeliftError:
    return EdgeliftError(str(path), received, expected, "Write the file again with the tool that made it.")
