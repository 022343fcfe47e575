"""Commands that make recordings and lifters, and use them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from edgelift.cli.output import Json, Sessions, Units, app, finish, progress, say
from edgelift.poses.errors import EdgeliftError


@app.command(epilog="Example: edgelift simulate -o sessions/train --seed 0")
def simulate(
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory for the session files.")],
    motion: Annotated[Path | None, typer.Option(help="Motion .npz; without it an embedded person moves.")] = None,
    split: Annotated[str | None, typer.Option(help="Only clips of this split of the motion file.")] = None,
    exclude_subjects: Annotated[list[str] | None, typer.Option(help="Leave these subjects out (repeatable).")] = None,
    rig: Annotated[
        str | None, typer.Option(help="A camera file or folder, or FILE:NAME; without it an embedded rig.")
    ] = None,
    units: Units = None,
    cameras: Annotated[str | None, typer.Option(help="Use these cameras: numbers or names, comma-separated.")] = None,
    fps: float = 20.0,
    window: Annotated[float, typer.Option(help="Seconds a session.")] = 6.0,
    noise_px: Annotated[float, typer.Option(help="Standard deviation of each coordinate, pixels.")] = 0.0,
    noise_model: Annotated[Literal["independent", "detector"], typer.Option()] = "independent",
    missing: Annotated[float, typer.Option(help="Fraction of joints missing.")] = 0.0,
    swaps: Annotated[float, typer.Option(help="Fraction of frames with left and right swapped, each view.")] = 0.0,
    subjects: Annotated[int, typer.Option(min=1, help="How many people the embedded generator makes.")] = 8,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Film motion with a rig: one session a window, with noise, missing joints and swaps as asked."""
    from edgelift.poses.motion import load_motion
    from edgelift.poses.person import clips
    from edgelift.poses.rigs import pick_cameras, read_rig
    from edgelift.poses.sessions import save_session
    from edgelift.poses.studio import StudioSettings, film, studio_rig

    settings = StudioSettings(fps, window, noise_px, noise_model, missing, swaps, seed)
    filmed = studio_rig() if rig is None else read_rig(rig, units)
    filmed = pick_cameras(filmed, cameras) if cameras else filmed
    if motion is not None:
        source = load_motion(motion, split, tuple(exclude_subjects or ()))
    elif split or exclude_subjects:
        raise EdgeliftError("--split, --exclude-subjects", "no --motion", "a motion file to choose from", "Name it.")
    else:
        source = clips(window, 60.0, subjects, seed)
    if output.is_dir() and any(output.glob("*.npz")):
        raise EdgeliftError(f"-o {output}", "sessions there already", "a new folder", "Choose another -o.")
    frames = sessions = 0
    with progress("filming") as tell:
        for session in film(source, filmed, settings):
            save_session(session, output / f"{session.name}.npz")
            sessions, frames = sessions + 1, frames + session.keypoints.shape[1]
            tell(sessions, None, session.name)
    if not sessions:
        raise EdgeliftError(f"{motion}", "no clip as long as a session", "clips of 2 s or more", "Name another motion.")
    result = {"sessions": sessions, "frames": frames, "cameras": [c.name for c in filmed], "output": str(output)}
    finish(result, as_json, f"{sessions} sessions, {frames} multi-view frames, {len(filmed)} cameras -> {output}/")


