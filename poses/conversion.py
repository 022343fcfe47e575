"""Files of others to sessions and back: what `edgelift convert` and `edgelift triangulate` do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.alphapose import parse_alphapose, read_alphapose
from edgelift.poses.formats.coco import parse_coco, read_coco
from edgelift.poses.formats.deeplabcut import parse_deeplabcut, read_deeplabcut
from edgelift.poses.formats.detections import Detections, evidence
from edgelift.poses.formats.freemocap import read_freemocap
from edgelift.poses.formats.mediapipe import parse_mediapipe, read_mediapipe
from edgelift.poses.formats.mmpose import parse_mmpose, read_mmpose
from edgelift.poses.formats.openpose import parse_openpose, read_openpose
from edgelift.poses.formats.pose2d import read_pose2d
from edgelift.poses.formats.sleap import parse_sleap, read_sleap
from edgelift.poses.formats.trc import write_trc
from edgelift.poses.formats.ultralytics import parse_ultralytics, read_ultralytics
from edgelift.poses.formats.untrusted import load_json, load_toml
from edgelift.poses.formats.videopose3d import read_videopose3d
from edgelift.poses.people import separate_people
from edgelift.poses.recordings import Recording, Selection, choose_person
from edgelift.poses.rigs import match_views, read_rig, write_rig
from edgelift.poses.sessions import Session, load_session, save_session
from edgelift.poses.skeletons import Skeleton, skeleton
from edgelift.poses.writing import write_session

Told = tuple[dict[str, Any], list[str]]  # facts for --json, lines for people

# what tells how many joints and frames there are before skeleton and rate are known
PARSERS: dict[str, Callable[[Path], list[Detections]]] = {
    "openpose": parse_openpose,
    "mmpose": parse_mmpose,
    "alphapose": parse_alphapose,
    "coco": parse_coco,
    "ultralytics": parse_ultralytics,
    "mediapipe": parse_mediapipe,
    "deeplabcut": parse_deeplabcut,
    "sleap": parse_sleap,
}
READERS: dict[str, Callable[[Path, Skeleton, float], Recording]] = {
    "openpose": read_openpose,
    "mmpose": read_mmpose,
    "alphapose": read_alphapose,
    "coco": read_coco,
    "freemocap": read_freemocap,
}
NORMALISED = ("ultralytics", "mediapipe")  # may hold shares of the image, whose size is then needed beside a rig
LARGEST_IMAGE = 2**16  # pixels a side: no camera has more
MOST_NAMED = 8  # files in a message

_RIG = frozenset({"--cameras", "--units", "--view", "--select", "--size", "--people"})
_MADE = _RIG | {"--skeleton", "--fps"}
# the flags that each format knows
FORMATS: dict[str, frozenset[str]] = {
    **dict.fromkeys((*PARSERS, "freemocap"), _MADE),
    **dict.fromkeys(("deeplabcut", "sleap"), _MADE | {"--joints"}),
    "pose2d": _RIG,
    "videopose3d": frozenset({"--skeleton", "--fps", "--cameras", "--units", "--poses"}),
    "cameras": frozenset({"--units", "--size"}),
    "session": frozenset({"--to"}),
}


@dataclass(frozen=True)
class Conversion:
    """What `edgelift convert` is asked for; None (or nothing) where its flag was not given.

    format: one of FORMATS. fps: frames a second. cameras: a rig as `read_rig` takes it, `{subject}` filled in for
    videopose3d. view: `FOLDER=CAMERA` pairs. select: cameras of the rig, comma-separated. size: `WIDTHxHEIGHT`. poses:
    videopose3d's 3D file. people: `one` or `all`. joints: a file of names. to: what a session is written as.
    """

    source: Path
    output: Path
    format: str
    skeleton: str | None = None
    fps: float | None = None
    cameras: str | None = None
    units: str | None = None
    view: Sequence[str] = ()
    select: str | None = None
    size: str | None = None
    poses: Path | None = None
    people: str = "one"
    joints: Path | None = None
    to: str | None = None


def convert(asked: Conversion) -> Told:
    """Write sessions from files of others, a session as a file of others, or one rig file as another.

    EdgeliftError says what is wrong with the files or the flags; what has to be stated and is not is refused with what
    the files tell about it. Nothing is written then.
    """
    _check_flags(asked)
    if asked.format == "session":
        return _write_as(asked)
    if asked.format == "cameras":
        return _convert_rig(asked)
    if asked.format == "videopose3d":
        return _convert_videopose3d(asked)
    if asked.people == "one" and asked.output.suffix != ".npz":
        raise EdgeliftError("-o", str(asked.output), "a session name that ends in .npz", "Write, say, -o take1.npz.")
    return _save_people(_read(asked), asked)


def _check_flags(asked: Conversion) -> None:
    given: dict[str, Any] = {
        "--skeleton": asked.skeleton, "--fps": asked.fps, "--cameras": asked.cameras, "--units": asked.units,
        "--view": asked.view or None, "--select": asked.select, "--size": asked.size, "--poses": asked.poses,
        "--people": None if asked.people == "one" else asked.people, "--joints": asked.joints, "--to": asked.to,
    }  # fmt: skip
    flags = {flag for flag, value in given.items() if value is not None}
    unused = [flag for flag in given if flag in flags - FORMATS[asked.format]]
    if unused:
        raise EdgeliftError(", ".join(unused), f"--format {asked.format}", "the format that knows it", "Leave it out.")
    beside = [flag for flag in ("--cameras", "--units", "--view", "--select", "--people") if flag in flags]
    if "--size" in flags and beside and asked.format not in (*NORMALISED, "cameras"):
        raise EdgeliftError(
            "--size", f"{' '.join(beside)} as well", "a rig, or the size of uncalibrated images", "Leave one out."
        )


def _read(asked: Conversion) -> Recording:
    if asked.format == "pose2d":
        return read_pose2d(asked.source)
    made_with, fps = _stated(asked)
    if asked.format in READERS:
        return READERS[asked.format](asked.source, made_with, fps)
    if asked.format in NORMALISED:
        read_sized = read_ultralytics if asked.format == "ultralytics" else read_mediapipe
        return read_sized(asked.source, made_with, fps, None if asked.size is None else _size(asked.size))
    names = None if asked.joints is None else read_joint_names(asked.joints)
    read_named = read_deeplabcut if asked.format == "deeplabcut" else read_sleap
    return read_named(asked.source, made_with, fps, names)


def read_joint_names(path: Path) -> Mapping[str, str]:
    """Read the file of `--joints`: a TOML table or JSON object of a tracker's joint names to those of a skeleton."""
    expected = 'joint names, as in TOML: snout = "nose"'
    names = load_toml(path, expected) if path.suffix == ".toml" else load_json(path, expected)
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        remedy = "Write one line a joint: its name in the file = ours."
        raise EdgeliftError(str(path), "something else", expected, remedy)
    return names


