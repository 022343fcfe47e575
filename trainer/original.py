"""The original report's method, as settings of this trainer, and its Table 1 (docs/report.md says where we differ).

What the frame model shares with edgelift's is the trainer; the model, loss, optimiser and schedules are the report's.
Its sequence model reads whole clips, both ways in time: it is for comparison only and is never exported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgelift.poses.cameras import world_to_camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.metrics import mixed_mpjpe, root_relative_mpjpe
from edgelift.poses.sessions import Session
from edgelift.runtime.evaluate import evaluate
from edgelift.trainer.checkpoint import load_checkpoint
from edgelift.trainer.data import MultiView, load_multiview
from edgelift.trainer.fit import Examples, train
from edgelift.trainer.losses import report_loss
from edgelift.trainer.models import Lifter, start_in_front
from edgelift.trainer.settings import TrainSettings
from edgelift.trainer.validation import module_lift

ADAPT_RATE = 4e-5
Say = Callable[[str], None]


@dataclass(frozen=True)
class Protocol:
    """One of the report's two data sets: skeleton, epochs of training and of adaptation."""

    skeleton: str
    epochs: int
    adapt_epochs: int


HUMANEVA = Protocol("humaneva15", 150, 200)
HUMAN36M = Protocol("h36m17", 20, 5)


CAMERAS = (0, 1, 2)
SPLITS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    # actions, and whose train and test
    "humaneva": (("Walking", "Jog", "Box"), ("Train/S1", "Train/S2", "Train/S3"),
                 ("Validate/S1", "Validate/S2", "Validate/S3")),
    "human36m": (("Walking", "Greeting", "Smoking", "Sitting"), ("S1", "S5", "S6", "S7", "S8"), ("S9", "S11")),
}  # fmt: skip


def split(sessions: Sequence[Session], dataset: str) -> tuple[list[Session], list[Session]]:
    """Training and test sessions of the report, cameras 0-2; EdgeliftError where a side is empty."""
    actions, *sides = SPLITS[dataset]
    chosen = [s for s in sessions if s.action.split()[0] in actions]
    parts = [[s.only(CAMERAS) for s in chosen if s.subject in side] for side in sides]
    for side, part in zip(sides, parts, strict=True):
        if not part:
            raise EdgeliftError(
                f"{dataset} files", f"no session of {', '.join(side)} with {', '.join(actions)}",
                "VideoPose3D's files of this data set", "Check which files were named.",
            )  # fmt: skip
    return parts[0], parts[1]


def settings_of(protocol: Protocol, width: int, seed: int = 0) -> TrainSettings:
    """Label-free, dropout 0.5 until half time and evaluation mode after it: the report's best frame model."""
    return TrainSettings(
        skeleton=protocol.skeleton, loss="report", virtual_views=0.0, model="original", trunk="dense",
        camera_input="screen", width=width, epochs=protocol.epochs, batch=128, learning_rate=3e-4,
        schedule="constant", dropout=0.5, dropout_until=0.5, batch_norm_until=0.5, seed=seed,
    )  # fmt: skip


def variants(base: TrainSettings) -> dict[str, TrainSettings]:
    """Frame models of Table 1, and what its "dropout off" mixed, told apart."""
    joints = len(base.input.skeleton.joints)
    return {
        "with 3D labels": replace(base, supervision="poses", root_weight=1 / joints),
        "label-free, dropout 0": replace(base, dropout=0.0, batch_norm_until=1.0),
        "label-free, dropout 0.5": replace(base, dropout_until=1.0, batch_norm_until=1.0),
        "label-free, dropout 0.5, then evaluation mode": base,
        "label-free, dropout 0.5, then dropout 0": replace(base, batch_norm_until=1.0),
        "label-free, dropout 0.5, then batch norm frozen": replace(base, dropout_until=1.0),
    }


def table_1(
    training: Sequence[Session], test: Sequence[Session], protocol: Protocol, width: int, folder: Path, say: Say
) -> list[dict[str, Any]]:
    """Train and score every row of Table 1; runs lie under `folder`, and a second call goes on from them.

    Figures are mm: `mixed_mpjpe_mm` is the report's (the root absolute, all other joints relative to it). `curve`, of
    the frame models: epoch and MPJPE on the test views, all joints absolute.
    """
    rows = []
    base = settings_of(protocol, width)
    for name, settings in variants(base).items():
        result = train(training, folder / name.replace(" ", "_"), settings, test, _told(name, say))
        lifter = load_checkpoint(result.checkpoint).model()
        rows.append({"row": name, **_score(lifter, test, settings), "curve": result.validation})
        say(f"{name}: {rows[-1]['mixed_mpjpe_mm']:.1f} mm")
        if settings is base:
            adapted = adapt_as_reported(lifter, test, settings, protocol.adapt_epochs)
            rows.append({"row": "label-free, adapted on the test views", **_score(adapted, test, settings)})
            say(f"{rows[-1]['row']}: {rows[-1]['mixed_mpjpe_mm']:.1f} mm")
    for attention in (False, True):
        name = f"label-free sequence model, decoder {'with' if attention else 'without'} attention"
        rows.append({"row": name, **_clip_row(training, test, base, attention, lambda n: say(f"    {n}"))})
        say(f"{name}: {rows[-1]['mixed_mpjpe_mm']:.1f} mm")
    return rows


