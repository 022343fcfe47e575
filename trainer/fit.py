"""The training job: sessions in, checkpoint out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import skeleton
from edgelift.runtime.evaluate import reference_kind
from edgelift.trainer.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from edgelift.trainer.data import MultiView, Prepared, fingerprint, load_multiview
from edgelift.trainer.learn_cameras import learn_cameras
from edgelift.trainer.losses import report_loss, reprojection_loss, target_loss
from edgelift.trainer.models import Lifter, build_model
from edgelift.trainer.parallel import rank, share, sum_gradients, team, total
from edgelift.trainer.reference import save_held_out, save_replay
from edgelift.trainer.settings import TrainSettings
from edgelift.trainer.validation import validation_mpjpe
from edgelift.trainer.virtual import VirtualViews

METRICS = "metrics.jsonl"
RANK_SEEDS = 7_919
Progress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class TrainResult:
    """What a finished run gave; `to_dict` is what `edgelift train --json` prints."""

    epochs: int
    frames: int
    seconds: float
    checkpoint: Path
    validation: tuple[tuple[int, float], ...]
    validation_against: str | None

    def to_dict(self) -> dict[str, Any]:
        """frames counts multi-view frames trained on, every epoch; seconds exclude loading and validation."""
        return {
            "epochs": self.epochs,
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            "frames_per_second": round(self.frames / self.seconds, 1) if self.seconds else None,
            "checkpoint": str(self.checkpoint),
        }


def train(
    sessions: Sequence[Session],
    run: Path,
    settings: TrainSettings,
    validate: Sequence[Session] = (),
    progress: Progress = lambda epoch, epochs, row: None,
    device: str = "cpu",
    compiled: bool = False,
    prepared: Prepared = lambda done, total: None,
) -> TrainResult:
    """Train a lifter and leave RUN/checkpoint.safetensors and RUN/metrics.jsonl.

    Goes on from RUN's own checkpoint when it was made with the same settings, data and validation; anything else there
    is an EdgeliftError. `validate` sessions steer nothing; they are scored against their poses, or triangulation where
    none has any. device: `cpu` or `cuda`; both draw the same order of frames, and a run may go on on the other one.
    compiled: the network goes through torch.compile. Under `torchrun` the processes share every step.
    """
    check_device(device)
    with team(device) as own:
        learnt = None
        if settings.learn_cameras != "none":
            sessions = learnt = learn_cameras(sessions, settings.learn_cameras)
        data = load_multiview(sessions, settings, prepared).to(own)
        facts = _facts(sessions, data, settings, validate)
        facts["learnt_rigs"] = [rig.to_dict() for rig in learnt.rigs.values()] if learnt else []
        torch.manual_seed(settings.seed)
        model = build_model(settings).to(own)
        optimiser = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=True)
        facts = _resume(run, model, optimiser, settings, facts)
        if not facts["epoch"] and rank() == 0:
            save_held_out(run, validate or sessions, settings, facts["held_out"])
            save_replay(run, data, sessions, settings)
        examples = Examples(data, settings)
        lifter = torch.compile(model, dynamic=True) if compiled else model
        for epoch in range(facts["epoch"], settings.epochs):
            started = time.perf_counter()
            loss = train_epoch(lifter, optimiser, examples, epoch)  # type: ignore[arg-type]
            facts["seconds"] += time.perf_counter() - started
            facts["epoch"] = epoch + 1
            if rank() == 0:
                row = _close_epoch(run, model, optimiser, settings, facts, loss, validate)
                progress(epoch + 1, settings.epochs, row)
    curve = tuple((int(e), float(v)) for e, v in facts["validation"])
    frames, checkpoint = len(data) * settings.epochs, run / CHECKPOINT
    return TrainResult(settings.epochs, frames, facts["seconds"], checkpoint, curve, facts["validation_against"])


def _close_epoch(
    run: Path, model: Lifter, optimiser: torch.optim.Optimizer, settings: TrainSettings, facts: dict[str, Any],
    loss: float, validate: Sequence[Session],
) -> dict[str, float]:  # fmt: skip
    """Validate, save, log; returns the log's row."""
    row = {"epoch": facts["epoch"], "loss": loss, "seconds": round(facts["seconds"], 3)}
    if validate:
        row["validation_mpjpe_mm"] = validation_mpjpe(model.eval(), validate, settings)
        facts["validation"].append([facts["epoch"], row["validation_mpjpe_mm"]])
    save_checkpoint(run, model, optimiser, settings, facts)
    with (run / METRICS).open("a") as log:
        log.write(json.dumps(row) + "\n")
    return row


