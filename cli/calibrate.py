"""Commands that find out from recordings what nobody measured: the cameras, and when each of them saw what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from edgelift.cli.engines import calibrate
from edgelift.cli.output import Json, Sessions, finish, say, seconds_of
from edgelift.poses.errors import EdgeliftError

if TYPE_CHECKING:
    from edgelift.calibration.cameras import Calibration, Cues

SHOWN = {"good": "green", "usable": "yellow", "too weak": "red"}


@calibrate.command(
    epilog="Example: edgelift calibrate cameras walk1.npz walk2.npz --distance cam_01,cam_02=4.31 --units m -o rig.toml"
)
def cameras(
    sessions: Sessions,
    output: Annotated[Path, typer.Option("-o", "--output", help="The rig, a Pose2Sim TOML.")],
    units: Annotated[Literal["m", "mm"], typer.Option(help="Unit of the translations in the rig that is written.")],
    distance: Annotated[
        list[str] | None, typer.Option(help="CAM_A,CAM_B=METRES between two lenses: the best measure of size.")
    ] = None,
    height: Annotated[float | None, typer.Option(help="Metres: how tall the person in the sessions is.")] = None,
    bone: Annotated[
        list[str] | None, typer.Option(help="JOINT,JOINT=METRES of the person (joints of common14).")
    ] = None,
    up: Annotated[
        str | None, typer.Option(help="CAMERA=x,y,z: up in its frame (0,-1,0: it stands level). Else from the people.")
    ] = None,
    estimate: Annotated[
        Literal["none", "focal", "all"],
        typer.Option(help="Find lenses too: focal lengths, or principal points and k1, k2 as well."),
    ] = "none",
    reference: Annotated[str | None, typer.Option(help="A true rig (in --units) to compare with.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the rig and the people: FILE.png or FILE.svg.")] = None,
    as_json: Json = False,
) -> None:
    """Find the cameras from the people in the recordings: no checkerboard. Poses in the sessions are not read."""
    from edgelift.calibration.cameras import calibrate_cameras
    from edgelift.calibration.comparison import compare
    from edgelift.calibration.rig_picture import draw_rig
    from edgelift.calibration.verdict import judge
    from edgelift.poses.rigs import read_rig, write_rig_as
    from edgelift.poses.sessions import load_sessions

    if output.suffix != ".toml":
        raise EdgeliftError("-o", str(output), "a rig, FILE.toml", "Write, say, -o rig.toml.")
    if picture is not None and picture.suffix not in (".png", ".svg"):
        raise EdgeliftError("--picture", str(picture), "FILE.png or FILE.svg", "Name it so.")
    true = None if reference is None else read_rig(reference, units)
    cues = _cues(distance, height, bone, up)
    found = calibrate_cameras(load_sessions(sessions), cues, estimate, say.print)
    verdict, each = judge(found)
    facts = found.to_dict() | {"verdict": verdict, "rig": str(output), "picture": picture and str(picture)}
    facts["by_camera"] = [
        {
            "name": one.name,
            "verdict": one.verdict,
            "why": [why for why, _ in one.causes],
            "record": [record for _, record in one.causes],
        }
        for one in each
    ]
    if true is not None:
        facts |= compare(found.cameras, true)
    write_rig_as(found.cameras, output, "pose2sim" if units == "m" else "anipose", units)
    if picture is not None:
        draw_rig(found, picture)
    say.print(_table(found, facts))
    for one in each:
        for why, record in one.causes:
            say.print(f"{one.name}: {why}; {record}")
    finish(facts, as_json, *_lines(found, facts))


def _cues(distance: list[str] | None, height: float | None, bone: list[str] | None, up: str | None) -> Cues:
    from edgelift.calibration.cameras import Cues

    axis = None
    if up is not None:
        name, _, numbers = up.rpartition("=")
        try:
            x, y, z = (float(word) for word in numbers.split(","))
        except ValueError as error:
            raise EdgeliftError("--up", repr(up), "CAMERA=x,y,z", "Write, say, --up cam_01=0,-1,0.") from error
        axis = (name, (x, y, z))
    if height is not None and not 0.5 < height < 2.5:
        raise EdgeliftError("--height", f"{height}", "0.5 to 2.5 metres", "Give the person's height in metres.")
    return Cues(_lengths("--distance", distance), height, _lengths("--bone", bone), axis)


def _lengths(flag: str, words: list[str] | None) -> dict[tuple[str, str], float] | None:
    """What A,B=METRES say; None for none."""
    found = {}
    for word in words or []:
        pair, _, metres = word.rpartition("=")
        first, _, second = pair.partition(",")
        try:
            length = float(metres)
        except ValueError:
            length = 0.0
        if not (first and second and first != second and 0 < length < 1000):
            raise EdgeliftError(
                flag, repr(word), "A,B=METRES with two different names", f"Write, say, {flag} a,b=4.31."
            )
        found[first, second] = length
    return found or None


def _table(found: Calibration, facts: dict[str, Any]) -> Table:
    table = Table(box=None, header_style="bold")
    compared = "camera_centre_error_mm" in facts
    heads = ["camera", "verdict", "residual px", "centre ± mm", "rotation ± deg", "focal px"]
    for head in [*heads, *(["centre off mm", "rotation off deg"] if compared else [])]:
        table.add_column(head, justify="left" if head in ("camera", "verdict") else "right")
    for view, camera in enumerate(found.cameras):
        verdict = facts["by_camera"][view]["verdict"]
        row: list[str | Text] = [camera.name, Text(verdict, SHOWN[verdict])]
        row += [f"{facts[key][view]:g}" for key in ("reprojection_px", "centre_sd_mm", "rotation_sd_deg", "focal_px")]
        if compared:
            row += [f"{facts[key][view]:g}" for key in ("camera_centre_error_mm", "rotation_error_deg")]
        table.add_row(*row)
    return table


def _lines(found: Calibration, facts: dict[str, Any]) -> list[str]:
    lines = [
        f"size from {found.scale.how} (± {100 * found.scale.sd:.1f} %), up from {found.upright.how} "
        f"(± {found.upright.sd_deg:.1f} degrees)"
    ]
    if found.joints_left_out or found.frames_left_out:
        joints = ", ".join(found.joints_left_out) or "no joint"
        lines.append(f"left out because they did not fit: {joints}; {found.frames_left_out} frames")
    drawn = f", {facts['picture']}" if facts["picture"] else ""
    lines.append(f"{len(found.cameras)} cameras, {facts['verdict']}, {found.seconds:.1f} s -> {facts['rig']}{drawn}")
    return lines


@calibrate.command(epilog="Example: edgelift calibrate sync walk1.npz walk2.npz -o synchronised")
def sync(
    sessions: Annotated[list[Path], typer.Argument(help="Session files (.npz), or directories of them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory for the sessions with their offsets.")],
    farthest: Annotated[str, typer.Option(help="How far two views may be apart: 1s, 500ms.")] = "1s",
    estimate: Annotated[
        Literal["none", "focal"], typer.Option(help="focal: the lenses are not known, or not well.")
    ] = "none",
    as_json: Json = False,
) -> None:
    """Find when each camera saw what it shows: offsets go into the sessions, and later steps use them."""
    from dataclasses import replace

    from edgelift.calibration.synchronise import find_offsets
    from edgelift.poses.sessions import find_sessions, load_session, save_session

    limit = seconds_of("--farthest", farthest)
    told = []
    for path in find_sessions(sessions):
        target = output / path.name
        if target.resolve() == path.resolve():
            raise EdgeliftError("-o", str(output), "another directory than the sessions'", "Keep the originals.")
        session = load_session(path)
        found = find_offsets(session, limit, estimate, say.print)
        save_session(replace(session, time_offset_s=found.offset_s), target)
        facts = {"session": str(target)} | found.to_dict(session.camera_names)
        told.append(facts)
        say.print(_offsets(facts))
    finish({"output": str(output), "sessions": told}, as_json, f"{len(told)} sessions with offsets -> {output}/")


def _offsets(facts: dict[str, Any]) -> str:
    pairs = zip(facts["cameras"], facts["offset_ms"], facts["sd_ms"], strict=True)
    offsets = ", ".join(f"{name} {offset:+.1f} ± {sd:.1f} ms" for name, offset, sd in pairs)
    drift = facts["drift_ms_per_min"]
    rest = (
        "too short to tell a drift" if drift is None else f"drift {', '.join(f'{d:+.2f}' for d in drift)} ms a minute"
    )
    before, after = facts["reprojection_px"]
    return f"{facts['session']}: {offsets}; {rest}; residual {before:g} -> {after:g} px"
