"""Two views without a rig: essential matrices from noisy correspondences, and the relative pose that they hold.

Five points make a hypothesis (Nister 2004), solved with an action matrix as Stewenius, Engels & Nister (2006) do; what
other correspondences agree decides. Five rather than eight, because a person who stands still is nearly a plane, where
eight points tell nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.rigs import rotvec_to_matrix

Float64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

HYPOTHESES = 60  # of five points: with a fifth of the correspondences wrong, 20 samples are clean all the same
SCORED = 800  # correspondences that score a hypothesis
STARTS, REFINED = 6, 8  # hypotheses that are refined, because noise hides which is best; rounds of each
NUDGE = 1e-6  # radians: for derivatives
_CUBIC = sorted(((i, j, k) for i, j, k in product(range(4), repeat=3) if i + j + k <= 3), key=lambda e: -sum(e))
_LEADING, _BASIS = _CUBIC[:10], _CUBIC[10:]  # monomials of degree three, and those that span the quotient ring


@dataclass(frozen=True, eq=False)
class RelativePose:
    """The second camera in the first one's frame: x_2 = R @ x_1 + t with |t| = 1.

    doubt: standard deviation in radians of turn and direction together, as far as the correspondences tell. misfit:
    median Sampson distance, as the tangent of an angle.
    """

    R: Float64
    t: Float64
    doubt: float
    misfit: float


def relative_pose(first: Float64, second: Float64, rng: np.random.Generator) -> RelativePose | None:
    """Find the relative pose of two cameras from rays (n, 2) x/z, y/z of the same joints; None where nothing fits.

    Robust: hypotheses are ranked, and the best refined, by what outliers cannot spoil. NaN must have been left out.
    """
    if len(first) < 8:
        return None
    scored = rng.permutation(len(first))[:SCORED]
    samples = np.stack([rng.permutation(scored)[:5] for _ in range(HYPOTHESES)])
    candidates = five_point(first[samples], second[samples])
    if not len(candidates):
        return None
    distances = sampson(candidates, first[scored], second[scored])
    spread = np.median(distances, axis=1).min() / 0.6745 + 1e-12
    best = np.argsort(np.minimum(distances / spread, 3.0).sum(1))[:STARTS]
    found = [_refined(*_in_front(candidates[i], first[scored], second[scored]), first, second, spread) for i in best]
    return min(found, key=lambda pose: pose[0])[1]


def five_point(first: Float64, second: Float64) -> Float64:
    """Essential matrices (solutions, 3, 3) of samples (samples, 5, 2) of rays; real solutions alone."""
    rows = (homogeneous(second)[..., :, None] * homogeneous(first)[..., None, :]).reshape(len(first), 5, 9)
    null = np.linalg.svd(rows)[2][:, 5:].reshape(-1, 4, 3, 3)
    constraints = _coefficients(null)
    leading, rest = constraints[..., :10], constraints[..., 10:]
    sound = np.abs(np.linalg.det(leading)) > 1e-30
    reduced = -np.linalg.solve(leading[sound], rest[sound])  # each cubic monomial by those of the basis
    action = np.zeros((len(reduced), 10, 10))
    for row, (i, j, k) in enumerate(_BASIS):  # what x times a basis monomial is
        shifted = (i + 1, j, k)
        if shifted in _BASIS:
            action[:, row, _BASIS.index(shifted)] = 1
        else:
            action[:, row] = reduced[:, _LEADING.index(shifted)]
    values, vectors = np.linalg.eig(action)
    one = vectors[:, _BASIS.index((0, 0, 0))]
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y, z = (vectors[:, _BASIS.index(e)] / one for e in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    real = (np.abs(values.imag) < 1e-9) & np.isfinite(x) & np.isfinite(y) & np.isfinite(z)
    sample, which = np.nonzero(real)
    weights = np.stack([x, y, z, np.ones_like(x)], -1).real[sample, which]
    E = np.einsum("sw,swij->sij", weights, null[sound][sample])
    return np.asarray(E / np.linalg.norm(E, axis=(1, 2), keepdims=True))


def _coefficients(null: Float64) -> Float64:
    """(samples, 10, 20): the ten cubic constraints on x, y, z of E = x E0 + y E1 + z E2 + E3, by monomial.

    They are polynomials, so their values at twenty places tell their coefficients.
    """
    E = np.einsum("pw,swij->spij", _PLACES_WEIGHTS, null)
    squared = E @ np.swapaxes(E, -1, -2)
    trace = np.trace(squared, axis1=-2, axis2=-1)[..., None, None]
    values = np.concatenate([(2 * squared @ E - trace * E).reshape(*E.shape[:2], 9), np.linalg.det(E)[..., None]], -1)
    return np.asarray(np.swapaxes(values, 1, 2) @ _TO_COEFFICIENTS)


_PLACES = np.random.default_rng(0).uniform(-1, 1, (20, 3))
_PLACES_WEIGHTS = np.concatenate([_PLACES, np.ones((20, 1))], 1)
_TO_COEFFICIENTS = np.linalg.inv(np.stack([np.prod(_PLACES ** np.array(e), 1) for e in _CUBIC]))


def sampson(E: Float64, first: Float64, second: Float64) -> Float64:
    """Sampson distances (matrices, n) of rays (n, 2) to essential matrices (matrices, 3, 3), as tangents of angles."""
    a, b = homogeneous(first), homogeneous(second)
    lines = np.einsum("mij,nj->mni", E, a)
    back = np.einsum("mji,nj->mni", E, b)
    scale = np.sqrt((lines[..., :2] ** 2).sum(-1) + (back[..., :2] ** 2).sum(-1))
    return np.asarray(np.abs(np.einsum("ni,mni->mn", b, lines)) / np.maximum(scale, 1e-12))


def _refined(R: Float64, t: Float64, first: Float64, second: Float64, spread: float) -> tuple[float, RelativePose]:
    """Return the pose with the least Sampson distances, Cauchy's weights at the scale `spread`, after its cost."""
    first, second = first[: 2 * SCORED], second[: 2 * SCORED]
    for _ in range(REFINED):
        tangent = np.linalg.svd(t[None])[2][1:]  # the two directions in which a unit vector can move
        now = _signed(R, t, first, second)
        tries = [(rotvec_to_matrix(NUDGE * axis) @ R, t) for axis in np.eye(3)]
        tries += [(R, t + NUDGE * direction) for direction in tangent]
        J = np.stack([(_signed(*pose, first, second) - now) / NUDGE for pose in tries], -1)
        weighted = J / (1 + (now / spread) ** 2)[:, None]
        step = -np.linalg.solve(weighted.T @ J + 1e-9 * np.eye(5), weighted.T @ now)
        R, t = rotvec_to_matrix(step[:3]) @ R, t + step[3:] @ tangent
        t = t / np.linalg.norm(t)
    doubt = spread * np.sqrt(np.trace(np.linalg.inv(weighted.T @ J + 1e-9 * np.eye(5))))
    off = np.abs(_signed(R, t, first, second))
    return float(np.log1p((off / spread) ** 2).sum()), RelativePose(R, t, float(doubt), float(np.median(off)))


