"""Where live keypoints come from."""

from __future__ import annotations

from edgelift.runtime.address import Address, parse_address
from edgelift.runtime.counts import Live
from edgelift.runtime.sources.inbox import Inbox, Source
from edgelift.runtime.sources.messages import Limits
from edgelift.runtime.zero import OPTIONS as ZMQ_OPTIONS

SCHEMES = ("udp", "tcp", "tcp-listen", "zmq", "zmq-bind", "ws")

__all__ = ["SCHEMES", "Inbox", "Limits", "Source", "is_live", "open_source"]


def is_live(text: str) -> bool:
    """Whether a source is a stream (an address, or `-`) rather than files to replay."""
    return text == "-" or "://" in text


def open_source(text: str, live: Live, limits: Limits) -> Source:
    """Open a live source by what a user wrote: `-`, or an address by its scheme."""
    from edgelift.runtime.sources import sockets

    if text == "-":
        return sockets.StdinSource(live, limits)
    address = _address(text)
    if address.scheme == "udp":
        return sockets.UdpSource(address, live, limits)
    if address.scheme == "tcp":
        return sockets.TcpSource(address, live, limits)
    if address.scheme == "tcp-listen":
        return sockets.TcpListenSource(address, live, limits)
    if address.scheme == "ws":
        from edgelift.runtime.sources.websocket import WebSocketSource

        return WebSocketSource(address, live, limits)
    from edgelift.runtime.sources.zeromq import ZmqSource

    return ZmqSource(address, live, limits)


def _address(text: str) -> Address:
    options = {"zmq": ZMQ_OPTIONS, "zmq-bind": ZMQ_OPTIONS, "ws": ("token",)}
    return parse_address(text, SCHEMES, options.get(text.partition(":")[0], ()))
