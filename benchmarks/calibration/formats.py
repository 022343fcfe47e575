"""What files of others are read and written, as docs/formats.md says, and whether that is so.

python benchmarks/calibration/formats.py --data ../shared/data -o benchmarks/results

The table of the documentation is read. What it says of `convert` has to be what the command knows, and what is written
and read again, here and now, has to differ by no more than it says. The session is Pose2Sim's real recording (four
cameras, OpenPose's detections with their gaps, triangulated poses), the rigs are its own and those of Human3.6M; where
they are absent, an embedded person before an embedded rig. Ends with 1 where the table is not right.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike

from edgelift.cli.files import Format, Kind
from edgelift.poses.cameras import Camera
from edgelift.poses.formats.csv_poses import read_csv_poses
from edgelift.poses.formats.openpose import read_openpose
from edgelift.poses.formats.trc import read_trc
from edgelift.poses.formats.videopose3d import read_videopose3d
from edgelift.poses.person import clips
from edgelift.poses.recordings import View, choose_person
from edgelift.poses.rigs import read_rig, write_rig, write_rig_as
from edgelift.poses.sessions import Session, load_session, save_session
from edgelift.poses.skeletons import skeleton
from edgelift.poses.studio import StudioSettings, film, studio_rig
from edgelift.poses.writing import write_session
from edgelift.tests.test_bvh import directions, joints_of
from edgelift.tests.test_bvh import read_bvh as read_bvh_file
from edgelift.tests.test_c3d import read_c3d

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
HEAD = ("format", "read", "written", "round trip", "tested on")
OTHER_WRITERS = {"always", "cameras", "detect", "write_rig_as"}  # that are no kind of --to
HUMAN36M = ("S1", "S5", "S6", "S7", "S8", "S9", "S11")
NUMBER = r"(\d+(?:\.\d+)?(?:e-\d+)?)(?: (px|m|s))?"

Row = dict[str, Any]
Apart = dict[str, float]  # by unit (px, m, s, or "1" for what has none) the largest difference


def documented() -> list[Row]:
    """Return the rows of the table in docs/formats.md by the names of its columns."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    start = next(n for n, line in enumerate(lines) if cells(line) == list(HEAD))
    rows = []
    for line in lines[start + 2 :]:
        if len(cells(line)) != len(HEAD):
            break
        rows.append(dict(zip(HEAD, cells(line), strict=True)))
    return rows


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def known_otherwise(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return the formats and kinds that `convert` knows and the table does not, or the other way round."""
    read, written = (set(re.findall(r"`(\w+)`", " ".join(row[key] for row in rows))) for key in ("read", "written"))
    differ = {
        "--format": (set(get_args(Format)) - {"cameras"}) ^ (read - {"read_trc", "read_csv_poses", "c3d"}),
        "--to": set(get_args(Kind)) ^ (written - OTHER_WRITERS),
    }
    return {flag: sorted(names) for flag, names in differ.items() if names}


def real(data: Path) -> tuple[Session, dict[str, tuple[Camera, ...]]]:
    """Return Pose2Sim's recording with triangulated poses, and real rigs by name."""
    rig = read_rig(str(data / "pose2sim" / "Calib.toml"), "m")
    session, _ = choose_person(read_openpose(data / "pose2sim" / "BalancingTrial", skeleton("body25b"), 60.0), rig)
    rigs = {name: read_rig(f"{data / 'rigs.json'}:h36m_{name}", None) for name in HUMAN36M}
    poses = session.triangulate()[0].astype(np.float32)
    return replace(session, poses=poses, poses_source="triangulation"), {"pose2sim": rig, **rigs}


def embedded() -> tuple[Session, dict[str, tuple[Camera, ...]]]:
    session = next(iter(film(clips(6.0, 60.0, 1, 0), studio_rig(), StudioSettings(noise_px=4.0, missing=0.1))))
    return session, {"studio": session.rig}


def largest(a: ArrayLike, b: ArrayLike) -> float:
    """Return the largest difference of two arrays; infinity where only one of them knows a number, or shapes differ."""
    one, other = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if one.shape != other.shape or (np.isnan(one) != np.isnan(other)).any():
        return float("inf")
    return float(np.nanmax(np.abs(one - other), initial=0.0))


def session_file(session: Session, folder: Path) -> Apart:
    save_session(session, folder / "x.npz")
    again = load_session(folder / "x.npz")
    return {
        "px": largest(again.keypoints, session.keypoints), "s": largest(again.timestamps, session.timestamps),
        "m": largest(known_poses(again), known_poses(session)),
    }  # fmt: skip


def known_poses(session: Session) -> ArrayLike:
    assert session.poses is not None
    return session.poses


def openpose(session: Session, folder: Path) -> Apart:
    write_session(session, "openpose", folder / "take")
    views = read_openpose(folder / "take", session.skeleton, rate(session)).views
    keypoints = np.stack([only_person(view, len(session.skeleton.joints)) for view in views])
    times = max(largest(view.timestamps, session.timestamps) for view in views)
    return {"px": largest(keypoints, session.keypoints), "s": times}


def only_person(view: View, joints: int) -> np.ndarray:
    nobody = np.tile(np.array([np.nan, np.nan, 0.0]), (joints, 1))
    return np.stack([people[0] if len(people) else nobody for people in view.people])


def rate(session: Session) -> float:
    return float((len(session.timestamps) - 1) / np.ptp(session.timestamps))


def videopose3d(session: Session, folder: Path) -> Apart:
    path, path_3d = folder / "data_2d_x.npz", folder / "data_3d_x.npz"
    write_session(session, "videopose3d", path)
    (again,) = read_videopose3d(path, path_3d, lambda _: session.rig, rate(session), session.skeleton)
    return {
        "px": largest(again.keypoints[..., :2], session.keypoints[..., :2]),
        "m": largest(known_poses(again), known_poses(session)),
        "s": largest(again.timestamps, session.timestamps),
    }


def trc(session: Session, folder: Path) -> Apart:
    write_session(session, "trc", folder / "x.trc")
    poses, times, _ = read_trc(folder / "x.trc")
    return {"m": largest(poses, known_poses(session)), "s": largest(times, session.timestamps)}


def csv(session: Session, folder: Path) -> Apart:
    write_session(session, "csv", folder / "x.csv")
    poses, times, _ = read_csv_poses(folder / "x.csv")
    return {"m": largest(poses, known_poses(session)), "s": largest(times, session.timestamps)}


def c3d(session: Session, folder: Path) -> Apart:
    write_session(session, "c3d", folder / "x.c3d")
    return {"m": largest(read_c3d(folder / "x.c3d").points / 1000, known_poses(session))}


def bvh(session: Session, folder: Path) -> Apart:
    """Directions of bones, in the frames that know every joint: BVH repeats a pose elsewhere."""
    write_session(session, "bvh", folder / "x.bvh")
    poses = np.asarray(known_poses(session), np.float64)
    whole = np.isfinite(poses).all((-1, -2))
    again = joints_of(read_bvh_file(folder / "x.bvh"), session.skeleton)[whole]
    assert whole.any()
    return {"1": largest(directions(again, session.skeleton), directions(poses[whole], session.skeleton))}


def rigs_apart(cameras: Sequence[Camera], others: Sequence[Camera]) -> Apart:
    """What the cameras of two rigs differ by; infinity where they are not called or sized alike."""
    pairs = list(zip(cameras, others, strict=True))
    if any((a.name, a.size) != (b.name, b.size) for a, b in pairs):
        return {"1": float("inf")}
    return {
        "1": max(max(largest(a.R, b.R), largest(a.dist, b.dist)) for a, b in pairs),
        "m": max(largest(a.t, b.t) for a, b in pairs), "px": max(largest(a.K, b.K) for a, b in pairs),
    }  # fmt: skip


def pose2sim(rigs: Mapping[str, tuple[Camera, ...]], folder: Path) -> Apart:
    found = []
    for name, rig in rigs.items():
        write_rig(rig, folder / f"{name}.toml")
        found.append(rigs_apart(read_rig(str(folder / f"{name}.toml"), "m"), rig))
    return worst(found)


def anipose(rigs: Mapping[str, tuple[Camera, ...]], folder: Path) -> Apart:
    found = []
    for name, rig in rigs.items():
        for units in ("m", "mm"):
            path = folder / f"{name}_{units}.toml"
            write_rig_as(rig, path, "anipose", units)
            found.append(rigs_apart(read_rig(str(path), units), rig))
    return worst(found)


def worst(found: Sequence[Apart]) -> Apart:
    return {unit: max(apart.get(unit, 0.0) for apart in found) for unit in found[0]}


OF_SESSIONS: dict[str, Callable[[Session, Path], Apart]] = {
    "always": session_file, "openpose": openpose, "videopose3d": videopose3d, "trc": trc, "c3d": c3d, "bvh": bvh,
    "csv": csv,
}  # fmt: skip
OF_RIGS: dict[str, Callable[[Mapping[str, tuple[Camera, ...]], Path], Apart]] = {
    "cameras": pose2sim, "write_rig_as": anipose,
}  # fmt: skip


def checked(row: Row, session: Session, rigs: Mapping[str, tuple[Camera, ...]]) -> Row:
    """Return the row with what its round trip came to (null where it has none), and whether that is what it says."""
    written = row["written"].strip("`")
    with tempfile.TemporaryDirectory() as folder:
        if written in OF_SESSIONS:
            apart = OF_SESSIONS[written](session, Path(folder))
        elif written in OF_RIGS:
            apart = OF_RIGS[written](rigs, Path(folder))
        else:
            return {**row, "largest": None, "ok": not row["round trip"]}
    limits = {unit or "1": float(number) for number, unit in re.findall(NUMBER, row["round trip"])}
    # a number without a unit holds for all of them
    ok = all(value <= limits.get(unit, limits.get("1", -1.0)) for unit, value in apart.items())
    return {**row, "largest": apart, "ok": ok}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the recordings beside the project; without them an embedded person")
    parser.add_argument("-o", "--output", type=Path, help="folder for the raw result")
    options = parser.parse_args()
    there = options.data is not None and (options.data / "pose2sim").is_dir()
    session, rigs = real(options.data) if there else embedded()
    rows = [checked(row, session, rigs) for row in documented()]
    strangers = known_otherwise(rows)
    result = {
        "recording": "Pose2Sim's BalancingTrial" if there else "embedded", "rigs": list(rigs),
        "shape": list(session.keypoints.shape), "missing": round(float((session.keypoints[..., 2] == 0).mean()), 4),
        "known_otherwise": strangers, "ok": not strangers and all(row["ok"] for row in rows), "table": rows,
    }  # fmt: skip
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    print(text, end="")
    if options.output is not None:
        (options.output / f"calibration_formats_cpu_{date.today()}.json").write_text(text, encoding="utf-8")
    raise SystemExit(not result["ok"])


if __name__ == "__main__":
    main()
