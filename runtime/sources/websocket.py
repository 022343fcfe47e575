"""WebSocket client: one pose2d message a WebSocket message, JSON or MessagePack. Needs the extra `stream`."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from edgelift.poses.errors import missing_extra
from edgelift.runtime.address import Address
from edgelift.runtime.connections import BACK_OFF_S
from edgelift.runtime.counts import Live, log
from edgelift.runtime.frames import Frame
from edgelift.runtime.sources.inbox import MOST_AT_ONCE
from edgelift.runtime.sources.messages import Decoder, Limits


class WebSocketSource:
    """Reads ws://HOST:PORT[?token=...]; called again with back-off when it vanishes.

    The library keeps a connection on a thread of its own; what it reads waits here for the loop, MOST_AT_ONCE at most,
    then the connection is not read until there is room: the sender feels it.
    """

    ended = False

    def __init__(self, address: Address, live: Live, limits: Limits) -> None:
        try:
            from websockets.sync.client import connect
        except ModuleNotFoundError as error:
            raise missing_extra("websockets", "stream") from error
        self.name = address.text.partition("?")[0]  # without the token, which is nobody's but the server's
        host = f"[{address.host}]" if ":" in address.host else address.host
        self.uri = f"ws://{host}:{address.port}/" + (f"?{query}" if (query := urlencode(address.options)) else "")
        self.live, self.limits = live, limits
        self.decoder = Decoder(self.name, limits, live)
        self.connect: Any = connect
        self.came: deque[tuple[bytes, int]] = deque()
        self.room = threading.Semaphore(MOST_AT_ONCE)
        self.bell, self.ringer = socket.socketpair()
        for end in (self.bell, self.ringer):
            end.setblocking(False)
        self.stopping = threading.Event()
        self.connection: Any = None
        self.thread = threading.Thread(target=self._run, name=f"source {self.name}", daemon=True)
        self.thread.start()

    def filenos(self) -> Sequence[int]:
        """What the thread rings."""
        return (self.bell.fileno(),)

    def wake_ns(self) -> None:
        """Never by itself."""

    def take(self) -> list[Frame]:
        """All messages that are there."""
        with contextlib.suppress(BlockingIOError):
            self.bell.recv(4096)
        frames = []
        for _ in range(len(self.came)):
            message, arrived_ns = self.came.popleft()
            self.room.release()
            frames.append(self.decoder.frame(message, arrived_ns))
        return [frame for frame in frames if frame is not None]

    def close(self) -> None:
        """Close the connection and end the thread."""
        self.stopping.set()
        self.room.release()
        if self.connection is not None:
            self.connection.close()
        self.thread.join(timeout=10)
        self.bell.close()
        self.ringer.close()

    def _run(self) -> None:
        wait_s = BACK_OFF_S[0]
        while not self.stopping.is_set():
            try:
                # no proxy: what the environment names for web pages has nothing to do with a camera
                with self.connect(self.uri, max_size=self.limits.message_bytes, proxy=None) as self.connection:
                    log.info("%s: connected", self.name)
                    wait_s = BACK_OFF_S[0]
                    self._read()
                why: object = "the peer closed the connection"
            except Exception as error:  # the library's, the system's, TLS's: all mean that there is no connection
                why = error
            if self.stopping.is_set():
                return
            self.live.counts.reconnects += 1
            self.live.complaints.add(f"{self.name}: no connection", f"{why}; again in {wait_s:g} s")
            self.stopping.wait(wait_s)
            wait_s = min(2 * wait_s, BACK_OFF_S[1])

    def _read(self) -> None:
        for message in self.connection:
            data = message.encode() if isinstance(message, str) else message
            self.room.acquire()
            self.came.append((data, time.perf_counter_ns()))
            with contextlib.suppress(OSError):  # full: it rings already; closed: nobody listens any more
                self.ringer.send(b"!")
            if self.stopping.is_set():
                return
