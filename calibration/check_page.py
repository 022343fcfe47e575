"""The page of a check: one self-contained HTML file, the verdict first, then what to do, then what was measured."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelift.calibration.check import Checked, Finding
from edgelift.calibration.check_facts import SECTORS, Facts, ViewFacts
from edgelift.poses.files import replaced

Float64 = NDArray[np.float64]

PLACE = "<!--BODY-->"
STRIP_WIDTH, STRIP_HEIGHT, LABEL_WIDTH = 860, 20, 120  # pixels of a row of the picture of time
HEAT_HEIGHT, DIAL = 150, 92  # pixels
LEAST_MARK = 2.0  # pixels: a short span is still seen
WIDEST_SPREAD = 20.0  # percent of a bone's length that fill a meter
# what fills a cell of residuals: as bad as three times the median of all
WORST_SHADE = 3.0


def write_page(checked: Sequence[Checked], path: Path) -> None:
    """Write the page of sessions that were checked, whole or not at all; nothing in it is fetched from elsewhere."""
    template = Path(__file__).with_name("check.html").read_text(encoding="utf-8")
    body = [f"<h1>Fit to train on? {_overall(checked)}</h1>"]
    if len(checked) > 1:
        body.append(_summary(checked))
    body += [_session(one, number) for number, one in enumerate(checked)]
    with replaced(path) as temporary:
        temporary.write_text(template.replace(PLACE, "\n".join(body)), encoding="utf-8")


def _overall(checked: Sequence[Checked]) -> str:
    if len(checked) == 1:
        return ""
    counts = [(name, sum(one.verdict == name for one in checked)) for name in ("fit", "usable", "unfit")]
    return " ".join(f'<span class="verdict {name}">{count} {name}</span>' for name, count in counts if count)


def _summary(checked: Sequence[Checked]) -> str:
    rows = [
        [
            f'<a href="#s{number}">{escape(one.facts.session)}</a>',
            f'<span class="{one.verdict}">{one.verdict}</span>',
            _number(one.facts.together_s, ".0f"), str(len(one.facts.views)),
            f'<span class="why">{escape("; ".join(f.what for f in one.findings if f.level != "note"))}</span>',
        ]
        for number, one in enumerate(checked)
    ]  # fmt: skip
    return _table(("session", "verdict", "seconds", "views", "why"), rows, right=(2, 3))


def _session(one: Checked, number: int) -> str:
    facts = one.facts
    title = f'{escape(facts.session)} <span class="verdict {one.verdict}">{one.verdict}</span>'
    parts = [f'<h2 id="s{number}">{title}</h2>', _what(facts), *map(_finding, one.findings)]
    if not one.findings:
        parts.append("<p>Nothing was found that speaks against it.</p>")
    parts += [f'<p class="soft">Not checked: {escape(what)}.</p>' for what in facts.unchecked]
    parts += ["<h3>Who was seen, over time</h3>", _timeline(facts), "<h3>Views</h3>", _views(facts)]
    parts += ["<h3>Where in the image the person was</h3>", _row(map(_heat, facts.views))]
    if any(view.facing is not None for view in facts.views):
        parts += ["<h3>Which side each view saw</h3>", _row(map(_dial, facts.views))]
    joints, bones = f"<div><h3>Joints</h3>{_joints(facts)}</div>", ""
    if facts.bones:
        tall = _number(facts.height_m, ".2f")
        bones = f"<div><h3>Bones, of a person {tall} m tall</h3>{_bones(facts)}</div>"
    return "\n".join([*parts, f'<div class="row top">{joints}{bones}</div>'])


def _what(facts: Facts) -> str:
    rate = f"{1 / facts.step_s:.0f} Hz" if facts.step_s else "one frame"
    told = f"{len(facts.views)} views, {facts.frames} frames at {rate}, {facts.seconds:.1f} s, {facts.skeleton}"
    return f'<p class="soft">{told}; two views see the person for {facts.together_s:.1f} s.</p>'


def _finding(finding: Finding) -> str:
    what, evidence, remedy = (_prose(text) for text in (finding.what, finding.evidence, finding.remedy))
    head = f'<b>{what}</b> <span class="soft">({finding.level})</span>'
    return f'<div class="finding {finding.level}">{head}<p>{evidence}.</p><p><b>To do:</b> {remedy}.</p></div>'


def _prose(text: str) -> str:
    """Text of a finding; its `commands` as such."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))


