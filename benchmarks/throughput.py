"""Training throughput beside a plain per-sample loop, same cores, interleaved in one run; and what a step spends where.

python benchmarks/throughput.py -o benchmarks/results

The loop is of the original report's kind: its network and loss in fp32, the batch lifted at once, then samples and view
pairs in Python. Beside it: the same vectorised, in fp32 and with bf16 autocast, and the default training (teacher and
virtual views, bf16). `network_share`: time of the lifter's own forward and backward pass on the
very examples of a step, over the time of the whole step (drawing the examples, loss and optimiser included).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from edgelift.poses.person import clips
from edgelift.poses.studio import StudioSettings, film, studio_rig
from edgelift.trainer.data import Batch, load_multiview
from edgelift.trainer.fit import Examples
from edgelift.trainer.losses import CLAMPED, TINY_DEPTH_M, TINY_M2
from edgelift.trainer.models import Lifter, build_model
from edgelift.trainer.settings import TrainSettings


def looped_loss(model: Lifter, batch: Batch) -> Tensor:
    """report_loss, one sample, one view pair at a time."""
    samples, views = batch.present.shape
    poses = model(batch.keypoints.flatten(0, 1), batch.given.flatten(0, 1)).view(samples, views, -1, 3)
    apart, weights = ([torch.zeros(()), torch.zeros(())] for _ in range(2))  # of reprojection and consistency
    for n in range(samples):
        known = (batch.keypoints[n, :, -1, :, 2] > 0).sum(0) >= 2
        points = [[project(poses[n, i], batch, n, i, j) for i in range(views)] for j in range(views)]
        for j in range(views):
            trust = batch.keypoints[n, j, -1, :, 2] * known
            for i in range(views):
                add(apart, weights, 0, points[j][i] - batch.rays[n, j] * batch.zoom[n, j], trust * batch.present[n, i])
            for a, b in itertools.combinations(range(views), 2):
                both = torch.minimum(batch.present[n, a], batch.present[n, b])
                add(apart, weights, 1, points[j][a] - points[j][b], trust * both)
    return apart[0] / weights[0] + apart[1] / weights[1]


def project(pose: Tensor, batch: Batch, n: int, i: int, j: int) -> Tensor:
    """(joints, 2): a pose (joints, 3) of view i in the image of view j, of width 1 and clamped."""
    world = (pose - batch.t[n, i]) @ batch.R[n, i]
    local = world @ batch.R[n, j].T + batch.t[n, j]
    depth = torch.where(local[:, 2:].abs() < TINY_DEPTH_M, TINY_DEPTH_M, local[:, 2:])
    return (local[:, :2] / depth).clamp(-CLAMPED, CLAMPED) * batch.zoom[n, j]


def add(apart: list[Tensor], weights: list[Tensor], term: int, difference: Tensor, weight: Tensor) -> None:
    apart[term] = apart[term] + (weight * (difference.square().sum(-1) + TINY_M2).sqrt()).sum()
    weights[term] = weights[term] + weight.sum()


class Trainee:
    """A lifter, its optimiser and its examples; steps of any loss are timed on it."""

    def __init__(self, data_of: Callable[[TrainSettings], Examples], settings: TrainSettings) -> None:
        torch.manual_seed(0)
        self.settings = settings
        self.examples = data_of(settings)
        self.model = build_model(settings).train()
        self.optimiser = torch.optim.Adam(self.model.parameters(), fused=True)

    def step(self, loss: Callable[[], Tensor]) -> float:
        started = time.perf_counter()
        value = loss()
        self.optimiser.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return time.perf_counter() - started

    def network(self, index: Tensor) -> float:
        """Seconds of forward and backward alone, on a step's examples."""
        if self.settings.targeted:
            keypoints, intrinsics, _ = self.examples.draw(index)
        else:
            batch = self.examples.data.batch(index)
            keypoints, intrinsics = batch.keypoints[batch.present], batch.given[batch.present]
        started = time.perf_counter()
        self.examples.lift(self.model, keypoints, intrinsics).sum().backward()  # type: ignore[no-untyped-call]
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    sessions = list(film(clips(6.0, 60.0, 2, 0), studio_rig(), StudioSettings(noise_px=4.0)))
    reported = TrainSettings(
        width=options.width, batch=options.batch, model="original", loss="report", camera_input="screen",
        virtual_views=0, trunk="dense", dropout=0.5,
    )  # fmt: skip
    kinds = {
        "vectorised fp32": reported,
        "vectorised bf16": replace(reported, precision="bf16"),
        "default bf16": TrainSettings(width=options.width, batch=options.batch, precision="bf16"),
    }
    trainees = {k: Trainee(lambda s: Examples(load_multiview(sessions, s), s), v) for k, v in kinds.items()}
    index = torch.arange(options.batch)
    loop = trainees["vectorised fp32"]
    batch = loop.examples.data.batch(index)
    check_equal(loop, batch, index)
    steps: dict[str, list[float]] = {"loop fp32": [], **{k: [] for k in kinds}}
    networks: dict[str, list[float]] = {k: [] for k in kinds}
    for _ in range(options.rounds):
        steps["loop fp32"].append(loop.step(lambda: looped_loss(loop.model, batch)))
        for kind, trainee in trainees.items():
            for _ in range(5):
                steps[kind].append(trainee.step(lambda t=trainee: t.examples.loss(t.model, index)))  # type: ignore[misc]
                networks[kind].append(trainee.network(index))
    median = {kind: statistics.median(times) for kind, times in steps.items()}
    result: dict[str, object] = {
        kind: {
            "frames_per_second": round(options.batch / seconds, 1),
            "times_the_loop": round(median["loop fp32"] / seconds, 2),
            "network_share": round(statistics.median(networks[kind]) / seconds, 3) if kind in networks else None,
        }
        for kind, seconds in median.items()
    } | {"width": options.width, "batch": options.batch, "threads": torch.get_num_threads()}
    path = options.output / f"throughput_w{options.width}_cpu_{date.today()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def check_equal(trainee: Trainee, batch: Batch, index: Tensor) -> None:
    model = trainee.model.eval()  # without dropout
    looped = looped_loss(model, batch).item()
    same = abs(trainee.examples.loss(model, index).item() - looped)
    model.train()
    assert same < 1e-5, f"the loop computes another loss ({same})"


if __name__ == "__main__":
    main()
