from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.frames import LiftedFrame, Sink
from edgelift.runtime.sinks import rerun as module
from edgelift.runtime.sinks.rerun import RerunSink

from .live import COMMON14, FRAME_NS, lifted, lifted_frames
from .test_sink_files import full_disk

pytest.importorskip("rerun")
Row = dict[str, Any]


def read(path: Path) -> dict[str, list[Row]]:
    """The rows of each entity, by Rerun's own reader; times as integers."""
    from rerun.chunk import RrdReader

    pa = pytest.importorskip("pyarrow")  # it ships no types
    found: dict[str, list[Row]] = {}
    for chunk in RrdReader(path).stream():
        batch = chunk.to_record_batch()
        plain = [c.cast(pa.int64()) if pa.types.is_temporal(c.type) else c for c in batch.columns]
        rows = pa.RecordBatch.from_arrays(plain, names=batch.schema.names).to_pylist()
        found.setdefault(chunk.entity_path, []).extend(rows)
    return found


def by_seq(rows: list[Row], column: str) -> dict[int, Any]:
    """The values of a column, static ones left out."""
    return {row["seq"]: row[column] for row in rows if row.get(column) is not None and "seq" in row}


def static(rows: list[Row], column: str) -> list[Any]:
    return [row[column] for row in rows if row.get(column) is not None and "seq" not in row]


def write(path: Path, frames: list[LiftedFrame]) -> RerunSink:
    sink = RerunSink(str(path))
    is_sink: Sink = sink
    with is_sink:
        for frame in frames:
            sink.write(frame)
        assert not path.exists()
    return sink


def array(value: Any) -> NDArray[np.float64]:
    return np.array(value, dtype=np.float64)


def test_a_recording_holds_every_frame(tmp_path: Path) -> None:
    frames = lifted_frames(50)
    sink = write(tmp_path / "new" / "take.rrd", frames)
    assert (sink.lost, sink.notes) == (0, [])
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["take.rrd"]
    entities = read(tmp_path / "new" / "take.rrd")
    assert set(entities) == {
        "/", "/__properties", "/poses/cam_01", "/poses/cam_01/0", "/views/cam_01/0", "/views/cam_01/0/bones",
        "/latency_ms/cam_01",
    }  # fmt: skip
    poses = by_seq(entities["/poses/cam_01/0"], "Points3D:positions")
    assert list(poses) == list(range(50))
    np.testing.assert_array_equal(array(list(poses.values())), [f.xyz[0] for f in frames])
    pixels = by_seq(entities["/views/cam_01/0"], "Points2D:positions")
    np.testing.assert_array_equal(array(pixels[7]), frames[7].views[0].keypoints[0, :, :2])
    latency = by_seq(entities["/latency_ms/cam_01"], "Scalars:scalars")
    assert latency[3] == list(frames[3].latency_ms.values())
    assert static(entities["/latency_ms/cam_01"], "SeriesLines:names") == [list(frames[0].latency_ms)]


def test_bones_names_and_axes_are_told_once(tmp_path: Path) -> None:
    for world, axes in ((True, [3, 5, 1]), (False, [3, 2, 5])):  # right, forward, up; right, down, forward
        path = tmp_path / f"{world}.rrd"
        write(path, [lifted(n, world=world) for n in range(5)])
        entities = read(path)
        assert static(entities["/poses/cam_01"], "ViewCoordinates:xyz") == [[axes]]
        assert static(entities["/poses/cam_01/0"], "Points3D:keypoint_ids") == [list(range(14))]
        [[context]] = static(entities["/"], "AnnotationContext:context")
        body, seen = (entry["class_description"] for entry in context)
        assert [(p["keypoint0"], p["keypoint1"]) for p in body["keypoint_connections"]] == list(COMMON14.bones)
        assert [k["label"] for k in body["keypoint_annotations"]] == list(COMMON14.joints)
        assert seen["keypoint_connections"] == []


