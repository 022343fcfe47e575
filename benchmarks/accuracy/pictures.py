"""The pictures of docs/: lifters side by side on a take that none of them has seen, and the report's schedules.

python benchmarks/accuracy/pictures.py lifted --data ../shared/data --runs runs -o docs/lifted.gif
python benchmarks/accuracy/pictures.py schedules --results benchmarks/results/original_cmu17_w256_e20_cpu_DATE.json \\
  -o docs/schedules.png

`lifted` needs runs that run.py kept: M FOLD noisy labels_plain and views_best. The person is seen from the side, at a
right angle to the camera, where depth shows; grey is the truth, the number the frame's error, the root absolute.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from adaptation import KINDS, REHEARSED, takes
from matplotlib import pyplot
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from protocols import SEEN, Case, sessions, training_sessions

from edgelift.poses.cameras import Camera, camera_to_world
from edgelift.poses.metrics import mixed_mpjpe
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import Skeleton
from edgelift.poses.windows import LifterInput
from edgelift.runtime.evaluate import lift_views
from edgelift.trainer.adapt import adapt
from edgelift.trainer.checkpoint import load_checkpoint
from edgelift.trainer.models import Lifter
from edgelift.trainer.validation import module_lift

Float64 = NDArray[np.float64]
COLOURS = {"left": "#c33", "right": "#36c", "": "#333"}
FPS, REACH_M = 10, 1.05
MM_PER_M = 1000


def lifted(
    data: Path, runs: Path, fold: int, person: str, number: int, view: int
) -> tuple[Session, dict[str, Float64]]:
    """One later take of a person and its poses (frames, joints, 3), camera metres: three lifters', and the truth."""
    case = Case("M", fold, "noisy", "views_best")
    tests = [s.only(SEEN) for s in sessions(data, case, testing=True)]
    take, later = next(pair for who, pair in takes(tests).items() if who.startswith(person))
    labelled = load_checkpoint(runs / Case("M", fold, "noisy", "labels_plain").name)
    base = load_checkpoint(runs / case.name)
    others = training_sessions(data, case)[::REHEARSED]
    adapted = adapt(base, take, KINDS["later take, all views, rehearsed"][1], rehearse=others).model
    models = {"with 3D labels": labelled.model(), "label-free": base.model(), "label-free, adapted": adapted}
    shown = later[number]
    return shown, poses_of(models, base.settings.input, shown, view)


def poses_of(models: dict[str, Lifter], fed: LifterInput, session: Session, view: int) -> dict[str, Float64]:
    found, name = {}, session.camera_names[view]
    for label, model in models.items():
        (lift,) = lift_views(module_lift(model), session, fed, (name,))
        found[label], found["truth"] = lift.predicted.astype(np.float64), lift.reference
    return found | {"truth": found.pop("truth")}


def from_the_side(poses: Float64, origin: Float64, camera: Camera) -> Float64:
    """(frames, joints, 2) metres: along the camera's depth on the floor, and up; seen from its right."""
    world = camera_to_world(poses, camera) - camera_to_world(origin, camera)
    depth = camera.R[2] * (1, 1, 0)
    return np.stack([world @ (depth / np.linalg.norm(depth)), world[..., 2]], -1)


class Figure:
    """A stick figure on an axis, redrawn frame by frame."""

    def __init__(self, axis: Axes, owner: Skeleton, grey: bool = False) -> None:
        self.bones = [(a, b) for a, b in owner.bones]
        names = owner.joints
        sides = [names[b].split("_")[0] if "_" in names[b] else "" for _, b in self.bones]
        self.lines = [
            axis.plot([], [], color="#bbb" if grey else COLOURS.get(side, COLOURS[""]), lw=3 if grey else 1.8)[0]
            for side in sides
        ]

    def draw(self, points: Float64) -> None:
        for line, (a, b) in zip(self.lines, self.bones, strict=True):
            line.set_data(points[[a, b], 0], points[[a, b], 1])


def animate(session: Session, poses: dict[str, Float64], view: int, output: Path) -> None:
    owner, camera = session.skeleton, session.rig[view]
    truth = poses["truth"]
    origin = truth[:, owner.root : owner.root + 1]
    figure, axes = pyplot.subplots(1, 1 + len(poses), figsize=(2 * (1 + len(poses)), 2.5), layout="constrained")
    for axis in axes:
        axis.set(xticks=[], yticks=[], aspect="equal", xlim=(-REACH_M, REACH_M), ylim=(-REACH_M, REACH_M))
    keypoints = session.keypoints[view].astype(np.float64)
    pixels = np.where(keypoints[..., 2:] > 0, keypoints[..., :2], np.nan)
    low, high = np.nanmin(pixels, (0, 1)), np.nanmax(pixels, (0, 1))
    middle, half = (low + high) / 2, (high - low).max() / 2 * 1.05
    axes[0].set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] + half, middle[1] - half))
    axes[0].set_title("input", fontsize=9)
    given = Figure(axes[0], owner)
    behind = [Figure(axis, owner, grey=True) for axis in axes[1:-1]]
    front = [Figure(axis, owner) for axis in axes[1:]]
    side = {name: from_the_side(p, origin, camera) for name, p in poses.items()}
    for axis, name in zip(axes[1:], poses, strict=True):
        axis.set_title(name, fontsize=9)
    notes = [axis.text(0, -1.03, "", ha="center", fontsize=8) for axis in axes[1:-1]]
    stride = max(1, round(1 / FPS / float(np.median(np.diff(session.timestamps)))))

    def draw(frame: int) -> list[object]:
        given.draw(pixels[frame])
        for grey in behind:
            grey.draw(side["truth"][frame])
        for stick, points in zip(front, side.values(), strict=True):
            stick.draw(points[frame])
        for note, name in zip(notes, poses, strict=False):
            error = mixed_mpjpe(poses[name][[frame]], truth[[frame]], owner.root)
            note.set_text(f"{error:.0f} mm")
        return []

    frames = range(0, len(truth), stride)
    FuncAnimation(figure, draw, frames=frames, blit=False).save(output, PillowWriter(fps=FPS), dpi=80)  # type: ignore[arg-type]
    pyplot.close(figure)


def schedules(results: Path, output: Path) -> None:
    """Error on the test views by epoch, a line a frame model of Table 1."""
    rows = [row for row in json.loads(results.read_text()) if row.get("curve")]
    figure, axis = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for row in rows:
        epochs, errors = zip(*row["curve"], strict=True)
        axis.plot(epochs, errors, label=f"{row['row']}: {errors[-1]:.0f}", lw=1.6)
    axis.set(xlabel="epoch", ylabel="MPJPE on the test views, mm (absolute)", yscale="log")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for marks in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        marks("{x:.0f}")
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=8)
    figure.savefig(output, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", choices=("lifted", "schedules"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path, help="what run.py kept")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--person", default="02")
    parser.add_argument("--take", type=int, default=0, help="which of the person's later sessions")
    parser.add_argument("--view", type=int, default=0)
    parser.add_argument("--results", type=Path, help="what original.py wrote")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    if options.picture == "schedules":
        schedules(options.results, options.output)
    else:
        session, poses = lifted(options.data, options.runs, options.fold, options.person, options.take, options.view)
        truth, root = poses["truth"], session.skeleton.root
        for name, found in poses.items():
            print(f"{mixed_mpjpe(found, truth, root):6.1f} mm  {name}, {session.name}")
        animate(session, poses, options.view, options.output)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