@app.command(epilog="Example: edgelift train sessions/train --validate sessions/test --epochs 40 -o runs/first")
def train(
    sessions: Sessions,
    output: Annotated[Path, typer.Option("-o", "--output", help="Run directory; an interrupted run goes on from it.")],
    supervision: Annotated[Literal["views", "poses"], typer.Option(help="views: no 3D label.")] = "views",
    loss: Annotated[
        Literal["teacher", "reprojection", "report"],
        typer.Option(help="Of views: distance to the person reconstructed from all views, or to the views' keypoints."),
    ] = "teacher",
    virtual_views: Annotated[
        float | None,
        typer.Option(help="Share of examples filmed anew, with changed people; 0.67 unless the loss has no target."),
    ] = None,
    camera_variation: Annotated[
        float, typer.Option(help="Let virtual cameras stand elsewhere: 1 for lifters that will meet other cameras.")
    ] = 0.0,
    model: Annotated[
        Literal["frame", "tcn", "transformer", "original"],
        typer.Option(help="tcn, transformer: windows. original: the report's frame model, for comparison."),
    ] = "frame",
    frames: Annotated[
        int | None,
        typer.Option(help="Of a window, 0.05 s apart; 27 unless --model frame. A power (transformer: multiple) of 3."),
    ] = None,
    trunk: Annotated[
        Literal["parts", "dense"], typer.Option(help="parts: arms, legs and torso have streams of their own.")
    ] = "parts",
    width: int = 1024,
    blocks: Annotated[int, typer.Option(help="Residual blocks, and a transformer's layers.")] = 2,
    epochs: int = 40,
    batch: Annotated[int, typer.Option(help="Multi-view frames a step.")] = 256,
    seed: int = 0,
    skeleton: str = "common14",
    camera_input: Annotated[
        Literal["rays", "screen"], typer.Option(help="rays: known intrinsics at run time.")
    ] = "rays",
    learn_cameras: Annotated[
        Literal["none", "extrinsics", "intrinsics", "all"],
        typer.Option(help="Correct the rig by the people in it first; scale: the given camera distances."),
    ] = "none",
    dropout: float = 0.0,
    learning_rate: float = 1e-3,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="bf16: matrix products in bfloat16, faster where the processor can.")
    ] = "fp32",
    validate: Annotated[list[Path] | None, typer.Option(help="Sessions held out: MPJPE every epoch.")] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where PyTorch trains.")] = "cpu",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the network first (torch.compile).")] = False,
    as_json: Json = False,
) -> None:
    """Train a lifter from multi-view 2D keypoints. Several processes share a run under `torchrun -m edgelift.cli`."""
    import matplotlib  # noqa: F401 - for the curve at the end: better to miss it before the first epoch

    from edgelift.poses.sessions import SessionFiles
    from edgelift.trainer import fit, parallel
    from edgelift.trainer.settings import TrainSettings

    targeted = supervision == "poses" or loss == "teacher"
    settings = TrainSettings(
        skeleton=skeleton, supervision=supervision, loss=loss, model=model, trunk=trunk, camera_input=camera_input,
        learn_cameras=learn_cameras, camera_variation=camera_variation,
        virtual_views=(0.67 if targeted else 0.0) if virtual_views is None else virtual_views,
        frames=(1 if model in ("frame", "original") else 27) if frames is None else frames, width=width, blocks=blocks,
        epochs=epochs, batch=batch, seed=seed, dropout=dropout, learning_rate=learning_rate, precision=precision,
    )  # fmt: skip
    say.quiet = parallel.rank() > 0
    loaded, held_out = SessionFiles(sessions), SessionFiles(validate or [])
    say.print(f"{fit.describe(settings)}; {len(loaded)} sessions")
    with progress("training") as tell:
        result = fit.train(
            loaded, output, settings, held_out,
            lambda epoch, epochs, row: tell(epoch, epochs, _figures(row)),
            device, compiled,
            lambda done, total: tell(done, total, "sessions prepared"),
        )  # fmt: skip
    if say.quiet:
        return
    fit.plot_metrics(output)
    facts = result.to_dict()
    against = f"against {result.validation_against}"
    last = f", validation MPJPE {result.validation[-1][1]:.1f} mm {against}" if result.validation else ""
    finish(facts, as_json, f"{epochs} epochs, {facts['frames_per_second']} frames/s{last} -> {facts['checkpoint']}")


def _figures(row: dict[str, float]) -> str:
    return ", ".join(f"{name} {row[name]:.4g}" for name in ("loss", "validation_mpjpe_mm") if name in row)


@app.command(epilog="Example: edgelift evaluate bundles/first sessions/test")
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory.")],
    sessions: Sessions,
    camera: Annotated[list[str] | None, typer.Option(help="Only these cameras (repeatable).")] = None,
    backend: Annotated[Literal["cpu", "cuda", "tensorrt", "rtx"], typer.Option(help="What lifts.")] = "cpu",
    precision: Annotated[Literal["fp32", "fp16", "int8", "fp8"], typer.Option(help="Which graph or engine.")] = "fp32",
    as_json: Json = False,
) -> None:
    """Score a bundle's lifter against the sessions' truth, or against triangulation where there is none."""
    from edgelift.poses.sessions import load_sessions
    from edgelift.runtime.backends import open_backend
    from edgelift.runtime.bundle import load_bundle
    from edgelift.runtime.evaluate import backend_lift
    from edgelift.runtime.evaluate import evaluate as run

    loaded = load_bundle(bundle)
    with open_backend(loaded, backend, precision, threads=2) as lifter:
        scores = run(backend_lift(lifter), load_sessions(sessions), loaded.input, camera or ())
    finish(scores, as_json)
    if not as_json:
        _print_scores(scores)


def _print_scores(scores: dict[str, Any]) -> None:
    out = Console(highlight=False)
    table = Table(title=f"{scores['frames']} lifted views against {scores['against']}")
    table.add_column("measure")
    table.add_column("value", justify="right")
    for key, value in scores.items():
        if isinstance(value, int | float) and key != "frames":
            table.add_row(key, f"{value:.3f}" if key == "pck150" else f"{value:.1f}")
    for joint, value in scores["flexion_error_deg"].items():
        table.add_row(f"{joint} flexion, deg", "-" if value is None else f"{value:.1f}")
    out.print(table)
    joints = Table(title="root-relative error, mm")
    for column in ("joint", "mm"):
        joints.add_column(column, justify="left" if column == "joint" else "right")
    for joint, value in scores["per_joint_mm"].items():
        joints.add_row(joint, "-" if value is None else f"{value:.1f}")
    out.print(joints)
    actions = Table(title="by action")
    keys = ("mpjpe_mm", "root_relative_mpjpe_mm", "p_mpjpe_mm", "frames")
    for column in ("action", *keys):
        actions.add_column(column, justify="left" if column == "action" else "right")
    for action, row in scores["per_action"].items():
        actions.add_row(action, *("-" if row[k] is None else f"{row[k]:.0f}" for k in keys))
    out.print(actions)


@app.command(epilog="Example: edgelift demo -o demo")
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory for everything it makes.")] = Path("demo"),
    epochs: int = 8,
    width: int = 512,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Do the main job on an embedded default: simulate, train without labels, export, lift, evaluate, report."""
    from edgelift.trainer.demo import run_demo

    result = run_demo(output, epochs, width, seed, say.print)
    finish(result, as_json, f"open {result['report']}")
