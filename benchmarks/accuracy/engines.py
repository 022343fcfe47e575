"""Every kind of lifter in every precision for every target: is it built, how large, and how far do its poses move?

Runs: cd benchmarks/accuracy; python run.py M 0 noisy RECIPE --data ../../../shared/data --keep RUNS/RECIPE -o RESULTS
Then: python benchmarks/accuracy/engines.py --data ../shared/data --runs RUNS -o benchmarks/results

Engines are real TensorRT-RTX ones and are not executed; displacement is of their graphs, by ONNX Runtime on the CPU,
from PyTorch, on windows of test people whom neither training nor calibration has seen.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from protocols import SEEN, Case, sessions

from edgelift.calibration.ranges import Ranges
from edgelift.export.judge import lift
from edgelift.export.reduced import calibrate, keep_graph
from edgelift.poses.cameras import world_to_camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session
from edgelift.runtime.attachments import attachments
from edgelift.runtime.budget import BUDGETS, change
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.engines.build import BuildSettings, build_plan
from edgelift.runtime.engines.plan import read_header
from edgelift.trainer.checkpoint import load_checkpoint
from edgelift.trainer.deploy import export_run

CASE = Case("M", 0, "noisy", "views_best")
TARGETS = ("sm_80", "sm_86", "sm_89", "sm_120")
Arrays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def windows(bundle: Bundle, tests: list[Session]) -> Arrays:
    """Keypoints, intrinsics and truth of every view and frame that shows somebody."""
    fed, parts = bundle.input, []
    for session in (s.to_skeleton(fed.skeleton) for s in tests):
        assert session.poses is not None
        for view, camera in enumerate(session.rig):
            cut = fed.windows(session, view)
            intrinsics = np.tile(fed.intrinsics(camera, camera.size), (len(cut), 1))
            somebody = np.any(cut[:, -1, :, 2] > 0, axis=1)
            truth = world_to_camera(session.poses, camera).astype(np.float32)
            parts.append((cut[somebody], intrinsics[somebody], truth[somebody]))
    keypoints, intrinsics, truth = (np.concatenate(column) for column in zip(*parts, strict=True))
    return keypoints, intrinsics, truth


def rows_of(bundle: Bundle, run: Path, ranges: Ranges, given: Arrays) -> list[dict[str, Any]]:
    """One row a precision and target; refused ones are kept by force and say so."""
    keypoints, intrinsics, truth = given
    model = load_checkpoint(run).model().eval()
    with torch.inference_mode():
        parts = (slice(i, i + 1024) for i in range(0, len(keypoints), 1024))
        torch_poses = np.concatenate(
            [model(torch.from_numpy(keypoints[p]), torch.from_numpy(intrinsics[p])).numpy() for p in parts]
        )
    rows = []
    for precision in ("fp32", "fp16", "int8", "fp8"):
        graph, refused = graph_of(bundle, precision, ranges)
        moved = change(torch_poses, lift(graph, keypoints, intrinsics, "ORT_ENABLE_BASIC"), truth)
        head = {"run": run.name, "precision": precision, "windows": len(keypoints), "refused": refused} | asdict(moved)
        rows += [head | built(graph, precision, target) for target in TARGETS]
        print(run.name, precision, moved, refused or "", flush=True)
    return rows


def graph_of(bundle: Bundle, precision: str, ranges: Ranges) -> tuple[bytes, str | None]:
    if precision == "fp32":
        return bundle.onnx.read_bytes(), None
    refused = None
    try:
        made = keep_graph(bundle, precision, ranges, BUDGETS[precision])
    except EdgeliftError as error:
        refused = error.received
        made = keep_graph(bundle, precision, ranges, BUDGETS[precision], force=True)
    return made.read(), refused


def built(graph: bytes, precision: str, target: str) -> dict[str, Any]:
    try:
        made = build_plan(graph, BuildSettings("rtx", precision, (target,)), precision)
    except EdgeliftError as error:
        return {"target": target, "built": False, "reason": error.received}
    header = read_header(made.plan, precision)
    return {
        "target": target, "built": True, "version": header.version, "plan_bytes": len(made.plan),
        "build_seconds": round(made.seconds, 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True, help="folder of folders of runs")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    tests = [s.only(SEEN) for s in sessions(options.data, CASE, testing=True)]
    observed = [s.only(SEEN) for s in sessions(options.data, CASE, testing=False)[::8]]
    rows: list[dict[str, Any]] = []
    methods = {}
    for run in sorted(p.parent for p in options.runs.glob("*/*/checkpoint.safetensors")):
        with tempfile.TemporaryDirectory() as scratch:
            bundle = export_run(run, Path(scratch) / "bundle")
            made = rows_of(bundle, run, calibrate(bundle, observed), windows(bundle, tests))
            methods[run.parent.name] = {
                a.facts["precision"]: a.facts.get("ranges") for a in attachments(bundle, "graphs")
            }
        rows += [row | {"run": run.parent.name} for row in made]
    path = options.output / f"engines_cpu_{date.today()}.json"
    path.write_text(json.dumps({"rows": rows, "ranges": methods}, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
