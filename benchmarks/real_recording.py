"""The real recording: convert, lift every view, distance to the 4-view triangulation; a picture of some frames.

python benchmarks/real_recording.py --data ../shared/data --run RUN -o benchmarks/results

RUN is a training run (for instance what labels_vs_views.py --keep leaves). There is no independent truth for this
recording: every figure is a distance to the triangulation of all four views.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path

import numpy as np
from matplotlib import pyplot

from edgelift.poses.conversion import match_rig
from edgelift.poses.formats.openpose import read_openpose
from edgelift.poses.recordings import choose_person
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import Skeleton, skeleton
from edgelift.runtime.evaluate import Lifted, evaluate, lift_views
from edgelift.trainer.checkpoint import load_checkpoint
from edgelift.trainer.validation import module_lift


def recording(data: Path) -> Session:
    read = read_openpose(data / "pose2sim" / "BalancingTrial", skeleton("body25b"), 60.0)
    session, _ = choose_person(read, match_rig(read, str(data / "pose2sim" / "Calib.toml"), "m", ()))
    return session


def picture(lifted: list[Lifted], target: Skeleton, path: Path) -> None:
    """Root-relative pose of each view (colour) over the triangulation (grey), two frames, as the camera sees it."""
    figure, axes = pyplot.subplots(2, len(lifted), figsize=(3 * len(lifted), 7))
    for column, view in zip(axes.T, lifted, strict=True):
        for axis, frame in zip(column, (10, 70), strict=True):
            for poses, colour in ((view.reference, "0.6"), (view.predicted, "C0")):
                pose = poses[frame] - poses[frame, target.root]
                for parent, child in target.bones:
                    axis.plot(pose[[parent, child], 0], -pose[[parent, child], 1], color=colour)
            axis.set(title=f"{view.camera}, frame {frame}", aspect="equal", xlim=(-0.8, 0.8), ylim=(-1.1, 0.9))
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--picture", type=Path, help="PNG to draw")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.run)
    fed, lift = checkpoint.settings.input, module_lift(checkpoint.model())
    session = recording(options.data)
    rows = {
        name: evaluate(lift, [session], fed, names)
        for name, names in {"all": (), **{n: (n,) for n in session.camera_names}}.items()
    }
    lifted = lift_views(lift, session, fed)
    if options.picture:
        picture(lifted, fed.skeleton, options.picture)
    path = options.output / f"real_recording_{options.run.name}_cpu_{date.today()}.json"
    path.write_text(json.dumps(rows, indent=1) + "\n")
    for name, row in rows.items():
        print(name, {k: round(v, 1) for k, v in row.items() if isinstance(v, float)})
    print("per joint", {k: round(float(np.float64(v)), 0) for k, v in rows["all"]["per_joint_mm"].items()})


if __name__ == "__main__":
    main()
