"""The arithmetic of fused views."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgelift.poses.cameras import rays
from edgelift.poses.sessions import Session
from edgelift.runtime.fusion import complete, ideal, triangulate_robustly

from .test_fuse import COMMON14, crowd


def sights(session: Session) -> np.ndarray:
    """(views, frames, joints, 3) rays and confidence; frames stand in for people."""
    seen = [rays(k[..., :2], c) for k, c in zip(session.keypoints, session.rig, strict=True)]
    return np.concatenate([np.stack(seen), session.keypoints[..., 2:]], -1).astype(np.float64)


def test_an_outlying_view_is_left_out() -> None:
    [session] = crowd()
    looked = sights(session)
    looked[2, :, 5, :2] += 0.2
    found = triangulate_robustly(looked, [ideal(c) for c in session.rig])
    assert session.poses is not None
    np.testing.assert_allclose(found.xyz, session.poses, atol=1e-5)
    assert (found.seen_by[:, 5] == 3).all()
    assert (np.delete(found.seen_by, 5, axis=1) == 4).all()


def test_two_views_that_disagree_make_no_point() -> None:
    [session] = crowd()
    looked = sights(session)[:2]
    looked[1, :, 5, 1] += 0.3
    found = triangulate_robustly(looked, [ideal(c) for c in session.rig[:2]])
    assert np.isnan(found.xyz[:, 5]).all()
    assert (found.seen_by[:, 5] == 0).all()
    assert np.isfinite(np.delete(found.xyz, 5, axis=1)).all()


def test_rays_that_hardly_cross_make_no_point() -> None:
    [session] = crowd()
    near = replace(session.rig[0], name="near", t=session.rig[0].t + np.array([0.1, 0, 0]))
    looked = sights(session)[[0, 0]]
    looked[1, ..., 0] += 0.1 / 4.5
    assert np.isnan(triangulate_robustly(looked, [ideal(session.rig[0]), ideal(near)]).xyz).all()


def test_completing_moves_no_triangulated_joint_and_uses_the_lifted_offset() -> None:
    [session] = crowd()
    assert session.poses is not None
    truth = session.poses[0].astype(np.float64)
    xyz = truth.copy()
    xyz[13] = np.nan
    lifted = truth + np.array([0.5, 0.2, -0.3])  # a lifter that is right but for where the person stands
    nobody = np.full((1, 14, 3), np.nan)
    done = complete(xyz, lifted[None], nobody, [ideal(session.rig[0])], COMMON14)
    np.testing.assert_allclose(done, truth, atol=1e-9)
    np.testing.assert_array_equal(done[:13], xyz[:13])


def test_a_point_behind_a_camera_is_no_agreement() -> None:
    [session] = crowd()
    looked = sights(session)[:2]
    apart = looked.copy()
    apart[0, ..., 0] += 3.0  # rays that meet behind
    apart[1, ..., 0] -= 3.0
    cameras = [ideal(c) for c in session.rig[:2]]
    for shift in (apart, 2 * looked - apart):
        found = triangulate_robustly(shift, cameras)
        depth = np.stack([(found.xyz @ c.R.T + c.t)[..., 2] for c in cameras])
        assert not (depth < 0).any()