def _facts(
    sessions: Sequence[Session], data: MultiView, settings: TrainSettings, validate: Sequence[Session]
) -> dict[str, Any]:
    """What a run says of itself, before its first epoch."""
    trained = {fingerprint([session], with_poses=False) for session in sessions}
    return {
        "data": fingerprint(sessions, settings.supervision == "poses"),
        "sessions": len(sessions),
        "multi_view_frames": len(data),
        "validation_data": fingerprint(validate, with_poses=True) if validate else None,
        "validation_against": reference_kind(validate) if validate else None,
        "held_out": bool(validate) and not any(fingerprint([s], with_poses=False) in trained for s in validate),
        "torch": torch.__version__,
        "epoch": 0,
        "seconds": 0.0,
        "validation": [],
    }


class Examples:
    """What a step is made of: frames of a data set, some of them filmed anew, and the loss of the lifted poses.

    lender: data whose movements are filmed anew instead of the data's own (VirtualViews).
    """

    def __init__(self, data: MultiView, settings: TrainSettings, lender: MultiView | None = None) -> None:
        self.data, self.settings = data, settings
        self.device = data.keypoints.device
        self.root = settings.input.skeleton.root
        self.virtual = None
        if settings.virtual_views:
            owner, variation = settings.input.skeleton, settings.camera_variation
            lent = None if lender is None else VirtualViews(lender, owner)
            self.virtual = VirtualViews(data, owner, variation, lent)

    def loss(self, model: Lifter, index: Tensor) -> Tensor:
        """Lift the views of the frames of an index (b,) into the taught rows and weigh the poses, metres."""
        return (self._target_loss if self.settings.targeted else self._views_loss)(model, index)

    def _target_loss(self, model: Lifter, index: Tensor) -> Tensor:
        keypoints, intrinsics, target = self.draw(index)
        return target_loss(self.lift(model, keypoints, intrinsics), target, self.root, self.settings.root_weight)

    def _views_loss(self, model: Lifter, index: Tensor) -> Tensor:
        batch = self.data.batch(index)
        lifted = self.lift(model, batch.keypoints[batch.present], batch.given[batch.present])
        poses = lifted.new_zeros(*batch.present.shape, *lifted.shape[1:])
        poses = poses.masked_scatter(batch.present[..., None, None], lifted)
        if self.settings.loss == "report":
            return report_loss(poses, batch)
        return reprojection_loss(poses, batch, self.root, self.settings.root_weight)

    def draw(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keypoints (n, frames, joints, 3), intrinsics (n, 4) and target (n, joints, 4), camera frame and weight.

        One example a view of the frames; the share `virtual_views` of them is filmed anew by the same cameras. Views
        that show nobody are left out: they would bend the batch-norm statistics.
        """
        data, views = self.data, self.data.camera.shape[1]
        rows = data.taught[index].repeat_interleave(views)
        view = torch.arange(views, device=self.device).repeat(len(index))
        order = torch.randperm(len(rows)).to(self.device)
        real = order[round(self.settings.virtual_views * len(rows)) :]
        parts = [self._real(rows[real], view[real])]
        if self.virtual is not None:
            new = order[: len(rows) - len(real)]
            camera = data.camera[rows[new], view[new]]
            keypoints, target = self.virtual(rows[new], camera)
            parts.append((keypoints, data.given[camera], target))
        keypoints, intrinsics, target = (torch.cat(column) for column in zip(*parts, strict=True))
        shown = (keypoints[:, -1, :, 2] > 0).any(-1)
        return keypoints[shown], intrinsics[shown], target[shown]

    def _real(self, rows: Tensor, view: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        camera = self.data.camera[rows, view]
        keypoints = self.data.view_windows(self.data.keypoints, rows, view)
        return keypoints, self.data.given[camera], self.data.local_target(rows, camera)

    def lift(self, model: Lifter, keypoints: Tensor, intrinsics: Tensor) -> Tensor:
        """Forward pass in the run's precision."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            poses: Tensor = model(keypoints, intrinsics)
        return poses


def train_epoch(model: Lifter, optimiser: torch.optim.Optimizer, examples: Examples, epoch: int) -> float:
    """One pass over the data; returns the mean loss (metres). Its randomness depends on seed and epoch alone."""
    settings, frames = examples.settings, len(examples.data)
    torch.manual_seed(settings.seed * 100_003 + epoch + 1)  # a resumed run draws what an uninterrupted one would
    set_mode(model, settings, epoch)
    steps = max(1, frames // settings.batch)
    losses = torch.zeros((), device=examples.device)
    order = torch.randperm(frames).to(examples.device)
    if rank():  # the order is everybody's; dropout and virtual views are each process's own
        torch.manual_seed(torch.initial_seed() + RANK_SEEDS * rank())
    for step, index in enumerate(order.tensor_split(steps)):
        set_learning_rate(optimiser, settings, (epoch + step / steps) / settings.epochs)
        loss = examples.loss(model, share(index))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        sum_gradients(model)
        optimiser.step()
        losses += loss.detach()
    mean = total(losses).item() / steps
    if not math.isfinite(mean):
        raise EdgeliftError(
            f"training loss of epoch {epoch + 1}", f"{mean}", "a finite number", "Lower --learning-rate."
        )
    return mean


def check_device(device: str) -> None:
    """EdgeliftError unless PyTorch can train there; never another device instead."""
    if device != "cpu" and not (device == "cuda" and torch.cuda.is_available()):
        raise EdgeliftError(
            "--device", device, "cpu" if device != "cuda" else "a CUDA GPU that PyTorch sees",
            "Use --device cpu, or install a driver and a torch build with CUDA.",
        )  # fmt: skip


def set_learning_rate(optimiser: torch.optim.Optimizer, settings: TrainSettings, progress: float) -> None:
    """Set the rate of the schedule at progress in [0, 1]; `cosine` falls from the settings' rate to zero."""
    share = 0.5 * (1 + math.cos(math.pi * progress)) if settings.schedule == "cosine" else 1.0
    for group in optimiser.param_groups:
        group["lr"] = settings.learning_rate * share


def set_mode(model: nn.Module, settings: TrainSettings, epoch: int) -> None:
    """Set dropout and batch norm for an epoch: each can stop on its own (the report's code stopped both at once)."""
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = settings.dropout if epoch < settings.dropout_until * settings.epochs else 0.0
        if isinstance(layer, nn.BatchNorm1d):
            layer.train(epoch < settings.batch_norm_until * settings.epochs)


def _resume(
    run: Path, model: Lifter, optimiser: torch.optim.Optimizer, settings: TrainSettings, facts: dict[str, Any]
) -> dict[str, Any]:
    if not (run / CHECKPOINT).is_file():
        run.mkdir(parents=True, exist_ok=True)
        (run / METRICS).unlink(missing_ok=True)
        return facts
    old = load_checkpoint(run)
    changed = [k for k, v in settings.to_dict().items() if old.settings.to_dict()[k] != v]
    names = {"data": "training sessions", "validation_data": "validation sessions"}
    changed += [name for key, name in names.items() if old.facts.get(key) != facts[key]]
    if changed:
        raise EdgeliftError(
            f"run {run}", f"a checkpoint made with other {', '.join(changed)}", "the same settings and sessions",
            "Choose another -o, or delete the run.",
        )  # fmt: skip
    model.load_state_dict(old.model().state_dict())
    old.restore(optimiser)
    return old.facts


def plot_metrics(run: Path) -> Path | None:
    """Draw RUN/metrics.png from its log (loss, and validation MPJPE where there is one); None for an empty log."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    keys = {"loss": "loss (m)", "validation_mpjpe_mm": "validation MPJPE (mm)"}
    keys = {key: label for key, label in keys.items() if rows and key in rows[0]}
    if not keys:
        return None
    figure, axes = pyplot.subplots(1, len(keys), figsize=(5 * len(keys), 3.5), squeeze=False)
    for axis, (key, label) in zip(axes[0], keys.items(), strict=True):
        axis.plot([row["epoch"] for row in rows], [row[key] for row in rows])
        axis.set(xlabel="epoch", ylabel=label, ylim=(0, None))
        axis.grid(alpha=0.3)
    figure.tight_layout()
    path = run / "metrics.png"
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def describe(settings: TrainSettings) -> str:
    """One line for people."""
    joints = len(skeleton(settings.skeleton).joints)
    label = "label-free, from the other views" if settings.supervision == "views" else "with 3D labels"
    frames = f", {settings.frames} frames" if settings.frames > 1 else ""
    return f"{settings.model} lifter{frames}, {settings.skeleton} ({joints} joints), width {settings.width}, {label}"
