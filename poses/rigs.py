"""Rigs: camera files of any known kind read and written; which folder belongs to which camera."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.files import replaced
from edgelift.poses.formats.cameras import anipose, caliscope, easymocap, human36m, opencv, qualisys, rig_json
from edgelift.poses.formats.cameras.checks import (
    METRES_PER_UNIT,
    CameraFile,
    Size,
    check_distances,
    check_file,
    check_names,
    typical_distance,
)
from edgelift.poses.formats.cameras.filestorage import read_storage
from edgelift.poses.formats.cameras.rotations import matrix_to_rotvec as matrix_to_rotvec
from edgelift.poses.formats.cameras.rotations import rotvec_to_matrix as rotvec_to_matrix
from edgelift.poses.formats.cameras.safe_xml import read_xml
from edgelift.poses.formats.safe_pickle import load_pickle
from edgelift.poses.formats.untrusted import load_json, load_toml

UNIT_NAMES = {"m": "metres", "mm": "millimetres"}
WITH_NAMES = (".json", ".h5", ".hdf5", ".xml", ".pkl", ".pickle")  # these hold several rigs: FILE.json:NAME
SHAPES = (
    "FILE.toml or FILE.json:NAME, an OpenCV .yml, a .qca.txt, a folder of such .yml or of EasyMocap, or Human3.6M's "
    "FILE:SUBJECT (.json, .h5, .xml, .pkl)"
)


@dataclass(frozen=True)
class _Kind:
    """A kind of camera file; unit: of its lengths where the format fixes it; fits: whether parsed content is of it."""

    name: str
    unit: str | None
    fits: Callable[[Any], bool]
    read: Callable[[CameraFile], list[Camera]]


def _any(_: Any) -> bool:
    return True


ANIPOSE = _Kind("a TOML of sections", None, anipose.is_anipose, anipose.read_anipose)
CALISCOPE = _Kind("caliscope's camera_array.toml", "m", caliscope.is_caliscope, caliscope.read_caliscope)
RIGS = _Kind("a rig in JSON", "m", rig_json.is_rig_json, rig_json.read_rig_json)
KARFLY = _Kind("camera-parameters.json", "mm", human36m.is_karfly, human36m.read_karfly)
VIDEOPOSE3D = _Kind("VideoPose3D's cameras", None, human36m.is_videopose3d, human36m.read_videopose3d_cameras)
CAMERAS_H5 = _Kind("cameras.h5", "mm", _any, human36m.read_cameras_h5)
METADATA = _Kind("Human3.6M's metadata.xml", "mm", human36m.is_metadata, human36m.read_metadata)
MMPOSE = _Kind("MMPose's cameras.pkl", "m", human36m.is_mmpose, human36m.read_mmpose_cameras)
QUALISYS = _Kind("a Qualisys calibration", "mm", qualisys.is_qualisys, qualisys.read_qualisys)
OPENCV = _Kind("an OpenCV calibration", None, _any, opencv.read_opencv)
OPENCV_FOLDER = _Kind("a folder of OpenCV calibrations", None, _any, opencv.read_opencv_folder)
EASYMOCAP = _Kind("EasyMocap's intri.yml and extri.yml", None, _any, easymocap.read_easymocap)

# by suffix: what parses the file, and the kinds that its content may be of
_Loader = tuple[Callable[[Path], Any], tuple[_Kind, ...]]
_XML: _Loader = (partial(read_xml, expected="a camera file in XML"), (QUALISYS, METADATA))
_HDF5: _Loader = (Path, (CAMERAS_H5,))  # read as far as it is asked for
_PICKLE: _Loader = (load_pickle, (MMPOSE,))
_YAML: _Loader = (read_storage, (OPENCV,))
LOADERS: dict[str, _Loader] = {
    ".toml": (partial(load_toml, expected="a camera file in TOML"), (CALISCOPE, ANIPOSE)),
    ".json": (partial(load_json, expected="a camera file in JSON"), (RIGS, KARFLY, VIDEOPOSE3D)),
    **dict.fromkeys((".txt", ".xml"), _XML),
    **dict.fromkeys((".h5", ".hdf5"), _HDF5),
    **dict.fromkeys((".pkl", ".pickle"), _PICKLE),
    **dict.fromkeys(opencv.SUFFIXES, _YAML),
}


def read_rig(source: str, units: str | None, size: Size | None = None) -> tuple[Camera, ...]:
    """Read the cameras of a file, folder or `FILE:NAME` of any known kind, in file order, translations in metres.

    units: "m" or "mm", what the file's translations are in; to be given where the format does not fix it, and refused
    where it contradicts the format. size: (width, height) in pixels of all images, for files that do not hold it. The
    kind is told by name and content. EdgeliftError where the distances between the cameras contradict the unit.
    """
    if units is not None and units not in METRES_PER_UNIT:
        raise EdgeliftError("--units", repr(units), "m or mm", "Give the unit of the rig's translations.")
    path, member = _split(source)
    try:
        kind, content = _recognise(path)
    except OSError as error:  # a name that is too long, a folder that may not be listed
        raise EdgeliftError(source, f"unreadable ({error})", SHAPES, "Check the path.") from error
    if kind.unit is not None and units not in (None, kind.unit):
        raise EdgeliftError(
            f"{source}: --units", f"{units}", f"{kind.unit}: {kind.name} is in {UNIT_NAMES[kind.unit]} by definition",
            "Leave --units out.",
        )  # fmt: skip
    unit = kind.unit or units
    cameras = tuple(kind.read(CameraFile(path, member, content, size, METRES_PER_UNIT[unit or "m"])))
    check_names(source, cameras)
    if unit is None:
        raise _unit_wanted(source, cameras)
    check_distances(source, cameras, unit, fixed=kind.unit is not None)
    return cameras


def _split(source: str) -> tuple[Path, str]:
    """Return the path and NAME of `FILE:NAME`, which only files that hold several rigs have."""
    left, colon, name = source.rpartition(":")
    return (Path(left), name) if colon and left.lower().endswith(WITH_NAMES) else (Path(source), "")


def _unit_wanted(source: str, cameras: Sequence[Camera]) -> EdgeliftError:
    distance = typical_distance(cameras)
    return EdgeliftError(
        source, f"no unit of length (the format has none): a distance of {distance:.4g} m if it is metres, "
        f"{distance / 1000:.4g} m if millimetres", "metres or millimetres, stated",
        "Give --units m (Pose2Sim, caliscope, EasyMocap) or --units mm (FreeMoCap, mostly anipose).",
    )  # fmt: skip


def _recognise(path: Path) -> tuple[_Kind, Any]:
    """Return the kind of a camera file or folder, and what it holds; EdgeliftError says what was seen instead."""
    if path.is_dir():
        return _recognise_folder(path), None
    load, kinds = LOADERS.get(path.suffix.lower(), (None, ()))
    if load is None:
        raise EdgeliftError("rig", repr(str(path)), SHAPES, "Name a file of one of these kinds.")
    check_file(path)
    content = load(path)
    for kind in kinds:
        if kind.fits(content):
            return kind, content
    seen = getattr(content, "tag", None) or (list(content) if isinstance(content, dict) else type(content).__name__)
    names = " or ".join(kind.name for kind in kinds)
    raise EdgeliftError(str(path), reprlib.repr(seen), names, "Name a file of one of these kinds.")


def _recognise_folder(path: Path) -> _Kind:
    held = [name for name in easymocap.FILES if (path / name).is_file()]
    if len(held) == len(easymocap.FILES):
        return EASYMOCAP
    if held or not opencv.opencv_files(path):
        seen = ", ".join(sorted(child.name for child in islice(path.iterdir(), 10))) or "nothing"
        raise EdgeliftError(
            str(path), f"a folder with {seen}", f"{' and '.join(easymocap.FILES)}, or an OpenCV .yml a camera",
            "Name the folder or the file that holds the cameras.",
        )  # fmt: skip
    return OPENCV_FOLDER


def write_rig(cameras: Sequence[Camera], path: Path) -> None:
    """Write a Pose2Sim-style TOML: metres, Rodrigues vectors, 5 distortion coefficients; replaced as a whole."""
    write_rig_as(cameras, path, "pose2sim")


def write_rig_as(cameras: Sequence[Camera], path: Path, kind: str, units: str = "m") -> None:
    """Write a TOML of a kind, `pose2sim` or `anipose` (FreeMoCap, caliscope), replaced as a whole.

    units: of the translations, "m" or "mm"; Pose2Sim reads metres only. The file does not tell its unit.
    """
    if units not in METRES_PER_UNIT or (kind == "pose2sim" and units != "m"):
        raise EdgeliftError("--units", repr(units), "m, or mm with anipose", "Choose the unit that the reader expects.")
    if kind not in ("pose2sim", "anipose"):
        raise EdgeliftError("kind of rig", repr(kind), "pose2sim or anipose", "Choose one that can be written.")
    check_names(str(path), cameras)
    as_anipose = kind == "anipose"
    text = anipose.anipose_text(cameras, METRES_PER_UNIT[units]) if as_anipose else anipose.pose2sim_text(cameras)
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def match_views(
    view_names: Sequence[str],
    camera_names: Sequence[str],
    given: Mapping[str, str],
    select: Sequence[str] | None = None,
) -> dict[str, str]:
    """Return the camera of each view, in the order of the views.

    Names are equal without regard to case, `_`, `-` and a final `_json`; `given` (view to camera) wins over names.
    select: the cameras to use; views of the others are then left out. Without it every camera needs a view.
    """
    _check_known("--view", given, view_names, "a view")
    _check_known("--view", given.values(), camera_names, "a camera")
    _check_known("cameras selected", select or (), camera_names, "a camera")
    matched = {view: given.get(view) or _same_name(view, camera_names, given) for view in view_names}
    wanted = list(camera_names if select is None else select)
    chosen = {view: camera for view, camera in matched.items() if camera is not None and camera in wanted}
    unmatched = [view for view, camera in matched.items() if camera is None]
    twice = sorted({c for c in chosen.values() if list(chosen.values()).count(c) > 1})
    unseen = [camera for camera in wanted if camera not in chosen.values()]
    problems = {"views without a camera": unmatched, "cameras of two views": twice, "cameras without a view": unseen}
    if any(problems.values()):
        facts = "; ".join(f"{what}: {', '.join(names)}" for what, names in problems.items() if names)
        raise EdgeliftError(
            f"views {', '.join(view_names)} and cameras {', '.join(camera_names)}", facts, "one camera for each view",
            "Pair them with --view FOLDER=CAMERA, or choose the cameras that have a view with --select.",
        )  # fmt: skip
    return chosen


def _same_name(view: str, camera_names: Sequence[str], given: Mapping[str, str]) -> str | None:
    free = [name for name in camera_names if name not in given.values()]
    same = [name for name in free if plain_name(name) == plain_name(view)]
    return same[0] if len(same) == 1 else None


def plain_name(name: str) -> str:
    """Return a name without what does not tell views apart: case, `_`, `-` and a final `_json`."""
    return name.casefold().removesuffix("_json").replace("_", "").replace("-", "")


def _check_known(subject: str, names: Any, known: Sequence[str], kind: str) -> None:
    strangers = [name for name in names if name not in known]
    if strangers:
        remedy = "Write --view FOLDER=CAMERA with names from these lists."
        raise EdgeliftError(subject, ", ".join(strangers), f"{kind} among {', '.join(known)}", remedy)


def pick_cameras(cameras: Sequence[Camera], chosen: str) -> tuple[Camera, ...]:
    """Return the cameras of a comma-separated list of names or of positions in the file (from 0), in that order."""
    names = {camera.name: camera for camera in cameras}
    positions = {str(i): camera for i, camera in enumerate(cameras)}
    words = [word.strip() for word in chosen.split(",")]
    twofold = {word for word in names.keys() & positions.keys() if names[word] is not positions[word]}
    ambiguous = [word for word in words if word in twofold]
    if ambiguous:
        raise EdgeliftError(
            "--cameras", f"{', '.join(ambiguous)}: the name of one camera and the position of another",
            "words with one meaning", "Rename the cameras in the rig file.",
        )  # fmt: skip
    names = positions | names
    unknown = [word for word in words if word not in names]
    if unknown:
        raise EdgeliftError(
            "--cameras", ", ".join(unknown), f"0 to {len(cameras) - 1}, or of {', '.join(c.name for c in cameras)}",
            "Name cameras of this rig.",
        )  # fmt: skip
    return tuple(names[word] for word in words)
