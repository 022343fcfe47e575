"""WebSocket sink: `ws://HOST:PORT` serves the live page and sends every lifted frame to all who watch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgelift.runtime.address import parse_address
from edgelift.runtime.counts import log
from edgelift.runtime.frames import LiftedFrame
from edgelift.runtime.view.page import live_page
from edgelift.runtime.view.server import PageServer

if TYPE_CHECKING:
    from typing_extensions import Self


class WebSocketSink(PageServer):
    """A Sink for ws://HOST:PORT[?token=SECRET]; the page is at http://HOST:PORT/.

    name: the target without its token, which is nobody's who reads a log. lost: summed over the clients.
    """

    notes: Sequence[str] = ()

    def __init__(self, target: str) -> None:
        address = parse_address(target, ("ws",), ("token",))
        super().__init__(address.host, address.port, address.options.get("token"), live_page())

    def write(self, lifted: LiftedFrame) -> None:
        """Hand one frame over; where nobody watches not even its JSON is made."""
        if self.watchers:
            self.publish(lifted.json)

    def __enter__(self) -> Self:
        super().__enter__()
        address, asks, _ = self.url.partition("?token=")
        log.info("%s: watch at %s%s", self.name, address, f"{asks}..." if asks else "")
        return self
