"""Sources without a library: JSON lines on standard input and TCP, one message a datagram on UDP."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence

from edgelift.runtime.address import Address
from edgelift.runtime.connections import (
    CHUNK,
    MOST_PEERS,
    Caller,
    bind,
    keep_alive,
    listening_socket,
    receive,
    udp_socket,
)
from edgelift.runtime.counts import Live
from edgelift.runtime.frames import Frame
from edgelift.runtime.sources.inbox import MOST_AT_ONCE
from edgelift.runtime.sources.messages import Decoder, Limits, Lines

DATAGRAM = 65_535
RECEIVE_BUFFER = 1 << 21  # of UDP: the kernel's usual 200 KB hold 30 ms of four busy cameras


class StdinSource:
    """JSON lines on a file descriptor, standard input as a rule; ends with it."""

    def __init__(self, live: Live, limits: Limits, descriptor: int = 0) -> None:
        self.name = "standard input"
        self.descriptor = descriptor
        self.decoder = Decoder(self.name, limits, live)
        self.lines = Lines(self.decoder)
        self.ended = False

    def filenos(self) -> Sequence[int]:
        """The descriptor, until its end."""
        return () if self.ended else (self.descriptor,)

    def wake_ns(self) -> None:
        """Never by itself."""

    def take(self) -> list[Frame]:
        """Read once; what select calls readable does not block."""
        data = os.read(self.descriptor, CHUNK)
        self.ended = not data
        lines = self.lines.feed(data or b"\n")  # a last line may lack its end
        return self.decoder.frames(lines, time.perf_counter_ns())

    def close(self) -> None:
        """Standard input stays open."""


class UdpSource:
    """One message a datagram, to an address of this machine."""

    ended = False

    def __init__(self, address: Address, live: Live, limits: Limits) -> None:
        self.name = address.text
        self.decoder = Decoder(self.name, limits, live)
        self.socket = udp_socket(address)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        bind(self.socket, address)

    def filenos(self) -> Sequence[int]:
        """The socket."""
        return (self.socket.fileno(),)

    def wake_ns(self) -> None:
        """Never by itself."""

    def take(self) -> list[Frame]:
        """All datagrams that are there."""
        datagrams: list[bytes] = []
        try:
            while len(datagrams) < MOST_AT_ONCE:
                datagrams.append(self.socket.recv(DATAGRAM))
        except BlockingIOError:
            pass
        return self.decoder.frames(datagrams, time.perf_counter_ns())

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


class TcpListenSource:
    """JSON lines from any number of peers that connect, up to MOST_PEERS."""

    ended = False

    def __init__(self, address: Address, live: Live, limits: Limits) -> None:
        self.name = address.text
        self.live = live
        self.decoder = Decoder(self.name, limits, live)
        self.socket = listening_socket(address)
        self.peers: dict[socket.socket, Lines] = {}

    def filenos(self) -> Sequence[int]:
        """The listening socket and the peers'."""
        return (self.socket.fileno(), *(peer.fileno() for peer in self.peers))

    def wake_ns(self) -> None:
        """Never by itself."""

    def take(self) -> list[Frame]:
        """Accept whoever knocks; read once from every peer."""
        self._accept()
        frames: list[Frame] = []
        for peer, lines in list(self.peers.items()):
            data = receive(peer)
            if data is None:
                continue
            if data == b"":
                peer.close()
                del self.peers[peer]
            frames += self.decoder.frames(lines.feed(data), time.perf_counter_ns())
        return frames

    def close(self) -> None:
        """Close everything."""
        for peer in (self.socket, *self.peers):
            peer.close()

    def _accept(self) -> None:
        try:
            peer, who = self.socket.accept()
        except OSError:  # nobody, or gone already
            return
        if len(self.peers) == MOST_PEERS:
            self.live.complaints.add(f"{self.name}: refused {who[0]}", f"{MOST_PEERS} peers are connected")
            peer.close()
            return
        peer.setblocking(False)
        keep_alive(peer)
        self.peers[peer] = Lines(self.decoder)


class TcpSource:
    """JSON lines from a peer that listens; when it vanishes it is called again, after longer and longer waits."""

    ended = False

    def __init__(self, address: Address, live: Live, limits: Limits) -> None:
        self.name = address.text
        self.live = live
        self.decoder = Decoder(self.name, limits, live)
        self.lines = Lines(self.decoder)
        self.caller = Caller(address, live)

    def filenos(self) -> Sequence[int]:
        """The connected socket, if there is one."""
        return () if self.caller.connected is None else (self.caller.connected.fileno(),)

    def wake_ns(self) -> int | None:
        """When to see after the connection."""
        return self.caller.wake_ns

    def take(self) -> list[Frame]:
        """Read once, or go on connecting."""
        peer = self.caller.connect()
        if peer is None:
            return []
        data = receive(peer)
        if data == b"":
            self.caller.lost("the peer closed the connection")
            self.lines = Lines(self.decoder)  # half a line of the old connection is nobody's
        return [] if not data else self.decoder.frames(self.lines.feed(data), time.perf_counter_ns())

    def close(self) -> None:
        """Hang up."""
        self.caller.close()
