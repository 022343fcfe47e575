"""Where a stream comes from or goes to, as users write it: scheme://HOST:PORT?option=value, loopback unless told."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from edgelift.poses.errors import EdgeliftError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Address:
    """scheme (udp, tcp, tcp-listen, zmq, ...), host, port, options, and the text itself."""

    scheme: str
    host: str
    port: int
    options: dict[str, str]
    text: str

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def parse_address(text: str, schemes: tuple[str, ...], options: tuple[str, ...] = ()) -> Address:
    """Read an address; without a host it is loopback. EdgeliftError for another scheme, no port, unknown options."""
    wanted = f"one of {', '.join(f'{scheme}://[HOST]:PORT' for scheme in schemes)}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise EdgeliftError("address", f"{text!r} ({error})", wanted, "Correct it.") from error
    if parts.scheme not in schemes or port is None or parts.path not in ("", "/"):
        raise EdgeliftError("address", repr(text), wanted, "Correct it, or name a file.")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = [name for name in given if name not in options]
    if unknown:
        known = ", ".join(options) or "none"
        raise EdgeliftError(f"address {text!r}", f"option {', '.join(unknown)}", f"options: {known}", "Leave it out.")
    return Address(parts.scheme, parts.hostname or LOOPBACK, port, given, text)
