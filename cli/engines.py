"""Commands that bring a lifter to a device: export, calibrate, build, inspect, refit, bench, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgelift.cli.output import Json, Sessions, app, finish, progress, say
from edgelift.poses.errors import EdgeliftError

BundlePath = Annotated[Path, typer.Argument(help="A bundle directory.")]
Precision = Annotated[Literal["fp32", "fp16", "int8", "fp8"], typer.Option(help="What its inner layers compute in.")]
Target = Annotated[
    list[str] | None,
    typer.Option(help="rtx only: sm_80, sm_86, sm_89, sm_120... (repeatable); none: Ampere and later."),
]
MaxBatch = Annotated[int, typer.Option(help="Most people in a call; 1 builds a static engine.")]
Refittable = Annotated[bool, typer.Option("--refittable", help="Weights can be replaced later; needs the GPU.")]
Force = Annotated[bool, typer.Option("--force", help="Keep what its budget or its speed refuses; the sidecar says so.")]
ENGINES = "engines"

calibrate = typer.Typer(help="Measure on real recordings what later steps need.", no_args_is_help=True)
app.add_typer(calibrate, name="calibrate")


@app.command(epilog="Example: edgelift export runs/first -o bundles/first --engine rtx --precision fp16 --target sm_89")
def export(
    run: Annotated[Path, typer.Argument(help="A run directory of `edgelift train`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Bundle to make, or one of this run to add to.")],
    engine: Annotated[
        Literal["cpu", "rtx", "tensorrt"] | None,
        typer.Option(help="Also build: rtx for any machine, tensorrt for this one, cpu with 8-bit weights."),
    ] = None,
    precision: Precision = "fp32",
    target: Target = None,
    max_batch: MaxBatch = 16,
    refittable: Refittable = False,
    ranges: Annotated[Path | None, typer.Option(help="int8, fp8: folder of `edgelift calibrate ranges`.")] = None,
    budget_mm: Annotated[float | None, typer.Option(help="Allowed change of MPJPE.")] = None,
    budget_p99_mm: Annotated[
        float | None, typer.Option(help="Allowed displacement, 99th percentile of joints.")
    ] = None,
    budget_max_mm: Annotated[float | None, typer.Option(help="Allowed displacement of the worst joint.")] = None,
    force: Force = False,
    triton: Annotated[Path | None, typer.Option(help="Also write a Triton model repository into this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Export a run to a bundle (ONNX graph, weights, reference set, manifest with hashes), or add to that bundle."""
    from edgelift.export.additions import Addition, add
    from edgelift.trainer.deploy import bundle_of, export_run

    addition = Addition(
        engine,
        precision,
        tuple(target or ()),
        max_batch,
        refittable,
        ranges,
        budget_mm,
        budget_p99_mm,
        budget_max_mm,
        force,
    )
    addition.check()
    bundle = export_run(run, output) if addition.nothing and triton is None else bundle_of(run, output)
    parity, opset = bundle.manifest["parity"], bundle.manifest["opset"]
    result = {"bundle": str(bundle.path), "parity_mm": parity["worst_joint_mm"], "opset": opset, "added": []}
    lines = [f"opset {opset}, ONNX Runtime within {parity['worst_joint_mm']:.5f} mm of PyTorch -> {bundle.path}/"]
    for attachment in add(bundle, addition):
        result["added"].append(_told(attachment))
        lines.append(_line(attachment))
    if triton is not None:
        from edgelift.export.triton import write_triton

        result["triton"] = str(write_triton(bundle, triton, precision=precision))
        lines.append(f"Triton model repository -> {result['triton']}/")
    finish(result, as_json, *lines)


def _told(attachment: Any) -> dict[str, Any]:
    return {"path": str(attachment.path)} | {
        k: v for k, v in attachment.facts.items() if k not in ("seal", "bundle_seal")
    }