def _stated(asked: Conversion) -> tuple[Skeleton, float]:
    """Return skeleton and rate; EdgeliftError tells what the files say about them where they are not stated."""
    if asked.skeleton is not None and asked.fps is not None:
        return skeleton(asked.skeleton), asked.fps
    lacking = {"--skeleton": asked.skeleton, "--fps": asked.fps}
    told = "They do not say it: add it."
    if asked.format in PARSERS:
        try:
            told = f"They say: {evidence(PARSERS[asked.format](asked.source))}. Add what is missing."
        except EdgeliftError as error:
            told = f"Besides, they cannot be read. {error}"
    raise EdgeliftError(
        ", ".join(flag for flag, value in lacking.items() if value is None),
        "nothing", f"what the {asked.format} files were made with", told,
    )  # fmt: skip


def _save_people(recording: Recording, asked: Conversion) -> Told:
    """Choose the person of a recording, or separate all, and write a session each."""
    if asked.people == "all":
        return _save_all(recording, asked)
    if asked.cameras is None and asked.size is not None:
        session, selection = choose_person(recording, None)
        session = replace(session, image_sizes=(_size(asked.size),) * len(recording.views))
    else:
        session, selection = choose_person(*_match(recording, asked))
    save_session(session, asked.output)
    return _told(session, selection, asked.output)


def _match(recording: Recording, asked: Conversion) -> tuple[Recording, tuple[Camera, ...]]:
    return match_rig(recording, asked.cameras, asked.units, asked.view, asked.select)


def _save_all(recording: Recording, asked: Conversion) -> Told:
    """Write `<name>_1.npz` and so on into a directory or, where output is x.npz, `x_1.npz` and so on beside it."""
    output = asked.output
    folder, stem = (output.parent, output.stem) if output.suffix == ".npz" else (output, recording.name)
    _check_unused(folder, stem)
    people = separate_people(*_match(recording, asked))
    paths = [folder / f"{stem}_{number}.npz" for number in range(1, len(people) + 1)]
    for (session, _), path in zip(people, paths, strict=True):
        save_session(session, path)
    told = [_told(session, selection, path) for (session, selection), path in zip(people, paths, strict=True)]
    facts = {"output": str(folder), "people": [facts for facts, _ in told]}
    return facts, [line for _, lines in told for line in lines]


def _check_unused(folder: Path, stem: str) -> None:
    """EdgeliftError where numbered sessions are there already: an earlier run's that found more people would stay."""
    numbered = re.compile(re.escape(stem) + r"_[0-9]+\.npz")
    there = sorted(path.name for path in folder.iterdir() if numbered.fullmatch(path.name)) if folder.is_dir() else []
    if there:
        named = ", ".join(there[:MOST_NAMED]) + (", ..." if len(there) > MOST_NAMED else "")
        raise EdgeliftError(
            f"-o {folder}", f"{len(there)} sessions of such names that are there already ({named})",
            f"no {stem}_1.npz and so on: the people of two runs would mix", "Remove them, or choose another -o.",
        )  # fmt: skip


