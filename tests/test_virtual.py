from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgelift.poses.cameras import camera_to_world, project
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.person import clips
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import skeleton
from edgelift.poses.studio import StudioSettings, film, studio_rig
from edgelift.trainer.data import MultiView, load_multiview
from edgelift.trainer.settings import TrainSettings
from edgelift.trainer.virtual import VirtualViews, _upright

from .conftest import make_sessions

SETTINGS = TrainSettings(width=32, epochs=1, batch=32, skeleton="h36m17")
H36M = skeleton("h36m17")


def filmed(
    sessions: list[Session], settings: TrainSettings, seed: int = 0
) -> tuple[MultiView, torch.Tensor, torch.Tensor, torch.Tensor]:
    """All frames of the first view filmed anew: data, cameras (b,), keypoints and target."""
    torch.manual_seed(seed)
    data = load_multiview(sessions, settings)
    camera = data.camera[data.taught, 0]
    return data, camera, *VirtualViews(data, settings.input.skeleton, settings.camera_variation)(data.taught, camera)


@pytest.mark.parametrize(
    "changes", [{}, {"camera_input": "screen"}, {"model": "tcn", "frames": 9}, {"camera_variation": 1.0}]
)
def test_exact_keypoints_give_exact_virtual_views(changes: dict[str, object]) -> None:
    sessions, settings = make_sessions(3), replace(SETTINGS, **changes)  # type: ignore[arg-type]
    _, camera, keypoints, target = filmed(sessions, settings)
    cameras = [c for s in sessions for c in s.rig]
    if settings.camera_input == "rays":
        cameras = [replace(c, dist=np.zeros(5)) for c in cameras]
    for row in range(0, len(keypoints), 7):
        own = cameras[int(camera[row])]
        expected = project(camera_to_world(target[row, :, :3].numpy(), own), own)
        seen = keypoints[row, -1, :, 2].numpy() > 0
        assert seen.any()
        np.testing.assert_allclose(keypoints[row, -1, seen, :2].numpy(), expected[seen], atol=0.2)  # teacher: 0.1 mm


def test_virtual_people_have_people_s_bones_and_stand_on_the_floor() -> None:
    sessions = make_sessions(6)
    data, camera, _, target = filmed(sessions, SETTINGS)
    world = torch.einsum("byx,bjy->bjx", data.R[camera], target[..., :3] - data.t[camera][:, None])
    for real, virtual in ((data.target[data.taught][..., :3], world),):
        for parent, child in H36M.bones:
            lengths = [(p[:, child] - p[:, parent]).norm(dim=-1) for p in (real, virtual)]
            # swapped limbs keep their lender's length of that moment; all else is within 2.5 x 3 % of somebody's
            assert lengths[1].quantile(0.05) > 0.85 * lengths[0].min()
            assert lengths[1].quantile(0.95) < 1.15 * lengths[0].max()
    feet = world[:, [H36M.joints.index(f"{side}_ankle") for side in ("left", "right")], 2]
    assert feet.median().item() == pytest.approx(0.1, abs=0.12)


def test_lent_movements_are_made_by_the_person_s_own_bones_in_their_own_cameras() -> None:
    people = list(film(clips(3.0, 60.0, 3, seed=4), studio_rig(), StudioSettings()))
    first, others = people[0], [s for s in people if s.subject != people[0].subject]
    still = replace(first, keypoints=first.keypoints[:, :1], timestamps=first.timestamps[:1], poses=None)
    own, lent = (load_multiview(sessions, SETTINGS) for sessions in ([still] * 40, others))
    torch.manual_seed(0)
    camera = own.camera[own.taught, 0].repeat(8)
    rows = own.taught.repeat(8)
    alone, helped = (
        VirtualViews(own, H36M, lender=lender)(rows, camera)[1][..., :3] for lender in (None, VirtualViews(lent, H36M))
    )
    truth = first.poses
    assert truth is not None
    for parent, child in H36M.bones:
        length = np.linalg.norm(truth[0, child] - truth[0, parent])
        np.testing.assert_allclose((helped[:, child] - helped[:, parent]).norm(dim=-1).numpy(), length, rtol=0.02)
    knees = [(p[:, 2] - p[:, 5]).norm(dim=-1).std().item() for p in (alone, helped)]
    assert knees[1] > 1.3 * knees[0]  # who was only ever seen standing still now walks


