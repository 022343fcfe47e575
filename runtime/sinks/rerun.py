"""Poses for the Rerun viewer: to a recording (`x.rrd`), or served to viewers that connect (`rerun://HOST:PORT`).

Rerun's API changes between minor versions, so all calls of it are here. The SDK sends no usage data (the viewer, and
the `rerun` command, do unless told otherwise).

Entities: poses/STREAM/ID, joints in metres, and their bones by the annotation context; views/STREAM/ID, and its bones,
the 2D input in pixels; latency_ms/STREAM. Timelines: `seq`, and `time`, a date where the source's clock tells one.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError, missing_extra
from edgelift.poses.files import replaced, unused
from edgelift.poses.skeletons import Skeleton
from edgelift.runtime.address import Address, parse_address
from edgelift.runtime.frames import LiftedFrame, Seen

if TYPE_CHECKING:
    import rerun as rr
    from rerun.chunk import Chunk

APPLICATION = "edgelift"
WAITING = 64  # frames that may wait to be logged: what comes on top is lost, the loop does not wait
SETTLE_S = (
    10.0  # so often what was logged is put on the disk: a process that is killed, or a full disk, costs this much
)
LIVE_S = 0.008  # between what is logged and what a viewer is sent
SERVER_MEMORY = "256MiB"  # of what passed, kept for a viewer that connects later; then the oldest goes
PATIENCE_S = 30.0  # for Rerun to encode what is left
_DATED = ("unix", "ptp")  # clocks that count from 1970


class RerunSink:
    """A recording that is written, or a server that Rerun viewers connect to.

    Frames are logged by a thread of their own: that takes longer than lifting them. lost: frames for which there was no
    room, in its queue or on the disk; a full disk is told by the next `write`. notes: after the end, what a reader
    should know. A recording lies in pieces in `.NAME.parts` until the sink closes, however the stream ended.
    """

    def __init__(self, target: str) -> None:
        self.name = target
        self.lost = 0
        self.notes: list[str] = []
        self.address = parse_address(target, ("rerun",)) if "://" in target else None
        self._queue: SimpleQueue[LiftedFrame | None] = SimpleQueue()
        self._failures: SimpleQueue[tuple[str, int]] = SimpleQueue()  # what went wrong, and the frames it cost
        self._thread = Thread(target=self._work, name="rerun", daemon=True)
        self._way: _Parts | _Server
        self._log: _Log

    def __enter__(self) -> RerunSink:
        try:
            import rerun as rr
        except ModuleNotFoundError as error:
            raise missing_extra("rerun", "view") from error
        # a tick of 0 keeps a core busy for as long as the process lives
        batches = rr.ChunkBatcherConfig(flush_tick=LIVE_S if self.address else max(SETTLE_S, LIVE_S))
        recording = rr.RecordingStream(APPLICATION, batcher_config=batches)
        if not rr.is_enabled(recording):
            raise EdgeliftError("environment variable RERUN", "off", "on, or none", f"Without it --sink {self.name}.")
        self._way = _Server(recording, self.address) if self.address else _Parts(recording, Path(self.name))
        self._log = _Log(recording)
        self._thread.start()
        return self

    def write(self, lifted: LiftedFrame) -> None:
        """Hand one frame to the thread; OSError, once each, for what went wrong there (a full disk)."""
        failure = self._failed()
        if failure is not None:
            self.lost += 1
            raise OSError(failure)
        if self._queue.qsize() >= WAITING:
            self.lost += 1
            return
        self._queue.put(lifted)

    def __exit__(self, *exception: object) -> None:
        self._queue.put(None)
        self._thread.join()
        self._failed()
        if self.lost:
            self.notes.append(f"{self.name}: {self.lost} frames are missing")
        self.notes += self._way.finish()

    def _failed(self) -> str | None:
        """What went wrong last since this was asked, its frames counted; None for nothing."""
        failure = None
        while not self._failures.empty():
            failure, frames = self._failures.get()
            self.lost += frames
        return failure

    def _work(self) -> None:
        """The thread: log what is in the queue until it ends."""
        unsettled, settled_at = 0, monotonic()
        while True:
            lifted = self._queue.get()
            if lifted is not None:
                try:
                    self._log.frame(lifted)
                    unsettled += 1
                except Exception as error:  # whatever Rerun raises: the loop goes on without it
                    self._failures.put((f"{type(error).__name__}: {error}", 1))
            if unsettled and (lifted is None or monotonic() - settled_at > SETTLE_S):
                try:
                    self._way.settle()
                except (OSError, RuntimeError) as error:
                    self._failures.put((str(error), unsettled))
                    self._log.forget()
                unsettled, settled_at = 0, monotonic()
            if lifted is None:
                return


def _kept(path: Path) -> Path:
    return path.with_name(f"{path.name}.parts")


class _Parts:
    """A recording in pieces, each a whole .rrd, which become one at the end.

    Not Rerun's own file sink: where the disk is full, that one loses all that follows and may never close.
    """

    def __init__(self, recording: rr.RecordingStream, path: Path) -> None:
        import rerun as rr

        if path.is_dir():
            raise EdgeliftError(f"--sink {path}", "a folder", "a file's name", "Choose another one.")
        self.path = path
        self.folder = path.with_name(f".{path.name}.parts")
        self.count = 0
        self.notes: list[str] = []
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
        elif self.folder.is_dir():
            kept = unused(_kept(path))
            self.folder.rename(kept)
            self.notes.append(f"{kept}: what a process that was killed left")
        self.folder.mkdir(parents=True)
        self.recording = recording
        self.stream = rr.binary_stream(recording)

    def settle(self) -> None:
        """Write what was logged as a piece; OSError: it is lost."""
        piece = self._piece(self.count)
        data = self.stream.read(flush_timeout_sec=PATIENCE_S) or b""
        try:
            piece.write_bytes(data)
        except OSError:
            piece.unlink(missing_ok=True)
            raise
        self.count += 1

    def finish(self) -> list[str]:
        """Make one file of the pieces; EdgeliftError where that fails says where they are."""
        from rerun.chunk import LazyChunkStream

        self.recording.disconnect()
        if not self.count:
            self.folder.rmdir()
            return [*self.notes, f"{self.path}: no frame came, no file was written"]
        try:
            with replaced(self.path) as temporary:
                number = self.recording.get_recording_id() or APPLICATION
                stream = LazyChunkStream.from_iter(self._chunks())
                stream.write_rrd(temporary, application_id=APPLICATION, recording_id=number)
        except BaseException as error:
            kept = unused(_kept(self.path))
            self.folder.rename(kept)
            if not isinstance(error, Exception):
                raise
            raise EdgeliftError(
                f"--sink {self.path}", str(error), "a file that can be written",
                f"Nothing is lost: it is in {kept}, in files that the viewer opens.",
            ) from error  # fmt: skip
        shutil.rmtree(self.folder)
        return self.notes

    def _piece(self, number: int) -> Path:
        return self.folder / f"{number:06d}.rrd"

    def _chunks(self) -> Iterator[Chunk]:
        from rerun.chunk import RrdReader

        for number in range(self.count):  # one at a time: hours are thousands of files
            yield from RrdReader(self._piece(number)).stream()


class _Server:
    """A server for viewers, on one address alone: what is simplest in Rerun's API listens on all of them."""

    def __init__(self, recording: rr.RecordingStream, address: Address) -> None:
        import rerun as rr

        subject, wanted = f"--sink {address.text}", "a free port of this machine"
        try:
            family, kind, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind) as probe:  # Rerun's server tells only its own log why it did not start
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
        except OSError as error:
            raise EdgeliftError(subject, error.strerror or str(error), wanted, "Choose another one.") from error
        ip = f"[{place[0]}]" if family == socket.AF_INET6 else str(place[0])
        self.recording = recording
        recording.set_sinks(rr.GrpcServerSink(bind_ip=ip, port=address.port, server_memory_limit=SERVER_MEMORY))
        try:
            self.settle()
        except RuntimeError as error:
            raise EdgeliftError(subject, str(error), wanted, "Choose another one.") from error

    def settle(self) -> None:
        """Hand on what was logged; RuntimeError where the server has died."""
        self.recording.flush(timeout_sec=PATIENCE_S)

    def finish(self) -> list[str]:
        """Stop serving."""
        self.recording.disconnect()
        return []


