"""A lifter it is handed, to a bundle."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import save as numpy_bytes  # to bytes: its own writing says little of a full disk
from safetensors.torch import save as torch_bytes
from torch import nn

from edgelift.export.onnx_graph import PARITY_BATCHES, export_onnx, graph_facts, graph_inputs, parity_mm
from edgelift.poses.windows import LifterInput
from edgelift.runtime.bundle import ONNX, REFERENCE, REFIT, WEIGHTS, Bundle, write_bundle


@dataclass(frozen=True, eq=False)
class Reference:
    """Held-out input that a bundle keeps: keypoints (n, frames, joints, 3), intrinsics (n, 4), poses (n, joints, 3).

    poses are the world-free truth in the camera's frame, metres, NaN where nobody knows it.
    """

    keypoints: NDArray[np.float32]
    intrinsics: NDArray[np.float32]
    poses: NDArray[np.float32]


def export_bundle(
    model: nn.Module,
    path: Path,
    fed: LifterInput,
    reference: Reference,
    training: dict[str, Any],
    kept: Sequence[Path] = (),
    lineage: dict[str, Any] | None = None,
) -> Bundle:
    """Write graph, weights, initializers and reference set; check parity on the reference input; seal with hashes.

    kept: files that later adaptations use, put into the bundle as they are, if they are there. lineage: `parent` and
    `refresh` of the manifest, where the lifter was adapted from another one.
    """
    manifest: dict[str, Any] = {
        "skeleton": fed.skeleton.name,
        "joints": list(fed.skeleton.joints),
        "frames": fed.frames,
        "frame_interval_s": fed.frame_interval_s,
        "camera_input": fed.camera_input,
        "units": "m",
        "training": training,
        "versions": {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        **(lineage or {"parent": None, "refresh": None}),
    }

    def fill(folder: Path) -> None:
        graph = folder / ONNX
        proto = export_onnx(model, fed.frames, len(fed.skeleton.joints), graph)
        worst = parity_mm(model, graph, reference.keypoints, reference.intrinsics)
        manifest["opset"] = proto.opset_import[0].version
        manifest["graph"] = graph_facts(proto, list(model.state_dict()))
        manifest["parity"] = {"worst_joint_mm": worst, "windows": len(reference.keypoints), "batches": PARITY_BATCHES}
        manifest["inputs"] = graph_inputs(proto)
        (folder / WEIGHTS).write_bytes(torch_bytes({k: v.contiguous() for k, v in model.state_dict().items()}))
        (folder / REFIT).write_bytes(numpy_bytes(weights_of(proto, manifest["graph"]["parameters"])))
        np.savez_compressed(
            folder / REFERENCE,
            keypoints=reference.keypoints, intrinsics=reference.intrinsics, poses=reference.poses,
        )  # fmt: skip
        for file in kept:
            if file.is_file():
                shutil.copyfile(file, folder / file.name)

    return write_bundle(path, manifest, fill)


def weights_of(proto: onnx.ModelProto, parameters: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return the graph's weights by initializer name, batch norm folded in: what a refit replaces."""
    tensors = {t.name: t for t in proto.graph.initializer}
    return {name: np.array(numpy_helper.to_array(tensors[name])) for name in parameters}
