from __future__ import annotations

import csv
import resource
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.trc import read_trc
from edgelift.poses.motion import load_motion
from edgelift.poses.skeletons import convert_poses, skeleton
from edgelift.runtime.frames import LiftedFrame, Sink
from edgelift.runtime.sinks.files import FileSink

from .live import COMMON14, FRAME_NS, lifted, lifted_frames
from .test_bvh import angles, directions, joints_of, read_bvh
from .test_c3d import read_c3d

Float64 = NDArray[np.float64]
SUFFIXES = (".trc", ".c3d", ".bvh", ".csv", ".npz")
PERSONAL = SUFFIXES[:3]


@pytest.fixture(autouse=True)
def _c3d() -> None:
    pytest.importorskip("c3d")


def write(path: Path, frames: Iterable[LiftedFrame]) -> list[str]:
    with FileSink(str(path)) as sink:
        for frame in frames:
            sink.write(frame)
    return sink.notes


def poses_of(path: Path) -> Float64:
    """(frames, joints, 3) metres, Z-up, of a file of one person, each by a reader that is not the writer's."""
    if path.suffix == ".trc":
        return read_trc(path)[0]
    if path.suffix == ".c3d":
        return read_c3d(path).points / 1000
    if path.suffix == ".bvh":
        return joints_of(read_bvh(path), COMMON14)
    if path.suffix == ".npz":
        return np.asarray(load(path)["xyz"], np.float64)
    return np.stack([cells(row) for row in table(path)])[..., :3]


