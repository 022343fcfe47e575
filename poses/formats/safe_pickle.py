"""Pickled numpy archives without trust: arrays and plain containers are rebuilt, what could run code is not."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.untrusted import LARGEST_TEXT, check_archive, check_npy, check_texts, read_npy_header

# the function numpy's own scalars name in a pickle, taken from a scalar instead of a private module
_SCALAR: Any = np.float64(0).__reduce__()[0]
# how many bytes or elements a pickle may build by calls, for each of its own bytes: an honest one holds what it builds
MOST_BUILT = 4
MOST_AGAIN = 16  # times that a pickle may come back to a tuple: a key of tuples in tuples takes 2 ** times to hash
LONGEST_INT = 64  # bits: longer ones take quadratic time to print, or cannot be
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_GETS = ("GET", "BINGET", "LONG_BINGET")
# what the opcode before leaves is no tuple: texts and bytes, containers that are no keys, and what a call returned
_NO_TUPLES = (
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "GLOBAL", "STACK_GLOBAL", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET",
    "FROZENSET", "LIST", "DICT", "REDUCE",
)  # fmt: skip


class _RefusedError(Exception):
    """A pickle names something that is not admitted, or builds more than it holds."""


class _Type:
    """A plain type of numbers, texts or objects, which `numpy.dtype` stands for.

    numpy believes a pickled type whatever it says of itself: fields in fields for ever, or that objects are bytes, and
    then bytes of the file are taken for addresses. So all but the order of the bytes is taken from the name alone.
    """

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch("[<>=|]?[?A-UW-Za-z][0-9]{0,9}", code):
            raise _RefusedError("numpy.dtype with fields")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray[Any, Any]):
    """An array that is made empty and filled by its state, whose size is that of the data that comes with it."""

    def __new__(cls, *_: Any) -> _Array:
        raise _RefusedError("numpy.ndarray with a shape")

    def __setstate__(self, state: Any) -> None:
        # numpy's order: [version,] shape, dtype, whether columns come first, data
        shape, kind, columns_first, data = state[-4:]
        dtype = _plain(kind)
        count = len(data) if dtype.hasobject else len(data) // dtype.itemsize
        if math.prod(shape) != count:
            raise _RefusedError(f"numpy.ndarray with {count} elements for the shape {shape}")
        super().__setstate__((*state[:-4], shape, dtype, columns_first, data))
        check_texts(self)


def _plain(kind: Any) -> np.dtype[Any]:
    if not isinstance(kind, _Type):
        raise _RefusedError("an array of no numpy.dtype")
    return kind.dtype


def _empty(kind: Any, shape: Any, code: Any) -> NDArray[Any]:
    """What pickles call to make an array (numpy's `_reconstruct`): it is always empty, whatever they ask for."""
    made: NDArray[Any] = np.ndarray.__new__(_Array, (0,), "b")
    return made


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    """What pickles of protocol 5 call to make an array: a view of the bytes that they hold."""
    made: NDArray[Any] = np.frombuffer(data, _plain(dtype)).reshape(shape, order=order)
    check_texts(made)
    return made


def _encode(text: str, encoding: str) -> bytes:
    """What pickles of protocol 2 call to make bytes: a text of their values."""
    if encoding != "latin1":
        raise _RefusedError(f"_codecs.encode to {encoding}")
    return text.encode(encoding)


def _scalar(dtype: Any, data: Any) -> Any:
    """What pickles call to make one of numpy's scalars, of its bytes; an object numpy would return as it is."""
    if _plain(dtype).hasobject:
        raise _RefusedError("numpy.scalar of an object")
    return _SCALAR(_plain(dtype), data)


def _check_opcodes(data: bytes) -> None:
    """Refuse a pickle that need not be long to take long."""
    again, before = 0, ""
    tuples: dict[Any, bool] = {}  # of what may be named again, whether it may be a tuple
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        # the table of what may be named again is as long as the largest number that is given out
        if name in _PUTS and (argument or 0) > len(data):
            raise _RefusedError(f"{name} {argument}")
        if isinstance(argument, int) and argument.bit_length() > LONGEST_INT:
            raise _RefusedError(f"{name} of {argument.bit_length()} bits")
        if name in _PUTS or name == "MEMOIZE":
            tuples[argument if name in _PUTS else len(tuples)] = before not in _NO_TUPLES
        again += name == "DUP" or (name in _GETS and tuples.get(argument, True))
        if again > MOST_AGAIN:
            raise _RefusedError("tuples again and again")
        before = name


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds arrays, numpy's scalars and what plain Python has no opcode for; nothing else can be named."""

    def __init__(self, data: bytes) -> None:
        _check_opcodes(data)
        super().__init__(io.BytesIO(data), encoding="latin1")  # latin1: arrays that Python 2 pickled
        self.left = MOST_BUILT * len(data)

    def find_class(self, module: str, name: str) -> Any:
        # a look-up, never an import: a module named by the file is not even loaded
        found = _ADMITTED.get((module, name))
        if found is None:
            raise _RefusedError(f"{module}.{name}")
        return partial(self._build, found) if (module, name) in _COUNTED else found

    def _build(self, kind: Callable[..., Any], *values: Any) -> Any:
        """Call a constructor on what the pickle holds; numbers are no sizes here, and copies of copies have an end."""
        sizes = [len(value) for value in values if isinstance(value, (list, tuple, bytes, str))]
        if len(sizes) < len(values):
            raise _RefusedError(f"{kind.__name__} of a number")
        self.left -= sum(sizes)
        if self.left < 0:
            raise _RefusedError(f"{kind.__name__} again and again")
        return kind(*values)


_BUILTINS = ("builtins", "__builtin__")  # the name of now, and of pickles for Python 2
_COUNTED: dict[tuple[str, str], Any] = {
    **{(module, kind.__name__): kind for module in _BUILTINS for kind in (bytes, bytearray, set, frozenset)},
    ("_codecs", "encode"): _encode,
}
_ADMITTED: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    **{(module, "complex"): complex for module in _BUILTINS},
    **_COUNTED,
}


