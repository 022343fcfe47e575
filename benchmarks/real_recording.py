"""The real recording: `convert`, `lift` of every view, distance to the 4-view triangulation; a picture of some frames.

python benchmarks/real_recording.py --data ../shared/data --bundle BUNDLE -o benchmarks/results

There is no independent truth for this recording: every figure is a distance to the triangulation of all four views.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from matplotlib import pyplot
from numpy.typing import NDArray

from edgelift.poses.cameras import world_to_camera
from edgelift.poses.metrics import score
from edgelift.poses.sessions import load_session
from edgelift.poses.skeletons import Skeleton
from edgelift.runtime.bundle import load_bundle
from edgelift.trainer.demo import read_poses

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Lifted:
    """One view: what `lift` wrote and the triangulation, (frames, joints, 3) metres in the camera's frame."""

    camera: str
    lifted: Float64
    reference: Float64


def edgelift(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "edgelift.cli", *map(str, words)], check=True)


def convert_and_lift(data: Path, bundle: Path, skeleton: Skeleton, work: Path) -> list[Lifted]:
    folder, take = data / "pose2sim", work / "balancing.npz"
    known = ("--cameras", folder / "Calib.toml", "--units", "m", "--skeleton", "body25b", "--fps", 60)
    edgelift("convert", folder / "BalancingTrial", "--format", "openpose", *known, "-o", take)
    session = load_session(take).to_skeleton(skeleton)
    world = session.triangulate()[0]
    views = []
    for camera in session.rig:
        sink = work / f"{camera.name}.jsonl"
        edgelift("lift", bundle, "--source", take, "--camera", camera.name, "--sink", sink, "--fast")
        lifted = read_poses(sink, len(world), len(skeleton.joints))
        views.append(Lifted(camera.name, lifted, world_to_camera(world, camera)))
    return views


def picture(views: list[Lifted], target: Skeleton, path: Path) -> None:
    """Root-relative pose of each view (colour) over the triangulation (grey), two frames, as the camera sees it."""
    figure, axes = pyplot.subplots(2, len(views), figsize=(3 * len(views), 7))
    for column, view in zip(axes.T, views, strict=True):
        for axis, frame in zip(column, (10, 70), strict=True):
            for poses, colour in ((view.reference, "0.6"), (view.lifted, "C0")):
                pose = poses[frame] - poses[frame, target.root]
                for parent, child in target.bones:
                    axis.plot(pose[[parent, child], 0], -pose[[parent, child], 1], color=colour)
            axis.set(title=f"{view.camera}, frame {frame}", aspect="equal", xlim=(-0.8, 0.8), ylim=(-1.1, 0.9))
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--picture", type=Path, help="PNG to draw")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    target = load_bundle(options.bundle).skeleton
    with tempfile.TemporaryDirectory() as work:
        views = convert_and_lift(options.data, options.bundle, target, Path(work))
    groups = {"all": views} | {view.camera: [view] for view in views}
    rows = {}
    for name, group in groups.items():
        seams = np.repeat(np.arange(len(group)), [len(v.lifted) for v in group])
        lifted, reference = (np.concatenate([getattr(v, key) for v in group]) for key in ("lifted", "reference"))
        rows[name] = score(lifted, reference, target, seams).to_dict()
    if options.picture:
        picture(views, target, options.picture)
    path = options.output / f"real_recording_{options.bundle.name}_cpu_{date.today()}.json"
    path.write_text(json.dumps(rows, indent=1) + "\n")
    for name, row in rows.items():
        print(name, {k: round(v, 1) for k, v in row.items() if isinstance(v, float)})
    print("per joint", {k: round(v) for k, v in rows["all"]["per_joint_mm"].items()})


if __name__ == "__main__":
    main()
