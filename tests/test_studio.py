from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgelift.poses.cameras import project, triangulate
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.motion import Clip
from edgelift.poses.skeletons import skeleton
from edgelift.poses.studio import StudioSettings, _noise, film, rig_middle, studio_rig

from .conftest import make_sessions, wobbling_person


def test_without_noise_keypoints_are_the_projected_truth() -> None:
    session = make_sessions(1)[0]
    assert session.poses is not None
    for view, camera in enumerate(session.rig):
        np.testing.assert_allclose(session.keypoints[view, ..., :2], project(session.poses, camera), atol=1e-2)
    points, _ = triangulate(session.keypoints, session.rig)
    assert np.abs(points - session.poses).max() < 1e-4


def test_people_stand_in_the_middle_of_the_rig() -> None:
    session = make_sessions(1)[0]
    assert session.poses is not None
    middle = session.poses[:, 0].mean(0) - rig_middle(session.rig)
    assert np.abs(middle[:2]).max() < 1e-5


def test_noise_has_the_stated_spread_and_detector_noise_lasts_and_has_tails() -> None:
    rng = np.random.default_rng(0)
    shape = (4, 2000, 17, 2)
    white, _ = _noise(shape, StudioSettings(noise_px=5.0), rng)
    real, confidence = _noise(shape, StudioSettings(noise_px=5.0, noise_model="detector"), rng)
    for noise in (white, real):
        assert noise.std() == pytest.approx(5.0, rel=0.05)
    lag = [np.corrcoef(n[:, 4:].ravel(), n[:, :-4].ravel())[0, 1] for n in (white, real)]
    assert abs(lag[0]) < 0.02
    assert 0.2 < lag[1] < 0.6  # 0.2 s at 20 fps: e^-1 where Gaussian, less in the tails
    radial = [np.linalg.norm(n, axis=-1) for n in (white, real)]
    ratio = [np.percentile(r, 99) / np.median(r) for r in radial]
    assert ratio[0] == pytest.approx(2.58, abs=0.1)
    assert ratio[1] > 3.3
    assert np.corrcoef(confidence.ravel(), radial[1].ravel())[0, 1] < -0.2


def test_missing_and_swapped_fractions_are_the_stated_ones() -> None:
    clean = make_sessions(12)
    missing = make_sessions(12, missing=0.2)
    share = np.mean([(s.keypoints[..., 2] == 0).mean() for s in missing])
    assert share == pytest.approx(0.2, abs=0.02)
    swapped = make_sessions(12, swaps=0.2)
    mirror = list(skeleton("h36m17").mirror)
    changed = [
        np.isclose(s.keypoints[:, :, mirror], c.keypoints, atol=1e-3).all((2, 3)).mean()
        for s, c in zip(swapped, clean, strict=True)
    ]
    assert 0.1 < np.mean(changed) < 0.3


def test_one_seed_one_result_and_leaving_a_clip_out_changes_no_other() -> None:
    a, b = make_sessions(3, noise_px=5.0), make_sessions(3, noise_px=5.0, first=1)
    for mine, theirs in zip(a[1:], b, strict=True):
        np.testing.assert_array_equal(mine.keypoints, theirs.keypoints)
    assert not np.array_equal(a[0].keypoints, make_sessions(1, noise_px=5.0, seed=1)[0].keypoints)


def test_short_clips_and_remainders_are_dropped_the_rest_keep_their_names() -> None:
    s = skeleton("h36m17")
    clips = [Clip(f"c{n}", "a", "b", 20.0, wobbling_person(n, 0), s) for n in (39, 40, 130, 165)]
    made = list(film(clips, studio_rig(), StudioSettings(fps=20.0)))
    assert [(m.name, m.keypoints.shape[1]) for m in made] == [
        ("c40_00", 40), ("c130_00", 120), ("c165_00", 120), ("c165_01", 45)
    ]  # fmt: skip
    thirds = film(clips[2:3], studio_rig(), StudioSettings(fps=20.0, window_s=2.5))
    assert [m.keypoints.shape[1] for m in thirds] == [50, 50]


def test_a_rig_whose_world_is_not_z_up_is_refused() -> None:
    clip = Clip("c", "a", "b", 20.0, wobbling_person(60, 0), skeleton("h36m17"))
    first = studio_rig()[0]
    in_first = [replace(c, R=c.R @ first.R.T, t=c.t - c.R @ first.R.T @ first.t) for c in studio_rig()]
    with pytest.raises(EdgeliftError, match=r"upward direction .* of the world"):
        list(film([clip], in_first, StudioSettings(fps=20.0)))
    from_above = [replace(c, R=np.diag([1.0, -1, -1]), t=np.array([0, 0, 5.0])) for c in studio_rig(1)]
    assert len(list(film([clip], from_above, StudioSettings(fps=20.0)))) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"fps": 0}, {"missing": 1.0}, {"noise_px": -1}, {"window_s": 1.0}, {"swaps": 2}, {"fps": np.inf}, {"seed": -1}],
)
def test_settings_name_the_flag(wrong: dict[str, float]) -> None:
    with pytest.raises(EdgeliftError, match="--"):
        StudioSettings(**wrong)  # type: ignore[arg-type]