class _Log:
    """Frames as Rerun's entities. What never changes about a person is logged once; who is gone is cleared."""

    def __init__(self, recording: rr.RecordingStream) -> None:
        import rerun as rr

        self.rr = rr
        self.recording = recording
        self.known: set[tuple[str, ...]] = set()
        self.shown: dict[tuple[str, str], set[int]] = {}
        self.latencies: dict[str, tuple[str, ...]] = {}

    def frame(self, lifted: LiftedFrame) -> None:
        """Log one frame."""
        self._begin(lifted)
        time_ns = np.timedelta64(lifted.t_ns, "ns")
        self.recording.set_time("seq", sequence=lifted.seq)
        if lifted.clock in _DATED:
            self.recording.set_time("time", timestamp=np.datetime64(0, "ns") + time_ns)
        else:
            self.recording.set_time("time", duration=time_ns)
        for person, xyz in zip(lifted.ids, lifted.xyz, strict=True):
            path = ("poses", lifted.stream, str(person))
            if path not in self.known:
                self.known.add(path)
                joints = range(len(lifted.skeleton.joints))
                self._put(path, self.rr.Points3D.from_fields(class_ids=0, keypoint_ids=joints), static=True)
            self._put(path, self.rr.Points3D.from_fields(positions=xyz))
        self._clear("poses", lifted.stream, lifted.ids)
        for view in lifted.views:
            self._view(view, lifted.skeleton)
        self._latency(lifted)

    def forget(self) -> None:
        """What was logged is lost: say again what is said once."""
        self.known.clear()
        self.latencies.clear()

    def _begin(self, lifted: LiftedFrame) -> None:
        """Say once what joints and axes are."""
        if () not in self.known:
            self.known.add(())
            skeleton, rr = lifted.skeleton, self.rr
            names = [rr.AnnotationInfo(id=number, label=joint) for number, joint in enumerate(skeleton.joints)]
            # a class without bones for 2D, where joints may be missing: those are lines of their own
            whole = rr.ClassDescription(
                info=rr.AnnotationInfo(id=0, label=skeleton.name), keypoint_annotations=names,
                keypoint_connections=list(skeleton.bones),
            )  # fmt: skip
            seen = rr.ClassDescription(info=rr.AnnotationInfo(id=1, label="2D"), keypoint_annotations=names)
            self._put(("/",), rr.AnnotationContext([whole, seen]), static=True)
        path = ("poses", lifted.stream)
        if path not in self.known:
            self.known.add(path)
            axes = self.rr.ViewCoordinates
            self._put(path, axes.RIGHT_HAND_Z_UP if lifted.frame == "world" else axes.RDF, static=True)

    def _view(self, view: Seen, skeleton: Skeleton) -> None:
        for person, keypoints in zip(view.ids, view.keypoints, strict=True):
            path = ("views", view.stream, str(person))
            seen = np.flatnonzero(keypoints[:, 2] > 0)
            self._put(path, self.rr.Points2D(keypoints[seen, :2], class_ids=1, keypoint_ids=seen))
            self._put((*path, "bones"), self.rr.LineStrips2D(_bones(keypoints, skeleton)))
        self._clear("views", view.stream, view.ids)

    def _latency(self, lifted: LiftedFrame) -> None:
        path, names = ("latency_ms", lifted.stream), tuple(lifted.latency_ms)
        if self.latencies.get(lifted.stream) != names:
            self.latencies[lifted.stream] = names
            self._put(path, self.rr.SeriesLines(names=names), static=True)
        self._put(path, self.rr.Scalars(list(lifted.latency_ms.values())))

    def _clear(self, room: str, stream: str, ids: tuple[int, ...]) -> None:
        """The viewer shows what it heard last: who is not in this frame is told to be gone."""
        shown = set(ids)
        for person in self.shown.get((room, stream), set()) - shown:
            self._put((room, stream, str(person)), self.rr.Clear(recursive=True))
            self.known.discard((room, stream, str(person)))
        self.shown[room, stream] = shown

    def _put(self, path: tuple[str, ...], what: Any, static: bool = False) -> None:
        self.recording.log("/" if path == ("/",) else list(path), what, static=static, strict=True)


def _bones(keypoints: NDArray[np.float32], skeleton: Skeleton) -> NDArray[np.float32]:
    """(bones, 2, 2) pixels: from joint to joint, where both are seen."""
    pairs = np.array(skeleton.bones)
    return keypoints[pairs[(keypoints[pairs, 2] > 0).all(1)], :2]
