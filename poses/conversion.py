"""Detector files to session files: what `edgelift convert` and `edgelift triangulate` do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.openpose import read_openpose
from edgelift.poses.formats.pose2d import read_pose2d
from edgelift.poses.formats.trc import write_trc
from edgelift.poses.formats.videopose3d import read_videopose3d
from edgelift.poses.recordings import Recording, choose_person
from edgelift.poses.rigs import match_views, read_rig
from edgelift.poses.sessions import load_session, save_session
from edgelift.poses.skeletons import skeleton

Told = tuple[dict[str, Any], list[str]]


def convert_openpose(
    source: Path,
    output: Path,
    skeleton_name: str,
    fps: float,
    cameras: str | None,
    units: str | None,
    view: Sequence[str],
    select: str | None = None,
    size: str | None = None,
) -> Told:
    """Write one session from an OpenPose folder; returns facts for --json and lines for people.

    Without cameras a session of an uncalibrated recording, with the images' size: `WIDTHxHEIGHT`.
    """
    _must_be_npz(output)
    recording = read_openpose(source, skeleton(skeleton_name), fps)
    return _save_person(recording, output, cameras, units, view, select, size)


def convert_pose2d(
    source: Path,
    output: Path,
    cameras: str | None,
    units: str | None,
    view: Sequence[str],
    select: str | None = None,
    size: str | None = None,
) -> Told:
    """Write one session from pose2d files, which tell skeleton and times; otherwise as `convert_openpose`."""
    _must_be_npz(output)
    return _save_person(read_pose2d(source), output, cameras, units, view, select, size)


def _save_person(
    recording: Recording,
    output: Path,
    cameras: str | None,
    units: str | None,
    view: Sequence[str],
    select: str | None,
    size: str | None,
) -> Told:
    """Choose the person of a recording and write the session."""
    rig_flags = {"--cameras": cameras, "--units": units, "--view": view, "--select": select}
    if size is not None and any(rig_flags.values()):
        received = " ".join(flag for flag, value in rig_flags.items() if value)
        raise EdgeliftError(
            "--size", f"{received} as well", "a rig, or the size of uncalibrated images", "Leave one out."
        )
    if size is not None:
        session, selection = choose_person(recording, None)
        session = replace(session, image_sizes=(_size(size),) * len(recording.views))
    else:
        recording, rig = match_rig(recording, cameras, units, view, select)
        session, selection = choose_person(recording, rig)
    save_session(session, output)
    views, frames = session.keypoints.shape[:2]
    facts = {"session": str(output), "views": views, "frames": frames, "selection": selection.summary()}
    return facts, [*selection.summary(), f"{views} views, {frames} frames, {session.skeleton.name} -> {output}"]


def match_rig(
    recording: Recording, cameras: str | None, units: str | None, view: Sequence[str] = (), select: str | None = None
) -> tuple[Recording, tuple[Camera, ...]]:
    """Return the recording, with the views of the selected cameras alone, and their cameras in the same order."""
    rig = {camera.name: camera for camera in read_rig(_given(cameras), units)}
    wanted = None if select is None else [word.strip() for word in select.split(",")]
    names = match_views([v.name for v in recording.views], list(rig), _pairs(view), wanted)
    views = tuple(v for v in recording.views if v.name in names)
    return replace(recording, views=views), tuple(rig[names[v.name]] for v in views)


def _size(size: str) -> tuple[int, int]:
    width, _, height = size.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise EdgeliftError("--size", repr(size), "WIDTHxHEIGHT in pixels", "Write, say, --size 1920x1080.")
    return int(width), int(height)


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


def convert_videopose3d(
    source: Path,
    output: Path,
    skeleton_name: str,
    fps: float,
    cameras: str | None,
    units: str | None,
    poses: Path | None,
) -> Told:
    """Write one session a subject and action into the directory `output`; `{subject}` in `cameras` is filled in."""
    named = _given(cameras)

    def rig_of(subject: str) -> tuple[Camera, ...]:
        return read_rig(named.replace("{subject}", subject), units)

    sessions = read_videopose3d(source, poses, rig_of, fps, skeleton(skeleton_name))
    for session in sessions:
        save_session(session, output / f"{session.name}.npz")
    frames = sum(s.keypoints.shape[1] for s in sessions)
    facts = {"output": str(output), "sessions": len(sessions), "frames": frames}
    return facts, [f"{len(sessions)} sessions, {frames} frames -> {output}/"]


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


def _must_be_npz(output: Path) -> None:
    if output.suffix != ".npz":
        raise EdgeliftError("-o", str(output), "a session name that ends in .npz", "Write, say, -o take1.npz.")
