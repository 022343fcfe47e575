"""How well keypoints tell a rig: covariance of the cameras, in the frame in which rigs are compared.

A rig from keypoints has no place, turn and size of its own. Its covariance is given in the frame in which its centres
are aligned with the true ones (a similarity, least squares), so that it foretells what a comparison will show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelift.calibration.bundle import (
    CLOCK,
    FOCAL,
    PLACE,
    TURN,
    Bundle,
    Cameras,
    Float64,
    NormalEquations,
    Spread,
)

Indices = NDArray[np.intp]

# a detector's errors last about this long: sums over blocks tell how much less than their number they say
BLOCK_S = 0.25
SPREADS = np.array([0.003, 0.01, 0.03, 0.1, 0.3])  # from lenses of one model to any lenses
SIMILARITY = 7  # turns, moves and growth of the world, which no keypoint tells


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Covariance of turn (rad) and centre (units of the rig) of every camera, and standard deviations by camera.

    centre (views, 3, 3); turn (views, 3, 3); focal (views,) standard deviation of its logarithm, zero where it was
    given; clock (views,) seconds, zero where it was given; point (points,): the sum of the variances of a joint's
    coordinates, cameras given; inflation: how many times the variance is larger for errors that last.
    """

    centre: Float64
    turn: Float64
    focal: Float64
    clock: Float64
    point: Float64
    inflation: float


def uncertainty(bundle: Bundle, frame_s: float) -> Uncertainty:
    """Estimate the covariance of an adjusted rig; frame_s: seconds between frames."""
    equations = NormalEquations(bundle)
    covariance, inflation, inverse = _covariance(bundle, equations, frame_s)
    free, views = equations.free, len(bundle.cameras)
    aligned = _aligned(bundle.cameras, free)
    blocks = (aligned @ covariance @ aligned.T).reshape(views, len(free), views, len(free))
    own = np.stack([blocks[v, :, v, :] for v in range(views)])
    return Uncertainty(
        centre=own[:, PLACE, PLACE], turn=own[:, TURN, TURN], focal=_sd(own, free, FOCAL), clock=_sd(own, free, CLOCK),
        point=np.trace(inverse, axis1=1, axis2=2), inflation=inflation,
    )  # fmt: skip


def focal_spread(bundle: Bundle, frame_s: float) -> Spread:
    """Estimate how far the focal lengths of a rig, over the given ones, differ between cameras.

    SPREADS, each as likely as it makes the focal lengths that were found: cameras of one model then teach each other
    theirs, and cameras that differ do not. Few cameras tell little of it, so what is held is the mean, and what may be
    true the root of the mean square.
    """
    equations = NormalEquations(bundle)
    covariance, _, _ = _covariance(bundle, equations, frame_s)
    own = np.arange(len(bundle.cameras)) * len(equations.free) + np.flatnonzero(equations.free == FOCAL)
    found, doubt = bundle.change()[:, FOCAL], covariance[np.ix_(own, own)]
    likely = [_log_density(found, doubt + Spread(s, s).covariance(len(found))) for s in SPREADS]
    shares = np.exp(np.array(likely) - max(likely))
    shares /= shares.sum()
    return Spread(float(shares @ SPREADS), float(np.sqrt(shares @ SPREADS**2)))


def _log_density(value: Float64, covariance: Float64) -> float:
    """Of a Gaussian about zero, up to a constant."""
    return -0.5 * float(np.linalg.slogdet(covariance)[1] + value @ np.linalg.solve(covariance, value))


def _covariance(bundle: Bundle, equations: NormalEquations, frame_s: float) -> tuple[Float64, float, Float64]:
    """Covariance (m, m) of all free parameters, its inflation, and the covariances (points, 3, 3) of the joints.

    The sandwich estimator, clustered by frame (Huber 1967, White 1982). Few frames fit the rig that was fitted to them:
    as many are taken off as it has parameters (HC1 of MacKinnon & White 1985).
    """
    S, through, inverse = equations.reduced()
    scores, prior, step = equations.scores(through), equations.prior, max(1, round(BLOCK_S / frame_s))
    bread = _inverse(_efficiency(bundle) * (S - prior) + prior)
    by_frame, by_block = (_sums(scores, bundle.sightings.frame // n) for n in (1, step))
    single, lasting = (bread @ (sums.T @ sums) @ bread.T for sums in (by_frame, by_block))
    inflation = max(1.0, float(np.trace(lasting) / max(np.trace(single), 1e-30)))
    frames, fitted = len(by_frame), len(S) - SIMILARITY
    held = bread @ equations.prior_scores(bundle) @ bread.T
    return inflation * frames / max(frames - fitted, 1) * single + held, inflation, inverse


def _sd(blocks: Float64, free: Indices, parameter: int) -> Float64:
    """(views,) standard deviation of one parameter, zero where it was given."""
    place = np.flatnonzero(free == parameter)
    return np.sqrt(blocks[:, place[0], place[0]]) if len(place) else np.zeros(len(blocks))


def _sums(scores: Float64, group: Indices) -> Float64:
    _, index = np.unique(group, return_inverse=True)
    sums = np.zeros((index.max() + 1, scores.shape[1]))
    np.add.at(sums, index, scores)
    return sums


def _inverse(S: Float64) -> Float64:
    """Pseudo-inverse without the seven directions that move nothing."""
    scale = 1 / np.sqrt(np.maximum(np.diag(S), 1e-12))
    values, vectors = np.linalg.eigh(S * scale[:, None] * scale)
    kept = values > 1e-8 * values[-1]
    kept[:SIMILARITY] = False
    inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    return np.asarray(inverse * scale[:, None] * scale)


def _efficiency(bundle: Bundle) -> float:
    """What the curvature of the likelihood is to the weights that stand for it in the normal equations."""
    noise = bundle.noise
    squared = (bundle.residuals()[bundle.counted] ** 2).sum(-1) / noise.scale_px**2
    weights = noise.weights(squared)
    return float((weights * (1 - weights * squared / (noise.tail + 2))).mean() / weights.mean())


def _aligned(cameras: Cameras, free: Indices) -> Float64:
    """(m, m) projection of a change of all cameras to the same change after the centres were aligned."""
    p = len(free)
    tangent = np.zeros((len(cameras), p, SIMILARITY))  # what turning (3), moving (3) and growing (1) the world does
    for v, camera in enumerate(cameras):
        x, y, z = camera.centre
        tangent[v, TURN, :3] = -camera.R
        tangent[v, PLACE, :3] = [[0, z, -y], [-z, 0, x], [y, -x, 0]]
        tangent[v, PLACE, 3:6] = np.eye(3)
        tangent[v, PLACE, 6] = camera.centre
    of_centres = tangent.copy()
    of_centres[:, TURN] = 0
    moves, centres = tangent.reshape(-1, SIMILARITY), of_centres.reshape(-1, SIMILARITY)
    # two cameras leave the turn about their connecting line open: the least change is taken
    return np.asarray(np.eye(len(moves)) - moves @ np.linalg.pinv(centres.T @ moves) @ centres.T)
