"""Where lifted poses go."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import PurePath

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.address import parse_address
from edgelift.runtime.counts import Live
from edgelift.runtime.frames import LiftedFrame, Sink
from edgelift.runtime.zero import OPTIONS as ZMQ_OPTIONS

FILES = (".jsonl", ".csv", ".npz", ".trc", ".c3d", ".bvh", ".rrd")
SCHEMES = ("udp", "tcp", "tcp-listen", "zmq", "zmq-connect", "ws", "rerun")


def open_sink(target: str, live: Live) -> Sink:
    """Make the sink that a user names: `-`, a file by its suffix, or an address by its scheme. Not opened yet."""
    if target == "-" or target.lower().endswith(".jsonl"):
        from edgelift.runtime.sinks.jsonl import JsonLines

        return JsonLines(target)
    if "://" in target:
        return _open_address(target, live)
    suffix = PurePath(target).suffix.lower()
    if suffix == ".rrd":
        from edgelift.runtime.sinks.rerun import RerunSink

        return RerunSink(target)
    if suffix in FILES:
        from edgelift.runtime.sinks.files import FileSink

        return FileSink(target)
    known = f"-, a name ending in {', '.join(FILES)}, or {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
    raise EdgeliftError("--sink", repr(target), known, "Name one of these.")


def _open_address(target: str, live: Live) -> Sink:
    from edgelift.runtime.sinks import sockets

    options = {"zmq": ZMQ_OPTIONS, "zmq-connect": ZMQ_OPTIONS, "ws": ("token",)}
    address = parse_address(target, SCHEMES, options.get(target.partition(":")[0], ()))
    if address.scheme == "udp":
        return sockets.UdpSink(address)
    if address.scheme == "tcp":
        return sockets.TcpSink(address, live)
    if address.scheme == "tcp-listen":
        return sockets.TcpListenSink(address)
    if address.scheme == "ws":
        from edgelift.runtime.sinks.websocket import WebSocketSink

        return WebSocketSink(target)
    if address.scheme == "rerun":
        from edgelift.runtime.sinks.rerun import RerunSink

        return RerunSink(target)
    return sockets.ZmqSink(address)


class Sinks:
    """All sinks of a loop. What one of them cannot take is counted and told; the others get it all the same."""

    def __init__(self, sinks: list[Sink], live: Live) -> None:
        self.sinks, self.live = sinks, live
        self.stack = ExitStack()
        self.lost = 0

    def write(self, lifted: LiftedFrame) -> None:
        """Give a frame to every sink."""
        for sink in self.sinks:
            try:
                sink.write(lifted)
            except OSError as error:
                self.live.complaints.add(f"sink {sink.name}", f"{error.strerror or error}; lost frame {lifted.seq}")
        self._count()

    def _count(self) -> None:
        lost = sum(sink.lost for sink in self.sinks)
        self.live.counts.sink_lost += lost - self.lost
        self.lost = lost

    @property
    def notes(self) -> list[str]:
        """What a user should know of what was written."""
        return [note for sink in self.sinks for note in sink.notes]

    def __enter__(self) -> Sinks:
        with ExitStack() as stack:
            for sink in self.sinks:
                stack.enter_context(sink)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stack.close()  # without the exception: every sink keeps what it has, however the stream ended
        self._count()


__all__ = ["FILES", "SCHEMES", "Sinks", "open_sink"]
