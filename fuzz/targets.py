"""What is fuzzed: a target for each reader, with sound files to begin from and how to read what was made of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from edgelift.fuzz.mutations import npy
from edgelift.poses.conversion import read_joint_names
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.alphapose import parse_alphapose, read_alphapose
from edgelift.poses.formats.coco import parse_coco, read_coco
from edgelift.poses.formats.csv_poses import read_csv_poses, write_csv_poses
from edgelift.poses.formats.deeplabcut import read_deeplabcut
from edgelift.poses.formats.detections import Detections, evidence
from edgelift.poses.formats.freemocap import read_freemocap
from edgelift.poses.formats.mediapipe import parse_mediapipe, read_mediapipe
from edgelift.poses.formats.mmpose import parse_mmpose, read_mmpose
from edgelift.poses.formats.openpose import parse_openpose, read_openpose
from edgelift.poses.formats.pose2d import read_pose2d
from edgelift.poses.formats.sleap import read_sleap
from edgelift.poses.formats.trc import read_trc, write_trc
from edgelift.poses.formats.ultralytics import parse_ultralytics, read_ultralytics
from edgelift.poses.formats.videopose3d import read_videopose3d, write_videopose3d
from edgelift.poses.motion import load_motion
from edgelift.poses.rigs import read_rig, write_rig
from edgelift.poses.sessions import (
    Session,
    load_arrays,
    load_session,
    load_together,
    save_arrays,
    save_session,
    save_together,
)
from edgelift.poses.skeletons import skeleton
from edgelift.tests import json_files, other_files, rig_files
from edgelift.tests.conftest import make_sessions, wobbling_person
from edgelift.tests.test_pose2d import message, person

H36M, COCO, MEDIAPIPE = skeleton("h36m17"), skeleton("coco17"), skeleton("mediapipe33")
FPS = 50.0
SIZE = (640, 480)
HDF5_S = 4.0  # patience with the HDF5 library: a target's own is 5 s
POINTS = "take/output_data/raw_data/mediapipe_2dData_numCams_numFrames_numTrackedPoints_pixelXY.npy"
CALIBRATION = "take/take_camera_calibration.toml"

Write = Callable[[Path], object]
Read = Callable[[Path], object]


@dataclass(frozen=True)
class Target:
    """One reader, and one file of those that it reads.

    file: which, below a folder. form: a key of `mutations.FORMS`. read: reads the folder. writes: each writes a sound
    file and all that has to lie beside it into a folder. inputs: how many the fuzzer tries.
    """

    name: str
    file: str
    form: str
    read: Read
    writes: Sequence[Write]
    inputs: int = 100_000

    def prepare(self, home: Path) -> tuple[Path, list[bytes]]:
        """Write all sound files below `home`; return the folder that is read, and what the files hold."""
        folders = [home / str(number) for number in range(len(self.writes))]
        for folder, write in zip(folders, self.writes, strict=True):
            folder.mkdir(parents=True)
            write(folder)
        return folders[0], [(folder / self.file).read_bytes() for folder in folders]

    def takes(self, folder: Path, data: bytes) -> bool:
        """Whether the reader takes these bytes; False where it refuses them. What else it raises is a finding."""
        (folder / self.file).write_bytes(data)
        try:
            self.read(folder)
        except EdgeliftError as error:
            if len(str(error)) > LONGEST_MESSAGE:
                raise ValueError(f"a message of {len(str(error))} characters") from error
            return False
        return True


LONGEST_MESSAGE = 10_000  # characters


# how sound files are written: by our own writers, and by those with which tests stand in for other tools


def _scene() -> Session:
    """Two views of one person, two frames, a detector's confidences."""
    made = make_sessions(1, views=2)[0].during(slice(2))
    return replace(made, keypoints=made.keypoints * np.array([1, 1, 0.9], np.float32))


def _detected(write: json_files.Write, place: str = "cam") -> Write:
    return lambda folder: write(folder / place, json_files.people_of(_scene(), 0))


def _instances(folder: Path) -> None:
    """One image of MMPose."""
    people = json_files.people_of(_scene(), 0)[1]
    json_files.dump(folder / "cam7.json", [json_files.mmpose_instance(p) for p in people])


def _summaries(folder: Path) -> None:
    """One image of Ultralytics."""
    json_files.dump(folder / "cam7.json", [json_files.summary(p) for p in json_files.people_of(_scene(), 0)[1]])


def _streams(folder: Path) -> None:
    told = [message(person(), person(300), stream=name, seq=n, t_ns=n, ids=(1, 2)) for name in "ab" for n in (0, 1)]
    (folder / "take.jsonl").write_text("\n".join(map(json.dumps, told)))


