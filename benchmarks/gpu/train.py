"""Training on the GPU beside the CPU of the same machine, in one run: the same loss, the accuracy, the throughput.

python benchmarks/gpu/train.py -o benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from edgelift.poses.person import clips
from edgelift.poses.sessions import Session
from edgelift.poses.studio import StudioSettings, film, studio_rig
from edgelift.trainer.data import load_multiview
from edgelift.trainer.fit import Examples, train
from edgelift.trainer.models import build_model
from edgelift.trainer.settings import TrainSettings

LOSS_TOLERANCE = 1e-4  # relative, between devices in FP32


def first_loss(sessions: list[Session], settings: TrainSettings, device: str) -> float:
    """Loss of one batch with the same untrained weights."""
    torch.manual_seed(settings.seed)
    model = build_model(replace(settings, dropout=0.0)).to(device).train()
    data = load_multiview(sessions, settings).to(device)
    return Examples(data, settings).loss(model, torch.arange(settings.batch, device=device)).item()


def people(count: int, seed: int) -> list[Session]:
    return list(film(clips(12.0, 60.0, count, seed), studio_rig(), StudioSettings(noise_px=4.0, seed=seed)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--devices", nargs=2, default=["cpu", "cuda"])
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    settings = TrainSettings(width=options.width, epochs=options.epochs)
    training, test = people(24, 0), people(3, 1000)
    real = replace(settings, virtual_views=0)  # every device has random numbers of its own
    losses = [first_loss(training, real, device) for device in options.devices]
    assert abs(losses[0] - losses[1]) < LOSS_TOLERANCE * losses[0], f"the devices compute another loss: {losses}"
    rows: dict[str, Any] = {"width": options.width, "epochs": options.epochs, "torch": torch.__version__}
    for device in options.devices:
        with tempfile.TemporaryDirectory() as run:
            result = train(training, Path(run), settings, test, device=device)
        rows[device] = {
            "frames_per_second": result.to_dict()["frames_per_second"], "validation_mpjpe_mm": result.validation[-1][1],
        }  # fmt: skip
    first, second = (rows[device]["frames_per_second"] for device in options.devices)
    rows["ratio"] = round(second / first, 2)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    path = options.output / f"train_{name.replace(' ', '_')}_{date.today()}.json"
    path.write_text(json.dumps(rows, indent=1) + "\n")
    print(rows)


if __name__ == "__main__":
    main()
