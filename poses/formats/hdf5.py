"""HDF5 files of others, read in another process: `python -m edgelift.poses.formats.hdf5 FILE OUT NAME...`.

The HDF5 library trusts what it reads. A few bytes that are wrong, and it steps on the spot for ever or crashes, and
Python with it; no thread could stop it, and no check of ours came before all of that.
"""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError, missing_extra
from edgelift.poses.formats.untrusted import LARGEST_RATIO, LARGEST_TEXT
from edgelift.poses.sessions import load_arrays

PATIENCE_S = 120.0  # the largest file that is read takes some ten
REMEDY = "Export it again; it may be cut short."
_TOLD = 3  # exit code of the process when it has written an error


def read_hdf5(path: Path, names: Sequence[str], expected: str) -> dict[str, NDArray[Any]]:
    """Return the datasets of these names that the file has, and their attributes, as `name@attribute`.

    Those of the file itself are `@attribute`; all are numbers or texts. expected: what the file should be, for errors.
    EdgeliftError where a dataset lies in another file, or is larger than a recording; where the file is damaged; and
    where there is no h5py.
    """
    try:
        importlib.import_module("h5py")
    except ModuleNotFoundError as error:
        raise missing_extra("h5py", "files") from error
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "arrays.npz"
        command = [sys.executable, "-m", __name__, str(path), str(out), *names]
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=PATIENCE_S, check=False, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired as error:
            raise EdgeliftError(str(path), f"no end after {PATIENCE_S:g} s", expected, REMEDY) from error
        if done.returncode == _TOLD:
            subject, received, remedy = json.loads(done.stdout)
            raise EdgeliftError(subject, received, expected, remedy)
        if done.returncode:
            received = f"damaged HDF5 (its reader ended with {done.returncode})"
            raise EdgeliftError(str(path), received, expected, REMEDY)
        return load_arrays(out)


def _main(path: Path, out: Path, names: Sequence[str]) -> int:
    import h5py

    arrays: dict[str, Any] = {}
    try:
        with h5py.File(path, "r") as file:
            arrays |= _attributes("", file)
            for name in names:
                if name in file:
                    dataset = _dataset(path, file, name)
                    arrays |= {name: _plain(dataset[()]), **_attributes(name, dataset)}
        np.savez(out, allow_pickle=False, **arrays)
    except EdgeliftError as error:
        told = [error.subject, error.received, error.remedy]
    except Exception as error:  # damaged HDF5 raises nearly anything, from OSError to RuntimeError
        told = [str(path), f"unreadable ({type(error).__name__}: {error})", REMEDY]
    else:
        return 0
    sys.stdout.write(json.dumps(told))
    return _TOLD


def _dataset(path: Path, file: Any, name: str) -> Any:
    """Return a dataset, unread, that lies in this file and is no larger than a recording."""
    import h5py

    dataset = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    own = isinstance(dataset, h5py.Dataset) and not dataset.external and not dataset.is_virtual
    if dataset is None or not own or dataset.file.filename != file.filename:  # a group on the way may be a link, too
        raise EdgeliftError(f"{path}: {name}", "no dataset, or one in another file", "", REMEDY)
    size = math.prod(dataset.shape or (0,)) * dataset.dtype.itemsize
    if size > min(LARGEST_TEXT, LARGEST_RATIO * path.stat().st_size):
        count = f"{math.prod(dataset.shape)} elements of type {dataset.dtype}"
        received = f"{count}, {size / 2**20:.0f} MiB, too much for a file of this size"
        raise EdgeliftError(f"{path}: {name}", received, "", "Export a shorter part.")
    return dataset


def _attributes(name: str, owner: Any) -> dict[str, NDArray[Any]]:
    return {f"{name}@{key}": _plain(owner.attrs[key]) for key in ("dims", "transpose") if key in owner.attrs}


def _plain(value: Any) -> NDArray[Any]:
    """Return numbers as they are and texts as texts; anything else cannot be saved, which is an error as well."""
    array = np.asarray(value)
    if array.dtype.kind not in "SO":
        return array
    texts = [item.decode("utf-8") if isinstance(item, bytes) else str(item) for item in array.ravel().tolist()]
    return np.array(texts, str).reshape(array.shape)


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
