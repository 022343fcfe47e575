"""Session: one person's keypoints in several synchronised views, on a common timeline; the `.npz` it lives in."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, triangulate
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.files import replaced
from edgelift.poses.formats.cameras.checks import LARGEST_NUMBER
from edgelift.poses.formats.untrusted import check_archive, check_npy, check_texts, to_real
from edgelift.poses.skeletons import Skeleton, check_joints, convert, convert_poses, skeleton
from edgelift.poses.timeline import between, sample

FORMAT_VERSION = 1
PosesSource = Literal["truth", "triangulation"]


@dataclass(frozen=True, eq=False)
class Session:
    """One person, every view, one timeline; validated when made, EdgeliftError names what is wrong.

    keypoints float32 (views, frames, joints, 3): raw pixels x, y and confidence in [0, 1]; missing is NaN, NaN, 0.
    timestamps float64 (frames,) seconds, strictly rising. cameras: one a view, or None where no rig is known yet.
    time_offset_s float64 (views,): what to add to a view's clock, zero where synchronised (`synchronised` resamples).
    image_sizes: (width, height) a view, where there is no rig to say it. poses float32 (frames, joints, 3) world
    metres, NaN where unknown, or None: not read by label-free training. poses_source: truth, or triangulated.
    """

    keypoints: NDArray[np.float32]
    timestamps: NDArray[np.float64]
    camera_names: tuple[str, ...]
    cameras: tuple[Camera, ...] | None
    skeleton: Skeleton
    time_offset_s: NDArray[np.float64]
    subject: str = ""
    action: str = ""
    poses: NDArray[np.float32] | None = None
    poses_source: PosesSource = "truth"
    image_sizes: tuple[tuple[int, int], ...] | None = None
    name: str = "session"

    def __post_init__(self) -> None:
        _validate(self)

    @property
    def rig(self) -> tuple[Camera, ...]:
        """The cameras; EdgeliftError where the session has none."""
        if self.cameras is None:
            raise EdgeliftError(f"session {self.name}", "no cameras", "a calibrated rig", "Convert it with --cameras.")
        return self.cameras

    def check_synchronised(self) -> None:
        """EdgeliftError where views are still to be shifted in time."""
        if self.time_offset_s.any():
            raise EdgeliftError(
                f"session {self.name}: time_offset_s", f"{self.time_offset_s.tolist()}", "zeros: synchronised views",
                "Resample the views to one clock: session.synchronised().",
            )  # fmt: skip

    def synchronised(self) -> Session:
        """Return the session with every view resampled to the common timeline, and no offsets left.

        A view's keypoints are interpolated linearly between its two frames around a moment; a joint that is missing in
        either, or frames further apart than timeline.MAX_GAP_S, make it missing.
        """
        if not self.time_offset_s.any():
            return self
        views = [
            sample(view, between(self.timestamps, (self.timestamps - offset)[:, None]))[:, 0]
            for view, offset in zip(self.keypoints, self.time_offset_s, strict=True)
        ]
        return replace(self, keypoints=clean_keypoints(np.stack(views)), time_offset_s=np.zeros(len(views)))

    def triangulate(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """World poses (frames, joints, 3) in metres from all views, and residuals (views, frames, joints) in pixels."""
        if len(self.rig) < 2:
            raise EdgeliftError(f"session {self.name}", "one camera", "two or more", "Convert a multi-view recording.")
        return triangulate(self.synchronised().keypoints, self.rig)

    def size(self, view: int) -> tuple[int, int] | None:
        """(width, height) of a view's images in pixels, None where nobody said."""
        if self.cameras is not None:
            return self.cameras[view].size
        return None if self.image_sizes is None else self.image_sizes[view]

    def view(self, name: str) -> int:
        """Return the index of the view of that camera name."""
        if name not in self.camera_names:
            raise EdgeliftError(
                f"camera of session {self.name}", repr(name), f"one of {', '.join(self.camera_names)}",
                "Give one of these to --camera.",
            )  # fmt: skip
        return self.camera_names.index(name)

    def only(self, views: Sequence[int]) -> Session:
        """Return the same session with these views alone, in this order."""
        pick = list(views)
        return replace(
            self,
            keypoints=self.keypoints[pick],
            camera_names=tuple(self.camera_names[v] for v in pick),
            cameras=None if self.cameras is None else tuple(self.cameras[v] for v in pick),
            time_offset_s=self.time_offset_s[pick],
            image_sizes=None if self.image_sizes is None else tuple(self.image_sizes[v] for v in pick),
        )

    def during(self, frames: slice) -> Session:
        """Return the same session with these frames alone; views that are shifted in time keep their offsets."""
        poses = None if self.poses is None else self.poses[frames]
        return replace(self, keypoints=self.keypoints[:, frames], timestamps=self.timestamps[frames], poses=poses)

    def to_skeleton(self, target: Skeleton) -> Session:
        """Return the same session with its joints (and its poses) converted."""
        if target.name == self.skeleton.name:
            return self
        return replace(
            self,
            keypoints=convert(self.keypoints, self.skeleton, target).astype(np.float32),
            poses=None if self.poses is None else convert_poses(self.poses, self.skeleton, target).astype(np.float32),
            skeleton=target,
        )


