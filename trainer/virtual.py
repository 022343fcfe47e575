"""Virtual views: people that the teacher reconstructed, changed, and filmed anew, with the real views' own errors.

A site has few people and fewer movements; a lifter that has seen only those fails on the next person. Here limbs change
owners, joints bend, bones take other people's lengths, the person turns and stands elsewhere, left becomes right. What
is filmed is then spoilt with residuals (keypoint minus reprojection) and gaps taken from other windows of the real
views, so that noise, its correlation in time and missing joints are the detector's own and need no model.
"""

from __future__ import annotations

import itertools
import math
from functools import cached_property

import torch
from torch import Tensor

from edgelift.poses.reconstruction import RAYLEIGH_MEDIAN, TAIL_DEGREES
from edgelift.poses.skeletons import Skeleton
from edgelift.poses.timeline import Plan, sample
from edgelift.trainer.data import MultiView, stored

CHANGED = 0.5  # of the people; the others only turn and move: what people often do has to stay the most likely
SWAPPED = 0.2  # probability that a changed one's limb comes from another window
BENT_RAD = {"torso": 0.1, "limb": 0.2}  # standard deviation of a joint's extra rotation, each axis
LEANT_RAD = 0.1
OTHERS_BONES = 0.7  # probability that all bones take the lengths of another person
BONE_SPREAD = 0.03  # standard deviation of a bone's length factor on top
SHIFT_M = 0.2  # standard deviation of the place on the floor, each axis
SLOWEST, FASTEST = 0.5, 1.5  # pace of a virtual person's movement
REVERSED = 0.25  # probability that it runs backwards
TILTED_RAD = 0.08  # standard deviation of how much higher or lower, and how much rolled, a camera looks at the person
NEARER = 0.12  # of the logarithm of its distance
NEAREST_M = 0.3
SHORTEST_BONE_M = 0.02
NEAR_AXIS = math.cos(math.radians(30))  # the cameras' mean upward direction this close to an axis means that axis
FLOOR_QUANTILE = 0.02
MOST_LARGER, TINY = 2.0, 1e-9  # exact keypoints leave nothing to make larger