def _told(name: str, say: Say) -> Callable[[int, int, dict[str, float]], None]:
    def tell(epoch: int, epochs: int, row: dict[str, float]) -> None:
        if epoch % max(1, epochs // 10) == 0:
            say(f"    {name}: epoch {epoch}/{epochs}, loss {row['loss']:.4f}")

    return tell


def _score(model: Lifter, test: Sequence[Session], settings: TrainSettings) -> dict[str, float]:
    scores = evaluate(module_lift(model), test, settings.input)
    return {key: scores[key] for key in ("mixed_mpjpe_mm", "root_relative_mpjpe_mm", "p_mpjpe_mm")}


def adapt_as_reported(lifter: Lifter, test: Sequence[Session], settings: TrainSettings, epochs: int) -> Lifter:
    """Go on with the same loss on the test views, in evaluation mode; the lifter is then scored on those very views.

    That is the report's figure, not what a site gains; for that see trainer.adapt.
    """
    data = load_multiview(test, replace(settings, supervision="views"))
    examples = Examples(data, settings)
    optimiser = torch.optim.Adam(lifter.parameters(), lr=ADAPT_RATE, fused=True)
    lifter.eval()
    torch.manual_seed(settings.seed)
    for _ in range(epochs):
        for index in torch.randperm(len(data)).tensor_split(max(1, len(data) // settings.batch)):
            _descend(optimiser, examples.loss(lifter, index))
    return lifter


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


class ClipModel(nn.Module):
    """The report's sequence model: every frame of a clip attends to every other, without positional encoding."""

    def __init__(self, joints: int, root: int, width: int, attention: bool, dropout: float) -> None:
        super().__init__()
        self.joints, self.root = joints, root
        self.embed = nn.Sequential(nn.Linear(2 * joints, width), nn.BatchNorm1d(width), nn.ReLU())
        layer = nn.TransformerEncoderLayer(width, 8, 2 * width, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoderLayer(width, 8, 2 * width, dropout, batch_first=True) if attention else None
        last = nn.Linear(width, 3 * joints)
        start_in_front(last, root)
        self.head = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), last)

    def forward(self, points: Tensor) -> Tensor:
        """(views, frames, joints, 2) width-normalised image points to (views, frames, joints, 3) metres."""
        views, frames = points.shape[:2]
        embedded = self.embed(points.flatten(2).flatten(0, 1)).view(views, frames, -1)
        encoded = self.encoder(embedded)
        decoded = encoded if self.decoder is None else self.decoder(embedded, encoded)
        out = self.head(decoded.flatten(0, 1)).view(views, frames, self.joints, 3)
        root = out[:, :, self.root : self.root + 1]
        poses: Tensor = torch.where(torch.arange(self.joints)[:, None] == self.root, root, out + root)
        return poses


def _clip_row(
    training: Sequence[Session], test: Sequence[Session], settings: TrainSettings, attention: bool, say: Say
) -> dict[str, float]:
    """Train the sequence model, one whole session a step, and score it on whole test sessions."""
    torch.manual_seed(settings.seed)
    skeleton = settings.input.skeleton
    data = load_multiview(training, settings)
    model = ClipModel(len(skeleton.joints), skeleton.root, settings.width, attention, 0.1)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=True)
    clips = _clips(data)
    for epoch in range(settings.epochs):
        total = 0.0
        for number in torch.randperm(len(clips)).tolist():
            loss = _clip_loss(model, data, clips[number])
            _descend(optimiser, loss)
            total += loss.item()
        if (epoch + 1) % max(1, settings.epochs // 10) == 0:
            say(f"epoch {epoch + 1}/{settings.epochs}, loss {total / len(clips):.4f}")
    return _score_clips(model.eval(), test, settings)


def _clips(data: MultiView) -> list[Tensor]:
    """Indices into the taught frames, session by session."""
    session = data.session[data.taught]
    return [(session == number).nonzero()[:, 0] for number in sorted(set(session.tolist()))]


def _points(data: MultiView, index: Tensor) -> Tensor:
    """(views, frames, joints, 2) of taught frames: what a screen lifter makes of its pixels; missing at the centre."""
    batch = data.batch(index)
    keypoints = batch.keypoints[:, :, -1]
    focal, centre = batch.given[:, :, None, :2], batch.given[:, :, None, 2:]
    return torch.where(keypoints[..., 2:] > 0, (keypoints[..., :2] - centre) / focal, 0.0).transpose(0, 1)


def _clip_loss(model: ClipModel, data: MultiView, index: Tensor) -> Tensor:
    return report_loss(model(_points(data, index)).transpose(0, 1), data.batch(index))


def _score_clips(model: ClipModel, test: Sequence[Session], settings: TrainSettings) -> dict[str, float]:
    found: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for session in test:
        assert session.poses is not None
        s = session.to_skeleton(settings.input.skeleton)
        data = load_multiview([s], replace(settings, supervision="views"))
        with torch.inference_mode():
            lifted = model(_points(data, torch.arange(len(data)))).double().numpy()
        assert s.poses is not None
        truth = s.poses[data.taught.numpy()]
        found += [(lifted[v], world_to_camera(truth, camera)) for v, camera in enumerate(s.rig)]
    predicted, truth = (np.concatenate(side) for side in zip(*found, strict=True))
    root = settings.input.skeleton.root
    return {
        "mixed_mpjpe_mm": mixed_mpjpe(predicted, truth, root),
        "root_relative_mpjpe_mm": root_relative_mpjpe(predicted, truth, root),
    }
