"""Files of MediaPipe, FreeMoCap, DeepLabCut and SLEAP cut short, damaged or made to exhaust: one error each."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.deeplabcut import read_deeplabcut
from edgelift.poses.formats.freemocap import read_freemocap
from edgelift.poses.formats.mediapipe import parse_mediapipe, read_mediapipe
from edgelift.poses.formats.sleap import read_sleap
from edgelift.poses.recordings import Recording

from .other_files import (
    COCO,
    CSV_SHAPES,
    JOINTS,
    JSON_SHAPES,
    MATLAB,
    MEDIAPIPE,
    SIZE,
    as_dict,
    dlc,
    freemocap,
    sleap,
    some_landmarks,
    tracked_people,
)


@dataclass
class Sample:
    """A whole file of a format and how to read what lies at a path."""

    content: bytes
    suffix: str
    read: Callable[[Path], Recording]

    @property
    def tries(self) -> int:
        return 10 if self.suffix == ".h5" else 60  # each HDF5 file is read by a process of its own


@pytest.fixture
def samples(tmp_path: Path) -> dict[str, Sample]:
    landmarks, tracked = some_landmarks(), tracked_people()
    home = tmp_path / "samples"
    home.mkdir()
    frames = [[as_dict(row) for row in frame] for frame in landmarks]
    (home / "a.json").write_text(json.dumps(JSON_SHAPES["task result"](frames)))
    (home / "wide.csv").write_text(CSV_SHAPES["names"](landmarks))
    (home / "long.csv").write_text(CSV_SHAPES["long"](landmarks))
    np.save(home / "a.npy", landmarks)
    np.savez_compressed(home / "a.npz", landmarks=landmarks)
    dlc(home / "dlc.csv", tracked, [*JOINTS, "tail"], ["ind1", "ind2"])
    sleap(home / "a.h5", tracked, [*JOINTS, "tail"], MATLAB, True)
    np.save(home / "free.npy", np.full((2, 2, 553, 2), 50.0, np.float16))

    def free(path: Path) -> Recording:
        folder = path.parent / "rec"
        if not folder.exists():
            freemocap(folder, np.zeros(1))
        os.replace(
            path, folder / "output_data/raw_data/mediapipe_2dData_numCams_numFrames_numTrackedPoints_pixelXY.npy"
        )
        return read_freemocap(folder, MEDIAPIPE, 50)

    def media(path: Path) -> Recording:
        return read_mediapipe(path, MEDIAPIPE, 50, SIZE)

    readers = {
        "a.json": media, "wide.csv": media, "long.csv": media, "a.npy": media, "a.npz": media, "free.npy": free,
        "dlc.csv": lambda path: read_deeplabcut(path, COCO, 50, JOINTS),
        "a.h5": lambda path: read_sleap(path, COCO, 50, JOINTS),
    }  # fmt: skip
    return {name: Sample((home / name).read_bytes(), Path(name).suffix, read) for name, read in readers.items()}


def test_files_cut_short_are_one_error(tmp_path: Path, samples: dict[str, Sample]) -> None:
    for name, sample in samples.items():
        path = tmp_path / f"cut{sample.suffix}"
        path.write_bytes(sample.content)
        assert sample.read(path).views, name
        refused = 0
        for length in np.linspace(0, len(sample.content) - 1, sample.tries).astype(int):
            path.write_bytes(sample.content[:length])
            try:
                sample.read(path)
            except EdgeliftError:
                refused += 1
        # text that ends with a whole row, or a number that has lost a digit, is still a table
        assert refused == sample.tries or (refused > 25 and sample.suffix == ".csv"), (name, refused)


def test_damaged_files_are_one_error_or_other_numbers(tmp_path: Path, samples: dict[str, Sample]) -> None:
    rng = np.random.default_rng(0)
    for sample in samples.values():
        path = tmp_path / f"bad{sample.suffix}"
        for _ in range(sample.tries):
            damaged = bytearray(sample.content)
            for place in rng.integers(0, min(len(damaged), rng.choice([200, 4000])), rng.integers(1, 6)):
                damaged[place] = rng.integers(0, 256)
            path.write_bytes(damaged)
            try:
                recording = sample.read(path)
            except EdgeliftError:
                continue
            for view in recording.views:
                for people in view.people:
                    assert np.isfinite(people[people[..., 2] > 0]).all()


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    np.save(tmp_path / "a.npy", np.array([Attack()], object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", a=np.array([Attack()], object))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(EdgeliftError, match="unreadable"):
            read_mediapipe(tmp_path / name, MEDIAPIPE, 50, SIZE)
    assert not (tmp_path / "ran").exists()


def test_headers_that_claim_terabytes_are_refused(tmp_path: Path) -> None:
    for shape in ((10**9, 33, 4), (2**62, 33, 4), (10**30, 33, 4)):
        with (tmp_path / "a.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
            file.write(b"\0" * 100)
        with pytest.raises(EdgeliftError, match="unreadable"):
            parse_mediapipe(tmp_path / "a.npy")