class VirtualViews:
    """Films examples from the rows of a data set; draws from torch's global generator.

    lender: other recordings, whose movements are filmed instead of the data's own, by the data's cameras, with their
    noise, and with the bones of the person in them.
    """

    def __init__(
        self, data: MultiView, skeleton: Skeleton, camera_variation: float = 0.0, lender: VirtualViews | None = None
    ) -> None:
        self.data, self.skeleton, self.camera_variation, self.lender = data, skeleton, camera_variation, lender
        self.mirror = torch.tensor(skeleton.mirror)
        starts = torch.searchsorted(data.session, torch.arange(len(data.people) + 1, device=data.session.device))
        self.first, self.last = starts[:-1], starts[1:] - 1
        self.sessions = [slice(a, b) for a, b in itertools.pairwise(starts.tolist())]
        self.up = torch.stack([_upright(data.R[data.camera[part.start]]) for part in self.sessions])
        self.middle = torch.stack([self._middle(part, up) for part, up in zip(self.sessions, self.up, strict=True)])
        self.lengths, self.people = self._bone_lengths(self.sessions)

    def __call__(self, rows: Tensor, camera: Tensor) -> tuple[Tensor, Tensor]:
        """Film the windows that end at these rows (b,), changed, with these cameras (b,).

        Returns keypoints (b, frames, joints, 3) as the lifter is fed and target (b, joints, 4), camera frame, weight.
        """
        session = self.data.session[rows]
        poses = self._on_stage(rows, session) if self.lender is None else self._lent(self.lender, session)
        changed = (torch.rand(len(rows), device=rows.device) < CHANGED).nonzero()[:, 0]
        if len(changed):
            poses[changed] = self._change(poses[changed], session[changed])
        return self._film(self._turn(poses), session, camera)

    # --- the steps, in order; poses (b, frames, joints, 4): stage metres (Z up, floor at 0, middle at 0) and weight ---

    def _on_stage(self, rows: Tensor, session: Tensor) -> Tensor:
        windows = self._play(rows, session)
        xyz = (windows[..., :3].nan_to_num() - self.middle[session][:, None, None]) @ _across(self.up[session])
        self._stand_in(xyz, windows[..., 3:])
        return torch.cat([xyz, windows[..., 3:]], -1)

    def _lent(self, lender: VirtualViews, session: Tensor) -> Tensor:
        """Let the people of these sessions (b,) move as somebody in the lender's recordings did."""
        taught = lender.data.taught
        rows = taught[torch.randint(len(taught), (len(session),), device=session.device)]
        mover = lender.data.session[rows]
        return self._resize(lender._on_stage(rows, mover), self.lengths[session] / lender.lengths[mover])

    def _play(self, rows: Tensor, session: Tensor) -> Tensor:
        """Windows of the target (b, frames, joints, 4) that end at these rows, slower, faster, or backwards."""
        where, b, device = self.data.where, len(rows), rows.device
        frames = where.lower.shape[1]
        if frames == 1:
            return self.data.target[rows][:, None]
        pace = SLOWEST + (FASTEST - SLOWEST) * torch.rand(b, device=device)
        pace = torch.where(torch.rand(b, device=device) < REVERSED, -pace, pace) * self.data.rows_a_slot[session]
        at = rows[:, None] - pace[:, None] * torch.arange(frames - 1, -1, -1, device=device)
        first, last = self.first[session][:, None], self.last[session][:, None]
        lower = torch.minimum(torch.maximum(at.floor().long(), first), last)
        upper = torch.minimum(lower + 1, last)
        played: Tensor = sample(
            self.data.target, Plan(lower, upper, (at - lower).clamp(0, 1), (at < first) | (at > last)), torch
        )
        return played

    def _stand_in(self, xyz: Tensor, weight: Tensor) -> None:
        """Put joints that nobody knows onto their parents, an unknown root amid the known; others hang on them."""
        known = weight > 0
        middle = (xyz * known).sum(2) / known.sum(2).clamp(min=1)
        for joint in (self.skeleton.root, *self.skeleton.outwards):
            parent = self.skeleton.parents[joint]
            place = middle if parent < 0 else xyz[:, :, parent]
            xyz[:, :, joint] = torch.where(known[:, :, joint], xyz[:, :, joint], place)

    def _change(self, poses: Tensor, session: Tensor) -> Tensor:
        self._swap_limbs(poses)
        self._bend(poses[..., :3])
        return poses if self.lender else self._resize(poses, self._other_bones(session))

    def _swap_limbs(self, poses: Tensor) -> None:
        """Some limbs move as in another window of the batch, turned to face the same way; in place."""
        lenders = poses.clone()
        for base, members, pair in _limbs(self.skeleton):
            taker = (torch.rand(len(poses), device=poses.device) < SWAPPED).nonzero()[:, 0]
            lender = torch.randint(len(poses), (len(taker),), device=poses.device)
            own, other = poses[taker], lenders[lender]
            turn = _about_z(_heading(own, pair) - _heading(other, pair))
            moved = (other[:, :, members, :3] - other[:, :, base : base + 1, :3]) @ _across(turn)
            known = torch.minimum(other[:, :, members, 3:], own[:, :, base : base + 1, 3:])
            own[:, :, members] = torch.cat([own[:, :, base : base + 1, :3] + moved, known], -1)
            poses[taker] = own

    def _bend(self, xyz: Tensor) -> None:
        """Turn what lies beyond every joint about it, and the whole body about its root, by a little; in place."""
        for pivot in (self.skeleton.root, *self.skeleton.outwards):
            members = list(self.skeleton.beyond(pivot))
            if members:
                spread = BENT_RAD["torso" if self.skeleton.parts[pivot] == "torso" else "limb"]
                spread = LEANT_RAD if pivot == self.skeleton.root else spread
                turn = _rotation(torch.randn(len(xyz), 3, device=xyz.device) * spread)
                at = xyz[:, :, pivot : pivot + 1]
                xyz[:, :, members] = at + (xyz[:, :, members] - at) @ _across(turn)

    def _other_bones(self, session: Tensor) -> Tensor:
        """(b, joints) factors of the bones' lengths: mostly another person's, and a little at random."""
        b, device = len(session), session.device
        spread = 1 + BONE_SPREAD * torch.randn(b, len(self.mirror), device=device).clamp(-2.5, 2.5)
        donor = self.people[torch.randint(len(self.people), (b,), device=device)]
        exchanged = torch.rand(b, 1, device=device) < OTHERS_BONES
        factor: Tensor = (spread + spread[:, self.mirror]) / 2
        return factor * torch.where(exchanged, donor / self.lengths[session], 1.0)

    def _resize(self, poses: Tensor, factor: Tensor) -> Tensor:
        """Lengthen every bone by a factor (b, joints); the root's height follows the legs'."""
        parents = self.skeleton.parents
        ankles = [j for j, name in enumerate(self.skeleton.joints) if name.endswith("_ankle")]
        tall = factor[:, [j for ankle in ankles for j in (ankle, parents[ankle])]].mean(1)[:, None, None]
        xyz, root = poses[..., :3], self.skeleton.root
        placed = {root: torch.cat([xyz[:, :, root, :2], xyz[:, :, root, 2:] * tall], -1)}
        for joint in self.skeleton.outwards:
            bone = xyz[:, :, joint] - xyz[:, :, parents[joint]]
            placed[joint] = placed[parents[joint]] + bone * factor[:, joint, None, None]
        resized = torch.stack([placed[j] for j in range(len(parents))], 2)
        return torch.cat([resized, poses[..., 3:]], -1)

    def _turn(self, poses: Tensor) -> Tensor:
        """Mirror every other one, turn all about the middle of the stage, and move them a little on the floor."""
        b, device = len(poses), poses.device
        mirrored = torch.rand(b, device=device) < 0.5
        poses = torch.where(mirrored[:, None, None, None], poses[:, :, self.mirror], poses)
        turn = _about_z(torch.rand(b, device=device) * 2 * math.pi)
        turn = torch.where(mirrored[:, None, None], turn * torch.tensor([-1.0, 1, 1], device=device), turn)
        shift = torch.cat([SHIFT_M * torch.randn(b, 2, device=device), torch.zeros(b, 1, device=device)], -1)
        return torch.cat([poses[..., :3] @ _across(turn) + shift[:, None, None], poses[..., 3:]], -1)

    def _film(self, poses: Tensor, session: Tensor, camera: Tensor) -> tuple[Tensor, Tensor]:
        data = self.data
        R = data.R[camera] @ self.up[session].transpose(1, 2)  # from the stage to the camera
        t = data.t[camera] + torch.einsum("bxy,by->bx", data.R[camera], self.middle[session])
        local = self._move_camera(poses[..., :3] @ _across(R) + t[:, None, None])
        row, view = self.sightings[torch.randint(len(self.sightings), (len(poses),), device=poses.device)].T
        error = data.view_windows(self.residual, row, view)
        rays = local[..., :2] / local[..., 2:].clamp(min=NEAREST_M) + error[..., :2].nan_to_num()
        seen = (error[..., 2:] > 0) & (poses[..., 3:] > 0) & (local[..., 2:] > NEAREST_M)
        pixels = through_lens(rays, data.lens[camera][:, None, None]) * seen
        return torch.cat([pixels, seen.float()], -1), torch.cat([local[:, -1], poses[:, -1, :, 3:]], -1)

    def _move_camera(self, local: Tensor) -> Tensor:
        """Let the cameras (poses (b, frames, joints, 3) in their frames) stand higher, lower, nearer or farther.

        Each goes on looking at where the person is in the newest frame.
        """
        if not self.camera_variation:
            return local
        b, device = len(local), local.device
        at = local[:, -1:, self.skeleton.root : self.skeleton.root + 1]
        tilt = (
            self.camera_variation
            * TILTED_RAD
            * torch.randn(b, 3, device=device)
            * torch.tensor([1.0, 0.0, 0.5], device=device)
        )
        distance = (self.camera_variation * NEARER * torch.randn(b, device=device)).exp()[:, None, None, None]
        return at * distance + (local - at) @ _across(_rotation(tilt))

    # --- tables ---

    def _middle(self, part: slice, up: Tensor) -> Tensor:
        """(3,) world metres: the place on the floor about which a session's person moves."""
        target = self.data.target[part]
        xyz = target[..., :3][target[..., 3] > 0] @ up.T
        if not len(xyz):
            return torch.zeros(3, device=up.device)
        heights = xyz[:, 2].sort().values
        stage: Tensor = torch.stack([*xyz[:, :2].mean(0), heights[int(FLOOR_QUANTILE * len(heights))]])
        return up.T @ stage

    @cached_property
    def residual(self) -> Tensor:
        """(rows, views, joints, 3): see _residuals. A lender never needs them."""
        parts = zip(self.sessions, self.data.noise.tolist(), strict=True)
        return stored((self._residuals(part, noise) for part, noise in parts), self.data.target.device)

    @cached_property
    def sightings(self) -> Tensor:
        """(n, 2): see _sightings."""
        return torch.cat([self._sightings(part) for part in self.sessions])

    def _residuals(self, part: slice, noise: float) -> Tensor:
        """(rows, views, joints, 3): keypoint minus the target's projection, normalised image, and whether known."""
        data = self.data
        camera, target = data.camera[part], data.target[part]
        local = torch.einsum("rvxy,rjy->rvjx", data.R[camera], target[..., :3]) + data.t[camera][:, :, None]
        known = (data.keypoints[part][..., 2:] > 0) & (target[:, None, :, 3:] > 0) & (local[..., 2:] > NEAREST_M)
        error = data.rays[part] - local[..., :2] / local[..., 2:].clamp(min=NEAREST_M)
        if math.isfinite(noise) and known.any():
            error = _unleant(error, known, RAYLEIGH_MEDIAN * noise)
        return torch.cat([torch.where(known, error, 0.0), known.float()], -1)

    def _sightings(self, part: slice) -> Tensor:
        """(n, 2) rows and views of a session that show a joint whose residual is known."""
        found = (self.residual[part][..., 2] > 0).any(-1).nonzero()
        found[:, 0] += part.start
        return found

    def _bone_lengths(self, sessions: list[slice]) -> tuple[Tensor, Tensor]:
        """(sessions, joints) and (people, joints): length of the bone that ends in each joint; 1 at the root."""
        lengths = torch.stack([self._session_bones(part) for part in sessions])
        lengths = torch.where(lengths.isnan(), lengths.nanmedian(0).values, lengths).nan_to_num(1.0)
        lengths = ((lengths + lengths[:, self.mirror]) / 2).clamp(min=SHORTEST_BONE_M)
        lengths[:, self.skeleton.root] = 1.0
        names = sorted(set(self.data.people))
        own = torch.tensor([names.index(name) for name in self.data.people], device=lengths.device)
        return lengths, torch.stack([lengths[own == n].median(0).values for n in range(len(names))])

    def _session_bones(self, part: slice) -> Tensor:
        target, parents = self.data.target[part], torch.tensor(self.skeleton.parents).clamp(min=0)
        bone = (target[..., :3] - target[:, parents, :3]).norm(dim=-1)
        known = (target[..., 3] > 0) & (target[:, parents, 3] > 0)
        median: Tensor = torch.where(known, bone, torch.nan).nanmedian(0).values
        return median


