"""ZeroMQ sockets of one process, and CURVE, its encryption."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgelift.poses.errors import EdgeliftError, missing_extra
from edgelift.runtime.address import Address

if TYPE_CHECKING:
    import zmq

OPTIONS = ("key", "peer_key", "format")
LINGER_MS = 500  # how long what was sent may still travel when the process ends
QUEUE = 1000  # messages for a slow peer; ZeroMQ then leaves out what is newer


def open_socket(kind: str, address: Address, binds: bool, longest: int = -1) -> zmq.Socket[bytes]:
    """Open a socket of a kind (PUB, SUB), bound or connected; EdgeliftError where it cannot be.

    Options of the address: key=FILE, this side's CURVE certificate with its secret; peer_key=FILE, the public one of
    the other side, which the side that connects needs. The side that binds lets in whoever knows its public key.
    longest: bytes of a message; a longer one costs its sender the connection. -1: any.
    """
    try:
        import zmq
    except ModuleNotFoundError as error:
        raise missing_extra("zmq", "stream") from error
    opened: zmq.Socket[bytes] = zmq.Context.instance().socket(getattr(zmq, kind))
    opened.setsockopt(zmq.LINGER, LINGER_MS)
    opened.setsockopt(zmq.SNDHWM, QUEUE)
    opened.setsockopt(zmq.RCVHWM, QUEUE)
    opened.setsockopt(zmq.RECONNECT_IVL_MAX, 5000)  # back-off, from 100 ms
    opened.setsockopt(zmq.MAXMSGSIZE, longest)
    opened.setsockopt(zmq.IPV6, int(":" in address.host))
    host = f"[{address.host}]" if ":" in address.host else address.host
    try:
        _secure(opened, address, binds)
        (opened.bind if binds else opened.connect)(f"tcp://{host}:{address.port}")
    except (zmq.ZMQError, ValueError, OSError, EdgeliftError) as error:
        opened.close(linger=0)
        if isinstance(error, EdgeliftError):
            raise
        remedy = "Choose another port, or host; see docs/live.md for keys."
        raise EdgeliftError(address.text, str(error), "an address and keys that ZeroMQ takes", remedy) from error
    return opened


def _secure(opened: zmq.Socket[bytes], address: Address, binds: bool) -> None:
    if binds and "peer_key" in address.options:  # it would look as if nobody else were let in
        received, expected = "peer_key where the address binds", "key alone"
        raise EdgeliftError(address.text, received, expected, "Give peer_key where the address connects.")
    if "key" not in address.options:
        if "peer_key" in address.options:
            raise EdgeliftError(address.text, "peer_key without key", "both", "Give key=FILE, this side's certificate.")
        return
    opened.curve_publickey, secret = _certificate(address, "key")
    if secret is None:
        raise EdgeliftError(address.text, "a key without its secret", "the secret certificate", "Name the other file.")
    opened.curve_secretkey = secret
    if binds:
        opened.curve_server = True
    else:
        opened.curve_serverkey = _certificate(address, "peer_key")[0]


def _certificate(address: Address, option: str) -> tuple[bytes, bytes | None]:
    import zmq.auth

    if option not in address.options:
        raise EdgeliftError(address.text, f"no {option}", f"{option}=FILE", "Name the certificate; see docs/live.md.")
    path = Path(address.options[option])
    if not path.is_file():
        raise EdgeliftError(str(path), "no such file", "a CURVE certificate", "Check the path; see docs/live.md.")
    return zmq.auth.load_certificate(path)
