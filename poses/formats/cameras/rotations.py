"""Rotations as other tools write them: Rodrigues vectors and quaternions, to matrices and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from edgelift.poses.cameras import Float64


def rotvec_to_matrix(rotvec: ArrayLike) -> Float64:
    """(3,) Rodrigues vector in radians to the (3, 3) rotation matrix; exact at and near zero."""
    x, y, z = vector = np.asarray(rotvec, np.float64)
    angle = np.linalg.norm(vector)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    # sin(a) / a and (1 - cos(a)) / a^2 as sincs: no division by a small angle
    half = np.sinc(angle / (2 * np.pi))
    return np.asarray(np.eye(3) + np.sinc(angle / np.pi) * cross + 0.5 * half * half * (cross @ cross))


def matrix_to_rotvec(matrix: ArrayLike) -> Float64:
    """(3, 3) rotation matrix to its (3,) Rodrigues vector, angle in [0, pi] radians; stable near 0 and pi.

    Goes over the quaternion, from its largest component (Shepperd 1978).
    """
    R = np.asarray(matrix, np.float64)
    trace = np.trace(R)
    # outer product of the quaternion w, x, y, z with itself, times 4: its fullest row is the least cancelled
    products = np.empty((4, 4))
    products[0, 0] = 1 + trace
    products[0, 1:] = products[1:, 0] = R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]
    products[1:, 1:] = R + R.T + (1 - trace) * np.eye(3)
    quaternion = products[np.argmax(np.diag(products))]
    quaternion = quaternion / np.linalg.norm(quaternion) * (-1 if quaternion[0] < 0 else 1)
    sine = np.linalg.norm(quaternion[1:])
    scale = 2.0 if sine < 1e-12 else 2 * np.arctan2(sine, quaternion[0]) / sine
    return np.asarray(scale * quaternion[1:], np.float64)


def quaternion_to_matrix(quaternion: ArrayLike) -> Float64:
    """(4,) unit quaternion w, x, y, z to the (3, 3) rotation matrix; its length is taken out, so it may be rounded."""
    whole = np.asarray(quaternion, np.float64)
    w, vector = whole[0], whole[1:]
    x, y, z = vector
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    # v v^T + w^2 I + 2 w [v]x + [v]x^2, which is |q|^2 times the rotation
    return np.asarray((np.outer(vector, vector) + w * w * np.eye(3) + 2 * w * cross + cross @ cross) / (whole @ whole))


def euler_xyz_to_matrix(angles: ArrayLike) -> Float64:
    """(3,) angles a, b, c in radians to the (3, 3) matrix Rx(a) Ry(b) Rz(c)."""
    about = [rotvec_to_matrix(angle * axis) for angle, axis in zip(np.asarray(angles), np.eye(3), strict=True)]
    return about[0] @ about[1] @ about[2]
