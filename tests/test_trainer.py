from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgelift.poses.cameras import rays, triangulate, world_to_camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session, SessionFiles, save_session
from edgelift.poses.skeletons import skeleton
from edgelift.trainer.checkpoint import load_checkpoint
from edgelift.trainer.data import Batch, MultiView, fingerprint, load_multiview
from edgelift.trainer.fit import Examples, set_learning_rate, train, train_epoch
from edgelift.trainer.losses import TINY_M2, reprojection_loss
from edgelift.trainer.models import Lifter, build_model
from edgelift.trainer.settings import TrainSettings
from edgelift.trainer.virtual import VirtualViews

from .conftest import make_sessions

TINY = TrainSettings(width=32, epochs=2, batch=32)
REPROJECTION = replace(TINY, loss="reprojection", virtual_views=0)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run).model().state_dict()


def loss_of(data: MultiView, model: Lifter) -> float:
    return Examples(data, REPROJECTION).loss(model, torch.arange(len(data))).item()


def all_of(sessions: list[Session]) -> Batch:
    data = load_multiview(sessions, REPROJECTION)
    return data.batch(torch.arange(len(data)))


@pytest.mark.parametrize("settings", [TINY, REPROJECTION])
def test_label_free_training_never_reads_poses(
    sessions: list[Session], settings: TrainSettings, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    scrambled = [
        replace(s, poses=rng.normal(size=s.poses.shape).astype(np.float32)) for s in sessions if s.poses is not None
    ]
    train(sessions, tmp_path / "a", settings)
    train(scrambled, tmp_path / "b", settings)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[key], b[key]) for key in a)
    train(sessions, tmp_path / "c", replace(TINY, supervision="poses"))
    train(scrambled, tmp_path / "d", replace(TINY, supervision="poses"))
    c, d = weights(tmp_path / "c"), weights(tmp_path / "d")
    assert not all(torch.equal(c[key], d[key]) for key in c)  # the check above can fail


