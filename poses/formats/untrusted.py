"""Files of others: read in bounded time and memory, whatever they hold; what is wrong is one EdgeliftError."""

from __future__ import annotations

import json
import math
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgelift.poses.errors import EdgeliftError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST_TEXT = 2**30  # bytes of one file that is read whole: an hour of 25 joints at 60 Hz is half of it
MOST_CONTAINERS = 2**24  # lists and objects of a JSON file: an empty one is two bytes there and a hundred in memory
LARGEST_ARCHIVE = 2**32  # bytes that all members of an archive may unpack to
LARGEST_RATIO = 1100  # deflate packs nothing more tightly than 1 : 1032
# a TOML key a.b.c... of a hundred parts: their number squared is the time of the parser
DOTTED = re.compile(r"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){100}""")


def read_text(path: Path, expected: str) -> str:
    """Return a UTF-8 file's text (a byte order mark is dropped); expected: what the file should be, for the error."""
    try:
        size = path.stat().st_size
        if size > LARGEST_TEXT:
            raise EdgeliftError(
                str(path), f"{size / 2**20:.0f} MiB", f"{expected} of {LARGEST_TEXT / 2**20:.0f} MiB at most",
                "Split the recording.",
            )  # fmt: skip
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise EdgeliftError(str(path), f"unreadable ({error})", expected, "Check the path and the file.") from error


def load_json(path: Path, expected: str) -> Any:
    """Return what a JSON file holds; malformed, too deeply nested or no text: EdgeliftError."""
    text = read_text(path, expected)
    containers = text.count("[") + text.count("{")
    if containers > MOST_CONTAINERS:
        received, most = f"{containers} lists and objects", f"{expected} of {MOST_CONTAINERS} at most"
        raise EdgeliftError(str(path), received, most, "Split the recording.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError, MemoryError) as error:
        received = f"malformed JSON ({type(error).__name__}: {error})"
        raise EdgeliftError(str(path), received, expected, "Write the file again; it may be cut short.") from error


def load_toml(path: Path, expected: str) -> dict[str, Any]:
    """Return what a TOML file holds; malformed, too deeply nested or no text: EdgeliftError."""
    text = read_text(path, expected)
    if DOTTED.search(text):
        raise EdgeliftError(str(path), "a key of a hundred parts", expected, "Correct the file: no tool writes such.")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        received = f"invalid TOML ({type(error).__name__}: {error})"
        raise EdgeliftError(str(path), received, expected, "Correct the file; it may be cut short.") from error


def read_npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of the .npy file (https://numpy.org/neps/nep-0001-npy-format.html) that begins here.

    The stream stands at the data then. ValueError where it is no such file, or of version 3, which only names fields.
    """
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"an array file of version {version}")
    shape, _, dtype = readers[version](stream)
    return shape, dtype


def twice(names: Iterable[str]) -> list[str]:
    """Return the names that are there more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def check_npy(stream: IO[bytes], size: int) -> None:
    """ValueError where the .npy file of `size` bytes that begins here holds objects, or not what its header claims.

    Tables of columns (structured types) are refused as well.

    numpy allocates what the header claims before it reads.
    """
    start = stream.tell()
    shape, dtype = read_npy_header(stream)
    held = size - (stream.tell() - start)
    # elements of no bytes would be as many as the header likes
    if dtype.hasobject or dtype.kind == "V" or not dtype.itemsize or math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"{held} bytes for an array of shape {shape} and type {dtype}")


def check_texts(array: NDArray[Any]) -> None:
    """ValueError where an array of texts holds numbers that are no characters: neither numpy nor a file takes them."""
    if array.dtype.kind == "U":
        codes = np.frombuffer(array.tobytes(), np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
        if ((codes > sys.maxunicode) | ((codes >= 0xD800) & (codes < 0xE000))).any():  # the latter: half a character
            raise ValueError("texts with numbers that are no characters")


def to_real(where: str, value: Any, dtype: DTypeLike) -> NDArray[Any]:
    """Return an array of real numbers as one of this type, infinity where one is too large; EdgeliftError for others.

    Lists are refused too: nested ones that are held many times over would be unrolled.
    """
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        received = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise EdgeliftError(where, received, "real numbers", "Save it as an array of float32.")
    with np.errstate(over="ignore", invalid="ignore"):  # the latter: NaN that would signal
        return np.asarray(value, dtype)


def check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    """EdgeliftError where the members of a zip archive claim to unpack to more than a recording can be."""
    total = sum(member.file_size for member in archive.infolist())
    packed = max(1, path.stat().st_size)
    if total > LARGEST_ARCHIVE or total > LARGEST_RATIO * packed:
        raise EdgeliftError(
            str(path), f"an archive of {packed} bytes that unpacks to {total}", "the size of a recording",
            "Do not open it: it is made to fill the memory.",
        )  # fmt: skip
