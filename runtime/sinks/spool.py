"""Where poses wait while a stream runs: rows appended to a file, so that hours of them take no memory."""

from __future__ import annotations

import os
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.files import write_whole
from edgelift.poses.skeletons import Skeleton
from edgelift.runtime.frames import CoordinateFrame, LiftedFrame

Rows = NDArray[Any]  # structured, see row_type


def row_type(joints: int) -> np.dtype[Any]:
    """One person in one frame: xyz (joints, 3) metres, conf (joints,) in [0, 1]. present: False if nobody was seen."""
    fields = [
        ("seq", "<i8"), ("t_ns", "<i8"), ("person", "<i8"), ("stream", "<u4"), ("present", "?"),
        ("xyz", "<f4", (joints, 3)), ("conf", "<f4", (joints,)),
    ]  # fmt: skip
    return np.dtype(fields)


def rescued(spool: Path, kept: Path) -> bool:
    """Whether a process that was killed left rows in a spool: they are then whole, and under another name."""
    if not spool.is_file():
        return False
    with spool.open("r+b") as file:
        try:
            np.lib.format.read_magic(file)
            row = np.lib.format.read_array_header_1_0(file)[2]
        except ValueError:  # nothing came before it was killed
            return False
        start = file.tell()
        count = (spool.stat().st_size - start) // row.itemsize
        file.seek(0)
        file.write(_header(row, count))
        file.truncate(start + count * row.itemsize)
    spool.replace(kept)
    return True


def _header(row: np.dtype[Any], count: int) -> bytes:
    # numpy leaves room for any count, so that the header can be written again in place
    facts = {"descr": np.lib.format.dtype_to_descr(row), "fortran_order": False, "shape": (count,)}
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, facts)
    return header.getvalue()


class Spool:
    """The rows of one stream or more, in a file that is `.npy` once it is finished: numpy.load reads it.

    streams: the names that the rows' numbers stand for. skeleton, frame: of all poses; None before the first came.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.streams: list[str] = []
        self.skeleton: Skeleton | None = None
        self.frame: CoordinateFrame | None = None
        self._numbers: dict[str, int] = {}
        self._file: FileIO | None = None
        self._type = row_type(0)
        self._start = self._size = 0  # bytes: of the header, and of what was written whole

    def open(self) -> None:
        """Create the file, or empty the one that is there."""
        self._file = FileIO(self.path, "w")

    def append(self, lifted: LiftedFrame) -> None:
        """Add a frame. OSError (a full disk): it is not there, nor a part of it, and the next one may well be.

        EdgeliftError for another skeleton or coordinate frame than the first frame's.
        """
        if self.skeleton is None:
            self._begin(lifted)
        elif lifted.skeleton != self.skeleton or lifted.frame != self.frame:
            raise EdgeliftError(
                f"poses of {lifted.stream}", f"{lifted.skeleton.name} in {lifted.frame} coordinates",
                f"{self.skeleton.name} in {self.frame} coordinates, as before", "Write each to a file of its own.",
            )  # fmt: skip
        rows = np.zeros(len(lifted.ids) or 1, self._type)
        rows["seq"], rows["t_ns"], rows["stream"] = lifted.seq, lifted.t_ns, self._number(lifted.stream)
        if lifted.ids:
            rows["person"], rows["present"], rows["xyz"], rows["conf"] = lifted.ids, True, lifted.xyz, lifted.conf
        self._write(rows.tobytes())

    def finish(self) -> Rows:
        """Close the file and return its rows, mapped into memory."""
        assert self._file is not None
        self._file.close()
        count = (self._size - self._start) // self._type.itemsize
        if not count:  # nothing cannot be mapped
            return np.empty(0, self._type)
        with self.path.open("r+b") as file:
            file.write(_header(self._type, count))
        return np.asarray(np.memmap(self.path, self._type, "r", self._start, (count,)))

    def _begin(self, lifted: LiftedFrame) -> None:
        self._type = row_type(len(lifted.skeleton.joints))
        self._write(_header(self._type, 0))
        self._start = self._size
        self.skeleton, self.frame = lifted.skeleton, lifted.frame

    def _number(self, stream: str) -> int:
        if stream not in self._numbers:
            self._numbers[stream] = len(self.streams)
            self.streams.append(stream)
        return self._numbers[stream]

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        try:
            write_whole(self._file.write, data)
        except BaseException:  # Ctrl-C as well: a part of a row would shift all that follow
            self._cut()
            raise
        self._size += len(data)

    def _cut(self) -> None:
        assert self._file is not None
        os.ftruncate(self._file.fileno(), self._size)
        self._file.seek(self._size)
