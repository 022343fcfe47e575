"""Poses to a file, by its suffix: .trc, .c3d and .bvh (one person each), .csv and .npz (everybody).

While the stream runs, frames go to a spool beside the target (`.NAME.spool`); the file itself is written when the sink
closes, however the stream ended, and appears whole. A process that is killed leaves the spool; the next one that writes
there keeps it as `NAME.rows.npy`.
"""

from __future__ import annotations

import csv
import importlib
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgelift.poses.errors import EdgeliftError, missing_extra
from edgelift.poses.files import replaced, unused
from edgelift.poses.formats.blocks import BLOCK
from edgelift.poses.formats.bvh import write_bvh
from edgelift.poses.formats.c3d import write_c3d
from edgelift.poses.formats.trc import write_trc
from edgelift.runtime.frames import CONFIDENCE_DECIMALS, XYZ_DECIMALS, CoordinateFrame, LiftedFrame
from edgelift.runtime.sinks.spool import Rows, Spool, rescued
from edgelift.runtime.sinks.takes import Take, takes

if TYPE_CHECKING:
    from edgelift.poses.skeletons import Skeleton

NS_PER_S = 10**9
LISTED = 8  # ids told by name in a note


class FileSink:
    """A file of poses. One person a file: with more than one, or more than one stream, `take_id3.trc` and its like.

    lost: frames that found no room on the disk. notes: after the end, what a reader of the files should know.
    """

    def __init__(self, target: str) -> None:
        self.name = target
        self.lost = 0
        self.notes: list[str] = []
        self.path = Path(target)
        if self.path.suffix.lower() not in _WRITERS:
            raise EdgeliftError(target, f"suffix {self.path.suffix!r}", f"one of {', '.join(_WRITERS)}", "Name one.")
        self._write = _WRITERS[self.path.suffix.lower()]
        self._spool = Spool(self.path.with_name(f".{self.path.name}.spool"))

    def __enter__(self) -> FileSink:
        if self._write is _write_c3d:
            try:
                importlib.import_module("c3d")
            except ModuleNotFoundError as error:
                raise missing_extra("c3d", "files") from error
        if self.path.is_dir():
            raise EdgeliftError(self.name, "a folder", "a file's name", "Choose another --sink.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if rescued(self._spool.path, kept := unused(self.path.with_name(f"{self.path.name}.rows.npy"))):
            self.notes.append(f"{kept}: what a process that was killed left")
        self._spool.open()
        return self

    def write(self, lifted: LiftedFrame) -> None:
        """Keep one frame; OSError where there is no room for it."""
        try:
            self._spool.append(lifted)
        except OSError:
            self.lost += 1
            raise

    def __exit__(self, *exception: object) -> None:
        try:
            rows = self._spool.finish()
            spool = self._spool
            if spool.skeleton is None or spool.frame is None:
                self.notes.append(f"{self.name}: no frame came, no file was written")
            else:
                self._write(_Content(self.path, rows, spool.streams, spool.skeleton, spool.frame, self.notes))
        except BaseException as error:
            kept = unused(self.path.with_name(f"{self.path.name}.rows.npy"))
            self._spool.path.replace(kept)
            if not isinstance(error, Exception):
                raise
            raise EdgeliftError(
                f"--sink {self.name}", f"{error}", "a file that can be written",
                f"No pose is lost: they are in {kept}, which numpy.load reads.",
            ) from error  # fmt: skip
        self._spool.path.unlink()


@dataclass(frozen=True, eq=False)
class _Content:
    """What a writer is given: where to, the rows with what they mean, and a list for what there is to say."""

    path: Path
    rows: Rows
    streams: list[str]
    skeleton: Skeleton
    frame: CoordinateFrame
    notes: list[str] = field(default_factory=list)


def _write_trc(content: _Content) -> None:
    def write(path: Path, take: Take) -> str:
        seconds, poses = take.as_recorded()
        write_trc(path, poses, seconds, content.skeleton.joints)
        absent = len(take.t_ns) - len(take.own)
        cells = f", empty cells in {absent} of them" if absent else ""
        return f"{len(seconds)} frames from {seconds[0]:.3f} s{cells}"

    _write_each(content, write)


def _write_c3d(content: _Content) -> None:
    def write(path: Path, take: Take) -> str:
        start_s, interval_s, poses, absent = take.regular()
        write_c3d(path, poses, 1 / interval_s, content.skeleton.joints)
        gaps = f", {absent} of them in gaps, which are invalid points" if absent else ""
        return f"{poses.shape[0]} frames from {round(start_s, 3) + 0.0:.3f} s, {1 / interval_s:.5g} a second{gaps}"

    _write_each(content, write)


def _write_bvh(content: _Content) -> None:
    def write(path: Path, take: Take) -> str:
        start_s, interval_s, poses, _ = take.regular()
        filled = write_bvh(path, poses, interval_s, content.skeleton)
        repeats = f", {filled} of them in gaps, which repeat the pose before" if filled else ""
        return f"{poses.shape[0]} frames from {round(start_s, 3) + 0.0:.3f} s, {1 / interval_s:.5g} a second{repeats}"

    if _write_each(content, write):
        content.notes.append("centimetres; how far a bone is twisted about itself no joint shows: it is left at rest")


def _write_each(content: _Content, write: Callable[[Path, Take], str]) -> int:
    """Write a file a person, say what is in each, and return how many there are."""
    everybody, late = takes(content.rows, content.streams, content.frame)
    # one frame has no rate
    whole = [take for take in everybody if len(take.own) > 1]
    for path, take in zip(_paths(content, whole), whole, strict=True):
        content.notes.append(f"{path.name}: {write(path, take)}")
    if len(whole) < len(everybody):
        short = [str(take.person) for take in everybody if len(take.own) < 2]
        more = f" and {len(short) - LISTED} more" if len(short) > LISTED else ""
        content.notes.append(f"no file for who was seen in one frame only: id {', '.join(short[:LISTED])}{more}")
    if not everybody:
        content.notes.append("nobody was seen, no file was written")
    if late:
        content.notes.append(f"{late} poses left out, because their time was not later than the one before")
    if whole and content.frame == "camera":
        content.notes.append("in the camera's frame, stood upright as far as the camera is; its place is the origin")
    return len(whole)


def _paths(content: _Content, whole: list[Take]) -> list[Path]:
    """The target where there is one take; else the target with the id in its name, and the stream if there are more."""
    if len(whole) == 1:
        return [content.path]
    names = dict.fromkeys(take.stream for take in whole)
    safe = {name: re.sub(r"[^\w.-]", "_", name) for name in names}
    if len(set(safe.values())) < len(safe):
        safe = {name: f"{safe[name]}_{number}" for number, name in enumerate(names)}
    streams = {name: f"_{safe[name]}" if len(safe) > 1 else "" for name in names}
    return [content.path.with_stem(f"{content.path.stem}{streams[take.stream]}_id{take.person}") for take in whole]


def _write_csv(content: _Content) -> None:
    axes = [f"{joint}_{what}" for joint in content.skeleton.joints for what in ("x_m", "y_m", "z_m", "conf")]
    joint = ",".join([f"%.{XYZ_DECIMALS}f"] * 3 + [f"%.{CONFIDENCE_DECIMALS}f"])
    numbers = ",".join([joint] * len(content.skeleton.joints)) + "\n"
    with replaced(content.path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        lead = csv.writer(file, lineterminator=",")  # quotes a stream's name where that needs it
        file.write(",".join(["seq", "t_s", "stream", "person", "frame", *axes]) + "\n")
        for start in range(0, len(content.rows), BLOCK):
            block = content.rows[start : start + BLOCK]
            block = block[block["present"]]
            values = np.concatenate([block["xyz"], block["conf"][..., None]], axis=-1)
            for row, cells in zip(block, values.reshape(len(block), len(axes)).tolist(), strict=True):
                stream = content.streams[row["stream"]]
                lead.writerow([row["seq"], _seconds(int(row["t_ns"])), stream, row["person"], content.frame])
                file.write((numbers % tuple(cells)).replace("nan", ""))


def _seconds(t_ns: int) -> str:
    """Exact seconds: a float has no room for nanoseconds since 1970."""
    whole, rest = divmod(abs(t_ns), NS_PER_S)
    return f"{'-' if t_ns < 0 else ''}{whole}.{rest:09d}"


def _write_npz(content: _Content) -> None:
    present = np.flatnonzero(content.rows["present"])
    constants = {
        "streams": content.streams, "skeleton": content.skeleton.name, "joints": content.skeleton.joints,
        "frame": content.frame, "units": "m",
    }  # fmt: skip
    with replaced(content.path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in ("seq", "t_ns", "stream", "person", "xyz", "conf"):
            _write_column(archive, name, content.rows[name], present)
        for name, value in constants.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, np.array(value), allow_pickle=False)


def _write_column(
    archive: zipfile.ZipFile, name: str, column: np.ndarray[Any, Any], index: np.ndarray[Any, Any]
) -> None:
    """Add column[index] to an .npz, a block at a time: numpy.savez would hold all of it."""
    facts = {"descr": column.dtype.str, "fortran_order": False, "shape": (len(index), *column.shape[1:])}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, facts)
        for start in range(0, len(index), BLOCK):
            file.write(column[index[start : start + BLOCK]].tobytes())


_WRITERS: dict[str, Callable[[_Content], None]] = {
    ".trc": _write_trc, ".c3d": _write_c3d, ".bvh": _write_bvh, ".csv": _write_csv, ".npz": _write_npz,
}  # fmt: skip