def _essential(R: Float64, t: Float64) -> Float64:
    return np.asarray(np.cross(np.eye(3), t).T @ R)


def _signed(R: Float64, t: Float64, first: Float64, second: Float64) -> Float64:
    """(n,) signed Sampson distances."""
    E = _essential(R, t)
    a, b = homogeneous(first), homogeneous(second)
    lines, back = a @ E.T, b @ E
    return np.asarray((b * lines).sum(1) / np.sqrt((lines[:, :2] ** 2).sum(1) + (back[:, :2] ** 2).sum(1) + 1e-24))


def _in_front(E: Float64, first: Float64, second: Float64) -> tuple[Float64, Float64]:
    """Of the four poses of an essential matrix, the one that has most points before both cameras."""
    U, _, Vt = np.linalg.svd(E)
    U, Vt = U * np.sign(np.linalg.det(U)), Vt * np.sign(np.linalg.det(Vt))
    W = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    poses = [(U @ turn @ Vt, sign * U[:, 2]) for turn in (W, W.T) for sign in (1, -1)]
    return max(poses, key=lambda pose: int((depths(pose[0], pose[1], first, second) > 0).all(0).sum()))


def depths(R: Float64, t: Float64, first: Float64, second: Float64, least: float = 1e-9) -> Float64:
    """(2, n) depths in both cameras of the points nearest to both rays (n, 2); x_2 = R x_1 + t.

    NaN where the squared sine of the angle between the rays is below `least`.
    """
    a, b = homogeneous(first) @ R.T, homogeneous(second)
    aa, bb, ab = (a * a).sum(1), (b * b).sum(1), (a * b).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        determinant = np.where(aa * bb - ab**2 > least * aa * bb, aa * bb - ab**2, np.nan)
        near = (ab * (b @ t) - bb * (a @ t)) / determinant
        far = (aa * (b @ t) - ab * (a @ t)) / determinant
    return np.stack([near, far])


def homogeneous(rays: Float64) -> Float64:
    """(..., 2) rays x/z, y/z to (..., 3) x/z, y/z, 1."""
    return np.concatenate([rays, np.ones((*rays.shape[:-1], 1))], -1)
