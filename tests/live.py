"""Lifted frames, and waiting, for tests of what comes after the lifter."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from edgelift.poses.skeletons import convert_poses, skeleton
from edgelift.runtime.frames import LiftedFrame, Seen

from .conftest import wobbling_person

COMMON14 = skeleton("common14")
FRAME_NS = 50_000_000


def lifted(seq: int = 0, ids: tuple[int, ...] = (0,), echo: bool = False, world: bool = True) -> LiftedFrame:
    """Frame number `seq` of people who sway 1 m apart; world metres (Z up), or a camera's frame 4 m away."""
    poses = convert_poses(wobbling_person(seq + 1, 0), skeleton("h36m17"), COMMON14)[seq]
    xyz = np.stack([poses + np.array([number, 0, 0]) for number in ids]) if ids else np.empty((0, 14, 3))
    if not world:
        xyz = xyz[..., [0, 2, 1]] * [1, -1, 1] + [0, 1, 4]
    kpts = np.concatenate([xyz[..., [0, 2]] * [200, -200] + [500, 600], np.full((*xyz.shape[:2], 1), 0.9)], -1)
    t_ns = seq * FRAME_NS
    view = Seen("cam_01", seq, t_ns, (1088, 1920), ids, kpts.astype(np.float32))
    return LiftedFrame(
        stream="cam_01", seq=seq, t_ns=t_ns, clock="recording", skeleton=COMMON14, frame="world" if world else "camera",
        provider="CPUExecutionProvider", lifter="first", ids=ids, xyz=xyz.astype(np.float32),
        conf=np.full(xyz.shape[:2], 0.9, np.float32), flags=((),) * len(ids),
        latency_ms={"wait": 0.01, "prepare": 0.05, "backend": 0.1, "total": 0.2}, dropped=0, views=(view,), echo=echo,
    )  # fmt: skip


def lifted_frames(count: int, ids: tuple[int, ...] = (0,), echo: bool = False) -> list[LiftedFrame]:
    """Consecutive ones, 20 a second."""
    return [lifted(seq, ids, echo) for seq in range(count)]


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for what another thread does; AssertionError where it has not within 30 s."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)