def _timeline(facts: Facts) -> str:
    """A row a view: how much of the person it saw, and marks where sides were exchanged."""
    rows = []
    for number, (view, presence) in enumerate(zip(facts.views, facts.presence, strict=True)):
        top = number * (STRIP_HEIGHT + 8)
        bars = _bars(presence, top)
        marks = [_mark(span, facts.frames, top) for span in view.swapped_frames]
        rows.append(f'<text x="0" y="{top + 15}">{escape(view.name)}</text>{bars}{"".join(marks)}')
    height = len(facts.views) * (STRIP_HEIGHT + 8) + 16
    ticks = "".join(
        f'<text x="{LABEL_WIDTH + share * STRIP_WIDTH:.0f}" y="{height - 3}" text-anchor="{anchor}">'
        f"{share * facts.seconds:.3g} s</text>"
        for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    )
    told = "Blue: share of the joints that were seen. Red: left and right exchanged."
    picture = _svg(LABEL_WIDTH + STRIP_WIDTH, height, "".join(rows) + ticks)
    return f'<div class="wide">{picture}</div><small>{told}</small>'


def _bars(presence: Float64, top: int) -> str:
    """A row: its ground, and over it one outline that rises and falls with the share; gaps in time are empty."""
    bottom, width = top + STRIP_HEIGHT, STRIP_WIDTH / len(presence)
    heights = STRIP_HEIGHT * np.nan_to_num(presence)
    outline = "".join(f"V{bottom - height:.1f}h{width:.2f}" for height in heights.tolist())
    ground = f'<rect x="{LABEL_WIDTH}" y="{top}" width="{STRIP_WIDTH}" height="{STRIP_HEIGHT}" fill="var(--card)"/>'
    return f'{ground}<path d="M{LABEL_WIDTH} {bottom}{outline}V{bottom}Z" fill="var(--seen)" opacity=".65"/>'


def _mark(span: tuple[int, int], frames: int, top: int) -> str:
    first, last = (LABEL_WIDTH + STRIP_WIDTH * frame / frames for frame in (span[0], span[1] + 1))
    title = f"<title>frames {span[0]} to {span[1]}</title>"
    width = max(last - first, LEAST_MARK)
    return (
        f'<rect x="{first:.1f}" y="{top}" width="{width:.1f}" height="{STRIP_HEIGHT}" fill="var(--bad)" opacity=".7">'
        f"{title}</rect>"
    )


def _views(facts: Facts) -> str:
    head = (
        "view", "seen", "longest without", "confidence p10 / p50", "residual p50 / p90, px", "lag, ms", "drift, ms",
        "sides exchanged", "frames repeat", "outside image",
    )  # fmt: skip
    return _table(head, [_view(view) for view in facts.views], right=range(1, len(head)))


def _view(view: ViewFacts) -> list[str]:
    thousand = [None if value is None else 1000 * value for value in (view.lag_s, view.drift_s)]
    return [
        escape(view.name), f"{view.shown:.1%}", f"{view.absent_s:.1f} s", _pair(view.confidence, ".2f"),
        _pair(view.residual_px, ".1f"), *(_number(value, ".0f") for value in thousand),
        _number(view.swapped if view.facing is not None else None, ".1%"), f"{view.frozen:.1%}",
        _number(view.outside, ".1%"),
    ]  # fmt: skip


def _heat(view: ViewFacts) -> str:
    """The image in coarse cells, darker where more joints were."""
    rows, columns = view.heat.shape
    side = HEAT_HEIGHT / rows
    most = max(float(view.heat.max()), 1e-9)
    cells = "".join(
        f'<rect x="{c * side:.1f}" y="{r * side:.1f}" width="{side:.1f}" height="{side:.1f}" fill="var(--seen)" '
        f'opacity="{(view.heat[r, c] / most) ** 0.5:.2f}"/>'
        for r, c in np.argwhere(view.heat > 0).tolist()
    )
    width = columns * side
    frame = f'<rect width="{width:.1f}" height="{HEAT_HEIGHT}" fill="var(--card)" stroke="var(--line)"/>'
    told = "size unknown" if view.size is None else f"{view.size[0]}x{view.size[1]}"
    caption = f"{escape(view.name)}, {told}"
    return f"<figure>{_svg(width, HEAT_HEIGHT, frame + cells)}<figcaption>{caption}</figcaption></figure>"


