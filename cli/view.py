"""The command that shows poses in a browser."""

from __future__ import annotations

import time
import webbrowser
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgelift.cli.output import Json, app, finish, say
from edgelift.poses.errors import EdgeliftError

if TYPE_CHECKING:
    from edgelift.runtime.view.server import PageServer

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SECONDS_A_LINE = 1.0  # between lines about malformed messages


@app.command(
    epilog="Example: edgelift view poses.jsonl, or edgelift view poses.jsonl -o page.html, or edgelift view udp://:5006"
)
def view(
    source: Annotated[
        str, typer.Argument(help="A pose3d recording (.jsonl); or live: -, udp://[HOST]:PORT or tcp://HOST:PORT.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write one page that holds the recording, and end.")
    ] = None,
    bind: Annotated[str, typer.Option(help="Address to serve on; 0.0.0.0 for the whole network.")] = LOOPBACK[0],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8080,
    token: Annotated[str | None, typer.Option(help="Whoever watches has to know it.")] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser on the page.")] = False,
    as_json: Json = False,
) -> None:
    """Show poses in a browser: a recording, or a stream that is lifted elsewhere."""
    from edgelift.runtime.view.feeds import feed, is_live, read_recording
    from edgelift.runtime.view.page import live_page, recording_page
    from edgelift.runtime.view.server import PageServer

    if is_live(source):
        if output is not None:
            raise EdgeliftError("-o", f"{source}, which is live", "a recording", "Record it on the page, or leave -o.")
        lines, counts = feed(source), {"messages": 0, "malformed": 0}
        with PageServer(bind, port, token, live_page()) as server, suppress(KeyboardInterrupt):
            announce(server, open_)
            relay(lines, server, counts)
        facts = {"source": source, "url": server.url, **counts, "lost": server.lost}
        finish(facts, as_json, f"{counts['messages']} messages shown, {counts['malformed']} malformed")
        return
    messages, malformed = read_recording(Path(source))
    facts = {"source": source, "messages": len(messages), "malformed": malformed}
    told = f"{len(messages)} messages, {malformed} malformed lines left out"
    if output is not None:
        write_page(output, recording_page(messages))
        finish({**facts, "output": str(output)}, as_json, f"{told} -> {output}")
        return
    with PageServer(bind, port, token, recording_page(messages), guarded=True) as server, suppress(KeyboardInterrupt):
        announce(server, open_)
        while True:  # waking now and then: a Ctrl-C that comes just before a wait does not end it
            time.sleep(0.25)
    finish({**facts, "url": server.url}, as_json, told.replace("messages", "messages shown", 1))


def write_page(path: Path, page: str) -> None:
    """Write the page, whole or not at all."""
    from edgelift.poses.files import replaced

    with replaced(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def announce(server: PageServer, open_: bool) -> None:
    """Say where the page is and who can watch, and open it if asked to."""
    say.print(f"open {server.url} (Ctrl-C ends)")
    if server.host not in LOOPBACK and server.token is None:
        say.print("anyone who reaches this port can watch; give --token SECRET to ask for one")
    if open_ and not webbrowser.open(server.url):
        say.print("found no browser to open")


def relay(lines: Iterator[bytes], server: PageServer, counts: dict[str, int]) -> None:
    """Publish messages until they end; count them, and what is none, in `messages` and `malformed`."""
    from edgelift.runtime.view.feeds import is_pose3d

    told_at = 0.0
    for line in filter(bytes.strip, lines):
        if is_pose3d(line):
            counts["messages"] += 1
            server.publish(line)
            continue
        counts["malformed"] += 1
        if time.monotonic() - told_at >= SECONDS_A_LINE:
            told_at = time.monotonic()
            say.print(f"{counts['malformed']} malformed messages so far: not pose3d version 1")
