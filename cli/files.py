"""Commands that turn files of others into sessions, and sessions into files of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgelift.cli.output import Json, Units, app, finish

Format = Literal[
    "openpose", "mmpose", "alphapose", "coco", "ultralytics", "mediapipe", "freemocap", "deeplabcut", "sleap", "pose2d",
    "videopose3d", "cameras", "session",
]  # fmt: skip
Kind = Literal["openpose", "videopose3d", "trc", "c3d", "bvh", "csv"]


@app.command(
    epilog="Example: edgelift convert BalancingTrial --format openpose --cameras Calib.toml --units m "
    "--skeleton body25b --fps 60 -o balancing.npz"
)
def convert(
    source: Annotated[Path, typer.Argument(help="What the detector wrote: a file or folder; a rig; a session.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Session file, directory, or what --to writes.")],
    format_: Annotated[Format, typer.Option("--format", help="Of the source. cameras: one rig as Pose2Sim TOML.")],
    skeleton: Annotated[str | None, typer.Option(help="Skeleton of the keypoints; pose2d says it.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second of the recording; pose2d has times.")] = None,
    cameras: Annotated[
        str | None, typer.Option(help="Rig: a camera file or folder, or FILE:NAME; videopose3d fills in {subject}.")
    ] = None,
    units: Units = None,
    view: Annotated[list[str] | None, typer.Option(help="FOLDER=CAMERA where the names do not match.")] = None,
    select: Annotated[str | None, typer.Option(help="Only these cameras of the rig, comma-separated.")] = None,
    size: Annotated[
        str | None,
        typer.Option(help="WIDTHxHEIGHT of the images: without --cameras, or where coordinates are shares of it."),
    ] = None,
    people: Annotated[Literal["one", "all"], typer.Option(help="all: a session each, x_1.npz and so on.")] = "one",
    joints: Annotated[
        Path | None, typer.Option(help="deeplabcut, sleap: FILE.toml or .json, their joint names to ours.")
    ] = None,
    poses: Annotated[Path | None, typer.Option(help="videopose3d: the 3D file, if there is one.")] = None,
    to: Annotated[Kind | None, typer.Option(help="session: what to write it as.")] = None,
    as_json: Json = False,
) -> None:
    """Turn detector files into sessions, and sessions into files of others; says which people were discarded."""
    from edgelift.poses.conversion import Conversion
    from edgelift.poses.conversion import convert as run

    asked = Conversion(
        source, output, format_, skeleton=skeleton, fps=fps, cameras=cameras, units=units, view=tuple(view or ()),
        select=select, size=size, poses=poses, people=people, joints=joints, to=to,
    )  # fmt: skip
    result, lines = run(asked)
    finish(result, as_json, *lines)


@app.command(epilog="Example: edgelift triangulate balancing.npz -o balancing.trc")
def triangulate(
    session: Annotated[Path, typer.Argument(help="A multi-view session.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="x.trc, or x.npz (the session with poses).")],
    as_json: Json = False,
) -> None:
    """Triangulate a session's views into world poses."""
    from edgelift.poses.conversion import triangulate_session

    result, lines = triangulate_session(session, output)
    finish(result, as_json, *lines)