def load_pickled_arrays(path: Path) -> dict[str, Any]:
    """Read every member of an `.npz`, pickled object arrays included, without running code that the file carries.

    Returns name to array; a 0-d object array gives the object inside. EdgeliftError names the class it refused. Memory
    is bounded by what the members unpack to, and that by `check_archive`.
    """
    with _told(path, "a whole .npz"), zipfile.ZipFile(path) as archive:
        check_archive(path, archive)
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        return {name.removesuffix(".npy"): _read_member(archive.read(name)) for name in names}


def load_pickle(path: Path) -> Any:
    """Return what a plain pickle file holds, on the same terms."""
    with _told(path, f"a pickle of {LARGEST_TEXT / 2**20:.0f} MiB at most"), path.open("rb") as file:
        if path.stat().st_size > LARGEST_TEXT:
            raise ValueError(f"{path.stat().st_size / 2**20:.0f} MiB")
        return _ArrayUnpickler(file.read()).load()


@contextmanager
def _told(path: Path, expected: str) -> Iterator[None]:
    """Say whatever goes wrong inside as one EdgeliftError about the file."""
    if not path.is_file():
        raise EdgeliftError(str(path), "no such file", expected, "Check the path.")
    try:
        yield
    except EdgeliftError:
        raise
    except _RefusedError as error:
        raise EdgeliftError(
            str(path), f"a pickle that calls {error}", "numpy arrays in dicts, lists and tuples only",
            "Do not load this file elsewhere either unless you trust its author; write the arrays again without it.",
        ) from error  # fmt: skip
    except Exception as error:  # a malformed pickle can raise nearly anything
        received = f"an unreadable archive or pickle ({type(error).__name__}: {error!s:.200})"
        raise EdgeliftError(str(path), received, expected, "Download it again.") from error


def _read_member(data: bytes) -> Any:
    stream = io.BytesIO(data)
    if not read_npy_header(stream)[1].hasobject:
        check_npy(io.BytesIO(data), len(data))
        plain = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        check_texts(plain)
        return plain
    array = _ArrayUnpickler(data[stream.tell() :]).load()
    return array.item() if isinstance(array, np.ndarray) and array.shape == () else array
