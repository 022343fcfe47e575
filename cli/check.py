"""The command that says whether recordings are fit to train on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from edgelift.cli.output import Json, Sessions, app, finish, progress, say
from edgelift.poses.errors import EdgeliftError

if TYPE_CHECKING:
    from edgelift.calibration.check import Checked

SHOWN = {"fit": "green", "usable": "yellow", "unfit": "red"}


@app.command(epilog="Example: edgelift check balancing.npz -o check.html")
def check(
    sessions: Sessions,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write one page (.html) with everything that was measured.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether recordings are fit to train on, what is wrong with them, and what to do about it."""
    from edgelift.calibration.check import check as check_session
    from edgelift.calibration.check import worst
    from edgelift.calibration.check_page import write_page
    from edgelift.poses.sessions import SessionFiles

    if output is not None and output.suffix != ".html":
        raise EdgeliftError("-o", str(output), "a page, FILE.html", "Name it so; --json prints the same as data.")
    files = SessionFiles(sessions)
    checked = []
    with progress("checking") as tell:
        for number, session in enumerate(files):
            tell(number, len(files), session.name)
            checked.append(check_session(session))
    for one in checked:
        tell_findings(one)
    if len(checked) > 1:
        say.print(verdicts(checked))
    if output is not None:
        write_page(checked, output)
    told = f"{len(checked)} session{'s' * (len(checked) > 1)}: {worst(checked)}"
    facts = {
        "verdict": worst(checked), "sessions": [one.to_dict() for one in checked],
        "output": None if output is None else str(output),
    }  # fmt: skip
    finish(facts, as_json, told if output is None else f"{told} -> {output}")


def tell_findings(one: Checked) -> None:
    """Print one session's verdict, then its findings: what, by which figures, and what to do."""
    say.print(f"{one.facts.session}: {one.verdict}", style=SHOWN[one.verdict])
    for finding in one.findings:
        say.print(f"  {finding.level}: {finding.what}: {finding.evidence}")
        say.print(f"    to do: {finding.remedy}")
    for what in one.facts.unchecked:
        say.print(f"  not checked: {what}")


def verdicts(checked: Sequence[Checked]) -> Table:
    """Return a table of all sessions, one a row."""
    table = Table("session", "verdict", "seconds", "wrong", "weak")
    for one in checked:
        found = [sum(finding.level == level for finding in one.findings) for level in ("wrong", "weak")]
        table.add_row(one.facts.session, one.verdict, f"{one.facts.together_s:.0f}", *map(str, found))
    return table
