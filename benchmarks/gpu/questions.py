"""What nobody could tell without a GPU: the parts of check.py that answer a question each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lifters import OTHER, Parts, main_bundle, scratch
from ran import PRECISIONS, Float32, build, engine_of, on_cpu, one_by_one, preload, ran, reference

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.attachments import Attachment, amend
from edgelift.runtime.backends import Backend, open_backend
from edgelift.runtime.backends.onnx_runtime import OnnxRuntimeCuda
from edgelift.runtime.backends.tensorrt import TensorRTBackend
from edgelift.runtime.bench import percentiles
from edgelift.runtime.budget import change
from edgelift.runtime.bundle import Bundle, load_bundle
from edgelift.runtime.cuda import Pycuda, find_gpu
from edgelift.runtime.engines.build import PORTABLE, TARGETS, BuildSettings
from edgelift.runtime.engines.flavours import load
from edgelift.runtime.engines.refit import EngineRefitter, constants_of, weights_for
from edgelift.runtime.engines.renew import renew
from edgelift.runtime.lifter import Lifter
from edgelift.runtime.slots import open_beside
from edgelift.runtime.speed import CALLS, ROUNDS, in_turns

BATCHES = 4  # of the live engine while the idle one is refitted
ENOUGH = 64  # windows for the question whose weights an engine has
Lift = Callable[[Float32, Float32], object]


# (a) TensorRT-RTX on GPUs that are not in its list


def targets(home: Path, quick: bool) -> Parts:
    """An engine for each target tried on purpose, whatever its sidecar says."""
    for target in (PORTABLE, *TARGETS[1:]):
        yield target, partial(_tried, home, target)
    yield "what TensorRT-RTX says of each", partial(_validity, home)


def _tried(home: Path, target: str) -> dict[str, Any]:
    find_gpu()
    bundle = scratch(main_bundle(home), home / f"target_{target}")
    build(bundle, BuildSettings("rtx", targets=() if target == PORTABLE else (target,)))
    claimed = amend(engine_of(bundle, "rtx", "fp32"), {"targets": [PORTABLE]})
    return ran(bundle, partial(TensorRTBackend, bundle, "rtx", engine=claimed))


def _validity(home: Path) -> dict[str, str]:
    """Runtime.get_engine_validity, which TensorRT-RTX alone has: (validity, reasons)."""
    find_gpu()
    trt: Any = load("rtx")
    cuda = Pycuda()
    with cuda:
        runtime = trt.api.Runtime(trt.logger)
        plans = {target: home / f"target_{target}" for target in (PORTABLE, *TARGETS[1:])}
        told = {
            target: str(runtime.get_engine_validity(engine_of(load_bundle(folder), "rtx", "fp32").read()))
            for target, folder in plans.items()
            if folder.is_dir()
        }
        del runtime
    cuda.close()
    return told


# (b), (c), (d) refit


def refit_parts(flavour: str, home: Path, quick: bool) -> Parts:
    """What a refittable engine lists, costs, and becomes."""
    for precision in ("fp32", "fp16"):
        yield f"{precision}: what it lists", partial(_listed, home, flavour, precision)
        yield f"{precision}: what refittable costs", partial(_tax, home, flavour, precision)
        yield f"{precision}: the old graph after a refit", partial(_old_graph, home, flavour, precision)
        yield f"{precision}: edgelift refit", partial(_renewed, home, flavour, precision)
        yield f"{precision}: a refit beside the live engine", partial(_beside, home, flavour, precision)


@contextmanager
def _refittable(home: Path, flavour: str, precision: str) -> Iterator[tuple[TensorRTBackend, Attachment]]:
    folder = home / f"refittable_{flavour}_{precision}"
    if not folder.is_dir():
        raise EdgeliftError(folder.name, "no bundle", "a built engine", f"See the section engines_{flavour}.")
    bundle = load_bundle(folder)
    engine = engine_of(bundle, flavour, precision)
    with TensorRTBackend(bundle, flavour, precision, engine=engine) as backend:
        yield backend, engine


def _listed(home: Path, flavour: str, precision: str) -> dict[str, Any]:
    """Does a build with REFIT drop biases: names, and poses before any refit."""
    bundle = main_bundle(home)
    windows, cameras, truth = reference(bundle)
    with _refittable(home, flavour, precision) as (backend, _):
        with backend.cuda:
            refitter = EngineRefitter(backend.trt, backend.engine)
            names, missing = refitter.names(), refitter.missing()
            del refitter
        poses = one_by_one(backend, windows, cameras)
    parameters = set(bundle.manifest["graph"]["parameters"])
    return {
        "parameters": len(parameters), "listed": len(names), "not_listed": sorted(parameters - names),
        "listed_constants": sorted((names - parameters) & constants_of(bundle)),
        "listed_unknown": sorted(names - parameters - constants_of(bundle)), "missing_before": sorted(missing),
        "unrefitted": asdict(change(on_cpu(bundle, windows, cameras), poses, truth)),
    }  # fmt: skip


def _tax(home: Path, flavour: str, precision: str) -> dict[str, Any]:
    bundle = main_bundle(home)
    windows, cameras, _ = reference(bundle)
    with (
        _refittable(home, flavour, precision) as (refittable, engine),
        open_backend(bundle, flavour, precision) as plain,
    ):
        told = ratios({"plain": plain, "refittable": refittable}, windows, cameras)
    built = engine_of(bundle, flavour, precision).facts["build_seconds"]
    return told | {"plain_build_s": built, "refittable_build_s": engine.facts["build_seconds"]}


def _old_graph(home: Path, flavour: str, precision: str) -> dict[str, Any]:
    """Refit what it lists of the new weights, launch the graph captured before, then capture anew."""
    new = load_bundle(home / OTHER)
    windows, cameras, _ = (array[:ENOUGH] for array in reference(new))
    after = on_cpu(new, windows, cameras)
    with _refittable(home, flavour, precision) as (backend, engine):
        before = one_by_one(backend, windows, cameras)
        told = _refitted(backend, weights_for(engine.facts, new))
        far = partial(_distances, before=before, after=after)
        told["old_graph_mm"] = far(one_by_one(backend, windows, cameras))
        backend.recapture()
        told["recaptured_mm"] = far(one_by_one(backend, windows, cameras))
        told["weights_apart_mm"] = 1000 * float(np.linalg.norm(after - before, axis=-1).max())
    return told


def _refitted(backend: TensorRTBackend, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Offer what is known and listed; `edgelift refit` is stricter, and would end here with nothing learnt."""
    with backend.cuda:
        started = time.perf_counter()
        refitter = EngineRefitter(backend.trt, backend.engine)
        offered = sorted(refitter.names() & set(weights))
        refused = [name for name in offered if not refitter.offer(name, np.ascontiguousarray(weights[name]))]
        missing = sorted(refitter.missing())
        committed = refitter.commit()
        backend.cuda.synchronise()
        seconds = time.perf_counter() - started
        said = backend.trt.complaints()
        del refitter
    told = {"offered": len(offered), "refused": refused, "missing": missing, "committed": committed}
    if not committed:
        raise EdgeliftError("refit", f"{told}: {said}", "a commit", "See what it lists.")
    return told | {"refit_s": seconds}


