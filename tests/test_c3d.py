from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.blocks import BLOCK
from edgelift.poses.formats.c3d import write_c3d

NAMES = ("hip", "left_knee", "left_ankle")


@dataclass
class C3d:
    """What the c3d package reads. points (frames, joints, 3) in the file's unit, NaN where it says invalid."""

    reader: Any
    numbers: list[int]
    points: NDArray[np.float64]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(label.strip() for label in self.reader.point_labels)


def read_c3d(path: Path) -> C3d:
    c3d = pytest.importorskip("c3d")
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No analog data")
        reader = c3d.Reader(file)
        frames = [(number, points) for number, points, _ in reader.read_frames()]
    points = np.array([points for _, points in frames])
    assert set(np.unique(points[..., 3])) <= {-1, 0}
    return C3d(reader, [n for n, _ in frames], np.where(points[..., 3:4] < 0, np.nan, points[..., :3]))


def test_round_trip(tmp_path: Path) -> None:
    pytest.importorskip("c3d")
    poses = np.random.default_rng(0).uniform(-9, 9, (BLOCK + 30, 3, 3))
    poses[5, 1] = np.nan
    poses[BLOCK - 2 : BLOCK + 2] = np.nan
    poses[7, 2, 0] = np.nan
    write_c3d(tmp_path / "new" / "a.c3d", poses, 29.97, NAMES)
    read = read_c3d(tmp_path / "new" / "a.c3d")
    expected = np.where(np.isnan(poses).any(-1, keepdims=True), np.nan, poses) * 1000
    np.testing.assert_allclose(read.points, expected, rtol=0, atol=0.01)
    assert read.labels == NAMES
    assert read.numbers == list(range(1, len(poses) + 1))
    assert read.reader.point_rate == pytest.approx(29.97, abs=1e-5)
    assert read.reader.get("POINT:UNITS").string_value == "mm"
    assert read.reader.get_screen_axis() == ("+X", "+Z")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.c3d"]


def test_hours_outgrow_sixteen_bits(tmp_path: Path) -> None:
    pytest.importorskip("c3d")
    poses = np.arange(66_000, dtype=np.float32)[:, None, None] * np.full((1, 1, 3), 1e-3, np.float32)
    write_c3d(tmp_path / "a.c3d", poses, 60.0, NAMES[:1])
    read = read_c3d(tmp_path / "a.c3d")
    assert read.numbers[-1] == len(read.points) == 66_000
    np.testing.assert_allclose(read.points[:, 0, 1], np.arange(66_000), rtol=0, atol=0.01)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("c3d")
    for poses in (np.zeros((0, 3, 3)), np.zeros((4, 2, 3)), np.zeros((4, 3))):
        with pytest.raises(EdgeliftError, match="a name a joint"):
            write_c3d(tmp_path / "a.c3d", poses, 30.0, NAMES)
    assert not list(tmp_path.iterdir())


def test_the_package_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "c3d", None)
    with pytest.raises(EdgeliftError, match=r"edgelift\[files\]"):
        write_c3d(tmp_path / "a.c3d", np.zeros((4, 3, 3)), 30.0, NAMES)