def _dial(view: ViewFacts) -> str:
    """A wheel of the directions in which the person faced, the camera below it."""
    if view.facing is None:
        return ""
    most, middle = max(float(view.facing.max()), 1e-9), DIAL / 2
    wedges = "".join(_wedge(k, (share / most) ** 0.5, middle) for k, share in enumerate(view.facing.tolist()))
    ring = f'<circle cx="{middle}" cy="{middle}" r="{middle - 1}" fill="var(--card)" stroke="var(--line)"/>'
    texts = f'<text x="{middle}" y="{DIAL + 13}" text-anchor="middle">camera</text>'
    seen = _svg(DIAL, DIAL + 16, ring + wedges + texts)
    front = f"front {view.facing[0]:.0%}, back {view.facing[SECTORS // 2]:.0%}"
    return f"<figure>{seen}<figcaption>{escape(view.name)}<br>{front}</figcaption></figure>"


def _wedge(sector: int, share: float, middle: float) -> str:
    """One of the directions; the first points down, to the camera, and the third to the right of the image."""
    ends = [2 * np.pi * (sector + side) / SECTORS for side in (-0.5, 0.5)]
    radius = share * (middle - 2)
    (ax, ay), (bx, by) = ((middle + radius * np.sin(a), middle + radius * np.cos(a)) for a in ends)
    path = f"M{middle} {middle}L{ax:.1f} {ay:.1f}A{radius:.1f} {radius:.1f} 0 0 0 {bx:.1f} {by:.1f}Z"
    return f'<path d="{path}" fill="var(--seen)" opacity=".75"/>' if share > 0 else ""


def _joints(facts: Facts) -> str:
    """Every joint: how often two views see it, and its residual in every view, shaded."""
    measured = [view for view in facts.views if view.by_joint_px is not None]
    middle = float(np.nanmedian([v.residual_px[0] for v in measured])) if measured else np.nan
    head = ["joint", "seen by two views", *(f"{escape(view.name)}, px" for view in measured)]
    rows = [
        [
            f"<td>{escape(joint)}</td>", f"<td>{_meter(share)} {share:.0%}</td>",
            *(_cell(view.by_joint_px[j], middle) for view in measured if view.by_joint_px is not None),
        ]
        for j, (joint, share) in enumerate(zip(facts.joints, facts.together.tolist(), strict=True))
    ]  # fmt: skip
    return _rows(head, rows, range(2, len(head))) + ("<small>Residuals: p50 / p90.</small>" if measured else "")


def _cell(percentiles: Float64, middle: float) -> str:
    """p50 / p90, the redder the farther p50 is above the usual."""
    worse = (percentiles[0] / max(middle, 1e-9) - 1) / (WORST_SHADE - 1)
    shade = f"color-mix(in srgb, var(--bad) {60 * min(max(worse, 0.0), 1.0):.0f}%, transparent)"
    style = f' style="background:{shade}"' if worse > 0 else ""
    return f'<td class="cell"{style}>{_pair(percentiles, ".1f")}</td>'


def _bones(facts: Facts) -> str:
    rows = [
        [
            escape(bone.name.replace("_", " ")), _number(bone.metres, ".3f"),
            f"{_meter(min(bone.spread_percent / WIDEST_SPREAD, 1.0))} {bone.spread_percent:.1f} %",
            _number(bone.asymmetry_percent, "+.1f"),
        ]
        for bone in facts.bones
    ]  # fmt: skip
    return _table(("bone to", "median, m", "median deviation", "left longer by, %"), rows, right=(1, 3))


def _meter(share: float) -> str:
    return f'<i class="meter" style="width:{110 * share if np.isfinite(share) else 0:.0f}px"></i>'


def _number(value: float | None, form: str) -> str:
    return "&ndash;" if value is None or not np.isfinite(value) else format(value, form)


def _pair(values: Iterable[float], form: str) -> str:
    return " / ".join(_number(value, form) for value in values)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    numbers = set(right)
    kinds = ['<td class="n">' if k in numbers else "<td>" for k in range(len(head))]
    cells = [[f"{kind}{cell}</td>" for kind, cell in zip(kinds, row, strict=True)] for row in rows]
    return _rows(head, cells, numbers)


def _rows(head: Sequence[str], cells: Iterable[Sequence[str]], right: Iterable[int]) -> str:
    numbers = set(right)
    titles = "".join(f'<th class="n">{t}</th>' if k in numbers else f"<th>{t}</th>" for k, t in enumerate(head))
    lines = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
    return f'<div class="wide"><table><tr>{titles}</tr>{lines}</table></div>'


def _row(figures: Iterable[str]) -> str:
    return f'<div class="row">{"".join(figures)}</div>'


def _svg(width: float, height: float, inside: str) -> str:
    return f'<svg width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.1f} {height:.1f}">{inside}</svg>'