def _distances(poses: Float32, before: Float32, after: Float32) -> dict[str, float]:
    far = {"from_old_weights": before, "from_new_weights": after}
    return {name: 1000 * float(np.linalg.norm(poses - other, axis=-1).max()) for name, other in far.items()}


def _renewed(home: Path, flavour: str, precision: str) -> dict[str, Any]:
    """`edgelift refit` there, and with its result back again: is a refitted engine refittable?"""
    folder = home / f"refittable_{flavour}_{precision}"
    if not folder.is_dir():
        raise EdgeliftError(folder.name, "no bundle", "a built engine", f"See the section engines_{flavour}.")
    old = load_bundle(folder)
    engine_of(old, flavour, precision)
    new = scratch(load_bundle(home / OTHER), home / f"renewed_{flavour}_{precision}")
    started = time.perf_counter()
    [there] = renew(old, new)
    seconds = time.perf_counter() - started
    told = {"told": there, "seconds_with_parity": seconds}
    told["engine_parity"] = engine_of(new, flavour, precision).facts["engine_parity"]
    back = scratch(main_bundle(home), home / f"back_{flavour}_{precision}")
    try:
        renew(new, back)
        told["and_back"] = engine_of(back, flavour, precision).facts["engine_parity"]
    except EdgeliftError as error:
        told["and_back"] = str(error)
    return told


