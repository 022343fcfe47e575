"""One thing wrong in a sound file, by the form of the file: what `tests/test_fuzz.py` and the fuzzer both change."""

from __future__ import annotations

import io
import json
import pickle
import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.formats.safe_pickle import load_pickle, load_pickled_arrays
from edgelift.poses.formats.untrusted import check_npy

# what JSON's writer cannot write, or is nested too deeply for it: put in its place in the text
DEPTHS = (30, 300, 900, 930, 945, 960, 970, 980, 990, 20_000)
PLACES = {
    **{f"lists {depth}": "[" * depth + "]" * depth for depth in DEPTHS},
    **{f"objects {depth}": '{"x":' * depth + "0" + "}" * depth for depth in DEPTHS[::3]},
    "digits": "9" * 5000,
    "float": "9" * 400 + ".5",
}
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, -1, 1.5, -0.5, 1e30, 1e308, -1e308, 5e-324, float("inf"), float("nan"),
    2**31, 2**53, 2**63, -(2**63) - 1, 10**16, 10**400, 10**5000, "", "x", "0", "-1", "1e5", "nan", "9" * 30,
    "\ud800", "\x07", "²", "é" * 300, [], {}, [[]], [None], [0], [0, 0, 0], ["x"], {"x": 0}, *PLACES,
)  # fmt: skip
ODD_ARRAYS: tuple[NDArray[Any], ...] = (
    np.zeros(0), np.zeros(()), np.zeros((0, 3)), np.zeros(3), np.ones((3, 3)), np.ones((2, 2, 17, 3)), np.array("x"),
    np.array(["x", "y"]), np.array([b"x"]), np.array(True), np.array(1j), np.array(2**63, np.uint64),
    np.array("NaT", "datetime64[s]"), np.array(5, "timedelta64[s]"), np.zeros(2, [("x", "f8"), ("y", "U3")]),
    np.full((2, 17, 3), np.nan), np.full(3, 1e308), np.array([np.inf]), np.array(7, ">i2"), np.array("\ud800"),
)  # fmt: skip
ODD_NUMBERS = (0, -1, 1.5, 1e30, 1e308, float("inf"), float("nan"), 2**40, -(2**62), "x")
TOKEN = re.compile(rb'-?\d[\d.eE+-]*|"[^"\n]*"|\w+|[^\w\s]')
ODD_TOKENS = tuple(
    token.encode() for token in (
        "", "0", "-1", "1.5", "1e308", "1e400", "nan", "inf", "9" * 30, "9" * 5000, "1_0", "²", "٣", "x", '"', "''",
        "[", "]", "{}", "<", "&", ",", "\t", "\n", "\r", "\x00", "true", "[[1]]", "1979-05-27", "[" * 30, "[" * 20_000,
    )
)  # fmt: skip

Change = Callable[[bytes, Random], bytes]


def mutate(data: bytes, form: str, random: Random) -> bytes:
    """Return the bytes of a file of that form (a key of FORMS) with one thing wrong, or with wrong bytes."""
    if random.random() < 0.8:
        try:
            return FORMS[form](data, random)
        except Exception:  # of a file that is broken already nothing can be taken out
            pass
    return change_bytes(data, random)


def change_bytes(data: bytes, random: Random) -> bytes:
    """Cut short, or with some bytes changed, left out, or there twice."""
    start = random.randrange(len(data) + 1)
    end = min(len(data), start + random.choice((1, 1, 2, 4, 8, 64)))
    instead = random.choice((b"", data[start:end] * 2, bytes(end - start), b"\xff" * (end - start), b"[" * 1000))
    flipped = bytes(byte ^ 1 << random.randrange(8) for byte in data[start:end])
    return random.choice((data[:start], data[:start] + instead + data[end:], data[:start] + flipped + data[end:]))


def change_text(data: bytes, random: Random) -> bytes:
    """One word or sign replaced, or one line left out or there twice."""
    if random.random() < 0.2:
        lines = data.split(b"\n")
        at = random.randrange(len(lines))
        lines[at : at + 1] = [lines[at]] * random.choice((0, 2, 2, 1000))
        return b"\n".join(lines)
    token = TOKEN.search(data, random.randrange(len(data)))
    start, end = token.span() if token else (len(data), len(data))
    return data[:start] + random.choice(ODD_TOKENS) + data[end:]


def change_json(data: bytes, random: Random) -> bytes:
    """One value replaced, left out or there twice."""
    text = json.dumps(changed(json.loads(data), random))
    for place, instead in PLACES.items():
        text = text.replace(f'"{place}"', instead)
    return text.encode()


