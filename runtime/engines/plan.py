"""Which TensorRT built a plan, read from its first bytes, without TensorRT.

Bytes 0-3 are `ftrt` (TensorRT) or `vtrt` (TensorRT-RTX), 24-27 the version. Bytes 16-23 of TensorRT-RTX's are the
length of the whole, seen in files of 1.7.1 that this project built; no vendor page promises it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from edgelift.poses.errors import EdgeliftError

HEADER_BYTES = 28
MAGIC = {b"ftrt": "tensorrt", b"vtrt": "rtx"}


@dataclass(frozen=True)
class PlanHeader:
    """flavour: tensorrt or rtx; version: of what built it, four numbers; length in bytes, None where not told."""

    flavour: str
    version: str
    length: int | None


def read_header(plan: bytes, name: str) -> PlanHeader:
    """Read a plan's header; EdgeliftError where it is none, or shorter than it says. `name` is for the message."""
    flavour = MAGIC.get(plan[:4])
    if flavour is None or len(plan) < HEADER_BYTES:
        raise EdgeliftError(
            name, f"{len(plan)} bytes that begin {plan[:4]!r}", "a TensorRT plan (ftrt) or a TensorRT-RTX one (vtrt)",
            "Build the engine again: edgelift build BUNDLE.",
        )  # fmt: skip
    length = struct.unpack_from("<Q", plan, 16)[0] if flavour == "rtx" else None
    if length not in (None, len(plan)):
        raise EdgeliftError(
            name, f"{len(plan)} bytes", f"the {length} that its header tells (truncated?)",
            "Copy it again, or build it again: edgelift build BUNDLE.",
        )  # fmt: skip
    return PlanHeader(flavour, ".".join(str(b) for b in plan[24:28]), length)
