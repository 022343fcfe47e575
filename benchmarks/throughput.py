"""Training throughput beside a plain per-sample loop, same cores, interleaved in one run; and what a step spends where.

python benchmarks/throughput.py -o benchmarks/results

The loop lifts a whole batch at once, as the trainer does, and then goes through samples and view pairs in Python, in
fp32, as the original did. Beside it: the same loss vectorised, in fp32 and with bf16 autocast, and the default
training (teacher and virtual views, bf16). `network_share`: time of the lifter's own forward and backward pass on the
very examples of a step, over the time of the whole step (drawing the examples, loss and optimiser included).
"""

from __future__ import annotations

import argparse
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
from edgelift.trainer.losses import TINY_M2
from edgelift.trainer.models import Lifter, build_model
from edgelift.trainer.settings import TrainSettings


def looped_loss(model: Lifter, batch: Batch, root_weight: float) -> Tensor:
    """reprojection_loss, one sample and one view pair at a time."""
    samples, views = batch.present.shape
    poses = model(batch.keypoints.flatten(0, 1), batch.given.flatten(0, 1)).view(samples, views, -1, 3)
    root = model.root
    sums = [torch.zeros(()) for _ in range(4)]  # root, its weight, pose, its weight
    for n in range(samples):
        for i in range(views):
            world = (poses[n, i] - batch.t[n, i]) @ batch.R[n, i]
            for j in range(views):
                local = world @ batch.R[n, j].T + batch.t[n, j]
                seen = batch.keypoints[n, j, -1]
                residual = local[:, :2] - local[:, 2:] * batch.rays[n, j]
                trust = seen[:, 2] * batch.present[n, i]
                shared = torch.minimum(trust, trust[root])
                sums[0] = sums[0] + trust[root] * (residual[root].square().sum() + TINY_M2).sqrt()
                sums[1] = sums[1] + trust[root]
                relative = ((residual - residual[root]).square().sum(-1) + TINY_M2).sqrt()
                sums[2] = sums[2] + (shared * relative).sum()
                sums[3] = sums[3] + shared.sum()
    return sums[2] / sums[3] + root_weight * sums[0] / sums[1]


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
    plain = TrainSettings(
        width=options.width, batch=options.batch, loss="reprojection", virtual_views=0, trunk="dense", dropout=0.1
    )
    kinds = {
        "vectorised fp32": plain,
        "vectorised bf16": replace(plain, precision="bf16"),
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
        steps["loop fp32"].append(loop.step(lambda: looped_loss(loop.model, batch, plain.root_weight)))
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
    looped = looped_loss(model, batch, trainee.settings.root_weight).item()
    same = abs(trainee.examples.loss(model, index).item() - looped)
    model.train()
    assert same < 1e-5, f"the loop computes another loss ({same})"


if __name__ == "__main__":
    main()