def _nobody(folder: Path) -> None:
    told = [message(size=None), message([None, *person()[1:]], seq=9, t_ns=99)]
    (folder / "take.jsonl").write_text("\n".join(map(json.dumps, told)))


def _videopose3d(folder: Path) -> None:
    scene = replace(_scene(), subject="S1", action="walk")
    write_videopose3d(scene, folder / "2d.npz", folder / "3d.npz")


def _read_videopose3d(folder: Path) -> object:
    rig = _scene().rig
    return read_videopose3d(folder / "2d.npz", folder / "3d.npz", lambda _: rig, FPS, H36M)


def _landmarks() -> other_files.Floats:
    return np.random.default_rng(0).uniform(0.1, 0.9, (2, 33, 4)).round(3)


def _landmarks_json(shape: str) -> Write:
    frames = [[other_files.as_dict(row) for row in frame] for frame in _landmarks()]
    return lambda folder: json_files.dump(folder / "cam.json", other_files.JSON_SHAPES[shape](frames))


def _landmarks_csv(shape: str) -> Write:
    return lambda folder: (folder / "cam.csv").write_text(other_files.CSV_SHAPES[shape](_landmarks()))


def _npz(name: str, **arrays: Any) -> Write:
    return lambda folder: save_arrays(folder / name, arrays)


def _npy(name: str, array: Any) -> Write:
    return lambda folder: (folder / name).write_bytes(npy(array))


def _freemocap(points: int, columns: int) -> Write:
    def write(folder: Path) -> None:
        other_files.freemocap(folder / "take", np.full((2, 2, points, columns), 50.0, np.float16))
        (folder / CALIBRATION).write_text('[cam_0]\nname = "C-10"\n[cam_1]\nname = "other"\n[metadata]\nx = 1.5\n')

    return write


def _tracked() -> other_files.Floats:
    """(frames, people, parts, 3)."""
    return np.random.default_rng(0).uniform(0.1, 0.9, (2, 2, 3, 3)) * [400, 400, 1]


def _deeplabcut(individuals: list[str] | None) -> Write:
    people = _tracked()[:, : 1 if individuals is None else None].round(2)
    return lambda folder: other_files.dlc(folder / "cam.csv", people, PARTS, individuals)


PARTS = [*other_files.JOINTS, "tail"]


def _sleap(order: tuple[str, ...], dims: bool) -> Write:
    return lambda folder: other_files.sleap(folder / "cam.h5", _tracked(), PARTS, order, dims)


def _sleap_arrays(order: tuple[str, ...]) -> Write:
    axes = [other_files.STANDARD.index(axis) for axis in order]
    short = [axis for axis in order if axis != "xy"]
    scores = _tracked()[..., 2].transpose([other_files.STANDARD.index(axis) for axis in short])
    dims = {"tracks@dims": json.dumps(order), "point_scores@dims": json.dumps(short), "@transpose": True}
    tracks = _tracked()[..., :2].transpose(axes)
    return _npz("cam.npz", tracks=tracks, point_scores=scores, node_names=np.array(PARTS), **dims)


def _read_sleap_arrays(folder: Path) -> object:
    """Read with what the HDF5 library would give: arrays of numbers and texts, as its process hands them over."""
    (folder / "cam.h5").touch()
    arrays = load_arrays(folder / "cam.npz")
    with mock.patch("edgelift.poses.formats.sleap.read_hdf5", return_value=arrays):
        return read_sleap(folder / "cam.h5", COCO, FPS, other_files.JOINTS)


def _impatient() -> AbstractContextManager[object]:
    return mock.patch("edgelift.poses.formats.hdf5.PATIENCE_S", HDF5_S)


def _read_sleap(folder: Path) -> object:
    with _impatient():
        return read_sleap(folder / "cam.h5", COCO, FPS, other_files.JOINTS)


def _poses(write: Callable[..., None], name: str) -> Write:
    times = np.array([0.0, 0.02])
    return lambda folder: write(folder / name, wobbling_person(2, 0)[:, :3], times, H36M.joints[:3])


def _motion(folder: Path) -> None:
    clips = {"name": ["a", "b"], "subject": ["s1", "s2"], "action": ["w", "w"], "fps": [20.0, 30.0], "start": [0, 2]}
    arrays = {f"clip_{key}": np.array(values) for key, values in (clips | {"split": ["train", "test"]}).items()}
    save_arrays(folder / "motion.npz", {**arrays, "poses": wobbling_person(4, 0), "units": np.array("metres, Z up")})


