"""Bytes to frames: pose2d messages in JSON or MessagePack, within limits. Nothing received is ever evaluated."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from edgelift.poses.errors import EdgeliftError, missing_extra
from edgelift.poses.formats.pose2d import parse_message
from edgelift.runtime.counts import Live
from edgelift.runtime.frames import Frame


@dataclass(frozen=True)
class Limits:
    """What a source may send; beyond, a message is counted and left out.

    message_bytes: size of one. people: in one. rate: messages a second of one source (0: any), in bursts of as many.
    """

    message_bytes: int = 1 << 20
    people: int = 32
    rate: float = 2000.0


class Decoder:
    """Turns the messages of one source into frames, and counts those it refuses."""

    def __init__(self, source: str, limits: Limits, live: Live) -> None:
        self.source, self.limits, self.live = source, limits, live
        self.allowance = limits.rate
        self.allowed_at = time.monotonic()

    def frames(self, messages: Iterable[bytes], arrived_ns: int) -> list[Frame]:
        """Decode messages that arrived together."""
        decoded = (self.frame(message, arrived_ns) for message in messages)
        return [frame for frame in decoded if frame is not None]

    def frame(self, message: bytes, arrived_ns: int) -> Frame | None:
        """Decode one message; None where it is refused."""
        if len(message) > self.limits.message_bytes:
            self.oversized(len(message))
            return None
        if not self._allowed():
            self.live.counts.flooded += 1
            self.live.complaints.add(f"{self.source}: more than {self.limits.rate:g} messages/s", "left out")
            return None
        try:
            told = parse_message(_loads(message), self.limits.people)
        except (EdgeliftError, ValueError, TypeError, RecursionError) as error:  # what the two decoders raise
            self.live.counts.malformed += 1
            self.live.complaints.add(f"{self.source}: malformed message", error)
            return None
        self.live.counts.frames += 1
        return Frame(
            told.stream, told.seq, told.t_ns, told.clock, told.skeleton, told.keypoints, told.ids, told.size, arrived_ns
        )

    def oversized(self, size: int) -> None:
        """Count a message that is too long, whether it was read whole or not."""
        self.live.counts.oversized += 1
        self.live.complaints.add(
            f"{self.source}: message too long", f"{size} bytes or more; at most {self.limits.message_bytes}"
        )

    def _allowed(self) -> bool:
        """Whether the rate allows one more message now (token bucket)."""
        if not self.limits.rate:
            return True
        now = time.monotonic()
        refilled = self.allowance + (now - self.allowed_at) * self.limits.rate
        self.allowance, self.allowed_at = min(self.limits.rate, refilled), now
        if self.allowance < 1:
            return False
        self.allowance -= 1
        return True


def _loads(message: bytes) -> Any:
    """JSON begins with a brace; a MessagePack map never does."""
    if message.lstrip()[:1] == b"{":
        try:
            return orjson.loads(message)  # a tenth of json.loads
        except orjson.JSONDecodeError:
            return json.loads(message)  # many a detector writes NaN, which Python takes for JSON
    try:
        import msgpack
    except ModuleNotFoundError as error:  # this one is no JSON; whether any other is MessagePack is not known
        raise missing_extra("msgpack", "stream") from error
    return msgpack.unpackb(message, strict_map_key=False)


class Lines:
    """Cuts a byte stream into lines; a line over the limit is left out without being kept."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.held = bytearray()
        self.skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes, without their ends."""
        *whole, rest = data.split(b"\n")
        lines = []
        for part in whole:
            if self.skipping:
                self.skipping = False  # the end of the line that was too long
            else:
                lines.append(bytes(self.held) + part if self.held else part)
            self.held.clear()
        if not self.skipping:
            self.held += rest
            if len(self.held) > self.decoder.limits.message_bytes:
                self.decoder.oversized(len(self.held))
                self.held.clear()
                self.skipping = True
        return [line for line in lines if line.strip()]