@pytest.mark.parametrize(("clock", "kind"), [("recording", "timedelta"), ("unix", "datetime")])
def test_time_is_the_sources(tmp_path: Path, clock: str, kind: str) -> None:
    from rerun.chunk import RrdReader

    start = 1_700_000_000_123_456_789
    frames = [replace(f, t_ns=start + f.t_ns, clock=clock) for f in lifted_frames(5)]
    write(tmp_path / "take.rrd", frames)
    [chunk] = [c for c in RrdReader(tmp_path / "take.rrd").stream() if c.entity_path == "/views/cam_01/0"]
    times = chunk.to_record_batch().column("time").to_numpy(zero_copy_only=False)
    assert times.dtype == np.dtype(f"{kind}64[ns]")
    np.testing.assert_array_equal(times.astype(np.int64), start + FRAME_NS * np.arange(5))


def test_who_leaves_is_cleared(tmp_path: Path) -> None:
    write(tmp_path / "take.rrd", [lifted(n, (3, 7) if n < 4 else (7,)) for n in range(8)])
    entities = read(tmp_path / "take.rrd")
    for room in ("poses", "views"):
        gone, stays = entities[f"/{room}/cam_01/3"], entities[f"/{room}/cam_01/7"]
        points = f"Points{3 if room == 'poses' else 2}D:positions"
        assert by_seq(gone, "Clear:is_recursive") == {4: [True]}
        assert list(by_seq(gone, points)) == list(range(4))
        assert by_seq(stays, "Clear:is_recursive") == {}
        assert list(by_seq(stays, points)) == list(range(8))


def test_missing_keypoints_have_no_bones(tmp_path: Path) -> None:
    frame = lifted()
    view = replace(frame.views[0], keypoints=frame.views[0].keypoints.copy())
    elbow = COMMON14.joints.index("left_elbow")
    view.keypoints[0, elbow] = (np.nan, np.nan, 0)
    write(tmp_path / "take.rrd", [replace(frame, views=(view,))])
    entities = read(tmp_path / "take.rrd")
    seen = [j for j in range(14) if j != elbow]
    assert by_seq(entities["/views/cam_01/0"], "Points2D:keypoint_ids") == {0: seen}
    strips = by_seq(entities["/views/cam_01/0/bones"], "LineStrips2D:strips")[0]
    kept = [(p, c) for p, c in COMMON14.bones if elbow not in (p, c)]
    np.testing.assert_array_equal(array(strips), [view.keypoints[0, list(bone), :2] for bone in kept])


@pytest.mark.parametrize("end", [KeyboardInterrupt, RuntimeError])
def test_however_the_stream_ends(tmp_path: Path, end: type[BaseException]) -> None:
    path = tmp_path / "take.rrd"
    path.write_text("older")
    sink = RerunSink(str(path))

    def stream() -> None:
        with sink:
            for frame in lifted_frames(10):
                sink.write(frame)
            raise end

    with pytest.raises(end):
        stream()
    assert by_seq(read(path)["/poses/cam_01/0"], "Points3D:positions").keys() == set(range(10))


def test_frames_that_find_no_room_in_the_queue_are_lost_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING", 0)
    sink = write(tmp_path / "take.rrd", lifted_frames(5))
    assert sink.lost == 5


def test_a_full_disk_costs_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE_S", 0)  # every frame is put on the disk as it comes
    monkeypatch.setattr(module, "WAITING", 10**6)
    path, written = tmp_path / "take.rrd", 30
    told: list[str] = []
    with RerunSink(str(path)) as sink:
        for n in range(30):
            sink.write(lifted(n))
        with full_disk(1000):  # a part of a piece fits
            deadline = time.monotonic() + 60
            while len(told) < 3:
                assert time.monotonic() < deadline
                try:
                    sink.write(lifted(written % 100))
                except OSError as error:
                    told.append(str(error))
                written += 1
        for n in range(200, 230):
            try:
                sink.write(replace(lifted(), seq=n))
            except OSError as error:
                told.append(str(error))
    assert all("too large" in what for what in told)
    entities = read(path)
    kept = by_seq(entities["/poses/cam_01/0"], "Points3D:positions")
    rows = [row for row in entities["/poses/cam_01/0"] if row.get("Points3D:positions") is not None]
    assert len(rows) + sink.lost == written + 30
    assert sink.lost >= 3
    assert set(range(220, 230)) <= set(kept)
    # what is said once was said again
    assert static(entities["/poses/cam_01/0"], "Points3D:keypoint_ids")[-1] == list(range(14))
    assert static(entities["/"], "AnnotationContext:context")
    assert sink.notes == [f"{path}: {sink.lost} frames are missing"]
    assert [p.name for p in tmp_path.iterdir()] == ["take.rrd"]