def _rig(form: str, member: str = "") -> Write:
    """The two or four cameras of a form of camera files; renamed where a target reads several forms from one name."""

    def write(folder: Path) -> None:
        cameras = rig_files.studio()
        source, _ = rig_files.FORMS[form](cameras if form == "metadata" else cameras[:2], folder)
        if member:
            Path(source.removesuffix(":S9")).rename(folder / member)

    return write


def _read_rig(name: str, units: str | None, member: str = "") -> Read:
    return lambda folder: read_rig(f"{folder / name}{member}", units, None)


def _rig_arrays(folder: Path) -> None:
    arrays: dict[str, Any] = {}
    for i, c in enumerate(rig_files.studio()[:2], start=1):
        lens = {"f": c.intrinsics[:2], "c": c.intrinsics[2:], "k": c.dist[[0, 1, 4]], "p": c.dist[2:4]}
        held = {"R": c.R.T, "T": c.centre * 1000, "Name": np.array(list(map(ord, c.name)), np.uint16), **lens}
        arrays |= {f"subject9/camera{i}/{key}": value for key, value in held.items()}
    save_arrays(folder / "cameras.npz", arrays)


def _read_rig_arrays(folder: Path) -> object:
    (folder / "cameras.h5").touch()
    arrays = load_arrays(folder / "cameras.npz")
    with mock.patch("edgelift.poses.formats.cameras.human36m.read_hdf5", return_value=arrays):
        return read_rig(f"{folder / 'cameras.h5'}:S9", "mm")


def _read_rig_h5(folder: Path) -> object:
    with _impatient():
        return read_rig(f"{folder / 'cameras.h5'}:S9", "mm")


def _read(
    read: Callable[..., object], name: str, *asked: Any, parse: Callable[[Path], list[Detections]] | None = None
) -> Read:
    """Read a file (or folder) of that name; and tell of it what is told where skeleton and rate were not stated."""

    def run(folder: Path) -> None:
        if parse is not None:
            evidence(parse(folder / name))
        read(folder / name, *asked)

    return run


