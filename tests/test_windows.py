from __future__ import annotations

import numpy as np
import pytest

from edgelift.poses.cameras import world_to_camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.skeletons import skeleton
from edgelift.poses.timeline import MAX_GAP_S
from edgelift.poses.windows import LifterInput, Stream, cut

from .conftest import make_sessions


def stream(n: int, fps: float, jitter: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    t = 100 + (np.arange(n) + jitter * rng.uniform(-0.5, 0.5, n)) / fps
    xy = np.stack([np.sin(t), np.cos(t)], -1)[:, None] * np.arange(1, 4)[:, None]
    keypoints = np.concatenate([100 + 50 * xy, np.full((n, 3, 1), 0.7)], -1).astype(np.float32)
    return keypoints, t


def test_a_regular_stream_passes_through_untouched() -> None:
    keypoints, t = stream(30, 20)
    windows = cut(keypoints, t, 5, 0.05)
    for i in range(4, 30):
        np.testing.assert_array_equal(windows[i], keypoints[i - 4 : i + 1])


def test_a_short_start_is_missing_not_repeated() -> None:
    keypoints, t = stream(3, 20)
    windows = cut(keypoints, t, 5, 0.05)
    assert (windows[0, :4, :, 2] == 0).all()
    assert np.isnan(windows[0, :4, :, :2]).all()
    np.testing.assert_array_equal(windows[0, 4], keypoints[0])


def test_irregular_time_is_interpolated_to_the_true_signal() -> None:
    keypoints, t = stream(60, 30, jitter=0.4)
    windows = cut(keypoints, t, 8, 0.05)
    slots = t[-1] - 0.05 * np.arange(7, -1, -1)
    truth = 100 + 50 * np.stack([np.sin(slots), np.cos(slots)], -1)[:, None] * np.arange(1, 4)[:, None]
    assert np.abs(windows[-1, ..., :2] - truth).max() < 0.15  # by index it would be off by several pixels


def test_missing_joints_and_gaps_are_not_interpolated() -> None:
    keypoints, t = stream(40, 30)
    keypoints[20, 1] = (np.nan, np.nan, 0)
    t[30:] += 2 * MAX_GAP_S
    windows = cut(keypoints, t, 10, 0.05)
    assert windows[21, -2, 1, 2] == 0
    assert windows[21, -2, 0, 2] > 0
    assert (windows[30, :-1, :, 2] == 0)[-3:].all()
    assert np.isfinite(windows[..., :2][windows[..., 2] > 0]).all()


@pytest.mark.parametrize(("frames", "fps", "jitter"), [(1, 20, 0.0), (9, 20, 0.0), (9, 33, 0.5), (27, 60, 0.3)])
def test_streaming_equals_offline(frames: int, fps: float, jitter: float) -> None:
    keypoints, t = stream(90, fps, jitter)
    keypoints[10:14, 2] = (np.nan, np.nan, 0)
    offline = cut(keypoints, t, frames, 0.05)
    live = Stream(frames, 0.05)
    streamed = np.stack([live.push(float(time), k) for time, k in zip(t, keypoints, strict=True)])
    np.testing.assert_array_equal(streamed, offline)


def test_times_in_another_unit_are_refused_before_they_fill_memory() -> None:
    keypoints, _ = stream(1, 20)
    live = Stream(9, 0.05)
    for k in range(453):
        live.push(k * 1e-6, keypoints[0])
    with pytest.raises(EdgeliftError, match="nanoseconds"):
        live.push(1e-3, keypoints[0])
    assert len(live.push(1000.0, keypoints[0])) == 9  # and goes on when they are right


def test_a_window_is_causal() -> None:
    keypoints, t = stream(40, 27, 0.3)
    changed = keypoints.copy()
    changed[25:] += 7
    np.testing.assert_array_equal(cut(keypoints, t, 6, 0.05)[:25], cut(changed, t, 6, 0.05)[:25])


def test_a_lifter_is_fed_the_pixels_of_a_camera_without_lens_distortion() -> None:
    session = make_sessions(1)[0]
    camera = session.rig[1]
    assert session.poses is not None
    assert np.any(camera.dist)
    local = world_to_camera(session.poses, camera)
    pinhole = local[..., :2] / local[..., 2:] * camera.intrinsics[:2] + camera.intrinsics[2:]
    windows = LifterInput(session.skeleton, "rays").windows(session, 1)
    assert windows.shape == (60, 1, 17, 3)
    assert np.abs(windows[:, 0, :, :2] - pinhole).max() < 1e-3
    assert np.abs(session.keypoints[1, ..., :2] - pinhole).max() > 1  # there was something to undo


def test_rays_takes_the_true_intrinsics_and_screen_half_the_width() -> None:
    camera = make_sessions(1)[0].rig[0]
    common = skeleton("common14")
    np.testing.assert_array_equal(LifterInput(common, "rays").intrinsics(camera, None), [1150, 1150, 500, 500])
    np.testing.assert_array_equal(LifterInput(common, "screen").intrinsics(None, (1000, 800)), [500, 500, 500, 400])
    for camera_input, lacking in (("rays", "intrinsics"), ("screen", "image size")):
        with pytest.raises(EdgeliftError, match=f"a camera without {lacking}"):
            LifterInput(common, camera_input).intrinsics(None, None)  # type: ignore[arg-type]
