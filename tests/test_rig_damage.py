"""Camera files that are cut short, damaged or made to exhaust: one error each, in bounded time and memory."""

from __future__ import annotations

import json
import pickle
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.rigs import read_rig

from .rig_files import (
    TEXTS,
    Encoder,
    each_form,
    encode_cameras_h5,
    encode_metadata,
    encode_mmpose,
    rig_refused,
    studio,
)


def _survives(source: str, units: str | None) -> None:
    """The file is read, or refused by the one error: never anything else, and cameras that are read are cameras."""
    try:
        rig = read_rig(source, units)
    except EdgeliftError as error:
        assert len(str(error)) < 3000  # noqa: PT017
    else:
        assert all(isinstance(camera, Camera) for camera in rig)


def _files(source: str) -> list[Path]:
    path = Path(source.removesuffix(":S9"))
    return sorted(path.iterdir()) if path.is_dir() else [path]


@each_form
def test_files_cut_short_anywhere(encode: Encoder, tmp_path: Path) -> None:
    source, units = encode(studio(), tmp_path)
    for path in _files(source):
        whole = path.read_bytes()
        step = max(1, len(whole) // CUTS)
        for length in (*range(0, len(whole), step), *range(len(whole) - 5, len(whole))):
            path.write_bytes(whole[:length])
            _survives(source, units)
        for length in (0, 1, len(whole) // 2):  # these cannot be whole cameras
            path.write_bytes(whole[:length])
            with pytest.raises(EdgeliftError):
                read_rig(source, units)
        path.write_bytes(whole)


MUTATED, CUTS = 20, 60  # of the values of a file, and places; more were tried once
TOKEN = re.compile(r'-?\d[\d.eE+-]*|"[^"]*"|\[|\]|true|false')
ODD = (
    "",
    '"x"',
    "[]",
    "{}",
    "true",
    "null",
    "1e308",
    "-1",
    "nan",
    "inf",
    "9" * 5000,
    "[[[1]]]",
    '"\\ud800"',
    '"\x07"',
    "é",
)


@pytest.mark.parametrize("encode", TEXTS.values(), ids=TEXTS.keys())
def test_values_of_other_types_anywhere(encode: Encoder, tmp_path: Path) -> None:
    source, units = encode(studio()[:2] if encode is not encode_metadata else studio(), tmp_path)
    chance = random.Random(7)
    for path in _files(source):
        whole = path.read_text()
        tokens = list(TOKEN.finditer(whole))
        for token in chance.sample(tokens, min(len(tokens), MUTATED)):
            for odd in ODD:
                path.write_text(whole[: token.start()] + odd + whole[token.end() :])
                _survives(source, units)
        path.write_text(whole)


def test_pickled_and_hdf5_values_of_other_types(tmp_path: Path) -> None:
    source, _ = encode_mmpose(studio(), tmp_path)
    path = tmp_path / "cameras.pkl"
    whole = pickle.loads(path.read_bytes())
    key = ("S9", "54138969")
    odd: tuple[Any, ...] = (
        None,
        "x",
        [],
        {},
        True,
        1e308,
        10**400,
        np.nan,
        np.zeros((3, 3)),
        np.array(["a"]),
        np.zeros(0),
        b"1",
        1j,
    )
    for field in whole[key]:
        for value in odd:
            path.write_bytes(pickle.dumps({**whole, key: {**whole[key], field: value}}))
            _survives(source, "m")
    path.write_bytes(pickle.dumps({**whole, key: print}))
    rig_refused("calls builtins.print", source)
    h5py = pytest.importorskip("h5py", reason="needs the extra `files`")
    source, _ = encode_cameras_h5(studio(), tmp_path)
    for field in ("R", "T", "f", "c", "k", "p", "Name"):
        for value in (np.zeros((3, 3)), np.zeros(0), np.array([np.nan]), b"text", 7, np.array([2**40])):
            with h5py.File(tmp_path / "cameras.h5", "r+") as archive:
                kept = archive[f"subject9/camera2/{field}"][()]
                del archive[f"subject9/camera2/{field}"]
                archive[f"subject9/camera2/{field}"] = value
            _survives(source, "mm")
            with h5py.File(tmp_path / "cameras.h5", "r+") as archive:
                del archive[f"subject9/camera2/{field}"]
                archive[f"subject9/camera2/{field}"] = kept
    with h5py.File(tmp_path / "cameras.h5", "r+") as archive:
        del archive["subject9/camera1/R"]
        archive.create_dataset(
            "subject9/camera1/R", (10**6, 10**6), "f8", chunks=(1000, 1000)
        )  # 8 TB that nobody wrote
    rig_refused("elements of type", source, "mm")


def test_files_that_are_made_to_exhaust(tmp_path: Path) -> None:
    deep = 200_000
    matrix = "%YAML:1.0\n---\nK: !!opencv-matrix\n   rows: 9999\n   cols: 9999\n   dt: d\n   data: [ 1. ]\n"
    entities = '<!DOCTYPE a [<!ENTITY b "cc"><!ENTITY d "&b;&b;">]><calibration>&d;</calibration>'
    many = "".join(f'[cam_{i}]\nname = "{i}"\n' for i in range(2000))
    files = {
        "deep.json": "[" * deep, "deep2.json": '{"rigs":' * deep, "deep.toml": "a = " + "[" * deep,
        "deep.xml": "<a>" * deep, "entities.xml": entities, "entities.txt": entities, "big.yml": matrix,
        "many.toml": many, "spaces.yml": "%YAML:1.0\n---\nK: !!opencv-matrix" + " " * deep,
        "commas.yml": matrix.replace("1. ]", "1.," * deep + " ]"), "line.yml": "%YAML:1.0\n" + "a" * deep,
        "digits.json": '{"rigs": {"S9": [{"size": ' + "9" * deep + "}]}}", "lines.txt": "<calibration " * deep,
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(EdgeliftError) as caught:
            read_rig(f"{tmp_path / name}{':S9' if name.endswith(('json', 'xml')) else ''}", "m")
        assert len(str(caught.value)) < 3000
    for suffix in ("toml", "json", "yml", "txt", "xml"):
        path = tmp_path / f"latin.{suffix}"
        path.write_bytes(b"%YAML:1.0\n\xff\xfe")
        rig_refused("unreadable", path)
        with path.open("wb") as file:
            file.truncate(2**40)
        rig_refused("MiB at most", path)


def test_sizes_numbers_and_matrices_that_cannot_be(tmp_path: Path) -> None:
    item = {
        "id": "A", "K": [[1000.0, 0, 500], [0, 1000, 500], [0, 0, 1]], "dist": [0] * 5, "R": np.eye(3).tolist(),
        "t": [0, 0, 4], "size": [1000, 900],
    }  # fmt: skip
    path = tmp_path / "rigs.json"

    def refused(match: str, **changes: Any) -> None:
        path.write_text(json.dumps({"rigs": {"S9": [{**item, **changes}]}}))
        rig_refused(match, f"{path}:S9", None)

    refused("size: received", size=[10**400, 900])
    refused("size: received", size=[1e30, 900])
    refused("1 to 20000 pixels", size=[30_000, 900])
    refused("1 to 20000 pixels", size=[0, 900])
    refused("size: received", size=["1000", 900])
    refused("size: received", size=[True, 900])
    refused("name: received", id=["A"])
    refused("name: received", id="A\n")
    refused("name: received", id="\ud800")
    refused("K: received", K=[[1000.0, 0, 0], [0, 1000, 0], [500, 500, 1]])  # as MATLAB has it
    refused("K: received", K=[[2.3, 0, 0.1], [0, 2.3, 0.1], [0, 0, 1]])  # divided by the image's size
    refused("t: received", t=[0, 0, 1e200])
    refused("orthonormal", R=[[1, 0, 0], [0, 1, 0], [0, 0, 2]])
    path.write_text('{"rigs": {"S9": {"a": 1}}}')
    rig_refused("a dict.*a list of cameras", f"{path}:S9", None)