def _targets() -> list[Target]:
    made = (H36M, FPS)
    return [
        Target("openpose", "take/cam/take2_000000000001_keypoints.json", "json",
               _read(read_openpose, "take", *made, parse=parse_openpose),
               [_detected(json_files.write_openpose, "take/cam")]),
        Target("pose2d", "take.jsonl", "json lines", _read(read_pose2d, "take.jsonl"), [_streams, _nobody]),
        Target("videopose3d 2D", "2d.npz", "pickled npz", _read_videopose3d, [_videopose3d]),
        Target("videopose3d 3D", "3d.npz", "pickled npz", _read_videopose3d, [_videopose3d]),
        Target("mmpose", "cam7.json", "json", _read(read_mmpose, "cam7.json", *made, parse=parse_mmpose),
               [*(_detected(write, "cam7") for write in (json_files.write_mmpose(1), json_files.write_mmpose_list)),
                _instances]),
        Target("alphapose", "cam/alphapose-results.json", "json",
               _read(read_alphapose, "cam", *made, parse=parse_alphapose), [_detected(json_files.write_alphapose)]),
        Target("coco", "cam.json", "json", _read(read_coco, "cam.json", *made, parse=parse_coco),
               [_detected(json_files.write_coco)]),
        Target("ultralytics", "cam7.json", "json", _read(read_ultralytics, "cam7.json", *made, SIZE,
               parse=parse_ultralytics), [_detected(json_files.write_ultralytics, "cam7"), _summaries]),
        Target("ultralytics labels", "cam/take2_1.txt", "text", _read(read_ultralytics, "cam", *made, SIZE),
               [_detected(json_files.write_labels)]),
        Target("mediapipe json", "cam.json", "json", _read(read_mediapipe, "cam.json", MEDIAPIPE, FPS, SIZE,
               parse=parse_mediapipe), [_landmarks_json(shape) for shape in other_files.JSON_SHAPES]),
        Target("mediapipe csv", "cam.csv", "text", _read(read_mediapipe, "cam.csv", MEDIAPIPE, FPS, SIZE,
               parse=parse_mediapipe), [_landmarks_csv(shape) for shape in other_files.CSV_SHAPES]),
        Target("mediapipe npz", "cam.npz", "npz", _read(read_mediapipe, "cam.npz", MEDIAPIPE, FPS, SIZE,
               parse=parse_mediapipe),
               [_npz("cam.npz", landmarks=_landmarks()),
                _npz("cam.npz", keypoints_2d=_landmarks()[None][..., :3], camera_names=np.array(["a"]))]),
        Target("mediapipe npy", "cam.npy", "npy", _read(read_mediapipe, "cam.npy", MEDIAPIPE, FPS, SIZE,
               parse=parse_mediapipe), [_npy("cam.npy", _landmarks()), _npy("cam.npy", _landmarks()[:, None])]),
        Target("freemocap npy", POINTS, "npy", _read(read_freemocap, "take", MEDIAPIPE, FPS),
               [_freemocap(33, 2), _freemocap(553, 3)]),
        Target("freemocap toml", CALIBRATION, "text", _read(read_freemocap, "take", MEDIAPIPE, FPS),
               [_freemocap(33, 2)]),
        Target("deeplabcut", "cam.csv", "text", _read(read_deeplabcut, "cam.csv", COCO, FPS, other_files.JOINTS),
               [_deeplabcut(None), _deeplabcut(["a", "b"])]),
        Target("sleap arrays", "cam.npz", "npz", _read_sleap_arrays,
               [_sleap_arrays(order) for order in (other_files.MATLAB, other_files.STANDARD)]),
        Target("sleap", "cam.h5", "bytes", _read_sleap,
               [_sleap(other_files.MATLAB, True), _sleap(other_files.OLD, False)], inputs=300),
        Target("trc", "take.trc", "text", _read(read_trc, "take.trc"), [_poses(write_trc, "take.trc")]),
        Target("csv poses", "take.csv", "text", _read(read_csv_poses, "take.csv"),
               [_poses(write_csv_poses, "take.csv")]),
        Target("session", "take.npz", "npz", _read(load_session, "take.npz"),
               [lambda folder: save_session(_scene(), folder / "take.npz"),
                lambda folder: save_session(replace(_scene(), cameras=None, poses=None), folder / "take.npz")]),
        Target("sessions together", "takes.npz", "npz", _read(load_together, "takes.npz"),
               [lambda folder: save_together([_scene()], folder / "takes.npz")]),
        Target("joint names json", "names.json", "json", _read(read_joint_names, "names.json"),
               [lambda folder: json_files.dump(folder / "names.json", other_files.JOINTS)]),
        Target("joint names toml", "names.toml", "text", _read(read_joint_names, "names.toml"),
               [lambda folder: (folder / "names.toml").write_text('snout = "nose"\n"L hip" = "left_hip"\n')]),
        Target("motion", "motion.npz", "npz", _read(load_motion, "motion.npz", "train", ("s2",)), [_motion]),
        Target("cameras toml", "rig.toml", "text", _read_rig("rig.toml", "m"),
               [lambda folder: write_rig(rig_files.studio()[:2], folder / "rig.toml"),
                *(_rig(form, "rig.toml") for form in ("freemocap", "caliscope", "caliscope legacy"))]),
        Target("cameras json", "rig.json", "json", _read_rig("rig.json", None, ":S9"),
               [_rig(form, "rig.json") for form in ("json", "karfly", "videopose3d")]),
        Target("cameras qualisys", "lab.qca.txt", "text", _read_rig("lab.qca.txt", "mm"), [_rig("qualisys")]),
        Target("cameras metadata", "metadata.xml", "text", _read_rig("metadata.xml", "mm", ":S9"), [_rig("metadata")]),
        Target("cameras opencv", "cams/54138969.yml", "text", _read_rig("cams", "mm"), [_rig("opencv")]),
        Target("cameras easymocap intri", "intri.yml", "text", _read_rig("", "m"), [_rig("easymocap")]),
        Target("cameras easymocap extri", "extri.yml", "text", _read_rig("", "m"), [_rig("easymocap")]),
        Target("cameras mmpose", "cameras.pkl", "pickle", _read_rig("cameras.pkl", "m", ":S9"), [_rig("mmpose")]),
        Target("cameras h5 arrays", "cameras.npz", "npz", _read_rig_arrays, [_rig_arrays]),
        Target("cameras h5", "cameras.h5", "bytes", _read_rig_h5, [_rig("cameras.h5")], inputs=300),
    ]  # fmt: skip


TARGETS: dict[str, Target] = {target.name: target for target in _targets()}


def retry(name: str, path: str) -> None:
    """Give a target the input that is kept in a file; what was found is raised again."""
    with tempfile.TemporaryDirectory() as home:
        folder, _ = TARGETS[name].prepare(Path(home) / "files")
        TARGETS[name].takes(folder, Path(path).read_bytes())
