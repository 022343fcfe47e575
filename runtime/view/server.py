"""The server of the live page: the page by HTTP and messages by WebSocket, on one port, in a thread of its own.

Nothing that a client sends is interpreted. A client that reads too slowly misses messages, which are counted; neither
memory nor whoever publishes feels it. Needs the extra `stream`.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import socket
import threading
from concurrent.futures import Future
from contextlib import suppress
from http import HTTPStatus
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, quote, urlsplit
from weakref import WeakSet

from edgelift.poses.errors import EdgeliftError, missing_extra

if TYPE_CHECKING:
    from typing_extensions import Self
    from websockets.asyncio.server import Server, ServerConnection
    from websockets.http11 import Request, Response

MOST_UNSENT = 1 << 20  # bytes that wait for one client; beyond, it misses messages
MOST_UNPUBLISHED = 1024  # messages that wait for this thread; only a burst, or a machine that stands still, has as many
MOST_RECEIVED = 1024  # bytes of a message from a client, none of which is read
OPENING_S, CLOSING_S = 60.0, 1.0  # a large recording on a slow line is a long opening; nobody is waited for at the end
CLOSING_STEPS = 20
POLICY_VIOLATION = 1008  # the close code; the reason that goes with it is what the page shows
ALIVE = "/alive"  # where the page asks whether a server is there again
WILDCARDS = ("0.0.0.0", "::")

log = logging.getLogger("edgelift.view")
log.addHandler(logging.NullHandler())  # the library would tell standard error about every port scanner


class PageServer:
    """Serves `page` on a port and publishes lines to all who watch it; a context manager.

    port 0: any free one. token: what a client must say to watch, as ?token= or as a bearer; None for nobody has to.
    guarded: the page itself wants the token too, because data is in it. name: where it listens, without the token.
    lost: messages that clients did not get, summed over the clients.
    """

    def __init__(self, host: str, port: int, token: str | None, page: str, guarded: bool = False) -> None:
        if token == "":
            raise EdgeliftError("token", "an empty one", "a secret, or no token", "Give it a value or leave it out.")
        self.host, self.port, self.token, self.page, self.guarded = host, port, token, page, guarded
        self.name = f"ws://{_bracketed(host)}:{port}"
        self.lost = 0
        self._counting = threading.Lock()
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._clients: set[ServerConnection] = set()
        self._connections: WeakSet[ServerConnection] = WeakSet()  # those too that have not asked for anything yet
        self._names = {"localhost", host.lower(), socket.gethostname().lower(), f"{socket.gethostname()}.local".lower()}

    @property
    def url(self) -> str:
        """Address of the page, with the token; where every address of the machine listens, one that others reach."""
        host = _outward_address(self.host) if self.host in WILDCARDS else self.host
        secret = "" if self.token is None else f"?token={quote(self.token, safe='')}"
        return f"http://{_bracketed(host)}:{self.port}/{secret}"

    @property
    def watchers(self) -> int:
        """How many clients watch now."""
        return len(self._clients)

    def publish(self, line: bytes) -> None:
        """Send one message of JSON, with or without its line end, to all who watch; never waits."""
        if not self._clients:
            return
        if self._outbox.qsize() >= MOST_UNPUBLISHED:
            self._lose(len(self._clients))
            return
        # not call_soon_threadsafe: it lets go of the interpreter, and gets it back when the other thread has sent
        self._outbox.put(line)

    def __enter__(self) -> Self:
        try:
            import websockets  # noqa: F401 - missing is to be said here, not in the thread
        except ModuleNotFoundError as error:
            raise missing_extra("websockets", "stream") from error
        listening = _listen(self.host, self.port)
        self.port = listening.getsockname()[1]
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listening, ready)), name=f"page {self.name}", daemon=True
        )
        self._thread.start()
        ready.result()
        return self

    def __exit__(self, *exception: object) -> None:
        self._outbox.put(None)
        self._thread.join()

    async def _serve(self, listening: socket.socket, ready: Future[None]) -> None:
        from websockets.asyncio.server import ServerConnection, serve

        def connection(*args: Any, **options: Any) -> ServerConnection:
            made = ServerConnection(*args, **options)
            self._connections.add(made)
            return made

        try:
            server = await serve(
                self._watch, sock=listening, process_request=self._answer, compression=None, server_header=None,
                open_timeout=OPENING_S, close_timeout=CLOSING_S, max_size=MOST_RECEIVED, logger=log,
                create_connection=cast("type[ServerConnection]", connection),
            )  # fmt: skip
        except BaseException as error:
            ready.set_exception(error)
            raise
        ready.set_result(None)
        waiting = asyncio.get_running_loop().run_in_executor
        while (line := await waiting(None, self._outbox.get)) is not None:
            self._send(line)
        await self._close(server)

    async def _close(self, server: Server) -> None:
        """Say goodbye to clients; who does not answer is cut off in the end."""
        server.close()
        closed = asyncio.ensure_future(server.wait_closed())
        for left in reversed(range(CLOSING_STEPS)):
            for client in list(self._connections):  # a browser connects in advance, and would hold it up
                if hasattr(client, "transport") and (client.request is None or not left):
                    client.transport.abort()
            await asyncio.wait({closed}, timeout=2 * CLOSING_S / CLOSING_STEPS)
            if closed.done():
                return

    async def _watch(self, client: ServerConnection) -> None:
        """Keep one client among those who are sent messages until it leaves."""
        from websockets.exceptions import ConnectionClosed

        request = client.request
        if request is None or not self._knows_token(request):
            # only after the handshake: a browser does not tell a page why a WebSocket was refused before it
            await client.close(POLICY_VIOLATION, "the token is missing or wrong")
            return
        self._clients.add(client)
        try:
            with suppress(ConnectionClosed):
                async for _ in client:
                    pass  # taken off the line, or its pongs would wait behind it
        finally:
            self._clients.discard(client)

    def _send(self, line: bytes) -> None:
        from websockets.asyncio.server import broadcast

        ready = [client for client in self._clients if client.transport.get_write_buffer_size() <= MOST_UNSENT]
        if len(ready) < len(self._clients):
            self._lose(len(self._clients) - len(ready))
        broadcast(ready, line.rstrip(b"\n").decode())

    def _lose(self, count: int) -> None:
        with self._counting:  # both threads lose messages
            self.lost += count

    def _answer(self, client: ServerConnection, request: Request) -> Response | None:
        """Answer an HTTP request; None lets a WebSocket through."""
        path = urlsplit(request.path).path
        if not self._is_own_name(request.headers.get("Host", "")):
            return client.respond(HTTPStatus.FORBIDDEN, "edgelift: this is not a name of the server.\n")
        if request.headers.get("Upgrade", "").lower() == "websocket":
            own = _is_same_origin(request.headers.get("Origin"), request.headers["Host"])
            return None if own else client.respond(HTTPStatus.FORBIDDEN, "edgelift: not from a foreign page.\n")
        if path == ALIVE:
            return client.respond(HTTPStatus.OK, "edgelift\n")
        if path != "/":
            return client.respond(HTTPStatus.NOT_FOUND, "edgelift: the page is at /\n")
        if self.guarded and not self._knows_token(request):
            return client.respond(HTTPStatus.UNAUTHORIZED, "edgelift: add ?token=... to the address.\n")
        return _html(client.respond(HTTPStatus.OK, self.page))

    def _knows_token(self, request: Request) -> bool:
        if self.token is None:
            return True
        kind, _, bearer = request.headers.get("Authorization", "").partition(" ")
        said = [bearer.strip()] if kind.lower() == "bearer" else []
        said += parse_qs(urlsplit(request.path).query).get("token", [])
        return any(hmac.compare_digest(word.encode(), self.token.encode()) for word in said)

    def _is_own_name(self, host: str) -> bool:
        """Whether the browser asked for this machine, not for a foreign name that was pointed at it (rebinding).

        With a token no name is asked for: the foreign page does not know it, and a proxy may have any name.
        """
        name = _host_name(f"//{host}")
        return self.token is not None or name in self._names or _is_ip_address(name)


def _is_same_origin(origin: str | None, host: str) -> bool:
    """Whether a WebSocket is asked for by no browser at all, or by a page that this server gave it."""
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()


def _host_name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_ip_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _html(response: Response) -> Response:
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "text/html; charset=utf-8"
    response.headers["Cache-Control"] = "no-store"
    response.headers["Referrer-Policy"] = "no-referrer"  # the token stands in the address
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server(
            (host, port), family=family, dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6()
        )
    except (OSError, OverflowError) as error:
        raise EdgeliftError(
            f"page at {_bracketed(host)}:{port}", f"{error}", "a free port on an address of this machine",
            "End what listens there, or choose another port.",
        ) from error  # fmt: skip


def _outward_address(wildcard: str) -> str:
    """The address that leads out of this machine; its name where it has no network. Nothing is sent."""
    family, somewhere = (socket.AF_INET6, "2001:db8::1") if ":" in wildcard else (socket.AF_INET, "192.0.2.1")
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((somewhere, 9))
        return str(probe.getsockname()[0])
    return socket.gethostname()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
