"""Label-free against labelled training of the same frame model, same data, same number of epochs.

python benchmarks/labels_vs_views.py --data ../shared/data --width 512 --epochs 30 -o benchmarks/results

Real motion (cmu17, `mix` left out) through Human3.6M's S9 rig, cameras 0-2, 20 fps, 6 s windows, 5 px noise; the given
test split by subject. Both runs differ in nothing but what they compare with: the views' rays, or the labels.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import date
from pathlib import Path

from edgelift.poses.motion import load_motion
from edgelift.poses.rigs import pick_cameras, read_rig
from edgelift.poses.sessions import Session
from edgelift.poses.studio import StudioSettings, film
from edgelift.runtime.evaluate import evaluate
from edgelift.trainer.checkpoint import load_checkpoint
from edgelift.trainer.fit import train
from edgelift.trainer.settings import Supervision, TrainSettings
from edgelift.trainer.validation import module_lift


def sessions(data: Path, split: str, seed: int, noise_px: float) -> list[Session]:
    cameras = pick_cameras(read_rig(f"{data / 'rigs.json'}:h36m_S9", None), "0,1,2")
    clips = load_motion(data / "mocap" / "cmu17.npz", split, ("mix",))
    return list(film(clips, cameras, StudioSettings(noise_px=noise_px, seed=seed)))


def run(supervision: Supervision, options: argparse.Namespace, training: list[Session], test: list[Session]) -> object:
    settings = TrainSettings(
        supervision=supervision, loss="reprojection" if supervision == "views" else "teacher", virtual_views=0.0,
        trunk="dense", dropout=0.1, width=options.width, epochs=options.epochs, seed=options.seed,
    )  # fmt: skip
    folder = options.keep / supervision if options.keep else Path(tempfile.mkdtemp())

    def tell(epoch: int, epochs: int, row: dict[str, float]) -> None:
        if epoch % 5 == 0 or epoch == epochs:
            print(f"{supervision} {epoch}/{epochs} {row}", flush=True)

    result = train(training, folder, settings, test, tell)
    model = load_checkpoint(folder).model()
    scores = evaluate(module_lift(model), test, settings.input)
    return {"settings": settings.to_dict(), "training": result.to_dict() | {"checkpoint": None}, "scores": scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--noise-px", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="keep the two runs in this folder")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the raw result")
    options = parser.parse_args()
    training = sessions(options.data, "train", 0, options.noise_px)
    test = sessions(options.data, "test", 1, options.noise_px)
    rows = {s: run(s, options, training, test) for s in ("views", "poses")}
    options.output.mkdir(parents=True, exist_ok=True)
    name = f"labels_vs_views_w{options.width}_e{options.epochs}_s{options.seed}_cpu_{date.today()}.json"
    path = options.output / name
    path.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