def test_virtual_people_face_everywhere_and_are_mirrored() -> None:
    drawn = [filmed(make_sessions(6), SETTINGS, seed) for seed in range(4)]
    data, camera, target = drawn[0][0], torch.cat([d[1] for d in drawn]), torch.cat([d[3] for d in drawn])
    world = torch.einsum("byx,bjy->bjx", data.R[camera], target[..., :3] - data.t[camera][:, None])
    across = world[:, 1, :2] - world[:, 4, :2]
    heading = torch.atan2(across[:, 1], across[:, 0])
    assert torch.histc(heading, 8, -np.pi, np.pi).min() > len(heading) / 20
    arms = [(world[:, a] - world[:, b]).norm(dim=-1).mean() for a, b in ((11, 12), (14, 15))]
    assert arms[0].item() == pytest.approx(arms[1].item(), rel=0.03)


def test_varied_cameras_stand_elsewhere_and_look_at_the_same_person() -> None:
    sessions, sizes, places = make_sessions(6), [], []
    for variation in (0.0, 1.0):
        _, _, _, target = filmed(sessions, replace(SETTINGS, camera_variation=variation))
        height = target[:, 10, :3] - target[:, [3, 6], :3].mean(1)
        sizes.append(height.norm(dim=-1).median().item())
        places.append(target[:, 0, 2].std().item())
        leans = torch.atan2(height[:, 2], -height[:, 1]).std().item()
        places.append(leans)
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)
    assert places[2] > 1.3 * places[0]  # depth
    assert places[3] > 1.1 * places[1]  # pitch


def test_noise_and_gaps_are_those_of_the_real_views() -> None:
    sessions = make_sessions(6, noise_px=6.0, noise_model="detector", missing=0.2)
    data, camera, keypoints, target = filmed(sessions, SETTINGS)
    seen = keypoints[:, -1, :, 2] > 0
    assert 1 - seen.float().mean().item() == pytest.approx(0.2, abs=0.05)
    rays = target[..., :2] / target[..., 2:3]
    exact = rays * data.given[camera][:, None, :2] + data.given[camera][:, None, 2:]
    error = (keypoints[:, -1, :, :2] - exact)[seen & (target[..., 3] > 0)]
    given = torch.from_numpy(np.concatenate([own[known] for own, known in map(keypoint_errors, sessions)]))
    median = given.norm(dim=-1).median().item()
    # the teacher leans towards the noise: what it leaves of it, uncorrected, is smaller by a fifth
    assert error.norm(dim=-1).median().item() == pytest.approx(median, rel=0.05)
    assert error.std().item() == pytest.approx(given.std().item(), rel=0.15)


def keypoint_errors(session: Session) -> tuple[np.ndarray, np.ndarray]:
    """(views, frames, joints, 2) pixels off the truth, and which keypoints there are."""
    assert session.poses is not None
    exact = np.stack([project(session.poses, camera) for camera in session.rig])
    return session.keypoints[..., :2] - exact, session.keypoints[..., 2] > 0


def test_gaps_in_the_teacher_and_unseen_joints_stay_finite() -> None:
    sessions = make_sessions(3, missing=0.1)
    for s in sessions:
        s.keypoints[:, :, 0] = (np.nan, np.nan, 0)  # nobody ever sees the root
        s.keypoints[1:, 20:40] = (np.nan, np.nan, 0)
    for settings in (SETTINGS, replace(SETTINGS, model="tcn", frames=9)):
        _, _, keypoints, target = filmed(sessions, settings)
        assert keypoints.isfinite().all()
        assert target.isfinite().all()
        assert (target[..., 0, 3] == 0).all()
        known = target[..., 1:, :3][target[..., 1:, 3] > 0]
        assert known.abs().max() < 12  # metres from the camera: nobody was thrown away


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_upright_finds_the_vertical_of_any_world(axis: int, sign: float) -> None:
    rig = make_sessions(1)[0].rig
    turn = np.roll(np.eye(3), axis, 0) * sign
    turn *= np.sign(np.linalg.det(turn))
    R = torch.tensor(np.stack([c.R @ turn.T for c in rig]), dtype=torch.float32)
    expected = torch.tensor(turn @ [0.0, 0.0, 1.0], dtype=torch.float32)
    up = _upright(R)
    torch.testing.assert_close(up[2], expected)
    torch.testing.assert_close(up @ up.T, torch.eye(3))
    assert torch.linalg.det(up) > 0


def test_the_settings_refuse_virtual_views_without_a_target() -> None:
    with pytest.raises(EdgeliftError, match="--virtual-views"):
        replace(SETTINGS, loss="reprojection")
