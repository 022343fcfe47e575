"""DeepLabCut's CSV files: a header of scorer, individuals (optional), bodyparts and coords, then a row a frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.detections import Detections, read_views
from edgelift.poses.formats.tables import read_rows, to_numbers
from edgelift.poses.formats.views import Indices, named_recording, to_frames, whole_numbers
from edgelift.poses.recordings import Recording
from edgelift.poses.skeletons import Skeleton

EXPECTED = "a DeepLabCut .csv of analysed videos, or a folder with one a view"
HEADER_ROWS = 4  # at most: single animals have no individuals
COORDS = ("x", "y", "likelihood")


def read_deeplabcut(path: Path, skeleton: Skeleton, fps: float, joints: Mapping[str, str] | None = None) -> Recording:
    """Read one file or a folder with one a view: raw pixels, confidence = likelihood, every individual a person.

    joints: body parts to joints of the skeleton; equal names need no word, and a joint that no body part stands for is
    missing everywhere. Time is frame number / fps. A view is named as its video: what stands before the scorer in the
    file's name. EdgeliftError on anything else, labelled images (no likelihood) and 3D files among it.
    """
    return named_recording(parse_deeplabcut(path), path, skeleton, fps, joints)


def parse_deeplabcut(path: Path) -> list[Detections]:
    """Read the same without skeleton and rate: all body parts, by their own names."""
    return read_views(path, ".csv", EXPECTED, _read_view)


def _read_view(path: Path) -> Detections:
    rows = read_rows(path, EXPECTED)
    header = _header(path, rows)
    parts, columns = _columns(path, header)
    table = to_numbers(path, rows, len(header["coords"]), range(len(header["coords"])))
    numbers = whole_numbers(f"{path}: first column", table[:, 0])
    table[:, 0] = np.nan  # stands for what an individual does not have
    return Detections(_video(path, header), str(path), to_frames(str(path), numbers, table[:, columns]), parts)


def _header(path: Path, rows: Iterator[list[str]]) -> dict[str, list[str]]:
    """Return the header's rows by their first cell, all of one length."""
    header: dict[str, list[str]] = {}
    for row in islice(rows, HEADER_ROWS):
        header[row[0].lower()] = row
        if row[0].lower() == "coords":
            break
    lacking = [name for name in ("bodyparts", "coords") if name not in header]
    if lacking or len({len(row) for row in header.values()}) > 1:
        received = f"no row {' and no row '.join(lacking)}" if lacking else "header rows of different lengths"
        raise EdgeliftError(str(path), received, EXPECTED, "Let DeepLabCut write it again (save_as_csv=True).")
    return header


def _columns(path: Path, header: Mapping[str, list[str]]) -> tuple[tuple[str, ...], Indices]:
    """Return the body parts, and (people, parts, 3) the columns of x, y and likelihood, 0 where the file has none."""
    coords, parts = header["coords"][1:], header["bodyparts"][1:]
    individuals = header["individuals"][1:] if "individuals" in header else [""] * len(coords)
    if "likelihood" not in coords:
        what = "3D coordinates" if "z" in coords else "no likelihood, as in labelled images"
        raise EdgeliftError(str(path), what, EXPECTED, "Give the files that analyze_videos wrote.")
    keys = list(zip(individuals, parts, coords, strict=True))
    if len(set(keys)) < len(keys):
        raise EdgeliftError(str(path), "one column of the header twice", EXPECTED, "Write the file again.")
    place = {key: column for column, key in enumerate(keys, start=1)}
    names, people = tuple(dict.fromkeys(parts)), dict.fromkeys(individuals)
    # the columns make a table of everybody's every part; a few may lack, as of things that only one has
    if len(names) * len(people) > 4 * len(keys):
        received = f"{len(people)} individuals and {len(names)} body parts in {len(keys)} columns"
        raise EdgeliftError(str(path), received, "three columns for each part of each", "Write the file again.")
    found = [[[place.get((who, part, axis), 0) for axis in COORDS] for part in names] for who in people]
    return names, np.array(found, np.intp)


def _video(path: Path, header: Mapping[str, list[str]]) -> str:
    """Return the video's name: DeepLabCut calls its file after the video, with the scorer behind."""
    scorer = header.get("scorer", ["", ""])[1]
    video = path.stem.partition(scorer)[0] if scorer else ""
    return video or path.stem
