from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgelift.poses.cameras import Camera, world_to_camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.videopose3d import H36M_KEEP
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import skeleton
from edgelift.trainer.data import load_multiview
from edgelift.trainer.losses import report_loss
from edgelift.trainer.models import build_model
from edgelift.trainer.original import HUMAN36M, HUMANEVA, ClipModel, settings_of, split, table_1, variants

from .conftest import make_sessions

TINY = replace(settings_of(HUMAN36M, 32), epochs=2)


def test_the_loss_is_the_report_s_written_out() -> None:
    """Nine projections of three poses, in images of width 1, against the keypoints and among one another."""
    session = make_sessions(1, noise_px=3.0, missing=0.1)[0]
    data = load_multiview([session], TINY)
    batch = data.batch(torch.arange(len(data)))
    poses = torch.randn(len(data), 3, 17, 3) * 0.3 + torch.tensor([0.0, 0.0, 4.0])
    s = session
    reprojection, consistency = [], []
    shared = (s.keypoints[..., 2] > 0).sum(0) >= 2
    for n in range(len(data)):
        for j, into in enumerate(s.rig):
            half = into.size[0] / 2
            seen = s.keypoints[j, n, :, 2] * shared[n]
            rays = data.rays[n, j].numpy() * into.K[0, 0] / half
            points = []
            for i, own in enumerate(s.rig):
                local = world_to_camera((poses[n, i].double().numpy() - own.t) @ own.R, into)
                points.append(np.clip(local[:, :2] / local[:, 2:], -1, 1) * into.K[0, 0] / half)
                reprojection += [(c, np.linalg.norm(p - r)) for c, p, r in zip(seen, points[i], rays, strict=True)]
            for a, b in ((0, 1), (0, 2), (1, 2)):
                distance = np.linalg.norm(points[a] - points[b], axis=-1)
                consistency += list(zip(seen, distance, strict=True))
    expected = sum(
        np.average([d for _, d in part], weights=[c for c, _ in part]) for part in (reprojection, consistency)
    )
    assert report_loss(poses, batch).item() == pytest.approx(float(expected), rel=1e-3)


def test_a_joint_in_the_camera_s_own_plane_has_a_finite_gradient() -> None:
    data = load_multiview(make_sessions(1), TINY)
    poses = torch.zeros(len(data), 3, 17, 3, requires_grad=True)
    report_loss(poses, data.batch(torch.arange(len(data)))).backward()  # type: ignore[no-untyped-call]
    assert poses.grad is not None
    assert poses.grad.isfinite().all()


def test_the_frame_model_knows_no_visibility_and_its_root_is_free() -> None:
    torch.manual_seed(0)
    model = build_model(TINY).eval()
    assert model.trunk[0].in_features == 34  # type: ignore[union-attr, index]
    keypoints, intrinsics = torch.rand(4, 1, 17, 3) * 900, torch.tensor([[500.0, 500, 500, 500]]).repeat(4, 1)
    out = model(keypoints, intrinsics)
    raw = model.head(model.trunk((keypoints[:, 0, :, :2].flatten(1) - 500) / 500)).view(4, 17, 3)  # type: ignore[operator]
    torch.testing.assert_close(out[:, 0], raw[:, 0])
    torch.testing.assert_close(out[:, 1:], raw[:, 1:] + raw[:, :1])


def test_people_start_in_front_of_the_camera() -> None:
    """The report's loss has no gradient where x/z is clamped: from the camera's own centre it goes nowhere."""
    torch.manual_seed(0)
    keypoints, intrinsics = torch.rand(4, 1, 17, 3) * 900, torch.tensor([[500.0, 500, 500, 500]]).repeat(4, 1)
    clip = ClipModel(17, 0, 32, False, 0.1).eval()
    for poses in (build_model(TINY).eval()(keypoints, intrinsics), clip(torch.rand(3, 10, 17, 2)).flatten(0, 1)):
        assert (poses[..., 2] > 2).all()


def test_the_variants_tell_dropout_and_batch_norm_apart() -> None:
    kinds = variants(settings_of(HUMANEVA, 512))
    schedules = {n: (s.dropout, s.dropout_until, s.batch_norm_until) for n, s in kinds.items()}
    assert schedules["label-free, dropout 0.5, then evaluation mode"] == (0.5, 0.5, 0.5)
    assert schedules["label-free, dropout 0.5, then dropout 0"] == (0.5, 0.5, 1.0)
    assert schedules["label-free, dropout 0.5, then batch norm frozen"] == (0.5, 1.0, 0.5)
    assert schedules["label-free, dropout 0.5"] == (0.5, 1.0, 1.0)
    assert {s.supervision for n, s in kinds.items() if "label-free" in n} == {"views"}
    assert all(s.epochs == 150 and s.batch == 128 and s.learning_rate == 3e-4 for s in kinds.values())


@pytest.mark.parametrize("attention", [False, True])
def test_every_frame_of_a_clip_sees_every_other(attention: bool) -> None:
    torch.manual_seed(0)
    model = ClipModel(17, 0, 32, attention, 0.1).eval()
    points = torch.rand(3, 10, 17, 2)
    changed = points.clone()
    changed[:, 9] += 0.3
    assert (model(points)[:, 0] - model(changed)[:, 0]).abs().max() > 0
    order = torch.randperm(10)  # without positional encoding, frames have no order
    torch.testing.assert_close(model(points[:, order]), model(points)[:, order], atol=1e-5, rtol=1e-4)


