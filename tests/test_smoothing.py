from __future__ import annotations

import math

import numpy as np
import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.smoothing import OneEuro, OneEuroSettings

RATE = 60.0


def slow_loop(settings: OneEuroSettings, times: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The authors' filter, one joint, one frame after the other (speed: of the joint, not of each coordinate)."""
    out, velocity = [points[0]], np.zeros(3)
    for i in range(1, len(points)):
        step = times[i] - times[i - 1]
        share = 1 / (1 + 1 / (2 * math.pi * settings.speed_cutoff * step))
        velocity = share * (points[i] - points[i - 1]) / step + (1 - share) * velocity
        cutoff = settings.min_cutoff + settings.beta * math.sqrt(float(velocity @ velocity))
        share = 1 / (1 + 1 / (2 * math.pi * cutoff * step))
        out.append(share * points[i] + (1 - share) * out[-1])
    return np.stack(out)


@pytest.fixture
def track() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.5, 1.5, 200)) / RATE + 1.7e9  # seconds since 1970 work too
    return times, rng.normal(0, 0.02, (200, 14, 3)).cumsum(0)


def test_it_is_the_known_filter_for_all_joints_at_once(track: tuple[np.ndarray, np.ndarray]) -> None:
    times, points = track
    settings = OneEuroSettings(1.0, 3.0)
    filtered = OneEuro(settings, 14)
    out = np.stack([filtered(t, p) for t, p in zip(times, points, strict=True)])
    for joint in range(14):
        np.testing.assert_allclose(out[:, joint], slow_loop(settings, times, points[:, joint]), atol=1e-9)


def test_a_missing_joint_waits_and_the_others_go_on(track: tuple[np.ndarray, np.ndarray]) -> None:
    times, points = track
    spoiled = points.copy()
    spoiled[50:55, 3] = np.nan
    settings = OneEuroSettings(1.0, 3.0)
    one, other = OneEuro(settings, 14), OneEuro(settings, 14)
    out = np.stack([one(t, p) for t, p in zip(times, spoiled, strict=True)])
    whole = np.stack([other(t, p) for t, p in zip(times, points, strict=True)])
    rest = [j for j in range(14) if j != 3]
    np.testing.assert_array_equal(out[:, rest], whole[:, rest])
    assert np.isnan(out[50:55, 3]).all()
    kept = np.r_[0:50, 55:200]
    np.testing.assert_allclose(out[kept, 3], slow_loop(settings, times[kept], points[kept, 3]), atol=1e-9)


def test_after_a_long_gap_a_joint_starts_where_it_is(track: tuple[np.ndarray, np.ndarray]) -> None:
    _, points = track
    filtered = OneEuro(OneEuroSettings(), 14)
    filtered(0.0, points[0])
    np.testing.assert_array_equal(filtered(1.0, points[100]), points[100])


def test_a_first_time_of_zero_is_a_time(track: tuple[np.ndarray, np.ndarray]) -> None:
    """The well-known implementation takes 0.0 for no time and leaves the first interval out."""
    _, points = track
    at_zero, later = OneEuro(OneEuroSettings(), 14), OneEuro(OneEuroSettings(), 14)
    for i in range(5):
        np.testing.assert_allclose(at_zero(i / RATE, points[i]), later(7 + i / RATE, points[i]), atol=1e-9)


@pytest.mark.parametrize("speed", [0.0, 1.0, 3.0])
def test_the_delay_is_the_stated_one(speed: float) -> None:
    settings = OneEuroSettings(1.0, 3.0)
    filtered = OneEuro(settings, 1)
    rate, seconds, moving = 2000.0, 6.0, max(speed, 1e-9)
    for i in range(int(rate * seconds)):
        position = np.array([[moving * i / rate, 0.0, 0.0]])
        out = filtered(i / rate, position)
    lag_s = float(position[0, 0] - out[0, 0]) / moving
    assert lag_s == pytest.approx(settings.delay_s(speed), rel=0.02)


def test_the_result_does_not_depend_on_the_axes(track: tuple[np.ndarray, np.ndarray]) -> None:
    times, points = track
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    one, other = OneEuro(OneEuroSettings(), 14), OneEuro(OneEuroSettings(), 14)
    for t, p in zip(times, points, strict=True):
        np.testing.assert_allclose(one(t, p) @ turn, other(t, p @ turn), atol=1e-9)


@pytest.mark.parametrize("wrong", [(0.0, 1.0), (1.0, -1.0), (math.nan, 1.0)])
def test_settings_that_make_no_filter_are_refused(wrong: tuple[float, float]) -> None:
    with pytest.raises(EdgeliftError, match="--smooth"):
        OneEuroSettings(*wrong)
