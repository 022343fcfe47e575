"""OpenCV's FileStorage YAML, as far as camera files need it: top-level matrices, numbers and lists of names.

PyYAML reads neither its header nor its `!!opencv-matrix`. cv2 writes `%YAML:1.0` up to version 4, `%YAML 1.2` from 5.
"""

from __future__ import annotations

import re
import reprlib
from pathlib import Path

import numpy as np

from edgelift.poses.cameras import Float64
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.cameras.checks import LONGEST_NAME
from edgelift.poses.formats.untrusted import read_text

Storage = dict[str, str]  # of each top-level key its text, not yet parsed: files hold much that nobody asks for

EXPECTED = "an OpenCV FileStorage file that begins with %YAML"
HEADER = re.compile(r"%YAML[: ]1\.\d\s*")
MATRIX = re.compile(
    r'!!opencv-matrix\s+rows: *(\d{1,4})\s+cols: *(\d{1,4})\s+dt: *"?([ucwsifd])"?\s+data: *\[([^]]*)\]\s*'
)
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
LARGEST_MATRIX = 1000  # elements; the matrices of a camera have 14 at most


def read_storage(path: Path) -> Storage:
    """Return the top-level keys of a FileStorage file and the text of each; EdgeliftError where it is none."""
    lines = read_text(path, EXPECTED).replace("\r\n", "\n").split("\n")
    if not HEADER.fullmatch(lines[0]):
        raise EdgeliftError(
            str(path), f"{reprlib.repr(lines[0])} as its first line", EXPECTED,
            "Write it with cv2.FileStorage (ROS writes another YAML, without R and T).",
        )  # fmt: skip
    collected: dict[str, list[str]] = {}
    current: list[str] | None = None
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip() or line.lstrip().startswith("#") or line.strip() in ("---", "..."):
            continue
        if line[0] in " \t-":
            if current is None:
                raise _malformed(path, number, line)
            current.append(line)
            continue
        key, colon, rest = line.partition(":")
        if not colon or key in collected or len(key) > LONGEST_NAME or (rest and not rest.startswith(" ")):
            raise _malformed(path, number, line)
        current = collected[key] = [rest]
    return {key: "\n".join(parts).strip() for key, parts in collected.items()}


def _malformed(path: Path, number: int, line: str) -> EdgeliftError:
    received = reprlib.repr(line)
    return EdgeliftError(f"{path}, line {number}", received, "`key: value`, no key twice", "Write the file again.")


def matrix(where: str, storage: Storage, key: str) -> Float64:
    """Return a matrix of one channel, (rows, cols) float64; EdgeliftError unless it is whole and all numbers."""
    found = MATRIX.fullmatch(storage[key])
    rows, cols = (int(found[1]), int(found[2])) if found else (0, 0)
    texts = [text.strip() for text in found[4].split(",")] if found and 0 < rows * cols <= LARGEST_MATRIX else []
    if not texts or len(texts) != rows * cols or not all(NUMBER.fullmatch(text) for text in texts):
        raise EdgeliftError(
            f"{where}: {key}", reprlib.repr(storage[key]), "!!opencv-matrix with rows, cols, dt and as many numbers",
            "Write it with cv2.FileStorage; the file may be cut short.",
        )  # fmt: skip
    return np.array([float(text) for text in texts]).reshape(rows, cols)


def number(where: str, storage: Storage, key: str) -> float:
    """Return a number that stands alone."""
    if not NUMBER.fullmatch(storage[key]):
        raise EdgeliftError(f"{where}: {key}", reprlib.repr(storage[key]), "a number", "Correct the file.")
    return float(storage[key])


def texts(where: str, storage: Storage, key: str) -> list[str]:
    """Return a list, [a, b] or a line `- a` each, as texts: a name that looks like a number keeps its zeros."""
    text = storage[key]
    if text.startswith("[") and text.endswith("]"):
        items = text[1:-1].split(",")
    else:
        lines = [line.strip() for line in text.split("\n")]
        items = [line[1:] for line in lines if line.startswith("-")]
        items = items if len(items) == len(lines) else []
    stripped = [item.strip() for item in items]
    names = [item[1:-1] if len(item) > 1 and item[0] == item[-1] == '"' else item for item in stripped]
    odd = [name for name in names if not 0 < len(name) <= LONGEST_NAME or '"' in name or "\\" in name]
    if not names or odd:
        raise EdgeliftError(f"{where}: {key}", reprlib.repr(text), "a list of names", "Correct the file.")
    return names