def test_the_whole_table_is_made(tmp_path: Path) -> None:
    sessions = make_sessions(5)
    said: list[str] = []
    protocol = replace(HUMAN36M, epochs=2, adapt_epochs=3)
    rows = table_1(sessions[:4], sessions[4:], protocol, 32, tmp_path, said.append)
    assert len(rows) == 9
    assert all(np.isfinite(row["mixed_mpjpe_mm"]) for row in rows)
    by = {row["row"]: row["mixed_mpjpe_mm"] for row in rows}
    assert by["label-free, adapted on the test views"] < by["label-free, dropout 0.5, then evaluation mode"]
    assert said


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Benchmarks are scripts beside one another."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks" / "accuracy"))
    yield
    for name in ("original", "protocols"):
        sys.modules.pop(name, None)


def _files(folder: Path, subjects: tuple[str, ...], actions: tuple[str, ...], joints: int, stored: int) -> list[str]:
    """Tiny VideoPose3D files: a person before four cameras, exact keypoints; 3D files hold `stored` joints."""
    rig = make_sessions(1, views=4)[0].rig
    name = "h36m17" if joints == 17 else "humaneva15"
    positions_2d: dict[str, dict[str, list[np.ndarray]]] = {}
    positions_3d: dict[str, dict[str, np.ndarray]] = {}
    for number, subject in enumerate(subjects):
        filmed = make_sessions(number + 1, frames=40, views=4, first=number)[0].to_skeleton(skeleton(name))
        assert filmed.poses is not None
        poses = np.zeros((40, stored, 3), np.float32)
        poses[:, H36M_KEEP if stored == 32 else slice(None)] = filmed.poses
        positions_2d[subject] = {action: list(filmed.keypoints[..., :2]) for action in actions}
        positions_3d[subject] = {action: poses for action in actions}
    metadata = {"layout_name": "any", "num_joints": joints, "keypoints_symmetry": [[1], [2]]}
    np.savez_compressed(folder / "2d.npz", positions_2d=positions_2d, metadata=metadata)  # type: ignore[arg-type]
    np.savez_compressed(folder / "3d.npz", positions_3d=positions_3d)  # type: ignore[arg-type]
    _write_rig(folder / "rig.toml", rig)
    return [
        "--keypoints",
        f"{folder / '2d.npz'}",
        "--poses",
        f"{folder / '3d.npz'}",
        "--rigs",
        f"{folder / 'rig.toml'}",
    ]


def _write_rig(path: Path, rig: tuple[Camera, ...]) -> None:
    lines = []
    for c in rig:
        angle = np.arccos((np.trace(c.R) - 1) / 2)
        axis = np.array([c.R[2, 1] - c.R[1, 2], c.R[0, 2] - c.R[2, 0], c.R[1, 0] - c.R[0, 1]]) / (2 * np.sin(angle))
        lines.append(
            f"[{c.name}]\nname = '{c.name}'\nsize = {list(map(float, c.size))}\nmatrix = {c.K.tolist()}\n"
            f"distortions = {c.dist[:4].tolist()}\nrotation = {(axis * angle).tolist()}\ntranslation = {c.t.tolist()}\n"
            "fisheye = false\n"
        )
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("dataset", "subjects", "actions", "joints", "stored"),
    [
        ("humaneva", ("Train/S1", "Validate/S1"), ("Walking 1 chunk0", "Gestures 1 chunk0"), 15, 15),
        ("human36m", ("S1", "S9", "S2"), ("Walking 1", "Sitting", "SittingDown"), 17, 32),
    ],
)
def test_one_command_makes_the_table_of_whoever_holds_the_files(
    accuracy: None, tmp_path: Path, dataset: str, subjects: tuple[str, ...], actions: tuple[str, ...], joints: int,
    stored: int,
) -> None:  # fmt: skip
    import original

    files = _files(tmp_path, subjects, actions, joints, stored)
    original.main([dataset, *files, "--units", "m", "--width", "16", "--epochs", "1", "-o", f"{tmp_path / 'out'}"])
    (path,) = (tmp_path / "out").glob("original_*.json")
    rows = json.loads(path.read_text())
    assert len(rows) == 9
    assert all(np.isfinite(row["mixed_mpjpe_mm"]) for row in rows)


def test_the_splits_are_the_report_s() -> None:
    made = make_sessions(1, views=4)[0]
    names = [("Train/S1", "Walking 1 chunk0"), ("Validate/S2", "Box 1 chunk1"), ("Validate/S2", "Gestures 1 chunk0")]
    training, test = split([replace(made, subject=s, action=a) for s, a in names], "humaneva")
    assert [(s.subject, s.action) for s in (*training, *test)] == names[:2]
    assert all(len(s.camera_names) == 3 for s in training)
    with pytest.raises(EdgeliftError, match="no session of S9"):
        split([replace(made, subject="S1", action="Walking")], "human36m")


def test_a_session_keeps_the_views_it_is_asked_for() -> None:
    made: Session = make_sessions(1, views=4)[0]
    two = made.only((3, 1))
    assert two.camera_names == (made.camera_names[3], made.camera_names[1])
    np.testing.assert_array_equal(two.keypoints[1], made.keypoints[1])
