"""Archives and pickles of strangers: what would fill the memory is refused before it is read, and nothing is called."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.safe_pickle import load_pickle, load_pickled_arrays
from edgelift.poses.sessions import load_arrays


def header(shape: tuple[int, ...], dtype: str, data: bytes = b"") -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out.getvalue() + data


def archive(path: Path, member: bytes, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("positions_2d.npy", member)
    return path


def test_archives_that_would_fill_the_memory_are_refused_before_they_are_read(tmp_path: Path) -> None:
    members = {
        "shape": header((10**13,), "<f8", bytes(800)),
        "nothing": header((10**13,), "|V0"),
        "product": header((2**32, 2**32), "<f4"),
        "negative": header((-(10**6), -(10**6)), "<f8"),
        "three": b"\x93NUMPY\x03\x00" + bytes(100),
        "text": b"PK",
    }
    for name, member in members.items():
        path = archive(tmp_path / f"{name}.npz", member)
        for load in (load_arrays, load_pickled_arrays):
            with pytest.raises(EdgeliftError, match=f"{name}.npz: received an unreadable archive"):
                load(path)
    bomb = archive(tmp_path / "bomb.npz", header((2**26,), "|u1", bytes(2**26)), zipfile.ZIP_BZIP2)
    for load in (load_arrays, load_pickled_arrays):
        with pytest.raises(EdgeliftError, match=r"bomb.npz: received an archive of \d+ bytes that unpacks to 671"):
            load(bomb)


class Calls:
    """Pickles as a call of a function of numpy or Python."""

    def __init__(self, function: Any, *values: Any) -> None:
        self.call = (function, values)

    def __reduce__(self) -> Any:
        return self.call


RECONSTRUCT = np.zeros(0).__reduce__()[0]


class Filled(Calls):
    """An array whose state claims more elements than it brings."""

    def __init__(self, dtype: str, data: Any) -> None:
        super().__init__(RECONSTRUCT, np.ndarray, (0,), b"b")
        self.state = (1, (10**12,), np.dtype(dtype), False, data)

    def __reduce__(self) -> Any:
        return (*self.call, self.state)


BOMBS: dict[str, Any] = {
    "ndarray": Calls(np.ndarray, (10**12,)),
    "bytes": Calls(bytes, 10**12),
    "bytearray": Calls(bytearray, 10**12),
    "object state": Filled("O", []),
    "number state": Filled("<f8", b"x" * 8),
    "copies": (lambda ones: [Calls(bytearray, ones) for _ in range(10**5)])(b"1" * 10**6),
}


@pytest.mark.parametrize("name", BOMBS)
def test_pickles_that_would_fill_the_memory_are_refused(name: str, tmp_path: Path) -> None:
    raw = pickle.dumps(BOMBS[name], protocol=4)
    (tmp_path / "x.pkl").write_bytes(raw)
    member = header((), "|O", raw)
    with pytest.raises(EdgeliftError, match="a pickle that calls"):
        load_pickled_arrays(archive(tmp_path / "x.npz", member, zipfile.ZIP_STORED))
    with pytest.raises(EdgeliftError, match="a pickle that calls"):
        load_pickle(tmp_path / "x.pkl")


def test_a_pickle_with_a_far_memo_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04Nr\xff\xff\xff\x7f.")
    with pytest.raises(EdgeliftError, match="LONG_BINPUT 2147483647"):
        load_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_honest_pickles_of_every_protocol_are_read(protocol: int, tmp_path: Path) -> None:
    whole = {
        ("S1", "a"): {"R": np.eye(3), "name": "a", "w": 1000, "x": np.float64(2.5)},
        "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "none": None,
        "object": np.array([[1], {}, None], object), "set": {1, 2}, "text": np.array(["a", "bc"]),
    }  # fmt: skip
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(whole, protocol=protocol))
    read = load_pickle(tmp_path / "x.pkl")
    np.testing.assert_array_equal(read["S1", "a"]["R"], np.eye(3))
    assert read["S1", "a"]["x"] == 2.5
    np.testing.assert_array_equal(read["columns first"], whole["columns first"])
    assert read["object"].tolist() == [[1], {}, None]
    assert read["text"].tolist() == ["a", "bc"]
    assert read["set"] == {1, 2}
