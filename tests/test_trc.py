from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.trc import read_trc, write_trc

Float64 = NDArray[np.float64]
NAMES = ("hip", "knee")
TEXT = """PathFileType\t4\t(X/Y/Z)\twalk.trc
DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames
50\t50\t2\t2\tm\t50\t1\t2
Frame#\tTime\thip\t\t\tknee\t\t
\t\tX1\tY1\tZ1\tX2\tY2\tZ2
1\t0.000000\t2.000000\t3.000000\t1.000000\t5.000000\t6.000000\t4.000000
2\t0.020000\t2.500000\t3.500000\t1.500000\t\t\t
"""
POSES = np.array([[[1, 2, 3], [4, 5, 6]], [[1.5, 2.5, 3.5], [np.nan] * 3]])


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def tokens(text: str) -> list[list[str]]:
    return [line.rstrip("\t").split("\t") for line in text.splitlines()]


def test_golden_file_is_y_up(tmp_path: Path) -> None:
    path = tmp_path / "walk.trc"
    write_trc(path, POSES, np.array([0, 0.02]), NAMES)
    assert tokens(path.read_text(encoding="utf-8")) == tokens(TEXT)
    assert [p.name for p in tmp_path.iterdir()] == ["walk.trc"]


def test_every_row_has_every_cell(tmp_path: Path) -> None:
    path = tmp_path / "walk.trc"
    write_trc(path, POSES, np.array([0, 0.02]), NAMES)
    assert [line.count("\t") for line in path.read_text().splitlines()[3:]] == [7, 7, 7, 7]


def test_golden_file_is_read_z_up(tmp_path: Path) -> None:
    poses, timestamps, names = read_trc(write(tmp_path / "walk.trc", TEXT))
    np.testing.assert_array_equal(poses, POSES)
    np.testing.assert_array_equal(timestamps, [0, 0.02])
    assert names == NAMES


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip(tmp_path: Path, dtype: type[np.floating]) -> None:
    rng = np.random.default_rng(0)
    poses = rng.uniform(-9, 9, size=(40, 17, 3)).astype(dtype)
    poses[rng.random((40, 17)) < 0.2] = np.nan
    poses[7] = np.nan
    timestamps = np.cumsum(rng.uniform(0.01, 0.03, 40))
    path = tmp_path / "new" / "walk.trc"
    write_trc(path, poses, timestamps, [f"joint{i}" for i in range(17)])
    again, times, names = read_trc(path)
    np.testing.assert_allclose(again, poses, rtol=0, atol=1e-5)
    np.testing.assert_allclose(times, timestamps, rtol=0, atol=1e-6)
    assert names == tuple(f"joint{i}" for i in range(17))


@pytest.mark.parametrize(("unit", "metres"), [("mm", 0.001), ("cm", 0.01)])
def test_units_are_converted(tmp_path: Path, unit: str, metres: float) -> None:
    poses, _, _ = read_trc(write(tmp_path / "walk.trc", TEXT.replace("\tm\t", f"\t{unit}\t")))
    np.testing.assert_allclose(poses, POSES * metres, rtol=1e-12)


@pytest.mark.parametrize("change", ["crlf", "blank line", "trailing tabs", "byte order mark"])
def test_other_writers_habits_are_read(tmp_path: Path, change: str) -> None:
    lines = TEXT.splitlines()
    path = tmp_path / "walk.trc"
    if change == "crlf":
        path.write_bytes("\r\n".join([*lines, ""]).encode())
    elif change == "blank line":
        write(path, "\n".join([*lines[:5], "", *lines[5:], ""]))
    elif change == "trailing tabs":
        write(path, "\t\n".join([*lines, ""]))
    else:
        path.write_bytes(TEXT.encode("utf-8-sig"))
    poses, _, names = read_trc(path)
    np.testing.assert_array_equal(poses, POSES)
    assert names == NAMES


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "PathFileType"),
        ("\n".join(TEXT.splitlines()[:5]) + "\n", "NumFrames"),
        ("\n".join(TEXT.splitlines()[:6]) + "\n", "NumFrames"),
        (TEXT.rsplit("\t", 3)[0], "cells"),
        (TEXT.replace("\tm\t", "\tinch\t"), "units 'inch'"),
        (TEXT.replace("knee", ""), "NumMarkers"),
        (TEXT.replace("3.500000", "3,5"), "line 7"),
        (TEXT.replace("0.020000", ""), "time"),
        (TEXT.replace("1\t0.000000", "1\t0.000000\t7"), "cells"),
        (TEXT.replace("NumFrames", "Frames"), "NumFrames"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(EdgeliftError, match=match):
        read_trc(write(tmp_path / "bad.trc", text))


def test_foreign_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.trc").write_bytes(b"\xff\xfe\x00\x81" * 100)
    for name in ("bad.trc", "none.trc"):
        with pytest.raises(EdgeliftError, match=name):
            read_trc(tmp_path / name)


@pytest.mark.parametrize(
    ("timestamps", "names"),
    [
        ([0.0], NAMES),
        ([0.0, 0.0], NAMES),
        ([0.0, np.nan], NAMES),
        ([0.0, 0.1], ("hip",)),
        ([0.0, 0.1], ("hip", "hip")),
        ([0.0, 0.1], ("hip", "left\tknee")),
        ([0.0, 0.1], ("hip", "")),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, timestamps: list[float], names: tuple[str, ...]) -> None:
    with pytest.raises(EdgeliftError):
        write_trc(tmp_path / "walk.trc", POSES[: len(timestamps)], np.array(timestamps), names)
    assert not list(tmp_path.iterdir())


def test_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "walk.trc", TEXT)

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_trc(path, POSES * 2, np.array([0, 0.02]), NAMES)
    assert path.read_text(encoding="utf-8") == TEXT
    assert [p.name for p in tmp_path.iterdir()] == ["walk.trc"]
