"""Pickled numpy archives without trust: arrays and plain containers are rebuilt, what could run code is not."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from edgelift.poses.errors import EdgeliftError

# the two functions numpy's own arrays and scalars name in a pickle, taken from an array instead of a private module
_RECONSTRUCT = np.zeros(0).__reduce__()[0]
_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY = {"ndarray": np.ndarray, "dtype": np.dtype}
_PLAIN = (dict, list, tuple, set, frozenset, bytes, bytearray, str, int, float, complex, bool)

ADMITTED: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _SCALAR for core in ("core", "_core")},
    **{("numpy", name): value for name, value in _NUMPY.items()},
    **{("builtins", kind.__name__): kind for kind in _PLAIN},
}


class _RefusedError(Exception):
    """A pickle names something that is not admitted."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # a look-up, never an import: a module named by the file is not even loaded
        if (module, name) not in ADMITTED:
            raise _RefusedError(f"{module}.{name}")
        return ADMITTED[module, name]


def load_pickled_arrays(path: Path) -> dict[str, Any]:
    """Read every member of an `.npz`, pickled object arrays included, without running code that the file carries.

    Returns name to array; a 0-d object array gives the object inside. EdgeliftError names the class it refused.
    """
    if not path.is_file():
        raise EdgeliftError(str(path), "no such file", "an .npz file", "Check the path.")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            return {name.removesuffix(".npy"): _read_member(archive.read(name)) for name in names}
    except _RefusedError as error:
        raise EdgeliftError(
            str(path), f"a pickle that calls {error}", "numpy arrays in dicts, lists and tuples only",
            "Do not load this file elsewhere either unless you trust its author; write the arrays again without it.",
        ) from error  # fmt: skip
    except Exception as error:  # a malformed pickle can raise nearly anything
        raise EdgeliftError(
            str(path), f"an unreadable archive ({type(error).__name__}: {error})", "a whole .npz", "Download it again."
        ) from error


def _read_member(data: bytes) -> Any:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    dtype = readers[version](stream)[2] if version in readers else None
    if dtype is None or not dtype.hasobject:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    array = _ArrayUnpickler(stream, encoding="latin1").load()  # latin1: arrays that Python 2 pickled
    return array.item() if isinstance(array, np.ndarray) and array.shape == () else array
