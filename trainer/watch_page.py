"""The watcher's page: what it did, in one HTML file that needs nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from edgelift.poses.files import replaced
from edgelift.runtime.registries import LocalRegistry

HEAD = """<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="30"><title>edgelift watch</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;width:100%;margin:.5rem 0 2rem}th,td{text-align:left;padding:.35rem .6rem;
border-bottom:1px solid #d8dee4;vertical-align:top}th{color:#57606a;font-weight:600}
.published{color:#116329}.refused{color:#9a6700}.failed,.given_up{color:#a40e26}.num{text-align:right;
font-variant-numeric:tabular-nums}small{color:#57606a}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}th,td{border-color:#30363d}th,small{color:#9198a1}
.published{color:#3fb950}.refused{color:#d29922}.failed,.given_up{color:#f85149}}
</style>
"""
MEASURES = {"reprojection_px": "reprojection", "triangulation_mm": "triangulation", "reference_mm": "reference set"}


def write_page(
    path: Path, registry: Path, folder: Path, runs: Sequence[dict[str, Any]], sessions: Sequence[dict[str, Any]]
) -> None:
    """Write the page: runs, the newest first, then what waits to be tried again or was given up."""
    now = LocalRegistry(registry).current()
    body = f"<h1>{escape(registry.resolve().name)}</h1><p>Current version <b>{escape(now)}</b>; sessions "
    body += f"are taken from {escape(str(folder))}. <small>Written {_time(time.time())}</small></p>"
    body += _table(("when", "sessions", "outcome", *MEASURES.values(), "seconds", ""), map(_run, reversed(runs)))
    waiting = [s for s in sessions if s["state"] in ("failed", "given_up")]
    if waiting:
        body += "<h2>Not adapted to</h2>" + _table(("session", "state", "attempts", "why"), map(_waiting, waiting))
    with replaced(path) as temporary:
        temporary.write_text(HEAD + body + "\n", encoding="utf-8")


def _run(run: dict[str, Any]) -> list[str]:
    told = run["told"]
    measures = (told.get("gate") or {"measures": {}})["measures"]
    ratios = [f"&times;&thinsp;{measures[name]['ratio']:.3f}" if name in measures else "" for name in MEASURES]
    what = f"{run['how']}{' by force' if told.get('forced') else ''} {told.get('version') or ''}"
    spent = f"{sum(told['seconds'].values()):.0f}" if told else ""
    why = "<br>".join(map(escape, told.get("reasons") or ([] if run["how"] == "published" else [run["said"]])))
    outcome = f'<span class="{run["how"]}">{escape(what)}</span>'
    return [_time(run["at_s"]), "<br>".join(map(escape, run["sessions"])), outcome, *ratios, spent, why]


def _waiting(seen: dict[str, Any]) -> list[str]:
    state = f'<span class="{seen["state"]}">{seen["state"].replace("_", " ")}</span>'
    return [escape(seen["file"]), state, str(seen["attempts"]), escape(seen["why"])]


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    if not lines:
        return "<p>Nothing yet.</p>"
    return "<table><tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>" + "".join(lines) + "</table>"


def _time(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))
