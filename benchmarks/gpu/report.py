"""check.py's result as a page to read: the answers first, then every section's parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Told = dict[str, Any]
SAME_MM = 1.0  # an engine has weights whose poses it gives to the millimetre
WANTED = 1.25
RAN = ("mean_mm", "p99_mm", "worst_mm", "mpjpe_change_mm", "share_of_budget", "opened_s")
LATENCY = (
    "provider",
    "precision",
    "batch",
    "mode",
    "calls",
    "p50_us",
    "p90_us",
    "p99_us",
    "max_us",
    "throughput_per_s",
)
LONG = 300


def markdown(result: Told) -> str:
    """Answers in words, a table of each section, and why what is missing is missing."""
    sections = result["sections"]
    parts = {name: told["parts"] for name, told in sections.items()}
    versions = parts["machine"].get("versions", {})
    lines = [f"# GPU check: {parts['machine'].get('gpu', {}).get('name') or 'no GPU'}", ""]
    lines += [", ".join(f"{name} {version}" for name, version in versions.items() if name != "why_not"), ""]
    lines += [f"{result['seconds']} s" + ", --quick: rough figures of narrow lifters" * result["quick"], ""]
    lines += ["## Answers", "", *answers(parts), "", "## Sections", ""]
    lines += ["| | s | parts that ran | broken off |", "|---|---|---|---|"]
    for name, told in sections.items():
        ran = sum(not _why(answer) for answer in told["parts"].values())
        lines.append(f"| {name} | {told['seconds']} | {ran} of {len(told['parts'])} | {_cell(told['failed'] or '')} |")
    for name, answered in parts.items():
        lines += ["", f"## {name}", "", *_section(answered)]
    return "\n".join(lines) + "\n"


def _why(answer: Any) -> str | None:
    return answer["why_not"] if isinstance(answer, dict) and "why_not" in answer else None


# The answers


def answers(parts: dict[str, Told]) -> Iterator[str]:
    """One line an answer, or why there is none."""
    for target, answer in parts.get("targets", {}).items():
        if not target.startswith("what"):
            yield _line(f"Does TensorRT-RTX's engine for {target} run on this GPU?", answer, _runs)
    for flavour in ("tensorrt", "rtx"):
        refit = parts.get(f"refit_{flavour}", {})
        for precision in ("fp32", "fp16"):
            where = f" ({flavour}, {precision})"
            for part, question, say in (
                ("the old graph after a refit", "Is a captured graph valid after a refit", _graph),
                ("what refittable costs", "What does refittable cost", _costs),
                ("what it lists", "Does a refittable build drop weights", _drops),
                ("edgelift refit", "Does `edgelift refit` work", _refits),
                (
                    "a refit beside the live engine",
                    "Is a live engine left alone by a refit of the idle one",
                    _left_alone,
                ),
            ):
                yield _line(f"{question}{where}?", refit.get(f"{precision}: {part}"), say)
        for part, answer in parts.get(f"precisions_{flavour}", {}).items():
            yield _line(f"Which precision is fast ({flavour}, {part})?", answer, _p50)
    for name in ("tensorrt", "rtx", "cuda", "cpu"):
        for part, answer in parts.get(f"overhead_{name}", {}).items():
            yield _line(f"At most {WANTED} of a bare loop ({name}, {part})?", answer, _overhead)


def _line(question: str, answer: Any, say: Callable[[Told], str]) -> str:
    why = "its section did not get there" if answer is None else _why(answer)
    return f"- {question} " + (say(answer) if why is None else f"Not answered: {_cell(why)}")


def _runs(told: Told) -> str:
    return f"**Yes**: worst joint {told['worst_mm']:.4g} mm from the CPU's."


def _graph(told: Told) -> str:
    old, anew = told["old_graph_mm"], told["recaptured_mm"]
    figures = (
        f"the old graph is {_short(old)}, captured anew {_short(anew)} (worst joint, mm; the two weights' poses are "
        f"{told['weights_apart_mm']:.4g} mm apart; refit took {told['refit_s']:.4g} s)"
    )
    if old["from_new_weights"] < SAME_MM:
        return f"**Yes**: {figures}."
    if anew["from_new_weights"] < SAME_MM:
        return f"**No, recapturing is needed**: {figures}."
    return f"**The refit itself did not give the new weights' poses**: {figures}."


def _costs(told: Told) -> str:
    ratio = told["refittable_over"]["plain"]["p50"]
    builds = f"{told['refittable_build_s']} s to build, plain {told['plain_build_s']} s"
    return f"**{ratio:.3f}** of the plain engine's p50 ({_p50(told)}); {builds}."


def _drops(told: Told) -> str:
    figures = f"{told['listed']} listed, {told['parameters']} in the bundle; unrefitted {_short(told['unrefitted'])}"
    hidden, foreign = told["not_listed"], told["listed_unknown"]
    word = "Yes" if hidden else "No"
    return f"**{word}**: not listed {_short(hidden)}; unknown to us {_short(foreign)}; {figures}."


def _refits(told: Told) -> str:
    there, back = _short(told["engine_parity"]), _short(told["and_back"])
    return f"**Yes**, in {told['seconds_with_parity']:.3g} s with parity: {there}; and back again: {back}."


def _left_alone(told: Told) -> str:
    alone, meanwhile = told["live_us_alone"], told["live_us_meanwhile"]
    seconds = sorted(told["refit_beside_s"])
    figures = (
        f"p50 {meanwhile['p50_us']:.4g} us for {alone['p50_us']:.4g} us, p99 {meanwhile['p99_us']:.4g} for "
        f"{alone['p99_us']:.4g}; a refit in place, with parity, takes {seconds[len(seconds) // 2]:.3g} s"
    )
    return (
        f"**{'Yes' if told['live_moved_m'] == 0 else 'No'}**: its poses moved {told['live_moved_m']:.3g} m; {figures}."
    )


def _p50(told: Told) -> str:
    return "p50 " + ", ".join(f"{name} {row['p50_us']:.4g} us" for name, row in told["us"].items())


def _overhead(told: Told) -> str:
    over = told["edgelift_over"]
    word = "Yes" if all(ratio["p50"] <= WANTED for ratio in over.values()) else "No"
    ratios = "; ".join(f"p50 {ratio['p50']:.3f}, p99 {ratio['p99']:.3f} of {name}" for name, ratio in over.items())
    return f"**{word}**: {ratios} ({_p50(told)})."


# The sections


def _section(parts: Told) -> Iterator[str]:
    """Rows of a kind as tables, all else as lines, what has no answer last."""
    kinds: dict[tuple[str, ...], list[list[str]]] = {}
    for name, answer in parts.items():
        for keys, row in _rows(name, answer):
            kinds.setdefault(keys, []).append(row)
    for keys, rows in kinds.items():
        yield from ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
        yield from ["| " + " | ".join(row) + " |" for row in rows]
        yield ""
    for name, answer in parts.items():
        if _why(answer) is not None:
            yield f"- {name}: **not run**: {_cell(_why(answer))}"
        elif not list(_rows(name, answer)):
            yield f"- {name}: {_short(answer)}"


def _rows(name: str, answer: Any) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    if not isinstance(answer, dict):
        return
    if "rows" in answer:
        for row in answer["rows"]:
            yield ("", *LATENCY), [name, *(_cell(_short(row[key])) for key in LATENCY)]
    elif "nan_changes_nothing" in answer:
        junk = all(answer[key] for key in ("nan_changes_nothing", "1e9_changes_nothing"))
        batches = ", ".join(f"{n}: {_short(b['from_batch_1_mm'])}" for n, b in answer["batches"].items())
        kept = [_short(answer[key]) for key in RAN]
        told = [batches, "the same" if junk else "**differs**", "yes" if answer["nobody_seen_is_finite"] else "**no**"]
        yield (
            ("", *RAN, "batches: mm from batch 1", "junk in missing joints", "nobody: finite"),
            [name, *kept, *told],
        )
    elif "build_seconds" in answer and "bytes" in answer:
        keys = ("version", "targets", "bytes", "build_seconds")
        yield ("", *keys), [name, *(_short(answer[key]) for key in keys)]


def _short(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        told = "; ".join(map(_short, value[:12])) + f"; and {len(value) - 12} more" * (len(value) > 12)
        return told or "none"
    return str(value)


def _cell(text: str | None) -> str:
    flat = " ".join((text or "").split()).replace("|", "/")
    return flat if len(flat) <= LONG else flat[:LONG] + "..."
