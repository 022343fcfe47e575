"""What `edgelift view` shows: pose3d messages of a recording, or of a stream that somebody else lifts."""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NoReturn

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.address import Address, parse_address
from edgelift.runtime.frames import VERSION

SCHEMES = ("udp", "tcp")
MOST_BYTES = 16 << 20  # of one message; a longer line comes in pieces, none of which is a message
MOST_RECORDED = 300_000_000  # bytes of a recording that a browser is given as one page
DATAGRAM = 65_535
CHUNK = 1 << 16
CONNECT_S = 10.0
WAKE_S = 0.25


def is_live(source: str) -> bool:
    """Whether a source is a stream (`-`, an address), not a recording."""
    return source == "-" or "://" in source


def is_pose3d(line: bytes) -> bool:
    """Whether a line is a pose3d message of this version, as far as the page needs it."""
    try:
        message = json.loads(line.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, or nested without end
        return False
    if not isinstance(message, dict):
        return False
    kind = (message.get("type"), message.get("v"))
    return kind == ("pose3d", VERSION) and isinstance(message.get("persons"), list)


def read_recording(path: Path) -> tuple[list[str], int]:
    """Return the messages of a pose3d JSON-lines file, one a line, and how many other lines were left out."""
    expected = "pose3d messages, one JSON object a line"
    if not path.is_file():
        raise EdgeliftError(f"{path}", "no such file", f"a file of {expected}", "Check the path.")
    if path.stat().st_size > MOST_RECORDED:
        raise EdgeliftError(
            f"{path}", f"{path.stat().st_size / 1e6:.0f} MB", f"at most {MOST_RECORDED / 1e6:.0f} MB in one page",
            "Cut it with head or tail: every line stands alone.",
        )  # fmt: skip
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    kept = [line.decode() for line in lines if is_pose3d(line)]
    if not kept:
        raise EdgeliftError(f"{path}", f"{len(lines)} lines, none of them one", expected, "Record with --sink x.jsonl.")
    return kept, len(lines) - len(kept)


def feed(source: str) -> Iterator[bytes]:
    """Yield what comes from `-` (standard input), udp://[HOST]:PORT (bound here) or tcp://HOST:PORT, unchecked.

    It ends with the input or with the connection; UDP does not end. EdgeliftError where it cannot be opened.
    """
    if source == "-":
        return _lines(sys.stdin.fileno())
    address = parse_address(source, SCHEMES)
    opened = _bound(address) if address.scheme == "udp" else _connected(address)
    return _datagrams(opened) if address.scheme == "udp" else _received(opened)


def _bound(address: Address) -> socket.socket:
    opened = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        opened.bind((address.host, address.port))
    except OSError as error:
        opened.close()
        raise EdgeliftError(
            address.text, f"{error.strerror or error}", "a free port of this machine", "Choose another port, or host."
        ) from error
    return opened


def _connected(address: Address) -> socket.socket:
    try:
        opened = socket.create_connection((address.host, address.port), CONNECT_S)
    except OSError as error:
        raise EdgeliftError(
            address.text, f"{error.strerror or error}", "a peer that listens", "Start `edgelift lift` there, with "
            f"--sink tcp-listen://:{address.port}.",
        ) from error  # fmt: skip
    opened.settimeout(None)
    return opened


def _received(peer: socket.socket) -> Iterator[bytes]:
    with peer, suppress(OSError):  # a reset is an end like any other
        yield from _lines(peer.fileno())


def _lines(descriptor: int) -> Iterator[bytes]:
    """Yield lines without their ends; what is longer than MOST_BYTES comes in pieces."""
    held = bytearray()
    while data := os.read(_readable(descriptor), CHUNK):
        *whole, rest = data.split(b"\n")
        for part in whole:
            yield bytes(held) + part
            held.clear()
        held += rest
        if len(held) > MOST_BYTES:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)  # a last line may lack its end


def _datagrams(opened: socket.socket) -> Iterator[bytes]:
    with closing(opened):
        while True:
            _readable(opened.fileno())
            yield opened.recv(DATAGRAM)


def _readable(descriptor: int) -> int:
    """Wait until there is something to read, and return the descriptor.

    Waking now and then: a Ctrl-C that comes just before a system call does not interrupt it.
    """
    while not select.select([descriptor], (), (), WAKE_S)[0]:
        pass
    return descriptor


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON, and no browser reads it")
