"""Sinks over sockets: JSON lines on TCP, a message a datagram on UDP, ZeroMQ PUB. None ever waits for a reader."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.address import Address
from edgelift.runtime.connections import MOST_PEERS, Caller, listening_socket, udp_socket
from edgelift.runtime.counts import Live
from edgelift.runtime.frames import LiftedFrame
from edgelift.runtime.zero import open_socket

if TYPE_CHECKING:
    import zmq

HELD_BYTES = 1 << 20  # for a reader that is slow: seconds of poses; then it misses some


class UdpSink:
    """One message a datagram; nobody knows whether it arrives."""

    notes: Sequence[str] = ()

    def __init__(self, address: Address) -> None:
        self.name, self.address = address.text, address
        self.lost = 0

    def __enter__(self) -> UdpSink:
        self.socket = udp_socket(self.address)
        try:
            self.socket.connect((self.address.host, self.address.port))
        except OSError as error:
            self.socket.close()
            raise EdgeliftError(
                self.name,
                f"{error.strerror or error}",
                "a host that can be reached",
                "Check its name, and the network.",
            ) from error
        return self

    def write(self, lifted: LiftedFrame) -> None:
        """Send one; OSError for a message over 64 KB. That nobody listens is nobody's mistake."""
        try:
            self.socket.send(lifted.json)
        except (ConnectionRefusedError, BlockingIOError):
            self.lost += 1
        except OSError:
            self.lost += 1
            raise

    def __exit__(self, *exception: object) -> None:
        self.socket.close()


class _Outlet:
    """What one TCP reader is still to be sent. Whole messages alone are left out."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.held = bytearray()

    def send(self, line: bytes) -> bool:
        """Send or hold a line; False where it is left out. OSError where the reader is gone."""
        taken = len(self.held) + len(line) <= HELD_BYTES
        if taken:
            self.held += line
        with contextlib.suppress(BlockingIOError):
            while self.held:
                del self.held[: self.peer.send(self.held)]
        return taken


class TcpSink:
    """JSON lines to a peer that listens; called again with back-off when it vanishes."""

    notes: Sequence[str] = ()

    def __init__(self, address: Address, live: Live) -> None:
        self.name, self.address, self.live = address.text, address, live
        self.lost = 0
        self.outlet: _Outlet | None = None

    def __enter__(self) -> TcpSink:
        self.caller = Caller(self.address, self.live)
        return self

    def write(self, lifted: LiftedFrame) -> None:
        """Send one, or go on connecting."""
        peer = self.caller.connect()
        if peer is None:
            self.outlet = None
            self.lost += 1
            return
        if self.outlet is None or self.outlet.peer is not peer:
            self.outlet = _Outlet(peer)
        try:
            self.lost += not self.outlet.send(lifted.json)
        except OSError as error:
            self.lost += 1
            self.caller.lost(str(error))

    def __exit__(self, *exception: object) -> None:
        _send_rest(self.outlet)
        self.caller.close()


class TcpListenSink:
    """JSON lines to everybody who connects, up to MOST_PEERS; lost counts readers times messages."""

    notes: Sequence[str] = ()

    def __init__(self, address: Address) -> None:
        self.name, self.address = address.text, address
        self.lost = 0
        self.outlets: list[_Outlet] = []

    def __enter__(self) -> TcpListenSink:
        self.socket = listening_socket(self.address)
        return self

    def write(self, lifted: LiftedFrame) -> None:
        """Accept whoever knocks; send to everybody."""
        with contextlib.suppress(OSError):
            peer, _ = self.socket.accept()
            peer.setblocking(False)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._admit(peer)
        for outlet in list(self.outlets):
            try:
                self.lost += not outlet.send(lifted.json)
            except OSError:
                outlet.peer.close()
                self.outlets.remove(outlet)

    def __exit__(self, *exception: object) -> None:
        for outlet in self.outlets:
            _send_rest(outlet)
            outlet.peer.close()
        self.socket.close()

    def _admit(self, peer: socket.socket) -> None:
        if len(self.outlets) < MOST_PEERS:
            self.outlets.append(_Outlet(peer))
        else:
            peer.close()


def _send_rest(outlet: _Outlet | None) -> None:
    """At the end, what a reader was slow to take may still go out for a second."""
    if outlet is None or not outlet.held:
        return
    with contextlib.suppress(OSError):
        outlet.peer.settimeout(1.0)
        outlet.peer.sendall(outlet.held)


class ZmqSink:
    """ZeroMQ PUB at zmq://HOST:PORT (binds) or zmq-connect://HOST:PORT; parts: stream name, message.

    Option format=json for JSON, MessagePack otherwise; key, peer_key: see open_socket. A subscriber that is slow misses
    messages and ZeroMQ does not tell, so `lost` stays 0.
    """

    notes: Sequence[str] = ()

    def __init__(self, address: Address) -> None:
        self.name, self.address = address.text, address
        self.lost = 0
        wanted = address.options.get("format", "msgpack")
        if wanted not in ("json", "msgpack"):
            raise EdgeliftError(f"address {address.text!r}", f"format {wanted!r}", "json or msgpack", "Correct it.")
        self.json = wanted == "json"

    def __enter__(self) -> ZmqSink:
        self.socket: zmq.Socket[bytes] = open_socket("PUB", self.address, self.address.scheme == "zmq")
        return self

    def write(self, lifted: LiftedFrame) -> None:
        """Publish one."""
        import zmq

        payload = lifted.json[:-1] if self.json else lifted.msgpack
        self.socket.send_multipart((lifted.stream.encode(), payload), zmq.NOBLOCK)

    def __exit__(self, *exception: object) -> None:
        self.socket.close()
