"""Tables of numbers that others wrote, CSV text or one `.npy` array: bounded memory, every cell checked."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.untrusted import check_npy, read_text

Float64 = NDArray[np.float64]


def read_rows(path: Path, expected: str) -> Iterator[list[str]]:
    """Yield the rows of a CSV file that are not empty, as cells without blanks around them."""
    try:
        for row in csv.reader(read_text(path, expected).splitlines()):
            if any(row):
                yield [cell.strip() for cell in row]
    except csv.Error as error:
        raise EdgeliftError(str(path), f"no CSV ({error})", expected, "Write the file again.") from error


def to_numbers(path: Path, rows: Iterator[list[str]], width: int, columns: Sequence[int]) -> Float64:
    """Return the numbers of these columns of rows of `width` cells, (rows, columns); an empty cell is NaN."""
    table = [_row(path, number, cells, width, columns) for number, cells in enumerate(rows, start=1)]
    if not table:
        raise EdgeliftError(str(path), "a header and no row", "a row a frame", "Write the file again.")
    return np.stack(table)


def _row(path: Path, number: int, cells: list[str], width: int, columns: Sequence[int]) -> Float64:
    where = f"{path}, row {number} below the header"
    if len(cells) != width:
        raise EdgeliftError(
            where, f"{len(cells)} cells", f"the {width} of the header", "Write the file again; it may be cut short."
        )
    try:
        return np.array([float(cells[c]) if cells[c] else math.nan for c in columns])
    except ValueError as error:
        raise EdgeliftError(where, f"{error!s:.80}", "numbers or empty cells", "Write the file again.") from error


def open_npy(path: Path, expected: str) -> NDArray[Any]:
    """Return the array of real numbers in an `.npy` file, mapped into memory; pickled or cut short: EdgeliftError."""
    try:
        with path.open("rb") as file:
            check_npy(file, path.stat().st_size)
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy evaluates the header as Python, which can raise nearly anything
        raise EdgeliftError(
            str(path), f"unreadable ({type(error).__name__}: {error})", expected, "Check the path and the file."
        ) from error
    if array.dtype.kind not in "fiu":
        raise EdgeliftError(str(path), f"an array of {array.dtype}", "real numbers", "Save it as float32.")
    return array