def test_an_interrupted_run_resumes_to_the_same_weights(sessions: list[Session], tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(epoch: int, epochs: int, row: dict[str, float]) -> None:
        if epoch == 2:
            raise StoppedError

    settings = replace(TINY, epochs=4)
    train(sessions, tmp_path / "whole", settings)
    with pytest.raises(StoppedError):
        train(sessions, tmp_path / "parts", settings, progress=stop)
    train(sessions, tmp_path / "parts", settings)
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert len((tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()) == 4


def in_a_file(table: torch.Tensor) -> bool:
    """Whether a tensor's memory is a (nameless) file's."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(x, 16) for x in line.split()[0].split("-"))
        if start <= table.data_ptr() < end:
            return line.endswith("(deleted)")
    return False


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's list of mapped files")
def test_sessions_are_read_one_at_a_time_and_rows_are_mapped(sessions: list[Session], tmp_path: Path) -> None:
    for session in sessions:
        save_session(session, tmp_path / f"{session.name}.npz")
    alive: list[weakref.ref[Session]] = []

    class Watched(SessionFiles):
        def __getitem__(self, index: Any) -> Any:
            assert sum(ref() is not None for ref in alive) <= 2  # what was converted, and its source
            alive.append(weakref.ref(loaded := super().__getitem__(index)))
            return loaded

    for settings in (TINY, replace(TINY, learn_cameras="all")):
        train(Watched([tmp_path]), tmp_path / settings.learn_cameras, settings)
    data = load_multiview(Watched([tmp_path]), TINY)
    virtual = VirtualViews(data, TINY.input.skeleton)
    assert len(alive) > 20
    for table in (data.keypoints, data.rays, data.target, virtual.residual):
        assert in_a_file(table)
    assert not in_a_file(data.keypoints.clone())
    whole = load_multiview(sessions, TINY)
    assert torch.equal(whole.keypoints, data.keypoints)


def test_a_root_that_is_never_seen_does_not_stop_training(sessions: list[Session], tmp_path: Path) -> None:
    hip = sessions[0].skeleton.joints.index("left_hip")
    hidden = [replace(s, keypoints=s.keypoints.copy()) for s in sessions]
    for s in hidden:
        s.keypoints[:, :, hip] = (np.nan, np.nan, 0)  # behind a table: common14 has no mid_hip then
    result = train(hidden, tmp_path, replace(TINY, width=64, epochs=30), sessions)
    assert result.validation[-1][1] < 0.6 * result.validation[0][1]


def test_what_one_view_alone_sees_does_not_weigh() -> None:
    session, legs = make_sessions(1)[0], [2, 3, 5, 6]
    alone, nowhere = (replace(session, keypoints=session.keypoints.copy()) for _ in range(2))
    for hidden, views in ((alone, (1, 2)), (nowhere, (0, 1, 2))):
        for view in views:
            hidden.keypoints[view, 10:40, legs] = (np.nan, np.nan, 0)
    poses = torch.randn(60, 3, 14, 3) + torch.tensor([0.0, 0.0, 4.0])
    loss, expected = (reprojection_loss(poses, all_of([s]), 0, 0.2) for s in (alone, nowhere))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss.item() != pytest.approx(reprojection_loss(poses, all_of([session]), 0, 0.2).item(), rel=1e-3)


def test_frames_that_teach_nothing_are_left_out(sessions: list[Session]) -> None:
    alone = replace(sessions[0], keypoints=sessions[0].keypoints.copy())
    alone.keypoints[1:, 10:40] = (np.nan, np.nan, 0)
    data = load_multiview([alone], REPROJECTION)
    assert len(data) == 30
    assert (data.batch(torch.arange(30)).present.sum(1) >= 2).all()
    assert len(load_multiview([alone], replace(TINY, supervision="poses"))) == 60  # a label teaches one view


def test_data_that_can_teach_nothing_is_refused(sessions: list[Session], tmp_path: Path) -> None:
    nobody = np.full_like(sessions[0].keypoints, np.nan)
    nobody[..., 2] = 0
    unknown = np.full((*nobody.shape[1:3], 3), np.nan, np.float32)
    for settings, changes in (
        (TINY, {"keypoints": nobody}),
        (REPROJECTION, {"keypoints": nobody}),
        (replace(TINY, supervision="poses"), {"poses": unknown}),
    ):
        with pytest.raises(EdgeliftError, match="0 frames with a joint"):
            train([replace(sessions[0], **changes)], tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


def test_another_validation_is_refused_and_its_overlap_is_told(sessions: list[Session], tmp_path: Path) -> None:
    train(sessions[:3], tmp_path / "run", TINY, sessions[3:])
    reference = (tmp_path / "run" / "reference.npz").read_bytes()
    with pytest.raises(EdgeliftError, match="other validation sessions"):
        train(sessions[:3], tmp_path / "run", TINY)
    assert (tmp_path / "run" / "reference.npz").read_bytes() == reference
    assert load_checkpoint(tmp_path / "run").facts["held_out"]
    train(sessions[:3], tmp_path / "overlap", TINY, sessions[2:])
    assert not load_checkpoint(tmp_path / "overlap").facts["held_out"]


def test_other_labels_are_another_run(sessions: list[Session], tmp_path: Path) -> None:
    labelled = replace(TINY, supervision="poses")
    train(sessions, tmp_path, labelled)
    moved = [replace(s, poses=s.poses + np.float32(0.1)) for s in sessions if s.poses is not None]
    with pytest.raises(EdgeliftError, match="other training sessions"):
        train(moved, tmp_path, labelled)


def test_validation_without_truth_is_against_triangulation_and_checked_first(
    sessions: list[Session], tmp_path: Path
) -> None:
    without = [replace(s, poses=None) for s in sessions]
    train(sessions[:2], tmp_path / "run", TINY, without[2:])
    assert load_checkpoint(tmp_path / "run").facts["validation_against"] == "triangulation"
    with pytest.raises(EdgeliftError, match="no true poses and one camera"):
        train(sessions[:2], tmp_path / "bad", TINY, [one_camera(without[2])])
    assert not (tmp_path / "bad").exists()


def test_a_loss_that_is_not_finite_stops_the_run(sessions: list[Session], tmp_path: Path) -> None:
    with pytest.raises(EdgeliftError, match="training loss of epoch"):
        train(sessions, tmp_path, replace(TINY, learning_rate=1e30))


def test_a_run_of_other_settings_or_data_is_refused(sessions: list[Session], tmp_path: Path) -> None:
    train(sessions, tmp_path / "run", TINY)
    with pytest.raises(EdgeliftError, match="other width"):
        train(sessions, tmp_path / "run", replace(TINY, width=64))
    with pytest.raises(EdgeliftError, match="other training sessions"):
        train(sessions[:-1], tmp_path / "run", TINY)


def test_the_vectorised_loss_equals_the_slow_loop() -> None:
    filmed = make_sessions(1, noise_px=4.0, noise_model="detector", missing=0.1)  # confidences between 0 and 1
    session = filmed[0].to_skeleton(skeleton("common14"))
    batch = all_of(filmed)
    frames, joints = session.keypoints.shape[1:3]
    poses = torch.randn(frames, 3, joints, 3) * 0.3 + torch.tensor([0.0, 0.0, 4.0])
    root_sum = root_count = pose_sum = pose_count = 0.0
    shared = (session.keypoints[..., 2] > 0).sum(0) >= 2
    assert 0 < shared.mean() < 1
    assert (session.keypoints[:, :, 0, 2] == 0).any()  # a root that a view does not see
    for n in range(0, frames):
        for i, own in enumerate(session.rig):
            world = (poses[n, i].double().numpy() - own.t) @ own.R
            for j, other in enumerate(session.rig):
                local = world_to_camera(world, other)
                seen = rays(session.keypoints[j, n, :, :2], other)
                error = local[:, :2] - local[:, 2:] * np.nan_to_num(seen)
                c = session.keypoints[j, n, :, 2] * shared[n]
                mean = (c[:, None] * error).sum(0) / c.sum()
                anchor, trust = (error[0], c[0]) if c[0] > 0 else (mean, c.max())
                root_sum += trust * np.sqrt((anchor**2).sum() + TINY_M2)
                root_count += trust
                for k in range(joints):
                    w = min(trust, c[k])
                    pose_sum += w * np.sqrt(((error[k] - anchor) ** 2).sum() + TINY_M2)
                    pose_count += w
    expected = pose_sum / pose_count + 0.7 * root_sum / root_count
    assert reprojection_loss(poses, batch, 0, 0.7).item() == pytest.approx(expected, rel=1e-4)


def test_exact_triangulated_poses_have_no_loss() -> None:
    # in the skeleton it was filmed in: the midpoint of two projections is not the projection of the midpoint (1 mm)
    session = make_sessions(1)[0]
    data = load_multiview([session], replace(REPROJECTION, skeleton="h36m17"))
    batch = data.batch(torch.arange(len(data)))
    points, _ = triangulate(session.keypoints, session.rig)
    local = np.stack([world_to_camera(points, c) for c in session.rig], 1)
    assert reprojection_loss(torch.tensor(local, dtype=torch.float32), batch, 0, 0.2).item() < 2e-4


def test_missing_joints_and_padded_views_do_not_weigh() -> None:
    three, two = make_sessions(2, noise_px=2.0, missing=0.1)
    two = replace(two, keypoints=two.keypoints[:2], cameras=two.rig[:2], camera_names=two.camera_names[:2],
                  time_offset_s=two.time_offset_s[:2])  # fmt: skip
    model = build_model(TINY).eval()
    first = len(three.timestamps)
    padded = load_multiview([three, two], REPROJECTION)
    for part, session in zip((torch.arange(first), torch.arange(first, len(padded))), (three, two), strict=True):
        alone = loss_of(load_multiview([session], REPROJECTION), model)
        assert Examples(padded, REPROJECTION).loss(model, part).item() == pytest.approx(alone, rel=1e-5)
    junk = torch.where(padded.keypoints[..., 2:] > 0, padded.keypoints, torch.tensor([1e6, -1e6, 0.0]))
    assert loss_of(replace(padded, keypoints=junk), model) == pytest.approx(loss_of(padded, model), rel=1e-6)
    assert all_of([three, two]).rays.isfinite().all()


@pytest.mark.parametrize("junk", [float("nan"), 0.0, 1e9, float("inf"), -5.0])
def test_output_is_bit_equal_whatever_stands_in_a_missing_joint(junk: float) -> None:
    torch.manual_seed(0)
    model = build_model(TINY).eval()
    keypoints = torch.rand(8, 1, 14, 3) * 900
    keypoints[..., 2] = (torch.rand(8, 1, 14) > 0.4).float()
    keypoints[0, ..., 2] = 0  # nobody there
    intrinsics = torch.tensor([[1000.0, 1000, 500, 500]]).repeat(8, 1).requires_grad_()
    spoilt = torch.where(keypoints[..., 2:] > 0, keypoints, torch.tensor([junk, junk, 0.0]))
    out = model(spoilt, intrinsics)
    assert torch.equal(out, model(keypoints, intrinsics))
    assert out.isfinite().all()
    out.sum().backward()
    assert intrinsics.grad is not None
    assert intrinsics.grad.isfinite().all()


def test_training_learns_and_validation_is_logged(sessions: list[Session], tmp_path: Path) -> None:
    settings = TrainSettings(width=64, epochs=30, batch=32)
    result = train(sessions, tmp_path, settings, sessions)
    curve = [value for _, value in result.validation]
    assert len(curve) == 30
    assert curve[-1] < 0.5 * curve[0]
    assert load_checkpoint(tmp_path).facts["epoch"] == 30


def test_dropout_goes_off_and_the_rate_falls_along_a_cosine(sessions: list[Session]) -> None:
    settings = replace(TINY, dropout=0.3, dropout_until=0.5, epochs=4)
    examples, model = Examples(load_multiview(sessions, settings), settings), build_model(settings)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    dropout, rates = [], []
    for epoch in range(4):
        train_epoch(model, optimiser, examples, epoch)
        dropout.append({layer.p for layer in model.modules() if isinstance(layer, torch.nn.Dropout)})
        set_learning_rate(optimiser, settings, (epoch + 1) / 4)
        rates.append(optimiser.param_groups[0]["lr"])
    assert dropout == [{0.3}, {0.3}, {0.0}, {0.0}]
    assert rates == pytest.approx([1e-3 * (1 + np.cos(np.pi * x)) / 2 for x in (0.25, 0.5, 0.75, 1)])


def test_the_fingerprint_is_of_what_training_reads(sessions: list[Session]) -> None:
    one = sessions[0]
    moved = replace(one.rig[0], t=one.rig[0].t + 1e-6)
    shifted = one.keypoints.copy()
    shifted[..., :2] += 0.5
    own = fingerprint([one], False)
    assert fingerprint([replace(one, poses=None)], False) == own
    for other in (
        replace(one, cameras=(moved, *one.rig[1:])),
        replace(one, keypoints=shifted),
        replace(one, timestamps=one.timestamps + 1),
    ):
        assert fingerprint([other], False) != own


def one_camera(s: Session) -> Session:
    return replace(
        s,
        keypoints=s.keypoints[:1],
        cameras=s.rig[:1],
        camera_names=s.camera_names[:1],
        time_offset_s=s.time_offset_s[:1],
    )


@pytest.mark.parametrize(
    ("spoil", "settings", "message"),
    [
        (one_camera, TINY, "one camera"),
        (lambda s: replace(s, poses=None), replace(TINY, supervision="poses"), "no poses"),
        (lambda s: replace(s, cameras=None), TINY, "no cameras"),
    ],
)
def test_sessions_that_cannot_train_are_refused(
    sessions: list[Session], spoil: Any, settings: TrainSettings, message: str, tmp_path: Path
) -> None:
    with pytest.raises(EdgeliftError, match=message):
        train([spoil(sessions[0])], tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there_is_refused_and_never_replaced(sessions: list[Session], tmp_path: Path) -> None:
    absent = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(EdgeliftError, match=f"--device: received {absent}"):
        train(sessions, tmp_path / "run", TINY, device=absent)
    assert not (tmp_path / "run").exists()