def load(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def cells(row: dict[str, str]) -> Float64:
    """(joints, 4) metres and confidence; an empty cell is NaN."""
    values = [[float(row[f"{j}_{c}"] or "nan") for c in ("x_m", "y_m", "z_m", "conf")] for j in COMMON14.joints]
    return np.array(values)


def at(frame: LiftedFrame, t_s: float, **change: Any) -> LiftedFrame:
    return replace(frame, t_ns=round(t_s * 1e9), **change)


def truth(frames: Iterable[LiftedFrame], person: int = 0) -> Float64:
    return np.stack([f.xyz[f.ids.index(person)] for f in frames]).astype(np.float64)


@contextmanager
def full_disk(most: int) -> Iterator[None]:
    """No file of this process grows beyond `most` bytes: the kernel writes what fits and then refuses."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def is_sink(sink: Sink) -> Sink:
    return sink


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_lifted_is_in_the_file(tmp_path: Path, suffix: str) -> None:
    frames = lifted_frames(40)
    path = tmp_path / "new" / f"take{suffix}"
    sink = is_sink(FileSink(str(path)))
    with sink:
        for frame in frames:
            sink.write(frame)
        assert not path.exists()
    assert (sink.lost, sink.name) == (0, str(path))
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    # the swaying figure's bones stretch, and BVH's do not: the next test but one
    if suffix != ".bvh":
        np.testing.assert_allclose(poses_of(path), truth(frames), rtol=0, atol=1.1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_suffix_may_be_in_capitals(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"take{suffix.upper()}", lifted_frames(3))
    assert [p.name for p in tmp_path.iterdir()] == [f"take{suffix.upper()}"]


@pytest.mark.parametrize("suffix", PERSONAL)
def test_real_motion_comes_back(tmp_path: Path, shared: Path, suffix: str) -> None:
    clip = load_motion(shared / "mocap" / "cmu17.npz", "test")[0]
    poses = convert_poses(clip.poses, clip.skeleton, COMMON14).astype(np.float32)
    step = round(1e9 / clip.fps)
    first = lifted()
    frames = [replace(first, seq=n, t_ns=n * step, xyz=pose[None]) for n, pose in enumerate(poses)]
    write(tmp_path / f"take{suffix}", frames)
    again = poses_of(tmp_path / f"take{suffix}")
    assert angles(directions(again, COMMON14), directions(truth(frames), COMMON14)).max() < 1e-4
    np.testing.assert_allclose(again[:, 0], truth(frames)[:, 0], rtol=0, atol=1e-5)
    if suffix != ".bvh":
        np.testing.assert_allclose(again, truth(frames), rtol=0, atol=1e-5)


def test_csv_has_a_row_for_everybody_in_every_frame(tmp_path: Path) -> None:
    frames = [
        at(lifted(0, (3, 7)), 1_700_000_000.123456789, stream='left, "far"'),
        at(lifted(1, ()), 1_700_000_000.2),
        at(lifted(2, (7,)), 1_700_000_000.1),  # the clock went back: kept
        at(lifted(3, (7,), world=True), -0.25),
    ]
    frames[0] = replace(frames[0], t_ns=1_700_000_000_123_456_789)
    write(tmp_path / "take.csv", frames)
    rows = table(tmp_path / "take.csv")
    assert [(r["seq"], r["t_s"], r["stream"], r["person"], r["frame"]) for r in rows] == [
        ("0", "1700000000.123456789", 'left, "far"', "3", "world"),
        ("0", "1700000000.123456789", 'left, "far"', "7", "world"),
        ("2", "1700000000.100000000", "cam_01", "7", "world"),
        ("3", "-0.250000000", "cam_01", "7", "world"),
    ]
    assert list(rows[0])[:9] == [
        "seq", "t_s", "stream", "person", "frame", "mid_hip_x_m", "mid_hip_y_m", "mid_hip_z_m", "mid_hip_conf",
    ]  # fmt: skip
    np.testing.assert_allclose(cells(rows[1])[:, :3], frames[0].xyz[1], rtol=0, atol=6e-6)
    np.testing.assert_allclose(cells(rows[1])[:, 3], 0.9, rtol=0, atol=1e-4)


def test_npz_holds_everybody_exactly(tmp_path: Path) -> None:
    frames = [lifted(0, (3, 7)), lifted(1, ()), replace(lifted(2, (7,)), stream="cam_02", t_ns=5)]
    write(tmp_path / "take.npz", frames)
    arrays = load(tmp_path / "take.npz")
    assert arrays["seq"].tolist() == [0, 0, 2]
    assert arrays["t_ns"].tolist() == [0, 0, 5]
    assert arrays["person"].tolist() == [3, 7, 7]
    assert arrays["streams"][arrays["stream"]].tolist() == ["cam_01", "cam_01", "cam_02"]
    assert arrays["xyz"].dtype == arrays["conf"].dtype == np.float32
    np.testing.assert_array_equal(arrays["xyz"], np.concatenate([f.xyz for f in frames]))
    np.testing.assert_array_equal(arrays["conf"], np.concatenate([f.conf for f in frames]))
    assert [str(arrays[name]) for name in ("skeleton", "frame", "units")] == ["common14", "world", "m"]
    assert tuple(arrays["joints"]) == COMMON14.joints


def test_trc_keeps_the_true_times_and_shows_who_is_absent(tmp_path: Path) -> None:
    times = [0.1, 0.15, 0.2, 0.31, 0.36, 0.5]
    who = [(3,), (3, 7), (7,), (), (3, 7), (7,)]
    frames = [at(lifted(n, ids), t) for n, (t, ids) in enumerate(zip(times, who, strict=True))]
    notes = write(tmp_path / "take.trc", frames)
    assert {p.name for p in tmp_path.iterdir()} == {"take_id3.trc", "take_id7.trc"}
    for person, seen in ((3, slice(0, 5)), (7, slice(1, 6))):
        poses, seconds, names = read_trc(tmp_path / f"take_id{person}.trc")
        np.testing.assert_allclose(seconds, times[seen], rtol=0, atol=1e-9)
        assert names == COMMON14.joints
        for pose, frame in zip(poses, frames[seen], strict=True):
            expected = truth([frame], person)[0] if person in frame.ids else np.full((14, 3), np.nan)
            np.testing.assert_allclose(pose, expected, rtol=0, atol=1e-6)
    assert notes == [
        "take_id3.trc: 5 frames from 0.100 s, empty cells in 2 of them",
        "take_id7.trc: 5 frames from 0.150 s, empty cells in 1 of them",
    ]


def jittered() -> tuple[list[LiftedFrame], Float64]:
    """Sixty frames about 50 ms apart, of which some are lost: three in a row at 1 s, ten in a row at 2 s."""
    rng = np.random.default_rng(1)
    times = np.cumsum(np.r_[0.4, 0.05 + rng.uniform(-0.01, 0.01, 59)])
    kept = [n for n in range(60) if n not in (8, 20, 21, 22, *range(40, 50))]
    return [at(lifted(n), times[n]) for n in kept], times[kept]


@pytest.mark.parametrize("suffix", [".c3d", ".bvh"])
def test_a_fixed_rate_is_interpolated_in_time_and_gaps_stay(tmp_path: Path, suffix: str) -> None:
    frames, times = jittered()
    # moving evenly, so that interpolation is exact, and stiffly, so that BVH shows every joint where it is
    still, speed = lifted().xyz, np.array([1, -2, 0.5])
    frames = [replace(f, xyz=(still + t * speed).astype(np.float32)) for f, t in zip(frames, times, strict=True)]
    notes = write(tmp_path / f"take{suffix}", frames)
    step = np.median(np.diff(times))
    grid = times[-1] - step * np.arange(int((times[-1] - times[0]) / step), -1, -1)
    after = np.searchsorted(times, grid - 1e-6)
    gap = times[after] - times[np.maximum(after - 1, 0)] > 0.25
    gap &= np.abs(times[after] - grid) > 1e-4
    assert 8 < gap.sum() < 12
    path = tmp_path / f"take{suffix}"
    rate = read_c3d(path).reader.point_rate if suffix == ".c3d" else 1 / read_bvh(path).interval_s
    assert rate == pytest.approx(1 / step, rel=1e-5)
    expected = still[0] + grid[:, None, None] * speed
    again = poses_of(path)
    assert len(again) == len(grid)
    # a frame 0.1 ms off the grid stands for it: 0.24 mm at 2.3 m/s
    np.testing.assert_allclose(again[~gap], expected[~gap], rtol=0, atol=2.5e-4)
    if suffix == ".c3d":
        assert np.isnan(again[gap]).all()
    else:
        before = np.flatnonzero(~gap)[np.flatnonzero(~gap) < np.flatnonzero(gap)[0]][-1]
        np.testing.assert_allclose(again[gap], np.repeat(expected[[before]], gap.sum(), axis=0), rtol=0, atol=2.5e-4)
        assert f"{gap.sum()} of them in gaps" in notes[0]
        assert "twisted" in notes[1]
    assert f"from {grid[0]:.3f} s" in notes[0]


@pytest.mark.parametrize("suffix", PERSONAL)
def test_a_clock_that_jumps_back_costs_the_frames_until_it_catches_up(tmp_path: Path, suffix: str) -> None:
    times = [0.0, 0.05, 0.1, 0.15, 0.05, 0.1, 0.15, 0.2, 0.25]
    frames = [at(lifted(n), t) for n, t in enumerate(times)]
    notes = write(tmp_path / f"take{suffix}", frames)
    rising = frames[:4] + frames[7:]
    again = poses_of(tmp_path / f"take{suffix}")
    np.testing.assert_allclose(again[:, 0], truth(rising)[:, 0], rtol=0, atol=1e-5)
    assert any(note.startswith("3 poses left out") for note in notes)


def test_a_clock_that_jumps_far_ahead_is_not_a_file_of_years(tmp_path: Path) -> None:
    frames = [*lifted_frames(5), at(lifted(5), 1e9)]
    with pytest.raises(EdgeliftError, match="frames at most"):
        write(tmp_path / "take.c3d", frames)
    assert len(np.load(tmp_path / "take.c3d.rows.npy")) == 6


@pytest.mark.parametrize("suffix", PERSONAL)
def test_a_cameras_frame_is_stood_upright(tmp_path: Path, suffix: str) -> None:
    frames = [lifted(n, world=False) for n in range(10)]
    notes = write(tmp_path / f"take{suffix}", frames)
    x, y, z = np.moveaxis(truth(frames), -1, 0)  # right, down, forward
    expected = np.stack([x, z, -y], -1)
    again = poses_of(tmp_path / f"take{suffix}")
    atol = 1e-5 if suffix != ".bvh" else 0.15  # its bones stretch
    np.testing.assert_allclose(again, expected, rtol=0, atol=atol)
    assert angles(directions(again, COMMON14), directions(expected, COMMON14)).max() < 1e-4
    head = [COMMON14.joints.index(n) for n in ("mid_shoulder", "left_ankle")]
    assert (again[:, head[0], 2] > again[:, head[1], 2]).all()
    assert any("upright" in note for note in notes)


@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_tables_keep_the_cameras_frame(tmp_path: Path, suffix: str) -> None:
    frames = [lifted(n, world=False) for n in range(3)]
    write(tmp_path / f"take{suffix}", frames)
    np.testing.assert_allclose(poses_of(tmp_path / f"take{suffix}"), truth(frames), rtol=0, atol=6e-6)


@pytest.mark.parametrize(
    ("streams", "names"),
    [
        (("cam_01", "cam_02"), {"take_cam_01_id0.trc", "take_cam_02_id0.trc"}),
        (("hall/a", "hall_a"), {"take_hall_a_0_id0.trc", "take_hall_a_1_id0.trc"}),
    ],
)
def test_streams_are_takes_of_their_own(tmp_path: Path, streams: tuple[str, str], names: set[str]) -> None:
    frames = [replace(lifted(n), stream=streams[n % 2], xyz=lifted(n).xyz + n % 2) for n in range(20)]
    write(tmp_path / "take.trc", frames)
    assert {p.name for p in tmp_path.iterdir()} == names
    for odd, name in enumerate(sorted(names)):
        poses, seconds, _ = read_trc(tmp_path / name)
        np.testing.assert_allclose(poses, truth(frames[odd::2]), rtol=0, atol=1e-6)
        np.testing.assert_allclose(seconds, [f.t_ns * 1e-9 for f in frames[odd::2]], rtol=0, atol=1e-6)


def test_who_was_seen_once_has_no_file(tmp_path: Path) -> None:
    frames = [lifted(n, (0, 5) if n == 4 else (0,)) for n in range(8)]
    notes = write(tmp_path / "take.trc", frames)
    assert [p.name for p in tmp_path.iterdir()] == ["take.trc"]
    assert "no file for who was seen in one frame only: id 5" in notes


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_without_a_frame_what_is_there_stays(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"take{suffix}").write_text("older")
    notes = write(tmp_path / f"take{suffix}", [])
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(f"take{suffix}", "older")]
    assert "no frame came" in notes[0]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_frames_of_nobody(tmp_path: Path, suffix: str) -> None:
    notes = write(tmp_path / f"take{suffix}", lifted_frames(4, ids=()))
    if suffix in PERSONAL:
        assert not list(tmp_path.iterdir())
        assert notes == ["nobody was seen, no file was written"]
    elif suffix == ".npz":
        assert load(tmp_path / "take.npz")["xyz"].shape == (0, 14, 3)
    else:
        assert table(tmp_path / "take.csv") == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("end", [KeyboardInterrupt, RuntimeError, EdgeliftError])
def test_however_the_stream_ends(tmp_path: Path, suffix: str, end: type[BaseException]) -> None:
    path = tmp_path / f"take{suffix}"
    path.write_text("older")

    def stream() -> Iterator[LiftedFrame]:
        yield from lifted_frames(12)
        raise end("a", "b", "c", "d")

    with pytest.raises(end):
        write(path, stream())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    np.testing.assert_allclose(poses_of(path)[:, 0], truth(lifted_frames(12))[:, 0], rtol=0, atol=1.1e-5)


def test_a_full_disk_costs_the_frames_that_do_not_fit(tmp_path: Path) -> None:
    frames = lifted_frames(30, ids=(0, 1))
    with FileSink(str(tmp_path / "take.npz")) as sink:
        for frame in frames[:10]:
            sink.write(frame)
        [spool] = tmp_path.iterdir()
        size = spool.stat().st_size
        with full_disk(size + 300):  # room for one row and a part of the next
            for frame in frames[10:15]:
                with pytest.raises(OSError, match="too large"):
                    sink.write(frame)
                assert spool.stat().st_size == size
        for frame in frames[15:]:
            sink.write(frame)
    assert sink.lost == 5
    kept = frames[:10] + frames[15:]
    arrays = load(tmp_path / "take.npz")
    np.testing.assert_array_equal(arrays["xyz"], np.concatenate([f.xyz for f in kept]))
    assert arrays["seq"].tolist() == [f.seq for f in kept for _ in f.ids]


def test_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    frames = lifted_frames(4)
    with FileSink(str(tmp_path / "take.npz")) as sink:
        with full_disk(20), pytest.raises(OSError, match="too large"):
            sink.write(frames[0])
        for frame in frames[1:]:
            sink.write(frame)
    assert load(tmp_path / "take.npz")["seq"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_room_for_the_file_keeps_the_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"take{suffix}"
    path.write_text("older")
    frames = lifted_frames(8)
    sink = FileSink(str(path))
    sink.__enter__()
    for frame in frames:
        sink.write(frame)
    with full_disk(600), pytest.raises(EdgeliftError, match=r"take\.\w+\.rows\.npy"):
        sink.__exit__(None, None, None)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, f"{path.name}.rows.npy"}
    assert path.read_text() == "older"
    rows = np.load(tmp_path / f"{path.name}.rows.npy", allow_pickle=False)
    np.testing.assert_array_equal(rows["xyz"], truth(frames).astype(np.float32))
    assert rows["t_ns"].tolist() == [n * FRAME_NS for n in range(8)]


def test_an_interrupted_end_keeps_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    sink = FileSink(str(tmp_path / "take.csv"))
    sink.__enter__()
    sink.write(lifted())
    monkeypatch.setattr("edgelift.runtime.sinks.files._seconds", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sink.__exit__(None, None, None)
    assert [p.name for p in tmp_path.iterdir()] == ["take.csv.rows.npy"]
    assert len(np.load(tmp_path / "take.csv.rows.npy")) == 1


def test_another_skeleton_ends_the_stream_and_keeps_what_was(tmp_path: Path) -> None:
    other = skeleton("h36m17")
    odd = replace(lifted(4), skeleton=other, xyz=np.zeros((1, 17, 3), np.float32), conf=np.zeros((1, 17), np.float32))
    for stranger in (odd, lifted(4, world=False)):
        with pytest.raises(EdgeliftError, match="as before"):
            write(tmp_path / "take.npz", [*lifted_frames(4), stranger])
        assert len(load(tmp_path / "take.npz")["xyz"]) == 4


def test_an_unknown_suffix_lists_the_known_ones() -> None:
    with pytest.raises(EdgeliftError, match=r"\.trc, \.c3d, \.bvh, \.csv, \.npz"):
        FileSink("take.fbx")


def test_what_cannot_be_opened_is_told_before_the_first_frame(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.trc").mkdir()
    with pytest.raises(OSError, match="file"):
        FileSink(str(tmp_path / "file" / "take.trc")).__enter__()
    with pytest.raises(EdgeliftError, match="folder"):
        FileSink(str(tmp_path / "folder.trc")).__enter__()


def test_a_missing_package_is_told_before_the_first_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "c3d", None)
    with pytest.raises(EdgeliftError, match=r"edgelift\[files\]"):
        FileSink(str(tmp_path / "take.c3d")).__enter__()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("suffix", "most_mb"), [(".trc", 4), (".c3d", 3), (".bvh", 9), (".csv", 5), (".npz", 1)])
def test_a_long_stream_takes_no_memory(tmp_path: Path, suffix: str, most_mb: float) -> None:
    """Nor does writing the file at the end: 10,000 frames are 20 MB as Python's numbers."""
    frames = lifted_frames(50)
    sink = FileSink(str(tmp_path / f"take{suffix}"))
    sink.__enter__()
    for n in range(50):
        sink.write(replace(frames[n], t_ns=n * FRAME_NS))
    tracemalloc.start()
    try:
        for n in range(50, 10_000):
            sink.write(replace(frames[n % 50], t_ns=n * FRAME_NS))
        assert tracemalloc.get_traced_memory()[0] < 50_000
        sink.__exit__(None, None, None)
        assert tracemalloc.get_traced_memory()[1] < most_mb * 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".c3d", ".bvh"])
def test_a_slow_stream_has_its_poses(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    frames = [replace(f, t_ns=int(3e8 * f.seq + rng.uniform(-3e7, 3e7))) for f in lifted_frames(19)]
    path = tmp_path / f"take{suffix}"
    notes = write(path, frames)
    assert np.isfinite(poses_of(path)).all()
    assert not [note for note in notes if "gaps" in note]


def test_what_a_killed_process_left_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "take.csv"
    killed = FileSink(str(path))
    killed.__enter__()
    for frame in lifted_frames(7):
        killed.write(frame)
    spool = tmp_path / ".take.csv.spool"
    with spool.open("ab") as file:
        file.write(b"half a row")
    notes = write(path, lifted_frames(3))
    assert "killed" in notes[0]
    assert np.load(tmp_path / "take.csv.rows.npy")["seq"].tolist() == list(range(7))
    assert killed._spool._file is not None
    killed._spool._file.close()