def _unleant(error: Tensor, known: Tensor, noise: float) -> Tensor:
    """Residuals (..., 2) made as large as the keypoints' errors, whose median length is known.

    The target was reconstructed from these keypoints and leans towards them, so they err by more than is left of it: by
    a third with three cameras. As far as it leant: hardly at all towards one that is far off (Student's t).
    """
    length = error.norm(dim=-1, keepdim=True)
    found = float(length[known].median())
    larger = min(max(noise / max(found, TINY), 1.0), MOST_LARGER)
    leant = (TAIL_DEGREES + RAYLEIGH_MEDIAN**2) / (TAIL_DEGREES + (RAYLEIGH_MEDIAN * larger * length / noise) ** 2)
    unleant: Tensor = error * (1 + (larger - 1) * leant)
    return unleant


def _upright(R: Tensor) -> Tensor:
    """(3, 3) from the world to a frame with Z up; R (views, 3, 3). People stand upright in most cameras' images.

    The world axis next to that direction where there is one: calibrations lay an axis along the vertical.
    """
    up = -R[:, 1].mean(0)
    up = up / up.norm().clamp(min=1e-6)
    axis = torch.zeros_like(up)
    axis[up.abs().argmax()] = up[up.abs().argmax()].sign()
    up = axis if float(axis @ up) > NEAR_AXIS else up
    sideways = torch.linalg.cross(torch.eye(3, device=up.device)[up.abs().argmin()], up)
    sideways = sideways / sideways.norm()
    return torch.stack([sideways, torch.linalg.cross(up, sideways), up])


