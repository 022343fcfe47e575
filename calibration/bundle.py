"""Bundle adjustment of cameras and joints (Triggs et al. 2000): robust, dense in the cameras, linear in the joints.

A camera turns on SO(3) and moves by its centre; what else of it is free is the caller's choice. Joints are eliminated
(Schur complement), so a round costs one pass over the observations and one solve of a few hundred unknowns. Errors
follow Student's t in the image; its scale and tail are those that fit the residuals best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lgamma

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, project
from edgelift.poses.rigs import rotvec_to_matrix

Float64 = NDArray[np.float64]
Bools = NDArray[np.bool_]
Cameras = Sequence[Camera]

# of one camera: turn (rad, in its own frame), centre (m), log focal length, principal point (of the focal length), k1
# and k2, and its clock (s)
TURN, PLACE, FOCAL, MIDDLE, LENS, CLOCK = slice(0, 3), slice(3, 6), 6, slice(7, 9), slice(9, 11), 11
PARAMETERS = 12
ALONE = np.array([1] * 6 + [0] * 6, bool)  # turn and centre
# standard deviations of the priors that hold what is estimated besides: focal lengths are all known to the same factor
# of 1.5, and each to one of 1.35 besides; a principal point to two percent of it; turns and centres have none
PRIORS = np.array([np.inf] * 6 + [0.4] + [0.02] * 2 + [0.2] * 2 + [np.inf])

TAILS = (4.0, 6.0, 8.0, 16.0, 32.0, 128.0)  # degrees of freedom that Student's t is tried with; the last is Gaussian
HEAVY, NOT_GAUSSIAN = 4.0, 16.0  # tails of observations; of sums over views, up to which they are taken to be such
FARTHEST = 4.0  # an observation this many standard deviations off is an outlier and weighs nothing
LEAST_NOISE_PX = 0.02
PINNED = 1e12  # precision of a clock that stays, per square second
ROUNDS, STEPS = 15, 2  # re-weightings; Gauss-Newton steps in each
SETTLED = 1e-5  # radians and metres: a smaller step ends it, far below what noise does


@dataclass(frozen=True)
class Noise:
    """Student's t of the errors in the image: its scale in pixels and its degrees of freedom."""

    scale_px: float
    tail: float

    @property
    def deviation_px(self) -> float:
        """Standard deviation of a coordinate."""
        return self.scale_px * float(np.sqrt(self.tail / (self.tail - 2)))

    def weights(self, squared: Float64) -> Float64:
        """Weights of observations whose squared residuals are these many scales squared."""
        return np.asarray((self.tail + 2) / (self.tail + squared))


@dataclass(frozen=True)
class Spread:
    """How far focal lengths, over the given ones, differ between cameras: a standard deviation of their logarithms.

    held: with which they are adjusted. true: what it may well be, where it had to be estimated; covariances allow for
    it. What the focal lengths of all cameras share is held by its PRIOR.
    """

    held: float
    true: float

    def covariance(self, cameras: int, true: bool = False) -> Float64:
        """(cameras, cameras) of the logarithms, as they are held or as they may truly be."""
        own = self.true if true else self.held
        return np.asarray(own**2 * np.eye(cameras) + PRIORS[FOCAL] ** 2)


UNKNOWN_SPREAD = Spread(0.3, 0.3)


