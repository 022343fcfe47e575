"""Commands that keep a deployed lifter up to date: adapt, registry, watch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from edgelift.cli.output import Json, app, finish, progress, say, seconds_of
from edgelift.poses.errors import EdgeliftError

ALONE = ("source", "sessions", "output", "budget", "learn_cameras", "steps", "seed", "device", "force")


@app.command(
    epilog="Example: edgelift adapt registry take1.npz take2.npz -o registry --budget 60s "
    "or edgelift adapt --fleet sites.toml --ray auto"
)
def adapt(
    context: typer.Context,
    source: Annotated[str | None, typer.Argument(help="A registry, or a bundle that begins a new one.")] = None,
    sessions: Annotated[list[Path] | None, typer.Argument(help="Session files (.npz), or directories of them.")] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="The registry that gets the next version: a path or a URL.")
    ] = None,
    budget: Annotated[str, typer.Option(help="For everything, from the first file to the version: 60s, 10m.")] = "60s",
    learn_cameras: Annotated[
        Literal["none", "extrinsics", "intrinsics", "all"],
        typer.Option(help="Correct the sessions' cameras by the people in them first."),
    ] = "none",
    steps: Annotated[int, typer.Option(min=1, help="At most; as many as fit into the budget are made.")] = 600,
    seed: int = 0,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where PyTorch trains.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Publish what is refused; the manifest says so.")] = False,
    fleet: Annotated[
        Path | None, typer.Option(help="A file of many sites, instead of all else: see docs/fleet.md.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help="The cluster for --fleet: HOST:PORT, auto, or local: one for this run.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Adapt a lifter to recorded sessions, without labels; publish it if it is proved to be better."""
    if fleet is not None:
        also = [name for name in ALONE if getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"]
        if also:
            raise EdgeliftError(
                "--fleet", f"{', '.join(also)} as well", "the file alone", "Say it in the file, for each site."
            )
        _adapt_fleet(fleet, ray or "local", as_json)
        return
    if ray is not None:
        raise EdgeliftError("--ray", "no --fleet", "a file of sites", "Add --fleet sites.toml.")
    if source is None or not sessions or output is None:
        raise EdgeliftError(
            "adapt", "not all of SOURCE, SESSIONS and -o", "all three, or --fleet", "See edgelift adapt --help."
        )
    from edgelift.runtime.registries import open_registry
    from edgelift.trainer.adapt import AdaptSettings
    from edgelift.trainer.refresh import RefreshSettings, refresh
    from edgelift.trainer.watch import REFUSED

    how = AdaptSettings(steps, seed=seed)
    settings = RefreshSettings(seconds_of("--budget", budget), learn_cameras, force, device, how)
    with progress("adapting") as tell:
        result = refresh(
            source, sessions, open_registry(output), settings, lambda stage: say.print(f"  {stage}"),
            lambda step, steps, error: tell(step, steps, "" if error is None else f"held out {error:.1f} mm"),
        )  # fmt: skip
    facts = result.to_dict()
    finish(facts, as_json, *_measures(facts), *_outcome(facts))
    if result.version is None:
        raise typer.Exit(REFUSED)


def _adapt_fleet(path: Path, address: str, as_json: bool) -> None:
    from edgelift.trainer.fleet import read_sites, refresh_fleet
    from edgelift.trainer.watch import REFUSED

    sites, done = read_sites(path), 0

    def told(report: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        say.print(f"{done}/{len(sites)} {_site_line(report)}")

    say.print(f"{len(sites)} sites; connecting to Ray ({address})")
    reports = refresh_fleet(sites, address, told)
    counts = {how: sum(r["how"] == how for r in reports) for how in ("published", "refused", "unchanged", "failed")}
    summary = ", ".join(f"{number} {how}" for how, number in counts.items() if number)
    finish({"sites": reports, **counts}, as_json, f"{summary}, of {len(sites)} sites -> their registries")
    if counts["failed"]:
        raise typer.Exit(2)
    if counts["refused"]:
        raise typer.Exit(REFUSED)


def _site_line(report: dict[str, Any]) -> str:
    """What came of a site; of one whose worker died too often nobody knows where and how long."""
    what = " ".join(filter(None, (report["how"], report["version"], report["why"] and f"({report['why']})")))
    spent = "" if report["seconds"] is None else f", {report['seconds']:.0f} s on {report['host']}"
    return f"{report['site']}: {what}{spent}"


def _measures(facts: dict[str, Any]) -> list[str]:
    measures = (facts["gate"] or {"measures": {}})["measures"]
    return [f"note: {f['session']}: {f['what']}" for f in facts["findings"] if not f["refused"]] + [
        f"  {name}: {m['base']:.1f} -> {m['candidate']:.1f} (x {m['ratio']:.3f}, {m['interval'][0]:.3f} to "
        f"{m['interval'][1]:.3f})"
        for name, m in measures.items()
    ]


def _outcome(facts: dict[str, Any]) -> list[str]:
    spent = f"{sum(facts['seconds'].values()):.0f} s"
    against = [f"  against it: {reason}" for reason in facts["reasons"]]
    if facts["version"] is None:
        return [*against, f"refused, {facts['base']} stays current; {spent} -> {facts['kept']}"]
    how = "published by force" if facts["forced"] else "published"
    left = [f"  not renewed: {a['file']}: {a['why_not']}" for a in facts["additions"] if "why_not" in a]
    return [*against, *left, f"{how}: {facts['version']}, made from {facts['base']}; {spent} -> {facts['registry']}"]


registry = typer.Typer(help="Look after a registry of versions.", no_args_is_help=True)
app.add_typer(registry, name="registry")
Where = Annotated[str, typer.Argument(help="A registry: a path or a URL.")]


@registry.command("list", epilog="Example: edgelift registry list registry")
def list_versions(where: Where, as_json: Json = False) -> None:
    """List versions with their lineage; every file is verified."""
    from edgelift.runtime.registries import open_registry
    from edgelift.runtime.versions import overview

    found = overview(open_registry(where))
    finish({"registry": where, "versions": [vars(v) for v in found]}, as_json)
    if as_json:
        return
    table = Table("version", "state", "made from", "when", "sessions", "reprojection", "reference", "")
    for v in found:
        ratios = ("" if r is None else f"x {r:.3f}" for r in (v.reprojection, v.reference))
        note = v.why or ("forced" if v.forced else "")
        table.add_row(v.name, v.state, v.parent or "", v.made_at or "", str(v.sessions or ""), *ratios, note)
    Console(highlight=False).print(table)


@registry.command(epilog="Example: edgelift registry show registry v0002")
def show(
    where: Where,
    version: Annotated[str | None, typer.Argument(help="The current one if none is named.")] = None,
    as_json: Json = False,
) -> None:
    """Show where a version comes from: sessions, figures, findings, history."""
    from edgelift.runtime.registries import open_registry
    from edgelift.runtime.versions import details

    facts = details(open_registry(where), version)
    finish(facts, as_json)
    if not as_json:
        for line in _shown(facts):
            Console(highlight=False, markup=False).print(line)


def _shown(facts: dict[str, Any]) -> list[str]:
    current = ", the current version" if facts["current"] else ""
    lines = [f"{facts['version']}{current}: {facts['skeleton']}, {facts['frames']} frame(s), {facts['camera_input']}"]
    refresh = facts["refresh"]
    if refresh is None:
        return [*lines, "  where the registry began"]
    lines.append(f"  made from {facts['parent']['version']} at {refresh['made_at']}" + ", by force" * refresh["forced"])
    lines += [
        f"  session {s['name']}: {s['seconds']:.0f} s, {len(s['cameras'])} cameras, {s['fingerprint'][:12]}"
        for s in refresh["sessions"]
    ]
    lines += [f"  against it: {reason}" for reason in refresh["reasons"]]
    lines += _measures({"gate": refresh["gate"], "findings": refresh["findings"]})
    return lines + [f"  {event['what']}: {event['previous']} -> {event['version']}" for event in facts["history"]]


@registry.command(epilog="Example: edgelift registry diff registry v0001 v0002 take3.npz -o diff.png")
def diff(
    where: Where,
    first: Annotated[str, typer.Argument(help="A version.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    sessions: Annotated[list[Path] | None, typer.Argument(help="Sessions to compare them on, too.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A picture of it, PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Hold two versions against each other, joint by joint."""
    from edgelift.poses.sessions import load_sessions
    from edgelift.runtime.registries import open_registry
    from edgelift.runtime.versions import difference

    bundles = open_registry(where).load(first), open_registry(where).load(second)
    facts = difference(*bundles, load_sessions(sessions or []))
    if output is not None:
        from edgelift.trainer.versions_picture import draw_difference, standing

        if facts["reference"] is None and facts["sessions"] is None:
            raise EdgeliftError(
                f"{first} and {second}", "lifters that are fed otherwise, and no sessions", "something to compare on",
                "Name sessions.",
            )  # fmt: skip
        skeleton = bundles[0].skeleton
        draw_difference(facts, skeleton, standing(bundles[0].reference()["poses"], skeleton), output)
    facts["picture"] = None if output is None else str(output)
    finish(facts, as_json, *([] if output is None else [f"picture -> {output}"]))
    if not as_json:
        _print_difference(facts)


def _print_difference(facts: dict[str, Any]) -> None:
    out = Console(highlight=False)
    for kind in ("reference", "sessions"):
        part = facts[kind]
        if part is None:
            continue
        table = Table("joint", *facts["versions"], "change", title=f"{kind}, mm")
        for name, before, after in zip(facts["joints"], *part["joints_mm"], strict=True):
            unknown = before is None or after is None
            row = ("-", "-", "-") if unknown else (f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}")
            table.add_row(name, *row)
        table.add_row("mean", *("-" if m is None else f"{m:.1f}" for m in part["mean_mm"]), "", end_section=True)
        out.print(table)


@registry.command(epilog="Example: edgelift registry rollback registry --to v0001")
def rollback(
    where: Where,
    to: Annotated[str | None, typer.Option(help="A version; the current one's parent if none is named.")] = None,
    as_json: Json = False,
) -> None:
    """Make an older version the current one; running loops return to it."""
    from edgelift.runtime.registries import open_registry

    before, now = open_registry(where).rollback(to)
    finish({"registry": where, "from": before, "to": now}, as_json, f"{before} -> {now}: current in {where}")


@registry.command(epilog="Example: edgelift registry prune registry --keep 5")
def prune(
    where: Where,
    keep: Annotated[int, typer.Option(help="The newest so many stay, the current one and its parent in any case.")] = 5,
    as_json: Json = False,
) -> None:
    """Remove old versions."""
    from edgelift.runtime.registries import open_registry

    gone = open_registry(where).prune(keep)
    finish({"registry": where, "removed": gone}, as_json, f"{len(gone)} versions removed from {where}")


@app.command(epilog="Example: edgelift watch recordings registry --budget 60s")
def watch(
    folder: Annotated[Path, typer.Argument(help="Where finished sessions (.npz) appear.")],
    where: Annotated[str, typer.Argument(help="A registry on this machine.")],
    budget: Annotated[str, typer.Option(help="Of each adaptation.")] = "60s",
    settle: Annotated[str, typer.Option(help="A file that has not changed for so long is finished.")] = "5s",
    learn_cameras: Annotated[
        Literal["none", "extrinsics", "intrinsics", "all"], typer.Option(help="As of `adapt`.")
    ] = "none",
    once: Annotated[bool, typer.Option("--once", help="Adapt to what lies there now, and end.")] = False,
    as_json: Json = False,
) -> None:
    """Watch a folder: adapt to each finished session, judge, publish; until Ctrl-C."""
    from edgelift.cli.live import until_signal
    from edgelift.runtime.registries import is_url, path_of
    from edgelift.trainer.watch import PAGE, WatchSettings
    from edgelift.trainer.watch import watch as run

    seconds_of("--budget", budget)
    if is_url(where):
        raise EdgeliftError(
            where, "a URL", "a registry on this machine", "For a store: edgelift adapt --fleet, by cron."
        )
    settings = WatchSettings(
        seconds_of("--settle", settle), once=once, adapt=("--budget", budget, "--learn-cameras", learn_cameras)
    )
    with until_signal() as stopped:
        state = run(folder, path_of(where), settings, stopped, say.print)
    counts = {how: sum(run["how"] == how for run in state.runs) for how in ("published", "refused", "failed")}
    facts = {"registry": str(where), "page": str(path_of(where) / PAGE), **counts}
    told = ", ".join(f"{number} {how}" for how, number in counts.items())
    finish(facts, as_json, f"{told}, since the first start -> {facts['page']}")