def clean_keypoints(keypoints: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return float32 keypoints with every missing joint (confidence not > 0, or x, y not finite) as NaN, NaN, 0."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is no float32 is missing, or was
        out = keypoints.astype(np.float32, copy=True)
    missing = ~(out[..., 2] > 0) | ~np.isfinite(out[..., :2]).all(-1)
    out[missing] = (np.nan, np.nan, 0)
    return out


def _validate(s: Session) -> None:
    where = f"session {s.name}"
    if s.keypoints.ndim != 4:
        raise EdgeliftError(
            f"{where}: keypoints", f"shape {s.keypoints.shape}", "(views, frames, joints, 3)", "Convert it again."
        )
    check_joints(s.keypoints, s.skeleton)
    views, frames = s.keypoints.shape[:2]
    _expect(len(s.camera_names) == views, where, f"{len(s.camera_names)} camera names for {views} views", "one a view")
    _expect(len(set(s.camera_names)) == views, where, f"camera names {s.camera_names}", "names that differ")
    _expect(s.time_offset_s.shape == (views,), where, f"time_offset_s {s.time_offset_s.shape}", f"({views},)")
    _expect(s.timestamps.shape == (frames,), where, f"timestamps {s.timestamps.shape}", f"({frames},)")
    _expect(bool(np.isfinite(s.time_offset_s).all()), f"{where}: time_offset_s", f"{s.time_offset_s}", "finite seconds")
    _expect(frames > 0, where, "no frame", "at least one")
    rising = bool(np.isfinite(s.timestamps).all() and (np.diff(s.timestamps) > 0).all())
    _expect(rising, f"{where}: timestamps", "not finite or not strictly rising", "seconds that rise frame by frame")
    confidence = s.keypoints[..., 2]
    in_range = bool(((confidence >= 0) & (confidence <= 1)).all())
    _expect(in_range, f"{where}: confidence", "numbers outside [0, 1] or NaN", "confidence in [0, 1]")
    seen = s.keypoints[confidence > 0]
    _expect(
        bool(np.isfinite(seen).all()), f"{where}: keypoints", "NaN or infinity with confidence > 0", "finite pixels"
    )
    if s.cameras is not None:
        names = tuple(c.name for c in s.cameras)
        _expect(names == s.camera_names, f"{where}: cameras", f"{names}", f"{s.camera_names}, one a view, in order")
    if s.image_sizes is not None:
        _expect(len(s.image_sizes) == views, where, f"{len(s.image_sizes)} image sizes for {views} views", "one a view")
    if s.poses is not None:
        shape = (frames, len(s.skeleton.joints), 3)
        _expect(s.poses.shape == shape, f"{where}: poses", f"shape {s.poses.shape}", f"{shape}")
    known = get_args(PosesSource)
    _expect(s.poses_source in known, f"{where}: poses_source", repr(s.poses_source), " or ".join(known))


def _expect(ok: bool, subject: str, received: str, expected: str) -> None:
    if not ok:
        raise EdgeliftError(subject, received, expected, "Convert or simulate the session again.")


def save_session(session: Session, path: Path) -> None:
    """Write a session file (docs/formats.md); complete or not at all."""
    save_arrays(path, to_arrays(session))


def save_together(sessions: Sequence[Session], path: Path) -> None:
    """Write several sessions into one file, each under its number: `0003/keypoints`; complete or not at all."""
    named = [(f"{number:04d}/{key}", a) for number, s in enumerate(sessions) for key, a in to_arrays(s).items()]
    save_arrays(path, dict(named))


def load_together(path: Path) -> list[Session]:
    """Read a file of several sessions; they are called after their numbers."""
    groups: dict[str, dict[str, NDArray[np.generic]]] = {}
    for name, array in load_arrays(path).items():
        number, _, key = name.partition("/")
        groups.setdefault(number, {})[key] = array
    return [_read(path.with_name(number), groups[number]) for number in sorted(groups)]


def to_arrays(session: Session) -> dict[str, NDArray[np.generic]]:
    """Return what a session file holds."""
    arrays: dict[str, NDArray[np.generic]] = {
        "format_version": np.array(FORMAT_VERSION),
        "keypoints": session.keypoints,
        "timestamps": session.timestamps,
        "time_offset_s": session.time_offset_s,
        "camera_names": np.array(session.camera_names),
        "skeleton": np.array(session.skeleton.name),
        "subject": np.array(session.subject),
        "action": np.array(session.action),
    }
    if session.cameras is not None:
        arrays |= {f"camera_{k}": np.stack([getattr(c, k) for c in session.cameras]) for k in ("K", "dist", "R", "t")}
    sizes = [session.size(view) for view in range(len(session.camera_names))]
    if None not in sizes:
        arrays["camera_size"] = np.array(sizes)
    if session.poses is not None:
        arrays |= {"poses": session.poses, "poses_source": np.array(session.poses_source)}
    return arrays


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an `.npz` that loads without pickle; complete or not at all (temporary name, then rename)."""
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read every array of an `.npz` without pickle; a missing, truncated or foreign file is an EdgeliftError."""
    remedy = "Write the file again; if it was copied, compare its size with the original."
    if not path.is_file():
        raise EdgeliftError(str(path), "no such file", "an .npz file", "Check the path.")
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(path, archive)
            members = archive.infolist()
            return {member.filename.removesuffix(".npy"): _read_member(archive, member) for member in members}
    except EdgeliftError:
        raise
    except Exception as error:  # a damaged archive can raise nearly anything
        received = f"an unreadable archive ({type(error).__name__}: {error!s:.200})"
        raise EdgeliftError(str(path), received, "a whole .npz", remedy) from error


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[np.generic]:
    with archive.open(member) as stream:
        check_npy(stream, member.file_size)
    with archive.open(member) as stream:
        array: NDArray[np.generic] = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read()  # to the end, where the checksum is compared
    check_texts(array)
    return array


def load_session(path: Path) -> Session:
    """Read and validate one session file; its name is the file's."""
    return _read(path, load_arrays(path))


def _read(path: Path, a: Mapping[str, NDArray[Any]]) -> Session:
    required = ("keypoints", "timestamps", "time_offset_s", "camera_names", "skeleton", "subject", "action")
    lacking = [key for key in required if key not in a]
    if lacking:
        raise EdgeliftError(
            str(path), f"no {', '.join(lacking)}", "a session file", "Make one with `edgelift convert`."
        )
    if not np.array_equal(a.get("format_version", FORMAT_VERSION), FORMAT_VERSION):
        received, expected = f"format_version {a['format_version']}", f"{FORMAT_VERSION}"
        raise EdgeliftError(str(path), received, expected, "Read it with the edgelift that wrote it.")
    try:
        return _from_arrays(path, a)
    except (ValueError, TypeError, OverflowError) as error:
        raise EdgeliftError(
            str(path), f"arrays of another kind ({error})", "those of docs/formats.md", "Convert it again."
        ) from error


def _from_arrays(path: Path, a: Mapping[str, NDArray[Any]]) -> Session:
    names = tuple(str(n) for n in a["camera_names"])
    held = to_real(f"{path}: camera_size", a["camera_size"], np.float64) if "camera_size" in a else None
    sizes = None if held is None else tuple((int(w), int(h)) for w, h in held)
    cameras = _load_cameras(path, a, names, sizes)
    return Session(
        keypoints=to_real(f"{path}: keypoints", a["keypoints"], np.float32),
        timestamps=to_real(f"{path}: timestamps", a["timestamps"], np.float64),
        camera_names=names,
        cameras=cameras,
        skeleton=skeleton(str(a["skeleton"])),
        time_offset_s=to_real(f"{path}: time_offset_s", a["time_offset_s"], np.float64),
        subject=str(a["subject"]),
        action=str(a["action"]),
        poses=to_real(f"{path}: poses", a["poses"], np.float32) if "poses" in a else None,
        poses_source=str(a.get("poses_source", "truth")),  # type: ignore[arg-type]  # validated with the rest
        image_sizes=sizes if cameras is None else None,
        name=path.stem,
    )


def _load_cameras(
    path: Path, a: Mapping[str, NDArray[Any]], names: Sequence[str], sizes: tuple[tuple[int, int], ...] | None
) -> tuple[Camera, ...] | None:
    keys = [f"camera_{k}" for k in ("K", "dist", "R", "t")]
    present = [k for k in keys if k in a]
    if not present:
        return None
    if sizes is None or len(present) < len(keys) or {len(names)} != {len(sizes), *(len(a[k]) for k in keys)}:
        raise EdgeliftError(
            str(path), f"cameras with {present}", f"{keys} and camera_size, {len(names)} of each", "Convert it again."
        )
    columns = [to_real(f"{path}: {k}", a[k], np.float64) for k in keys]
    for key, column in zip(keys, columns, strict=True):
        if (np.isfinite(column) & (np.abs(column) > LARGEST_NUMBER)).any():
            raise EdgeliftError(
                f"{path}: {key}", f"{np.abs(column).max():g}", f"numbers within {LARGEST_NUMBER:g}", "Convert it again."
            )
    return tuple(Camera(*row) for row in zip(names, *columns, sizes, strict=True))


def find_sessions(paths: Iterable[Path]) -> list[Path]:
    """Return session files from files and directories (every `.npz` directly inside), sorted by name."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(path.glob("*.npz"))
            if not inside:
                raise EdgeliftError(str(path), "a directory without .npz files", "sessions", "Make some first.")
            found += inside
        else:
            found.append(path)
    return found


class SessionFiles(Sequence[Session]):
    """The sessions of files and directories, loaded each time they are asked for: recordings may outgrow memory.

    Views come resampled to one clock (`Session.synchronised`).
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = find_sessions(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [load_session(path).synchronised() for path in self.paths[index]]
        return load_session(self.paths[index]).synchronised()


def load_sessions(paths: Iterable[Path]) -> list[Session]:
    """Load every session of the files and directories, views resampled to one clock."""
    return list(SessionFiles(paths))
