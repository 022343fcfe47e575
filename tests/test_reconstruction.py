from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.motion import load_motion
from edgelift.poses.person import clips
from edgelift.poses.reconstruction import reconstruct
from edgelift.poses.rigs import read_rig
from edgelift.poses.sessions import Session
from edgelift.poses.studio import StudioSettings, film, studio_rig
from edgelift.trainer.data import KNOWN_SIGMA_M

from .conftest import make_sessions


def walkers(**settings: float | str) -> list[Session]:
    """Two people of the embedded generator: bones keep their length, unlike the wobbling figure's."""
    return list(film(clips(3.0, 60.0, 2, 0), studio_rig(), StudioSettings(**settings)))  # type: ignore[arg-type]


def errors_mm(session: Session) -> list[np.ndarray]:
    """Reconstruction's and plain triangulation's distance from the truth, (frames, joints) mm."""
    assert session.poses is not None
    ours, plain = reconstruct(session).poses, session.triangulate()[0]
    return [1000 * np.linalg.norm(p - session.poses, axis=-1) for p in (ours, plain)]


def test_exact_keypoints_give_the_exact_person() -> None:
    for session in make_sessions(2):
        assert errors_mm(session)[0].max() < 1.0
        assert reconstruct(session).noise_rad < 2e-5


def test_noise_is_smoothed_and_its_size_found() -> None:
    sessions = walkers(noise_px=5.0, noise_model="detector", missing=0.05)
    ours, plain = zip(*[errors_mm(s) for s in sessions], strict=True)
    assert np.nanmean(ours) < 0.75 * np.nanmean(plain)
    focal = sessions[0].rig[0].K[0, 0]
    found = np.median([reconstruct(s).noise_rad for s in sessions]) * focal
    assert 2.5 < found < 6.0  # heavy tails: the bulk is narrower than the standard deviation of 5 px


def test_sigma_says_how_well_a_joint_is_known() -> None:
    sessions = walkers(noise_px=4.0)
    ratio = []
    for session in sessions:
        assert session.poses is not None
        made = reconstruct(session)
        ratio.append(((made.poses - session.poses) ** 2).sum(-1) / 3 / made.sigma**2)
    assert 0.3 < np.median(ratio) < 1.5
    hidden = replace(sessions[0], keypoints=sessions[0].keypoints.copy())
    hidden.keypoints[:, 20:40, 3] = (np.nan, np.nan, 0)  # nobody sees this ankle for a second
    made = reconstruct(hidden)
    assert np.isfinite(made.poses).all()
    assert made.sigma[30, 3] > 5 * made.sigma[10, 3]


def test_bones_that_do_change_are_left_to_change() -> None:
    ours, plain = zip(*[errors_mm(s) for s in make_sessions(3, noise_px=5.0)], strict=True)
    assert np.nanmean(ours) < np.nanmean(plain)


def test_a_wild_keypoint_moves_little() -> None:
    session = make_sessions(1, noise_px=1.0)[0]
    spoilt = replace(session, keypoints=session.keypoints.copy())
    spoilt.keypoints[0, 15, 5, :2] += 200
    plain = np.linalg.norm(spoilt.triangulate()[0] - session.triangulate()[0], axis=-1)[15, 5]
    ours = np.linalg.norm(reconstruct(spoilt).poses - reconstruct(session).poses, axis=-1)[15, 5]
    assert ours < 0.1 * plain


def test_nothing_that_two_views_see_is_refused() -> None:
    session = make_sessions(1)[0]
    alone = replace(session, keypoints=session.keypoints.copy())
    alone.keypoints[1:] = (np.nan, np.nan, 0)
    with pytest.raises(EdgeliftError, match="no joint that two views see"):
        reconstruct(alone)


def test_an_arm_that_one_view_sees_is_not_thrown_away(shared: Path) -> None:
    """A climber's: bones that are far from their length pulled it metres away once."""
    (climb,) = (c for c in load_motion(shared / "mocap" / "cmu17.npz", "train") if c.name == "01_06#0")
    rig = read_rig(f"{shared / 'rigs.json'}:humaneva_S1", None)
    settings = StudioSettings(noise_px=3.0, noise_model="detector", missing=0.05)
    for session in film([climb], rig, settings):
        made = reconstruct(session)
        assert session.poses is not None
        off = np.linalg.norm(made.poses - session.poses, axis=-1)
        assert off[made.sigma < KNOWN_SIGMA_M].max() < 1.0
