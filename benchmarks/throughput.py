"""Training throughput beside a plain per-sample loop of the same loss, same cores, interleaved in one run.

python benchmarks/throughput.py -o benchmarks/results

The loop lifts a whole batch at once, as the trainer does, and then goes through samples and view pairs in Python.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from edgelift.poses.person import clips
from edgelift.poses.studio import StudioSettings, film, studio_rig
from edgelift.trainer.data import Batch, load_multiview
from edgelift.trainer.fit import batch_loss
from edgelift.trainer.losses import TINY_M2
from edgelift.trainer.models import FrameLifter, build_model
from edgelift.trainer.settings import TrainSettings


def looped_loss(model: FrameLifter, batch: Batch, settings: TrainSettings) -> Tensor:
    """views_loss, one sample and one view pair at a time."""
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
    return sums[2] / sums[3] + settings.root_weight * sums[0] / sums[1]


def step(loss: Callable[[FrameLifter, Batch, TrainSettings], Tensor], model: FrameLifter, batch: Batch,
         optimiser: torch.optim.Optimizer, settings: TrainSettings) -> float:  # fmt: skip
    started = time.perf_counter()
    optimiser.zero_grad(set_to_none=True)
    loss(model, batch, settings).backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    settings = TrainSettings(width=options.width, batch=options.batch, dropout=0.0)
    sessions = list(film(clips(6.0, 60.0, 2, 0), studio_rig(), StudioSettings(noise_px=4.0)))
    data = load_multiview(sessions, settings)
    batch = data.batch(torch.arange(options.batch))
    model = build_model(settings).train()
    optimiser = torch.optim.Adam(model.parameters())
    same = abs(batch_loss(model, batch, settings).item() - looped_loss(model, batch, settings).item())
    assert same < 1e-5, f"the loop computes another loss ({same})"
    times: dict[str, list[float]] = {"vectorised": [], "loop": []}
    for _ in range(options.rounds):
        times["loop"].append(step(looped_loss, model, batch, optimiser, settings))
        times["vectorised"] += [step(batch_loss, model, batch, optimiser, settings) for _ in range(5)]
    result = {
        name: {"frames_per_second": round(options.batch / statistics.median(t), 1)} for name, t in times.items()
    } | {"width": options.width, "batch": options.batch, "threads": torch.get_num_threads()}  # fmt: skip
    result["ratio"] = round(statistics.median(times["loop"]) / statistics.median(times["vectorised"]), 2)
    path = options.output / f"throughput_w{options.width}_cpu_{date.today()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(result)


if __name__ == "__main__":
    main()