def test_no_room_for_the_file_keeps_the_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE_S", 0)
    path = tmp_path / "take.rrd"
    path.write_text("older")
    sink = RerunSink(str(path))
    sink.__enter__()
    for frame in lifted_frames(20):
        sink.write(frame)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / ".take.rrd.parts").iterdir())) < 20:
        assert time.monotonic() < deadline
    with full_disk(1000), pytest.raises(EdgeliftError, match=r"take\.rrd\.parts"):
        sink.__exit__(None, None, None)
    assert path.read_text() == "older"
    assert {p.name for p in tmp_path.iterdir()} == {"take.rrd", "take.rrd.parts"}
    pieces = [read(piece) for piece in sorted((tmp_path / "take.rrd.parts").iterdir())]
    seen = [seq for piece in pieces for seq in by_seq(piece["/poses/cam_01/0"], "Points3D:positions")]
    assert seen == list(range(20))


def test_without_a_frame_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "take.rrd").write_text("older")
    with RerunSink(str(tmp_path / "take.rrd")) as sink:
        pass
    assert "no frame came" in sink.notes[0]
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("take.rrd", "older")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listening(port: int) -> list[str]:
    """The addresses, as the kernel writes them, at which something listens on a port."""
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, number = local.partition(":")
            if int(number, 16) == port and state == "0A":
                found.append(address)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/net/tcp")
def test_viewers_are_served_on_loopback_alone() -> None:
    port = free_port()
    with RerunSink(f"rerun://127.0.0.1:{port}") as sink:
        assert listening(port) == ["0100007F"]
        for frame in lifted_frames(20):
            sink.write(frame)
    assert sink.lost == 0
    deadline = time.monotonic() + 30  # the server goes in its own time
    while listening(port):
        assert time.monotonic() < deadline


def test_a_port_in_use_is_told_before_the_first_frame() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EdgeliftError, match="in use"):
            RerunSink(f"rerun://127.0.0.1:{port}").__enter__()


def test_what_cannot_be_opened_is_told_before_the_first_frame(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.rrd").mkdir()
    with pytest.raises(OSError, match="file"):
        RerunSink(str(tmp_path / "file" / "take.rrd")).__enter__()
    with pytest.raises(EdgeliftError, match="folder"):
        RerunSink(str(tmp_path / "folder.rrd")).__enter__()


def test_a_missing_package_is_told_before_the_first_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(EdgeliftError, match=r"edgelift\[view\]"):
        RerunSink(str(tmp_path / "take.rrd")).__enter__()


def test_a_switched_off_sdk_is_told_before_the_first_frame(tmp_path: Path) -> None:
    """RERUN=off makes every call of it do nothing: a recording of nothing would take the place of an older one."""
    code = "from edgelift.runtime.sinks.rerun import RerunSink\nRerunSink('take.rrd').__enter__()"
    env = os.environ | {"RERUN": "off"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, env=env
    )
    assert "EdgeliftError: environment variable RERUN" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_sdk_counts_nobody(tmp_path: Path) -> None:
    """Rerun's usage data begins with a file in the home folder; logging and serving make none."""
    code = f"""
import sys
from edgelift.runtime.sinks.rerun import RerunSink
from edgelift.tests.live import lifted
for target in ("take.rrd", "rerun://127.0.0.1:{free_port()}"):
    with RerunSink(target) as sink:
        sink.write(lifted())
"""
    home = tmp_path / "home"
    home.mkdir()
    homes = {name: str(home) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=os.environ | homes)
    assert (tmp_path / "take.rrd").is_file()
    assert not list(home.rglob("*"))
