"""Bundle: the directory that is all a device needs. Reading verifies every hash first; writing is all or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.skeletons import Skeleton, skeleton
from edgelift.poses.windows import LifterInput

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
ONNX = "lifter.onnx"
WEIGHTS = "weights.safetensors"
REFIT = "refit.safetensors"
REFERENCE = "reference.npz"
WATCH = "watch.npz"  # another held-out set, by which an adaptation decides how far it goes; not every bundle has one
REPLAY = "replay.npz"  # what an adaptation rehearses; not every bundle has one
REMEDY = "Export the bundle again, or copy it again from where it was made."
ADDED = ("graphs", "engines")  # folders that may grow after sealing, each file with a sidecar: see attachments.py


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. manifest: schema_version, skeleton, frames, frame_interval_s, camera_input, inputs, ..."""

    path: Path
    manifest: dict[str, Any]

    @property
    def skeleton(self) -> Skeleton:
        """The joints that go in and come out."""
        return skeleton(self.manifest["skeleton"])

    @property
    def input(self) -> LifterInput:
        """What the lifter is fed."""
        m = self.manifest
        return LifterInput(self.skeleton, m["camera_input"], int(m["frames"]), float(m["frame_interval_s"]))

    @property
    def onnx(self) -> Path:
        """The portable graph."""
        return self.path / ONNX

    def reference(self) -> dict[str, NDArray[np.float32]]:
        """Held-out input: keypoints (n, frames, joints, 3), intrinsics (n, 4), poses (n, joints, 3) metres or NaN."""
        return self._windows(REFERENCE)

    def watch(self) -> dict[str, NDArray[np.float32]] | None:
        """Other held-out input of the same form, or None: it steers adaptations, so it cannot judge them."""
        return self._windows(WATCH) if (self.path / WATCH).is_file() else None

    def _windows(self, name: str) -> dict[str, NDArray[np.float32]]:
        with np.load(self.path / name, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in ("keypoints", "intrinsics", "poses")}


def load_bundle(path: Path) -> Bundle:
    """Read the manifest and verify the sha256 of every file before any of them is deserialised."""
    manifest, remedy = read_manifest(path), REMEDY
    files = dict(manifest["files"])
    present = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()} - {MANIFEST}
    present = {name for name in present if name.partition("/")[0] not in ADDED}
    if present != set(files):
        raise EdgeliftError(str(path), f"files {sorted(present)}", f"{sorted(files)}", remedy)
    for name, expected in files.items():
        received = sha256(path / name)
        if received != expected:
            raise EdgeliftError(str(path / name), f"sha256 {received[:12]}", f"{expected[:12]} (tampered?)", remedy)
    return Bundle(path, manifest)


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a bundle's manifest and verify its seal; the files that it lists may be damaged all the same."""
    manifest_path = path / MANIFEST
    if not manifest_path.is_file():
        raise EdgeliftError(str(path), f"no {MANIFEST}", "a bundle directory", "Make one with `edgelift export`.")
    return parsed_manifest(manifest_path.read_bytes(), str(manifest_path))


def parsed_manifest(contents: bytes, place: str) -> dict[str, Any]:
    """Verify the seal of a manifest that was read from somewhere; `place` is for the message."""
    try:
        manifest: dict[str, Any] = json.loads(contents)
        version, sealed, _ = manifest["schema_version"], manifest["seal"], dict(manifest["files"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise EdgeliftError(place, f"an unreadable manifest ({error})", "a manifest", REMEDY) from error
    if version != SCHEMA_VERSION:
        raise EdgeliftError(place, f"schema {version}", f"schema {SCHEMA_VERSION}", REMEDY)
    if sealed != seal(manifest):
        raise EdgeliftError(place, "contents that do not fit its seal", "an unedited manifest", REMEDY)
    return manifest


def write_bundle(path: Path, manifest: dict[str, Any], fill: Callable[[Path], None]) -> Bundle:
    """Make a bundle: `fill` writes the files into a temporary directory, which is then renamed to `path`.

    EdgeliftError where `path` exists already: a bundle is never changed.
    """
    if path.exists():
        raise EdgeliftError(str(path), "something there already", "a new path", "Choose another -o, or delete it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        fill(temporary)
        files = {p.relative_to(temporary).as_posix(): sha256(p) for p in sorted(temporary.rglob("*")) if p.is_file()}
        full = {"schema_version": SCHEMA_VERSION} | manifest | {"files": files}
        (temporary / MANIFEST).write_text(json.dumps(full | {"seal": seal(full)}, indent=2) + "\n")
        temporary.chmod(0o755)
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return load_bundle(path)


def seal(manifest: dict[str, Any]) -> str:
    """Hex digest of all a manifest says but the seal itself."""
    told = {key: value for key, value in manifest.items() if key != "seal"}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return digest(path.read_bytes())


def digest(data: bytes) -> str:
    """Hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()