def _beside(home: Path, flavour: str, precision: str) -> dict[str, Any]:
    """As `lift --follow` does, slots are opened and refitted while the live one lifts: are its poses and times its own?

    The live one meets batch sizes that it has to capture, meanwhile.
    """
    new = load_bundle(home / OTHER)
    windows, cameras, _ = (array[:BATCHES] for array in reference(new))
    with _refittable(home, flavour, precision) as (backend, _), ThreadPoolExecutor(1) as beside:
        live = Lifter(backend.built_for, backend)
        expected = [backend(windows[:n], cameras[:n]) for n in range(1, BATCHES + 1)]
        quiet, _ = _lifted_meanwhile(live, windows, cameras, expected, None)
        busy: list[float] = []
        seconds: list[float] = []
        moved, slot = 0.0, None
        for bundle in (new, backend.built_for) * 4:
            backend.recapture()
            done = beside.submit(_opened_beside, bundle, live, slot)
            spent, far = _lifted_meanwhile(live, windows, cameras, expected, done)
            slot, took = done.result()
            busy, moved, seconds = busy + spent, max(moved, far), [*seconds, took]
        if slot is not None:
            slot.close()
    return {
        "refit_beside_s": seconds, "live_moved_m": moved, "live_us_alone": percentiles(quiet),
        "live_us_meanwhile": percentiles(busy),
    }  # fmt: skip


def _opened_beside(bundle: Bundle, live: Lifter, idle: Lifter | None) -> tuple[Lifter, float]:
    started = time.perf_counter()
    return open_beside(bundle, live, lambda fits: idle), time.perf_counter() - started


def _lifted_meanwhile(
    live: Lifter, windows: Float32, cameras: Float32, expected: list[Float32], done: Future[Any] | None
) -> tuple[list[float], float]:
    """Microseconds of calls of one window until something is done, ENOUGH at least; how far a pose was off, metres."""
    spent: list[float] = []
    moved = 0.0
    while len(spent) < ENOUGH or (done is not None and not done.done()):
        for n, poses in enumerate(expected, 1):
            began = time.perf_counter()
            lifted = live.lift(windows[:n], cameras[:n])
            if n == 1:
                spent.append(1e6 * (time.perf_counter() - began))
            moved = max(moved, float(np.abs(lifted - poses).max()))
    return spent, moved


# (e) precisions


def precisions(flavour: str, home: Path, quick: bool) -> Parts:
    """Every precision in one process, turn by turn, at batch 1 and 16."""
    for batch in (1, 16):
        yield f"batch {batch}", partial(_precisions, home, flavour, batch)


def _precisions(home: Path, flavour: str, batch: int) -> dict[str, Any]:
    bundle = main_bundle(home)
    windows, cameras = (array[:batch] for array in reference(bundle)[:2])
    opened: dict[str, Backend] = {}
    not_run: dict[str, str] = {}
    try:
        for precision in PRECISIONS:
            try:
                opened[precision] = open_backend(bundle, flavour, precision)
            except EdgeliftError as error:
                not_run[precision] = str(error)[:300]
        if not opened:
            raise EdgeliftError(flavour, "; ".join(not_run.values()), "an engine that runs here", "See engines.")
        # a turn hands out single windows: here every call is the whole batch
        lifts = {name: partial(_whole, backend, windows, cameras) for name, backend in opened.items()}
        return ratios(lifts, windows, cameras) | {"not_run": not_run}
    finally:
        for backend in opened.values():
            backend.close()


def _whole(backend: Backend, windows: Float32, cameras: Float32, _window: Float32, _camera: Float32) -> Float32:
    return backend(windows, cameras)


# What we add