def _told(session: Session, selection: Selection, path: Path) -> Told:
    views, frames = session.keypoints.shape[:2]
    facts = {"session": str(path), "views": views, "frames": frames, "selection": selection.summary()}
    return facts, [*selection.summary(), f"{views} views, {frames} frames, {session.skeleton.name} -> {path}"]


def match_rig(
    recording: Recording, cameras: str | None, units: str | None, view: Sequence[str] = (), select: str | None = None
) -> tuple[Recording, tuple[Camera, ...]]:
    """Return the recording, with the views of the selected cameras alone, and their cameras in the same order."""
    rig = {camera.name: camera for camera in read_rig(_given(cameras), units)}
    wanted = None if select is None else [word.strip() for word in select.split(",")]
    names = match_views([v.name for v in recording.views], list(rig), _pairs(view), wanted)
    views = tuple(v for v in recording.views if v.name in names)
    return replace(recording, views=views), tuple(rig[names[v.name]] for v in views)


def _distance(cameras: Sequence[Camera]) -> str:
    apart = [np.linalg.norm(a.centre - b.centre) for a, b in combinations(cameras, 2)]
    return f"{np.median(apart):.3g} m from camera to camera (median)" if apart else "one camera"


def _size(size: str) -> tuple[int, int]:
    width, _, height = size.lower().partition("x")
    sides = [int(side) if side.isascii() and side.isdecimal() and len(side) < 9 else 0 for side in (width, height)]
    if not all(0 < side <= LARGEST_IMAGE for side in sides):
        raise EdgeliftError("--size", repr(size), "WIDTHxHEIGHT in pixels", "Write, say, --size 1920x1080.")
    return sides[0], sides[1]


def _given(cameras: str | None) -> str:
    if cameras is None:
        raise EdgeliftError(
            "--cameras", "nothing", "Calib.toml or FILE.json:NAME",
            "Name the rig that filmed this (or give --size for an uncalibrated recording).",
        )  # fmt: skip
    return cameras


def _pairs(view: Sequence[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in view]
    wrong = [f"{folder}{equals}{camera}" for folder, equals, camera in pairs if not (folder and equals and camera)]
    if wrong:
        raise EdgeliftError("--view", ", ".join(wrong), "FOLDER=CAMERA", "Write, say, --view left=cam_01.")
    return {folder: camera for folder, _, camera in pairs}


def _convert_videopose3d(asked: Conversion) -> Told:
    """Write one session a subject and action into the directory `output`; `{subject}` in `cameras` is filled in."""
    made_with, fps = _stated(asked)
    named = _given(asked.cameras)

    def rig_of(subject: str) -> tuple[Camera, ...]:
        return read_rig(named.replace("{subject}", subject), asked.units)

    sessions = read_videopose3d(asked.source, asked.poses, rig_of, fps, made_with)
    for session in sessions:
        save_session(session, asked.output / f"{session.name}.npz")
    frames = sum(s.keypoints.shape[1] for s in sessions)
    facts = {"output": str(asked.output), "sessions": len(sessions), "frames": frames}
    return facts, [f"{len(sessions)} sessions, {frames} frames -> {asked.output}/"]


def _convert_rig(asked: Conversion) -> Told:
    """Write a camera file of any kind as Pose2Sim's TOML, in metres."""
    if asked.output.suffix != ".toml":
        raise EdgeliftError("-o", str(asked.output), "a rig name that ends in .toml", "Write, say, -o rig.toml.")
    cameras = read_rig(str(asked.source), asked.units, size=None if asked.size is None else _size(asked.size))
    write_rig(cameras, asked.output)
    names = [camera.name for camera in cameras]
    told = f"{len(cameras)} cameras ({', '.join(names)}), {_distance(cameras)} -> {asked.output}, in metres"
    return {"output": str(asked.output), "cameras": names}, [told]


def _write_as(asked: Conversion) -> Told:
    if asked.to is None:
        raise EdgeliftError("--to", "nothing", "what to write the session as", "Add, say, --to trc.")
    return write_session(load_session(asked.source), asked.to, asked.output)


def triangulate_session(source: Path, output: Path) -> Told:
    """Write a session's triangulated poses as TRC, or the session with them as its poses."""
    session = load_session(source)
    points, residuals = session.triangulate()
    if output.suffix == ".trc":
        write_trc(output, points, session.timestamps, session.skeleton.joints)
    elif output.suffix == ".npz" and output.resolve() != source.resolve():
        save_session(replace(session, poses=points.astype(np.float32), poses_source="triangulation"), output)
    else:
        raise EdgeliftError("-o", str(output), "another name that ends in .trc or .npz", "Choose one of the two.")
    known = np.isfinite(points).all(-1)
    median = round(float(np.nanmedian(residuals)), 2) if known.any() else None
    facts = {
        "output": str(output), "frames": len(points), "joints_known": round(float(known.mean()), 4),
        "residual_px_p50": median,
    }  # fmt: skip
    return facts, [f"{len(points)} frames, {known.mean():.1%} of joints, median residual {median} px -> {output}"]
