"""Where a detector's lines go: standard output, a file, a datagram each, or a TCP connection."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.files import replaced, write_whole
from edgelift.runtime.address import Address, parse_address
from edgelift.runtime.connections import udp_socket

Write = Callable[[bytes], object]

SCHEMES = ("udp", "tcp")
DATAGRAM = 65_507  # bytes that fit into one over IPv4


@contextmanager
def open_output(target: str, keep: bool) -> Iterator[Write]:
    """Yield what writes a line to `-`, FILE.jsonl, udp://HOST:PORT or tcp://HOST:PORT, at once except into files.

    A file appears under its name, whole, when the block ends well; with `keep` also when it ends with an EdgeliftError
    after at least one line: a camera's recording ends when the camera does.
    """
    if target == "-":
        yield _write_stdout
    elif "://" in target:
        address = parse_address(target, SCHEMES)
        with _connected(address) as connected:
            yield lambda line: _send(connected, address, line)
    else:
        with _file(Path(target), keep) as write:
            yield write


@contextmanager
def _file(path: Path, keep: bool) -> Iterator[Write]:
    failure = None
    with replaced(path) as part, part.open("wb", buffering=0) as file:
        lines = _Lines(path, file)
        try:
            yield lines.write
        except EdgeliftError as error:
            if not (keep and lines.whole):
                raise
            file.truncate(lines.whole)
            failure = error
    if failure is not None:
        raise failure


class _Lines:
    """Lines on a file that does not buffer. whole: bytes of those that found room."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path, self.file = path, file
        self.whole = 0

    def write(self, line: bytes) -> None:
        try:
            write_whole(self.file.write, line)
        except OSError as error:
            received = f"{error.strerror or error}"
            remedy = "Make room; what a camera gave before is kept."
            raise EdgeliftError(str(self.path), received, "a file that can be written", remedy) from error
        self.whole += len(line)


def _write_stdout(line: bytes) -> None:
    try:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at exit
        raise EdgeliftError(
            "standard output", "a reader that left", "one that reads to the end", "Give -o a file."
        ) from error


def _connected(address: Address) -> socket.socket:
    datagrams = address.scheme == "udp"
    try:
        if not datagrams:
            connected = socket.create_connection((address.host, address.port))
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connected
        connected = udp_socket(address)
        connected.setblocking(True)
        connected.connect((address.host, address.port))
    except OSError as error:
        raise EdgeliftError(
            address.text, f"{error.strerror or error}", "somebody who listens there", "Start the reader first."
        ) from error
    return connected


def _send(connected: socket.socket, address: Address, line: bytes) -> None:
    try:
        if address.scheme == "tcp":
            connected.sendall(line)
            return
        if len(line) > DATAGRAM:
            raise EdgeliftError(address.text, f"a line of {len(line)} bytes", f"{DATAGRAM} at most", "Use tcp://.")
        connected.send(line)
    except ConnectionRefusedError:
        pass  # nobody listens at the moment: datagrams are lost then, as they are on a network
    except OSError as error:
        raise EdgeliftError(
            address.text, f"{error.strerror or error}", "a reader that stays", "Start it, then detect again."
        ) from error
