"""From arrays of everybody in a view to the frames of Detections, and from a file's own joint names to ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.detections import CONFIDENCE, NAMES_TOLD, Detections, Frame, to_recording
from edgelift.poses.formats.pose2d import FAR_PX
from edgelift.poses.formats.untrusted import twice
from edgelift.poses.recordings import Recording
from edgelift.poses.skeletons import Skeleton

Float64 = NDArray[np.float64]
Indices = NDArray[np.intp]

MOST = 4_000_000  # frames of a view, and people in all of them: 18 hours at 60 Hz; each costs some hundred bytes


def to_frames(where: str, numbers: NDArray[np.integer], people: Sequence[Float64] | Float64) -> dict[int, Frame]:
    """Return frames by number: numbers (frames,), and of each the people (people, joints, 3) x, y, confidence.

    Missing is NaN in any of the three, or confidence 0; people of whom nothing is seen are left out. EdgeliftError
    where numbers do not rise, and where coordinates or confidences cannot be what they should.
    """
    if not 0 < len(numbers) <= MOST:
        raise EdgeliftError(
            where, f"{len(numbers)} frames", f"1 to {MOST}", "Run the detector again, on a shorter part."
        )
    if numbers[0] < 0 or (np.diff(numbers) <= 0).any():
        raise EdgeliftError(
            where, "frame numbers that do not rise from 0 or more", "each frame once, in order",
            "Sort the frames, and put each take or person in its own file.",
        )  # fmt: skip
    whole = np.concatenate(people)
    check_people(where, whole)
    seen = (whole[..., 2] > 0).any(-1)
    if seen.sum() > MOST:
        raise EdgeliftError(where, f"{seen.sum()} people in all frames", f"{MOST} at most", "Give a shorter part.")
    ends = np.concatenate([[0], np.cumsum(seen)])[np.cumsum([len(found) for found in people])]
    frames = np.split(whole[seen], ends[:-1])
    return {n: Frame(where, list(found)) for n, found in zip(numbers.tolist(), frames, strict=True)}


def check_people(where: str, people: Float64) -> None:
    """EdgeliftError where (n, joints, 3) have a confidence outside [0, 1], or a joint that no image could show."""
    confidence = people[..., 2]
    wrong = (confidence < CONFIDENCE[0]) | (confidence > CONFIDENCE[1])
    if wrong.any():
        raise EdgeliftError(
            where, f"confidence {confidence[wrong][0]:g}", "[0, 1]",
            "Scale the confidences to [0, 1]; logits need 1 / (1 + exp(-x)).",
        )  # fmt: skip
    seen = np.abs(people[..., :2][confidence > 0])
    if (seen > FAR_PX).any():  # infinity too; NaN is missing
        raise EdgeliftError(
            where, f"a joint at {np.nanmax(seen):.3g}", f"pixels within {FAR_PX:g}", "Leave it empty, or NaN."
        )


def check_names(source: str, views: Sequence[Detections]) -> None:
    """EdgeliftError where two views have one name."""
    again = twice(view.name for view in views)
    if again:
        raise EdgeliftError(
            source, f"several views named {_listed(again)}", "names that differ",
            "Leave one file a view in the folder, and rename what is left.",
        )  # fmt: skip


def whole_numbers(where: str, column: Float64) -> NDArray[np.int64]:
    """Return a column of frame numbers as integers; EdgeliftError where one is missing, broken or beyond 2**53."""
    if not (np.isfinite(column) & (column == np.floor(column)) & (np.abs(column) < 2**53)).all():
        raise EdgeliftError(where, "frame numbers that are none", "a whole number for each frame", "Number the frames.")
    return column.astype(np.int64)


def named_recording(
    views: Sequence[Detections], path: Path, skeleton: Skeleton, fps: float, joints: Mapping[str, str] | None
) -> Recording:
    """Return the Recording of views whose joints have a file's own names, after `path`; time = frame number / fps.

    joints: the file's names to ours; a name that equals one of ours stands for it unless another was given for that.
    What the file has no joint for is missing. EdgeliftError where two views have one name, where `joints` has names
    that are not there or two for one of ours, where nothing is matched at all, and as of to_recording.
    """
    check_names(str(path), views)
    return to_recording([_name_joints(view, skeleton, joints) for view in views], path, skeleton, fps)


def _name_joints(view: Detections, skeleton: Skeleton, joints: Mapping[str, str] | None) -> Detections:
    """Return a view of a file's own joints as one of the skeleton's."""
    index = _match(view, skeleton, dict(joints or {}))
    absent = np.array([np.nan, np.nan, 0.0])
    frames = {
        number: replace(frame, people=[np.where(index[:, None] < 0, absent, person[index]) for person in frame.people])
        for number, frame in view.frames.items()
    }
    return replace(view, frames=frames, joint_names=())


def _match(view: Detections, skeleton: Skeleton, given: Mapping[str, str]) -> Indices:
    """Return (joints,) for each joint of the skeleton its index in the file, -1 where the file has none."""
    names, ours = view.joint_names, list(given.values())
    held = set(names)
    there, known = _listed(names), f"joints of {skeleton.name}: {_listed(skeleton.joints)}"
    _refuse([name for name in given if name not in held], f"joints of {view.where}: {there}")
    _refuse([name for name in ours if name not in skeleton.joints], known)
    _refuse([name for name in skeleton.joints if ours.count(name) > 1], "one joint of the file for each of ours")
    theirs = {name: name for name in names if name not in given} | {our: their for their, our in given.items()}
    index = np.array([names.index(theirs[our]) if our in theirs else -1 for our in skeleton.joints], np.intp)
    if (index < 0).all():
        raise EdgeliftError(view.where, f"joints {there}", known, "Give --joints a file that says which is which.")
    return index


def _refuse(names: Sequence[str], expected: str) -> None:
    if names:
        raise EdgeliftError("--joints", _listed(names), expected, "Correct the names.")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_TOLD]) + (", ..." if len(names) > NAMES_TOLD else "")
