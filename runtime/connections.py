"""Connections of a live loop: made without waiting, and made again with back-off when a peer vanishes."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from typing import Any

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.address import Address
from edgelift.runtime.counts import Live, log

CHUNK = 1 << 16  # bytes read at once
MOST_PEERS = 16  # that may be connected to a listening socket at once
BACK_OFF_S = (0.1, 5.0)  # the first wait before connecting again, and the longest; doubled in between
CONNECT_S = 5.0  # how long a peer may take to answer
ASK_AGAIN_S = 0.01  # whether a connection stands meanwhile
# a peer that lost its power or its cable says nothing: asked after 10 s of silence, given up after 3 unanswered
KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


class Caller:
    """A TCP connection to a peer, made without waiting and made again with back-off.

    connected: the socket, or None. wake_ns: when `connect` is to be called again; None while connected.
    """

    def __init__(self, address: Address, live: Live) -> None:
        self.address, self.live = address, live
        self.connected: socket.socket | None = None
        self.calling: socket.socket | None = None
        self.called_ns = self.calls = 0
        self.places = resolved(address)  # and then on a thread: a resolver may take seconds, which the loop has not
        self.resolving: threading.Thread | None = None
        self.wake_ns: int | None = time.perf_counter_ns()
        self.wait_s = BACK_OFF_S[0]

    def connect(self) -> socket.socket | None:
        """Return the connected socket; begin or go on connecting where there is none and it is time."""
        now = time.perf_counter_ns()
        if self.connected is not None or self.wake_ns is None or now < self.wake_ns:
            return self.connected
        if self.calling is None:
            self._call(now)
        else:
            self._ask(now)
        return self.connected

    def lost(self, why: str) -> None:
        """Give the connection up and try again later."""
        self.close()
        self.live.counts.reconnects += 1
        self.live.complaints.add(f"{self.address.text}: no connection", f"{why}; again in {self.wait_s:g} s")
        if self.wait_s == BACK_OFF_S[1] and not (self.resolving and self.resolving.is_alive()):
            self.resolving = threading.Thread(target=self._resolve, name=f"resolve {self.address.host}", daemon=True)
            self.resolving.start()
        self.wake_ns = time.perf_counter_ns() + int(self.wait_s * 1e9)
        self.wait_s = min(2 * self.wait_s, BACK_OFF_S[1])

    def close(self) -> None:
        """Close what is open."""
        for open_socket in (self.connected, self.calling):
            if open_socket is not None:
                open_socket.close()
        self.connected = self.calling = None

    def _resolve(self) -> None:
        with contextlib.suppress(EdgeliftError):
            self.places = resolved(self.address)

    def _call(self, now: int) -> None:
        family, where = self.places[self.calls % len(self.places)]  # a host may have several
        self.calls += 1
        try:
            self.calling = socket.socket(family, socket.SOCK_STREAM)
            self.calling.setblocking(False)
            code = self.calling.connect_ex(where)
        except OSError as error:  # an address family that this machine has not
            self.lost(str(error))
            return
        self.called_ns, self.wake_ns = now, now + int(ASK_AGAIN_S * 1e9)
        if code not in (0, errno.EINPROGRESS):
            self.lost(os.strerror(code))

    def _ask(self, now: int) -> None:
        assert self.calling is not None
        code = self.calling.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        try:
            self.calling.getpeername()
        except OSError:
            if code or now - self.called_ns > CONNECT_S * 1e9:
                self.lost(os.strerror(code) if code else "no answer")
            else:
                self.wake_ns = now + int(ASK_AGAIN_S * 1e9)
            return
        self.calling.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(self.calling)
        self.connected, self.calling = self.calling, None
        self.wake_ns, self.wait_s = None, BACK_OFF_S[0]
        log.info("%s: connected", self.address.text)


def resolved(address: Address) -> list[tuple[socket.AddressFamily, Any]]:
    """Return the families and socket addresses of a host; EdgeliftError where nobody knows it."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise EdgeliftError(
            address.text, f"{error.strerror or error}", "a host that is known", "Check its name, or give its address."
        ) from error
    return [(family, where) for family, _, _, _, where in found]


def keep_alive(peer: socket.socket) -> None:
    """Have the kernel ask a silent peer whether it is there; one that vanished then reads as an ended connection."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        if hasattr(socket, name):  # Linux has them all
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def receive(peer: socket.socket) -> bytes | None:
    """Read once; b"" where the connection has ended, None where there is nothing."""
    try:
        return peer.recv(CHUNK)
    except BlockingIOError:
        return None
    except OSError:  # reset, host unreachable
        return b""


def bind(bound: socket.socket, address: Address) -> None:
    """Bind to an address of this machine; EdgeliftError where that cannot be."""
    try:
        bound.bind((address.host, address.port))
    except OSError as error:
        bound.close()
        raise cannot_listen(address, error) from error


def listening_socket(address: Address) -> socket.socket:
    """Return a socket that listens and does not block."""
    listening = socket.socket(_family(address), socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setblocking(False)
    bind(listening, address)
    listening.listen(MOST_PEERS)
    return listening


def cannot_listen(address: Address, error: OSError) -> EdgeliftError:
    """Return the error for a port that is taken, or a host that is not this machine's."""
    return EdgeliftError(
        address.text, f"{error.strerror or error}", "a free port of this machine", "Choose another port, or host."
    )


def udp_socket(address: Address) -> socket.socket:
    """Return a datagram socket of the address's family that does not block."""
    opened = socket.socket(_family(address), socket.SOCK_DGRAM)
    opened.setblocking(False)
    return opened


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address.host else socket.AF_INET
