"""ZeroMQ SUB: pose2d messages in MessagePack or JSON; the library reconnects by itself. Needs the extra `stream`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgelift.runtime.address import Address
from edgelift.runtime.counts import Live
from edgelift.runtime.frames import Frame
from edgelift.runtime.sources.inbox import MOST_AT_ONCE
from edgelift.runtime.sources.messages import Decoder, Limits
from edgelift.runtime.zero import open_socket

if TYPE_CHECKING:
    import zmq


class ZmqSource:
    """Subscribes to everything at zmq://HOST:PORT (connects) or zmq-bind://HOST:PORT; the last part is the message.

    Options of the address: see open_socket.
    """

    ended = False

    def __init__(self, address: Address, live: Live, limits: Limits) -> None:
        self.name = address.text
        self.decoder = Decoder(self.name, limits, live)
        self.socket: zmq.Socket[bytes] = open_socket(
            "SUB", address, address.scheme == "zmq-bind", longest=limits.message_bytes
        )
        self.socket.subscribe(b"")
        self.more = True  # the descriptor tells of changes alone, so the first look is due at once

    def filenos(self) -> Sequence[int]:
        """The descriptor that ZeroMQ signals with: when something changed, not while something is there."""
        return (self.socket.fileno(),)

    def wake_ns(self) -> int | None:
        """At once, if messages were left behind."""
        return time.perf_counter_ns() if self.more else None

    def take(self) -> list[Frame]:
        """All messages that are there."""
        import zmq

        messages: list[bytes] = []
        self.more = True
        while len(messages) < MOST_AT_ONCE:
            try:
                messages.append(self.socket.recv_multipart(zmq.NOBLOCK)[-1])
            except zmq.Again:  # only now will the descriptor tell of the next one
                self.more = False
                break
        return self.decoder.frames(messages, time.perf_counter_ns())

    def close(self) -> None:
        """Close the socket."""
        self.socket.close(linger=0)