def overhead(name: str, home: Path, quick: bool) -> Parts:
    """Host to host against a bare loop over the same engine, in turns: at most 1.25 of it is wanted."""
    if name == "cuda":
        preload()
    for precision in ("fp32", "fp16"):
        if name == "cuda":
            for capture in (False, True):
                told = f"{precision}{', CUDA graph' * capture}"
                yield told, partial(_session_overhead, home, precision, capture)
        else:
            yield precision, partial(_engine_overhead, home, name, precision)


def _engine_overhead(home: Path, flavour: str, precision: str) -> dict[str, Any]:
    bundle = main_bundle(home)
    windows, cameras, _ = reference(bundle)
    with TensorRTBackend(bundle, flavour, precision, engine=engine_of(bundle, flavour, precision)) as backend:
        with backend.cuda:
            alone = backend.cuda.capture(lambda: backend._run(backend.ready[1].context))
        bare = {"bare: one graph": _bare(backend, None), "bare: graph and copies": _bare(backend, alone)}
        expected = backend(windows[:1], cameras[:1])
        with backend.cuda:  # a bare loop pushes no context; ours pushes it once more, as it always does
            same = {name: lift(windows[:1], cameras[:1]) for name, lift in bare.items()}
            told = ratios({**bare, "edgelift": backend}, windows, cameras)
            alone.close()
    told["bare_gives_the_same"] = {name: bool(np.array_equal(poses, expected)) for name, poses in same.items()}
    return told


def _bare(backend: TensorRTBackend, alone: Any) -> Callable[[Float32, Float32], Float32]:
    """A loop as one would write it for one engine: arrays into pinned memory, replay, wait, the poses out.

    alone: a graph without copies, which are then enqueued around it; None: the backend's graph, which holds them.
    """
    from cuda.bindings import driver

    replayed: Any = alone or backend.ready[1].graph
    stream, graph = backend.cuda.stream, replayed.executable
    rows = {name: buffer.host[:1] for name, buffer in backend.buffers.items()}
    keypoints, intrinsics, poses = (rows[name] for name in ("keypoints", "intrinsics", "poses"))
    going_in = [(backend.buffers[n].device, rows[n].ctypes.data, rows[n].nbytes) for n in ("keypoints", "intrinsics")]
    out = (poses.ctypes.data, backend.buffers["poses"].device, poses.nbytes)

    def replay(window: Float32, camera: Float32) -> Float32:
        keypoints[:], intrinsics[:] = window, camera
        driver.cuGraphLaunch(graph, stream)
        driver.cuStreamSynchronize(stream)
        return poses.copy()

    def with_copies(window: Float32, camera: Float32) -> Float32:
        keypoints[:], intrinsics[:] = window, camera
        for place, source, count in going_in:
            driver.cuMemcpyHtoDAsync(place, source, count, stream)
        driver.cuGraphLaunch(graph, stream)
        driver.cuMemcpyDtoHAsync(*out, stream)
        driver.cuStreamSynchronize(stream)
        return poses.copy()

    return replay if alone is None else with_copies


def _session_overhead(home: Path, precision: str, capture: bool) -> dict[str, Any]:
    bundle = main_bundle(home)
    windows, cameras, _ = reference(bundle)
    with OnnxRuntimeCuda(bundle, precision, capture) as backend:
        backend(windows[:1], cameras[:1])
        session, binding, places, output = backend.bound[1]

        def bare(window: Float32, camera: Float32) -> object:
            places["keypoints"].update_inplace(window)
            places["intrinsics"].update_inplace(camera)
            session.run_with_iobinding(binding)
            return output.numpy()

        return ratios({"bare": bare, "edgelift": backend}, windows, cameras)


def ratios(lifts: Mapping[str, Lift], windows: Float32, cameras: Float32) -> dict[str, Any]:
    """Time calls turn by turn; every lifter's percentiles, and the last one's p50 and p99 over each other's."""
    spent = in_turns(list(lifts.values()), windows, cameras)
    rows = {name: percentiles([ns / 1000 for ns in times]) for name, times in zip(lifts, spent, strict=True)}
    last = list(rows)[-1]
    over = {
        name: {key: rows[last][f"{key}_us"] / row[f"{key}_us"] for key in ("p50", "p99")}
        for name, row in rows.items()
        if name != last
    }
    return {"calls_each": ROUNDS * CALLS, "us": rows, f"{last}_over": over}