def _line(attachment: Any) -> str:
    facts = attachment.facts
    moved = facts.get("graph_parity", {})
    parts = [f"{facts['precision']}, {facts['bytes'] / 1e6:.2f} MB"]
    if "p99_mm" in moved:
        parts.append(f"p99 {moved['p99_mm']:.3f} mm, worst {moved['worst_mm']:.3f} mm from FP32")
    if "engine_parity" in facts:
        parts.append(f"built in {facts['build_seconds']:.1f} s; on a GPU: {_parity(facts['engine_parity'])}")
    if isinstance(facts.get("speed"), dict):
        parts.append(f"{facts['speed']['p50_us']} us a window, fp32 {facts['speed']['fp32_p50_us']}")
    if facts.get("forced"):
        parts.append("over its budget, kept by --force")
    return f"{', '.join(parts)} -> {attachment.path}"


def _parity(parity: Any) -> str:
    return parity if isinstance(parity, str) else f"worst {parity['worst_mm']:.3f} mm from FP32"


@calibrate.command(epilog="Example: edgelift calibrate ranges bundles/first sessions/train -o ranges/first")
def ranges(
    bundle: BundlePath,
    sessions: Sessions,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the ranges.")],
    as_json: Json = False,
) -> None:
    """Observe a lifter's activations on real keypoints: what int8 and fp8 need. Not on sessions you score with."""
    from edgelift.export.reduced import calibrate as observe
    from edgelift.poses.sessions import load_sessions
    from edgelift.runtime.bundle import load_bundle

    found = observe(load_bundle(bundle), load_sessions(sessions))
    path = found.save(output)
    tensors = len(next(iter(found.methods.values())))
    result = {"ranges": str(path), "windows": found.windows, "tensors": tensors, "methods": list(found.methods)}
    finish(result, as_json, f"{tensors} tensors over {found.windows} windows, {len(found.methods)} methods -> {path}")