def _limbs(skeleton: Skeleton) -> list[tuple[int, list[int], tuple[int, int]]]:
    """What can change owners: the joint it hangs on, its joints, and the pair of joints that says where it faces."""
    joints = skeleton.joints
    hips, shoulders = ((joints.index(f"left_{name}"), joints.index(f"right_{name}")) for name in ("hip", "shoulder"))
    found = []
    for part, base, pair in zip(
        ("left_leg", "right_leg", "left_arm", "right_arm"), (*hips, *shoulders), (hips, hips, shoulders, shoulders),
        strict=True,
    ):  # fmt: skip
        found.append((base, [j for j, own in enumerate(skeleton.parts) if own == part and j != base], pair))
    upper = [j for j, own in enumerate(skeleton.parts) if not own.endswith("leg") and j != skeleton.root]
    return [*found, (skeleton.root, upper, hips)]


def _heading(poses: Tensor, pair: tuple[int, int]) -> Tensor:
    """(b,) radians: where the line between two joints points on the floor, in the newest frame."""
    line = poses[:, -1, pair[0], :2] - poses[:, -1, pair[1], :2]
    return torch.atan2(line[:, 1], line[:, 0])


def _about_z(angle: Tensor) -> Tensor:
    """(b, 3, 3) rotations about the vertical by (b,) radians."""
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).view(-1, 3, 3)