@dataclass(frozen=True, eq=False)
class Sightings:
    """What cameras saw of joints at moments ("points").

    keypoints (views, points, 2) raw pixels; seen (views, points); frame and joint (points,) tell moment and joint of
    each; velocity (views, points, 2) pixels a second, where the cameras' clocks are to be found.
    """

    keypoints: Float64
    seen: Bools
    frame: NDArray[np.intp]
    joint: NDArray[np.intp]
    velocity: Float64 | None = None

    def take(self, points: NDArray[np.intp] | Bools) -> Sightings:
        """Return these points alone."""
        velocity = None if self.velocity is None else self.velocity[:, points]
        return Sightings(
            self.keypoints[:, points], self.seen[:, points], self.frame[points], self.joint[points], velocity
        )

    def views(self, views: Sequence[int]) -> Sightings:
        """Return these views alone."""
        pick = list(views)
        velocity = None if self.velocity is None else self.velocity[pick]
        return Sightings(self.keypoints[pick], self.seen[pick], self.frame, self.joint, velocity)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A rig under adjustment, or adjusted: cameras, points (points, 3), which observations count, how they scatter.

    clocks_s (views,): what to add to each camera's clock. free (PARAMETERS,): what of each camera moves; intrinsics are
    held by PRIORS, and focal lengths by their spread, at those of `given`.
    """

    sightings: Sightings
    cameras: tuple[Camera, ...]
    points: Float64
    counted: Bools
    noise: Noise
    clocks_s: Float64
    free: Bools
    given: tuple[Camera, ...]
    spread: Spread

    def residuals(self, of: Bools | None = None) -> Float64:
        """(views, points, 2) pixels, projected minus seen; NaN where not `of`: by default where it does not count."""
        asked = self.counted if of is None else of
        out = np.full((*asked.shape, 2), np.nan)
        for v, camera in enumerate(self.cameras):
            here = np.flatnonzero(asked[v])
            out[v, here] = project(self.points[here], camera) - self.observed(v, here)
        return out

    def observed(self, view: int, here: NDArray[np.intp]) -> Float64:
        """Keypoints (n, 2) of a view, as it would have seen them if its clock were right."""
        s = self.sightings
        if s.velocity is None:
            return np.asarray(s.keypoints[view, here])
        return np.asarray(s.keypoints[view, here] - self.clocks_s[view] * s.velocity[view, here])

    def cost(self) -> float:
        """Negative log-likelihood and priors; infinite where a joint that counts is behind a camera."""
        r = self.residuals()[self.counted]
        if not np.isfinite(r).all():
            return np.inf
        scaled = (r**2).sum(-1) / self.noise.scale_px**2 / self.noise.tail
        change = self.change()
        held = float(np.einsum("vp,pvw,wp->", change, self.precision(), change))
        return float((self.noise.tail + 2) / 2 * np.log1p(scaled).sum()) + 0.5 * held

    def change(self) -> Float64:
        """(views, PARAMETERS): how far intrinsics are from the given ones; zero for what has no prior."""
        out = np.zeros((len(self.cameras), PARAMETERS))
        for row, given, camera in zip(out, self.given, self.cameras, strict=True):
            row[FOCAL] = np.log(camera.K[0, 0] / given.K[0, 0])
            row[MIDDLE] = (camera.K[:2, 2] - given.K[:2, 2]) / given.intrinsics[:2]
            row[LENS] = camera.dist[:2] - given.dist[:2]
        return out

    def precision(self) -> Float64:
        """(PARAMETERS, views, views): the inverse covariance of the prior of each parameter, between cameras."""
        each = np.eye(len(self.cameras))
        out: Float64 = each / PRIORS[:, None, None] ** 2
        out[FOCAL] = np.linalg.inv(self.spread.covariance(len(each)))
        out[CLOCK, 0, 0] = PINNED  # all clocks together are as unknown as the world's place: the first one stays
        return out

    def moved(self, step: Float64, points: Float64) -> Bundle:
        """The same after a step (views, PARAMETERS) of the cameras and one of the points."""
        cameras = tuple(moved_camera(c, s) for c, s in zip(self.cameras, step, strict=True))
        return replace(self, cameras=cameras, points=self.points + points, clocks_s=self.clocks_s + step[:, CLOCK])

    def weighed(self) -> Bundle:
        """The same with the noise that fits the observations that count."""
        return replace(self, noise=_estimate_noise(self.residuals(), self.counted))

    def without_outliers(self) -> Bundle:
        """The same with all observations within FARTHEST standard deviations, of points that two views then see."""
        off = np.nan_to_num(np.linalg.norm(self.residuals(self.sightings.seen), axis=-1), nan=np.inf)
        counted = off < FARTHEST * self.noise.deviation_px
        return replace(self, counted=counted & (counted.sum(0) >= 2))


def adjust(
    sightings: Sightings,
    cameras: Cameras,
    points: Float64,
    counted: Bools,
    free: Bools = ALONE,
    rounds: int = ROUNDS,
    given: Cameras | None = None,
    spread: Spread = UNKNOWN_SPREAD,
) -> Bundle:
    """Adjust cameras and points (points, 3); counted (views, points): the observations to begin with.

    free (PARAMETERS,): what of each camera moves. Intrinsics are held as Bundle says at those of `given`, or of
    `cameras`.
    """
    known, clocks = tuple(cameras if given is None else given), np.zeros(len(cameras))
    unknown = Noise(LEAST_NOISE_PX, TAILS[0])
    state = Bundle(sightings, tuple(cameras), points.copy(), counted, unknown, clocks, free, known, spread).weighed()
    damping = 1e-4
    for number in range(rounds):
        if number:
            state = state.without_outliers().weighed()
        cost = state.cost()
        for _ in range(STEPS):
            step, moved = NormalEquations(state).solve(damping)
            tried = state.moved(step, moved)
            after = tried.cost()
            if after <= cost:
                state, cost, damping = tried, after, max(damping / 10, 1e-9)
            else:
                damping = min(damping * 100, 1e3)
        if np.abs(step[:, free] if free.any() else moved).max() < SETTLED:
            break
    return state


def linearise(camera: Camera, points: Float64) -> tuple[Float64, Float64, Float64, Float64]:
    """Return pixels (n, 2), their derivatives by the camera (n, 2, PARAMETERS) and by the point (n, 2, 3), depths (n,).

    The lens is OpenCV's five-coefficient model, as in poses.cameras.distort.
    """
    local = (points - camera.centre) @ camera.R.T
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        x, y = (local[:, :2] / local[:, 2:]).T
        image, bend = _through_lens(x, y, camera.dist)
        fx, fy, cx, cy = camera.intrinsics
        focal = np.array([fx, fy])
        flat = np.zeros((len(points), 2, 3))
        flat[:, 0, 0] = flat[:, 1, 1] = 1 / local[:, 2]
        flat[:, 0, 2], flat[:, 1, 2] = -x / local[:, 2], -y / local[:, 2]
        by_local = focal[:, None] * (bend @ flat)
        by_point = by_local @ camera.R
        r2 = x * x + y * y
    by_camera = np.zeros((len(points), 2, PARAMETERS))
    by_camera[:, :, TURN] = by_local @ _minus_cross(local)
    by_camera[:, :, PLACE] = -by_point
    by_camera[:, :, FOCAL] = image * focal
    by_camera[:, 0, 7], by_camera[:, 1, 8] = fx, fy
    by_camera[:, 0, 9], by_camera[:, 1, 9] = fx * x * r2, fy * y * r2
    by_camera[:, 0, 10], by_camera[:, 1, 10] = fx * x * r2 * r2, fy * y * r2 * r2
    return image * focal + (cx, cy), by_camera, by_point, local[:, 2]


def _through_lens(x: Float64, y: Float64, dist: Float64) -> tuple[Float64, Float64]:
    """Distorted image points (n, 2) and their derivatives (n, 2, 2) by the ideal ones."""
    k1, k2, p1, p2, k3 = dist
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    slope = k1 + r2 * (2 * k2 + 3 * k3 * r2)
    out = np.stack([x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
                    y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], -1)  # fmt: skip
    bend = np.empty((len(x), 2, 2))
    bend[:, 0, 0] = radial + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x
    bend[:, 1, 1] = radial + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x
    bend[:, 0, 1] = bend[:, 1, 0] = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
    return out, bend


def _minus_cross(local: Float64) -> Float64:
    """(n, 3, 3): the derivative of a turned point by a small turn, -[local]x."""
    x, y, z = local.T
    zero = np.zeros_like(x)
    return np.stack([zero, z, -y, -z, zero, x, y, -x, zero], -1).reshape(-1, 3, 3)


def moved_camera(camera: Camera, step: Float64) -> Camera:
    """Return a camera after a step (PARAMETERS,) of its parameters."""
    K, dist = camera.K.copy(), camera.dist.copy()
    K[:2, 2] += step[MIDDLE] * camera.intrinsics[:2]
    K[[0, 1], [0, 1]] *= np.exp(np.clip(step[FOCAL], -0.5, 0.5))
    dist[:2] += step[LENS]
    u, _, v = np.linalg.svd(rotvec_to_matrix(step[TURN]) @ camera.R)  # rounding must not add up
    R = u @ v
    return replace(camera, K=K, dist=dist, R=R, t=-R @ (camera.centre + step[PLACE]))


def _estimate_noise(residuals: Float64, counted: Bools) -> Noise:
    """Scale and tail of Student's t.

    A point was fitted to what views see of it, so single residuals are smaller than errors, each by another share; only
    what all views together miss of a joint has known degrees of freedom. That is a sum over views, whose tails are
    lighter than theirs: where it is not Gaussian, they are HEAVY, as those of detectors are.
    """
    views = counted.sum(0)
    squared, degrees = (np.where(counted[..., None], residuals, 0) ** 2).sum((0, 2)), 2.0 * views - 3
    known = np.isfinite(squared) & (views >= 2)
    squared, degrees = squared[known], degrees[known]
    if not len(squared):
        return Noise(LEAST_NOISE_PX, TAILS[0])
    # the median of chi-squared, after Wilson & Hilferty
    scale = float(np.sqrt(np.median(squared / (degrees * (1 - 2 / (9 * degrees)) ** 3))))
    summed = max((_fit(squared, degrees, scale, tail) for tail in TAILS), key=lambda fit: fit[0])[1]
    tail = HEAVY if summed.tail <= NOT_GAUSSIAN else summed.tail
    return Noise(summed.deviation_px * float(np.sqrt((tail - 2) / tail)), tail)


def _fit(squared: Float64, degrees: Float64, scale: float, tail: float) -> tuple[float, Noise]:
    """Log-likelihood and noise of one tail (expectation maximisation; Lange, Little & Taylor 1989)."""
    variance = max(scale, LEAST_NOISE_PX) ** 2
    for _ in range(10):
        weights = (tail + degrees) / (tail + squared / variance)
        variance = max(float((weights * squared).sum() / degrees.sum()), LEAST_NOISE_PX**2)
    constants = {d: lgamma((tail + d) / 2) - lgamma(tail / 2) - d / 2 * np.log(tail) for d in np.unique(degrees)}
    likelihood = sum(constants[d] * float((degrees == d).sum()) for d in constants)
    likelihood -= float(
        (degrees / 2 * np.log(variance) + (tail + degrees) / 2 * np.log1p(squared / variance / tail)).sum()
    )
    return likelihood, Noise(float(np.sqrt(variance)), tail)


class NormalEquations:
    """The normal equations of a bundle as it stands, joints eliminated."""

    def __init__(self, state: Bundle) -> None:
        self.free, self.count = np.flatnonzero(state.free), len(state.cameras)
        p, n, velocity, scale = len(self.free), len(state.points), state.sightings.velocity, state.noise.scale_px
        self.U, self.V, self.W = np.zeros((self.count, p, p)), np.zeros((n, 3, 3)), np.zeros((self.count, p, n, 3))
        self.prior, self.point_gradient = self._of_priors(state.precision()), np.zeros((n, 3))
        self.pull = self.prior @ state.change()[:, self.free].ravel()
        self.score = np.zeros((n, self.count, p))  # each point's share of the cameras' gradient, before elimination
        for v, camera in enumerate(state.cameras):
            here = np.flatnonzero(state.counted[v])
            pixels, by_camera, by_point, _ = linearise(camera, state.points[here])
            if velocity is not None:
                by_camera[:, :, CLOCK] = velocity[v, here]
            r = (pixels - state.observed(v, here)) / scale
            A, B = by_camera[:, :, self.free] / scale, by_point / scale
            weights = state.noise.weights((r**2).sum(-1))[:, None, None]
            weighted_A, weighted_B = A * weights, B * weights
            self.U[v] = np.tensordot(weighted_A, A, ((0, 1), (0, 1)))
            self.score[here, v] = np.einsum("nri,nr->ni", weighted_A, r)
            self.V[here] += np.swapaxes(weighted_B, 1, 2) @ B
            self.point_gradient[here] += np.einsum("nri,nr->ni", weighted_B, r)
            self.W[v][:, here] = np.swapaxes(np.swapaxes(weighted_A, 1, 2) @ B, 0, 1)

    def _of_priors(self, precision: Float64) -> Float64:
        """(m, m) of all free parameters, from (PARAMETERS, views, views)."""
        m = self.count * len(self.free)
        out = np.zeros((self.count, len(self.free)) * 2)
        for i, parameter in enumerate(self.free):
            out[:, i, :, i] = precision[parameter]
        return out.reshape(m, m)

    def prior_scores(self, state: Bundle) -> Float64:
        """(m, m) covariance of what priors add to the gradient, were focal lengths spread as they may truly be."""
        scatter = state.precision()
        scatter[FOCAL] = scatter[FOCAL] @ state.spread.covariance(self.count, true=True) @ scatter[FOCAL]
        return self._of_priors(scatter)

    def reduced(self, damping: float = 0.0) -> tuple[Float64, Float64, Float64]:
        """Return the Schur complement (m, m), prior and all, W V^-1 as (m, points * 3), and V^-1 (points, 3, 3)."""
        m = self.count * len(self.free)
        diagonal = np.einsum("nii->ni", self.V)
        inverse = np.linalg.inv(self.V + (damping * diagonal + 1e-9)[:, :, None] * np.eye(3))
        n = len(self.V)
        W = self.W.reshape(m, n, 3)
        through = (np.swapaxes(W, 0, 1) @ inverse).swapaxes(0, 1).reshape(m, 3 * n)
        S = self.prior - through @ W.reshape(m, 3 * n).T
        p = len(self.free)
        for v in range(self.count):
            block = slice(v * p, v * p + p)
            S[block, block] += self.U[v] + damping * np.diag(np.diag(self.U[v]))
        return S, through, inverse

    def solve(self, damping: float) -> tuple[Float64, Float64]:
        """Return the step of the cameras (views, PARAMETERS) and of the points (points, 3)."""
        S, through, inverse = self.reduced(damping)
        g = self.pull + self.score.sum(0).ravel() - through @ self.point_gradient.ravel()
        scale = 1 / np.sqrt(np.maximum(np.diag(S), 1e-12))
        # the world's place, turn and size are free: the ridge leaves them where they are
        own = -scale * np.linalg.solve(S * scale[:, None] * scale + 1e-9 * np.eye(len(S)), scale * g)
        pulled = np.einsum("nij,nj->ni", inverse, self.point_gradient)
        moved = -pulled - (own @ through).reshape(len(self.V), 3)
        step = np.zeros((self.count, PARAMETERS))
        step[:, self.free] = own.reshape(self.count, len(self.free))
        return step, moved

    def scores(self, through: Float64) -> Float64:
        """(points, m): each point's share of the gradient of the cameras, joints eliminated by `through` of reduced."""
        n = len(self.V)
        lost = np.einsum("mni,ni->nm", through.reshape(-1, n, 3), self.point_gradient)
        return np.asarray(self.score.reshape(n, -1) - lost)
