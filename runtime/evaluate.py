"""Evaluation: lift every frame of every view and compare with truth, or with triangulation where there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import world_to_camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.metrics import score
from edgelift.poses.sessions import Session
from edgelift.poses.windows import LifterInput
from edgelift.runtime.backends import Backend

# windows (n, frames, joints, 3), intrinsics (n, 4) -> poses (n, joints, 3) metres in the camera's frame
Lift = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Lifted:
    """One view of one session, lifted. predicted, reference (frames, joints, 3) metres, camera frame; NaN: unknown."""

    predicted: NDArray[np.float32]
    reference: NDArray[np.float64]
    session: Session
    camera: str


def reference_kind(sessions: Sequence[Session]) -> str:
    """What the sessions can be scored against: `truth` or `triangulation`; EdgeliftError for none, or for both."""
    if not sessions:
        raise EdgeliftError("sessions to evaluate", "none", "at least one", "Name session files or a directory.")
    for session in sessions:
        if session.poses is None and len(session.rig) < 2:
            raise EdgeliftError(
                f"session {session.name}", "no true poses and one camera", "poses, or two views to triangulate",
                "Evaluate on a multi-view session.",
            )  # fmt: skip
    kinds = sorted({"triangulation" if s.poses is None else s.poses_source for s in sessions})
    if len(kinds) > 1:
        raise EdgeliftError(
            "sessions to evaluate", "some with true poses, some without", "one kind", "Evaluate them apart."
        )
    return kinds[0]


def reference_poses(session: Session) -> NDArray[np.float64]:
    """World poses (frames, joints, 3) to score against, in metres: the session's own, else triangulated."""
    if session.poses is not None:
        return session.poses.astype(np.float64)
    return session.triangulate()[0]


def backend_lift(backend: Backend) -> Lift:
    """Return a runtime backend as a function of any number of windows."""
    batch = backend.max_batch or 256

    def lift(windows: NDArray[np.float32], intrinsics: NDArray[np.float32]) -> NDArray[np.float32]:
        starts = range(0, len(windows), batch)
        return np.concatenate([backend(windows[i : i + batch], intrinsics[i : i + batch]) for i in starts])

    return lift


def lift_views(lift: Lift, session: Session, fed: LifterInput, cameras: Sequence[str] = ()) -> list[Lifted]:
    """Lift each view (or those of the named cameras) on its own; frames in which a view sees no joint are NaN."""
    session = session.to_skeleton(fed.skeleton)
    reference = reference_poses(session)
    return [_lift_view(lift, session, session.view(name), reference, fed) for name in cameras or session.camera_names]


def _lift_view(lift: Lift, session: Session, view: int, reference: NDArray[np.float64], fed: LifterInput) -> Lifted:
    camera = session.rig[view]
    windows = fed.windows(session, view)
    predicted = lift(windows, np.tile(fed.intrinsics(camera, camera.size), (len(windows), 1)))
    somebody = np.any(windows[:, -1, :, 2] > 0, axis=-1, keepdims=True)
    predicted = np.where(somebody[..., None], predicted, np.float32(np.nan))
    return Lifted(predicted, world_to_camera(reference, camera), session, camera.name)


def evaluate(lift: Lift, sessions: Sequence[Session], fed: LifterInput, cameras: Sequence[str] = ()) -> dict[str, Any]:
    """Scores over every view of every session, in mm (see poses.metrics), with `against`: truth or triangulation."""
    against = reference_kind(sessions)
    lifted = [part for session in sessions for part in lift_views(lift, session, fed, cameras)]
    counts = [len(part.predicted) for part in lifted]
    scores = score(
        np.concatenate([part.predicted for part in lifted]).astype(np.float64),
        np.concatenate([part.reference for part in lifted]),
        fed.skeleton,
        np.repeat(np.arange(len(lifted)), counts),
        np.repeat([part.session.action or "-" for part in lifted], counts),
    )
    return scores.to_dict() | {"against": against}