def _rotation(vector: Tensor) -> Tensor:
    """(b, 3, 3) rotations from rotation vectors (b, 3), radians (Rodrigues)."""
    angle = vector.norm(dim=-1)[:, None, None].clamp(min=1e-9)
    x, y, z = (vector / angle[:, 0]).T
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).view(-1, 3, 3)
    eye = torch.eye(3, device=vector.device)
    rotation: Tensor = eye + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)
    return rotation


def _across(rotation: Tensor) -> Tensor:
    """Rotations (b, 3, 3) ready for `points (b, frames, joints, 3) @ it`."""
    return rotation.transpose(1, 2)[:, None]


def through_lens(rays: Tensor, lens: Tensor) -> Tensor:
    """Ideal rays (..., 2) through a lens (..., 9), fx fy cx cy k1 k2 p1 p2 k3, to pixels (as poses.cameras.project)."""
    fx, fy, cx, cy, k1, k2, p1, p2, k3 = lens.unbind(-1)
    x, y = rays.unbind(-1)
    r2 = x * x + y * y
    factor = 1 + r2 * (k1 + r2 * (k2 + r2 * k3)) + 2 * (p2 * x + p1 * y)
    return torch.stack([fx * (x * factor + r2 * p2) + cx, fy * (y * factor + r2 * p1) + cy], -1)
