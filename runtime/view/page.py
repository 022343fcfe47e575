"""The live page: one HTML file that needs nothing else, with what it must know about skeletons put in.

It loads nothing from anywhere, and its own policy forbids that it could: scripts are let run by their hash alone, so
nothing that a message holds can become one.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from edgelift.poses.skeletons import SKELETONS, Skeleton

HERE = Path(__file__).parent
SCRIPTS = ("scene.js", "page.js")  # in this order: what page.js begins with draws


def live_page() -> str:
    """The page that watches the server it comes from."""
    return recording_page(())


def recording_page(lines: Iterable[str]) -> str:
    """The page with a recording in it: pose3d messages, one JSON object a line; without any it watches its server."""
    page = (HERE / "page.html").read_text(encoding="utf-8")
    script = "\n" + "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    skeletons = {name: _table(skeleton) for name, skeleton in SKELETONS.items()}
    page = page.replace("@SCRIPT_HASH@", base64.b64encode(hashlib.sha256(script.encode()).digest()).decode())
    page = page.replace("\n@SCRIPT@", script)
    page = page.replace("@SKELETONS@", json.dumps(skeletons, separators=(",", ":")))
    before, _, after = page.partition("@RECORDING@")  # last, and not by replace: messages may hold any of these words
    # `<` stands in strings of JSON only, and a string may be written so: no message can end the element it lies in
    return "".join((before, "\n".join(lines).replace("<", "\\u003c"), after))


def _table(skeleton: Skeleton) -> dict[str, object]:
    """root: index. bones: parent, child pairs. sides: for each joint L, R or an empty string on the midline."""
    sides = [{"left": "L", "right": "R"}.get(name.partition("_")[0], "") for name in skeleton.joints]
    return {"root": skeleton.root, "bones": skeleton.bones, "sides": sides}
