"""The lifters of check.py: given bundles, or ones trained here for a moment; and the same graph with other weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.person import clips
from edgelift.poses.sessions import Session
from edgelift.poses.studio import StudioSettings, film, studio_rig
from edgelift.runtime.attachments import find
from edgelift.runtime.bundle import ADDED, MANIFEST, ONNX, REFIT, Bundle, load_bundle, write_bundle

Parts = Iterator[tuple[str, Callable[[], Any]]]
TRAINED = {"frame": ("frame", 1, 1024), "narrow": ("frame", 1, 512), "tcn": ("tcn", 27, 512)}  # kind, frames, width
OTHER = "other"
REDUCED = ("fp16", "int8", "fp8")
LEAST_BYTES = 64  # shorter weights may stand in a file twice
MOVED = 0.02


def lifters(home: Path, quick: bool) -> Parts:
    """Bundles to work with and their reduced graphs, by force: this is not about accuracy."""
    given = [Path(path) for path in json.loads((home / "given.json").read_text())]
    names = [f"{number}_{path.name}" for number, path in enumerate(given)] or list(TRAINED)
    for name, path in zip(names, given, strict=False):
        yield name, partial(_copied, path, home / "lifters" / name)
    for name in names[len(given) :]:
        yield name, partial(_trained, home, name, quick)
    yield OTHER, partial(_other, home, names[0])
    for name in names:
        for precision in REDUCED:
            yield f"{name} {precision}", partial(_reduced, home, name, precision)


def bundles(home: Path) -> dict[str, Bundle]:
    """The lifters that there are, by name, the main one first; EdgeliftError where there is none."""
    folders = sorted((home / "lifters").glob("*/" + MANIFEST))
    if not folders:
        raise EdgeliftError("lifters", "none", "a bundle", "See the section lifters.")
    return {path.parent.name: load_bundle(path.parent) for path in folders}


def main_bundle(home: Path) -> Bundle:
    """The lifter that most is asked of."""
    return next(iter(bundles(home).values()))


def scratch(source: Bundle, folder: Path) -> Bundle:
    """A copy of a bundle without its engines, to build particular ones in."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source.path, folder, ignore=shutil.ignore_patterns("engines"))
    return load_bundle(folder)


def _copied(path: Path, target: Path) -> dict[str, Any]:
    return _facts(scratch(load_bundle(path), target)) | {"given": path.name}


def _facts(bundle: Bundle) -> dict[str, Any]:
    weights = set(bundle.manifest["graph"]["parameters"])
    shapes = [shape for name, _, shape in bundle.manifest["graph"]["initializers"] if name in weights]
    return {
        "frames": bundle.input.frames, "weights": int(sum(np.prod(shape) for shape in shapes)),
        "windows": len(bundle.reference()["keypoints"]),
    }  # fmt: skip


def people(subjects: int, seed: int) -> list[Session]:
    """The embedded person, filmed by three cameras with noise and gaps."""
    settings = StudioSettings(noise_px=4.0, missing=0.05, seed=seed)
    return list(film(clips(6.0, 60.0, subjects, seed), studio_rig(), settings))


def _trained(home: Path, name: str, quick: bool) -> dict[str, Any]:
    import torch

    from edgelift.trainer.deploy import export_run
    from edgelift.trainer.fit import train
    from edgelift.trainer.settings import TrainSettings

    kind, frames, width = TRAINED[name]
    settings = TrainSettings(  # labels: reconstructing a teacher takes longer than all the rest
        model=kind,  # type: ignore[arg-type]
        frames=frames, width=64 if quick else width, epochs=1 if quick else 6, supervision="poses", virtual_views=0.0,
    )  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = home / "runs" / name
    train(people(2 if quick else 6, 0), run, settings, people(1, 1000), device=device)
    bundle = export_run(run, home / "lifters" / name)
    return _facts(bundle) | {"width": settings.width, "epochs": settings.epochs, "trained_on": device}


def _reduced(home: Path, name: str, precision: str) -> dict[str, Any]:
    bundle = load_bundle(home / "lifters" / name)
    graphs = find(bundle, "graphs", lambda facts: facts["precision"] == precision)
    if not graphs:
        from edgelift.export.additions import Addition, add

        ranges = None if precision == "fp16" else _ranges(home, bundle)
        graphs = add(bundle, Addition(precision=precision, ranges=ranges, force=True))
    facts = graphs[0].facts
    return {key: facts.get(key) for key in ("graph_parity", "budget", "forced", "quantise_nodes", "bytes")}


def _ranges(home: Path, bundle: Bundle) -> Path:
    from edgelift.export.reduced import calibrate

    folder = home / "ranges" / bundle.path.name
    if not folder.is_dir():
        calibrate(bundle, people(1, 0)).save(folder)
    return folder


def _other(home: Path, name: str) -> dict[str, Any]:
    """The main lifter's graph with other weights: a given bundle's, or its own, moved at random."""
    main = load_bundle(home / "lifters" / name)
    for bundle in list(bundles(home).values())[1:]:
        same = bundle.manifest["graph"]["signature"] == main.manifest["graph"]["signature"]
        if same and bundle.manifest["files"][REFIT] != main.manifest["files"][REFIT]:
            shutil.copytree(bundle.path, home / OTHER, ignore=shutil.ignore_patterns(*ADDED))
            return {"weights_of": bundle.path.name}
    return moved(main, home / OTHER)


def moved(bundle: Bundle, path: Path) -> dict[str, Any]:
    """Write a bundle of the same graph with weights moved at random; needs neither torch nor onnx.

    Weights are replaced in the file of the graph, byte for byte. Its truth is the old one's: only poses of its own CPU
    graph are to be compared with it. Returns how many weights' names moved, and how many stayed.
    """
    from safetensors.numpy import load_file, save_file

    rng = np.random.default_rng(0)
    graph, weights, stayed = bundle.onnx.read_bytes(), load_file(bundle.path / REFIT), 0
    for name, values in weights.items():
        old = values.tobytes()
        if len(old) < LEAST_BYTES or graph.count(old) != 1:
            stayed += 1
            continue
        weights[name] = (values * (1 + MOVED * rng.standard_normal(values.shape))).astype(values.dtype)
        graph = graph.replace(old, weights[name].tobytes())
    if stayed == len(weights):
        raise EdgeliftError(str(bundle.path), "no weight found in its graph", "some", "Give a second --bundle.")

    def fill(folder: Path) -> None:
        for source in bundle.path.iterdir():
            if source.is_file() and source.name != MANIFEST:
                shutil.copy(source, folder)
        (folder / ONNX).write_bytes(graph)
        save_file(weights, folder / REFIT)

    manifest = {k: v for k, v in bundle.manifest.items() if k not in ("schema_version", "files", "seal")}
    write_bundle(path, manifest, fill)
    return {"weights_of": f"{bundle.path.name}, moved by {MOVED:.0%}", "moved": len(weights) - stayed, "stayed": stayed}