@app.command(epilog="Example: edgelift build bundles/first --engine tensorrt --precision fp16")
def build(
    bundle: BundlePath,
    engine: Annotated[Literal["rtx", "tensorrt"], typer.Option(help="tensorrt builds for this machine's GPU.")],
    precision: Precision = "fp32",
    target: Target = None,
    max_batch: MaxBatch = 16,
    refittable: Refittable = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compile an engine on the device, from the bundle alone: no torch, no onnx."""
    from edgelift.runtime.bundle import load_bundle
    from edgelift.runtime.engines.build import BuildSettings
    from edgelift.runtime.engines.make import make_engine

    settings = BuildSettings(engine, precision, tuple(target or ()), max_batch, refittable)
    made = make_engine(load_bundle(bundle), settings, force)
    finish(_told(made), as_json, _line(made))


@app.command(epilog="Example: edgelift inspect bundles/first --verify")
def inspect(
    bundle: BundlePath,
    verify: Annotated[bool, typer.Option("--verify", help="Hash everything that was added, read every plan.")] = False,
    as_json: Json = False,
) -> None:
    """Print what a bundle holds and which machine can run which of its engines."""
    from edgelift.runtime.bundle import load_bundle
    from edgelift.runtime.contents import contents

    told = contents(load_bundle(bundle), verify)
    finish(told, as_json)
    if not as_json:
        _print_contents(told)


def _print_contents(told: dict[str, Any]) -> None:
    out = Console(highlight=False)
    out.print(
        f"{told['bundle']}: {told['skeleton']}, {told['frames']} frames, {told['camera_input']}, "
        f"opset {told['opset']}, {told['parameters']} weights, {told['parity_mm']:.5f} mm from PyTorch", markup=False,
    )  # fmt: skip
    for entry in told["graphs"] + told["engines"]:
        moved = entry.get("graph_parity") or {}
        figures = (
            f", p99 {moved['p99_mm']:.2f}, worst {moved['worst_mm']:.2f} mm from FP32" if "p99_mm" in moved else ""
        )
        out.print(f"  {entry['file']}: {entry['bytes'] / 1e6:.2f} MB{figures}", markup=False, soft_wrap=True)
        if "runs_on" in entry:
            here = f"not here: {entry['why_not']}" if entry["why_not"] else "here too"
            out.print(f"      {entry['runs_on']}; {here}", markup=False, soft_wrap=True)
    for command in sorted({e["rebuild"] for e in told["engines"] if e.get("rebuild")}):
        out.print(f"for this machine: {command}", markup=False, soft_wrap=True)
    for name in told["unlisted"]:
        out.print(f"{name}: no sidecar describes it; nothing loads it", markup=False)
    if told["verified"]:
        out.print("every hash and every plan header verified")


@app.command(epilog="Example: edgelift refit bundles/first bundles/second")
def refit(
    old: Annotated[Path, typer.Argument(help="The bundle whose engines are to be refitted.")],
    new: Annotated[Path, typer.Argument(help="The bundle with the new weights, which gets the engines.")],
    check: Annotated[
        bool, typer.Option("--check", help="Only say which can be refitted, and why not; no GPU.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Give a new bundle the old one's engines with new weights, where that is possible; say which must be rebuilt."""
    from edgelift.runtime.bundle import load_bundle
    from edgelift.runtime.engines.renew import renew

    told = renew(load_bundle(old), load_bundle(new), check)
    lines = [f"{t['engine']}: {'refit' if t['refit'] else 'rebuild'}: {t['reason']}" for t in told]
    lines += [f"-> {t['path']}" for t in told if t.get("path")] + [
        f"run: {t['rebuild']}" for t in told if t.get("rebuild")
    ]
    finish({"engines": told}, as_json, *lines)


@app.command(epilog="Example: edgelift bench bundles/first --backend cpu,rtx --precision fp32,fp16 --plot bench.png")
def bench(
    bundle: BundlePath,
    backend: Annotated[str, typer.Option(help="cpu, cuda, tensorrt, rtx; comma-separated.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32, fp16, int8, fp8; comma-separated.")] = "fp32",
    batch: Annotated[str, typer.Option(help="People in a call; comma-separated.")] = "1",
    quick: Annotated[
        bool, typer.Option("--quick", help="Seconds instead of half a minute; tails are then rough.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw the latencies into this PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Measure latency: back to back, at 30, 60 and 120 frames/s with idle gaps, and from cold."""
    from edgelift.runtime import bench as harness
    from edgelift.runtime.bundle import load_bundle

    settings = harness.QUICK if quick else harness.BenchSettings()
    with progress("measuring") as tell:
        report = harness.bench(
            load_bundle(bundle), backend.split(","), precision.split(","), _numbers(batch), settings, progress=tell
        )
    lines = [f"{s['backend']} {s['precision']}: {s['reason']}" for s in report.skipped]
    if not report.rows:
        raise EdgeliftError(f"--backend {backend}", "; ".join(lines), "one that runs here", "See `edgelift doctor`.")
    if plot is not None:
        harness.plot(report, plot)
        lines.append(f"-> {plot}")
    finish(report.to_dict(), as_json, *lines)
    if not as_json:
        _print_rows(report.rows)


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise EdgeliftError("--batch", text, "whole numbers, comma-separated", "For example --batch 1,8.") from error


def _print_rows(rows: list[dict[str, Any]]) -> None:
    keys = (
        "backend",
        "precision",
        "batch",
        "mode",
        "p50_us",
        "p90_us",
        "p95_us",
        "p99_us",
        "max_us",
        "throughput_per_s",
    )
    table = Table(*(k.removesuffix("_us") for k in keys[:-1]), "per s", "missed", box=None)
    say.print("microseconds a call, host to host, nothing clipped; windows per second; deadlines missed of calls")
    for row in rows:
        missed = f"{row['deadline_misses']}/{row['calls']}" if "deadline_misses" in row else "-"
        table.add_row(*(f"{row[k]:.0f}" if isinstance(row[k], float) else str(row[k]) for k in keys), missed)
    Console(highlight=False).print(table)


@app.command(epilog="Example: edgelift doctor")
def doctor(as_json: Json = False) -> None:
    """Say of every backend whether it is ready here, why not, and what to install."""
    from edgelift.runtime.doctor import examine

    findings = examine()
    finish({"backends": [f.to_dict() for f in findings]}, as_json)
    if as_json:
        return
    for f in findings:
        state = "ready" if f.ready else "builds, cannot run" if f.builds else "not ready"
        say.print(Text.assemble((f.backend, "bold"), f": {state}: {f.found}"))
        if f.remedy:
            say.print(f"    {f.remedy}")