def change_json_lines(data: bytes, random: Random) -> bytes:
    """The same in one of many lines."""
    lines = data.split(b"\n")
    at = random.randrange(len(lines))
    lines[at] = change_json(lines[at], random)
    return b"\n".join(lines)


def change_npy(data: bytes, random: Random) -> bytes:
    """Another array, or wrong bytes in it."""
    if random.random() < 0.3:
        return change_bytes(data, random)
    check_npy(io.BytesIO(data), len(data))  # numpy would allocate whatever the header claims
    return npy(change_array(np.load(io.BytesIO(data), allow_pickle=False), random))


def change_npz(data: bytes, random: Random) -> bytes:
    """One member replaced, left out, or called otherwise; the archive itself is sound."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if archive.getinfo(name).file_size < 10**6}
    name = random.choice(list(members))
    action = random.randrange(10)
    if action == 0:
        del members[name]
    elif action == 1:
        members[random.choice(("x", "", "x.npy", "a/b.npy", random.choice(list(members))))] = members.pop(name)
    elif action == 2:
        members[name] = npy(random.choice(ODD_ARRAYS))
    else:
        members[name] = change_npy(members[name], random)
    return zipped(members)


def change_pickled_npz(data: bytes, random: Random) -> bytes:
    """As `change_npz`, in the objects that members hold."""
    if random.random() < 0.2:
        return change_npz(data, random)
    arrays = _through_file(data, load_pickled_arrays)
    name = random.choice(list(arrays))
    arrays[name] = changed(arrays[name], random)
    return zipped({f"{key}.npy": npy(_object(value)) for key, value in arrays.items()})


def change_pickle(data: bytes, random: Random) -> bytes:
    """One value of a pickled object replaced, left out or there twice."""
    protocol = random.choice((2, 4, 5))
    return pickle.dumps(changed(_through_file(data, load_pickle), random), protocol)


def changed(value: Any, random: Random) -> Any:
    """Return a copy of nested containers in which one value is another, is left out, or is there twice."""
    if isinstance(value, np.ndarray):
        return change_array(value, random)
    if not isinstance(value, (dict, list, tuple)) or not value or random.random() < 0.1:
        return random.choice(ODD)
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    key = random.choice(list(copy)) if isinstance(copy, dict) else random.randrange(len(copy))
    action = random.randrange(12)
    if action == 0:
        del copy[key]
    elif action == 1 and isinstance(copy, dict):
        copy[random.choice((*map(str, range(3)), "x", "", *copy))] = copy.pop(key)
    elif action == 1:
        copy.insert(key, copy[key])
    else:
        copy[key] = changed(copy[key], random)
    return tuple(copy) if isinstance(value, tuple) else copy


def change_array(array: NDArray[Any], random: Random) -> NDArray[Any]:
    """Of another type or shape, with one number that is odd, or another array altogether."""
    action = random.randrange(6)
    if action == 0:
        return random.choice(ODD_ARRAYS)
    if action == 1 and array.dtype.kind in "fiu":  # of others numpy itself dies at times: bytes as datetime64
        return array.astype(random.choice(("f2", ">f8", "i4", "u1", "U5", "S3", "c8", "?", "m8[s]", "M8[s]")))
    if action == 2:
        return random.choice((array[None], array[..., None], array.ravel(), array.T, array[:0], array[..., :-1]))
    if action == 3:
        return np.concatenate([array, array])
    out = array.copy()
    with np.errstate(over="ignore"):
        out.flat[random.randrange(out.size)] = random.choice(ODD_NUMBERS)
    return out


def npy(array: Any) -> bytes:
    """Return the bytes of an .npy file, pickled where the array holds objects."""
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asanyarray(array))
    return out.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    """Return the bytes of an archive that holds them as they are."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def _object(value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    out = np.empty((), object)
    out[()] = value
    return out


def _through_file(data: bytes, load: Callable[[Path], Any]) -> Any:
    """Return what our own reader makes of it: the fuzzer's inputs are no more to be trusted than those of others."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "held"
        path.write_bytes(data)
        return _plain(load(path))


def _plain(value: Any) -> Any:
    """Return nested containers with arrays of numpy's own class, which can be pickled again."""
    if isinstance(value, dict):
        return {key: _plain(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    return np.array(value) if isinstance(value, np.ndarray) else value


FORMS: dict[str, Change] = {
    "bytes": change_bytes,
    "text": change_text,
    "json": change_json,
    "json lines": change_json_lines,
    "npy": change_npy,
    "npz": change_npz,
    "pickled npz": change_pickled_npz,
    "pickle": change_pickle,
}
