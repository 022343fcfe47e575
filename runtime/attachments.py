"""What is added to a bundle after it was sealed: reduced graphs (`graphs/`) and engines (`engines/`).

Each is a file with a JSON sidecar beside it, which holds its facts, its sha256, the seal of the bundle it was made
for and a seal of its own. The sidecar is written last: a file without one is nothing yet. The bundle's own files and
manifest stay as they were exported, so that a device can add engines to the bundle it was given.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.files import replaced
from edgelift.runtime.bundle import Bundle, digest, seal


@dataclass(frozen=True)
class Attachment:
    """A file of a bundle and what its sidecar says of it."""

    path: Path
    facts: dict[str, Any]

    def read(self) -> bytes:
        """Read the file; its sha256 is verified before anybody deserialises it."""
        if not self.path.is_file():
            raise EdgeliftError(str(self.path), "no such file", "what its sidecar describes", f"Delete {self.sidecar}.")
        data = self.path.read_bytes()
        if digest(data) != self.facts["sha256"]:
            raise EdgeliftError(
                str(self.path), f"sha256 {digest(data)[:12]}", f"{self.facts['sha256'][:12]} (tampered, or truncated?)",
                "Copy it again, or make it again: edgelift build, or edgelift export.",
            )  # fmt: skip
        return data

    @property
    def sidecar(self) -> Path:
        """The file that describes it."""
        return self.path.with_name(self.path.name + ".json")


def attach(bundle: Bundle, folder: str, name: str, data: bytes, facts: dict[str, Any]) -> Attachment:
    """Add a file to a bundle or replace that of the name; a reader meets the old pair, the new one or a refusal."""
    told = facts | {"file": name, "bytes": len(data), "sha256": digest(data), "bundle_seal": bundle.manifest["seal"]}
    path = bundle.path / folder / name
    with replaced(path) as temporary:
        temporary.write_bytes(data)
    return amend(Attachment(path, told), {})


def amend(attachment: Attachment, facts: dict[str, Any]) -> Attachment:
    """Tell more of a file that is there already: its sidecar is written anew."""
    told = attachment.facts | facts
    told["seal"] = seal(told)
    amended = Attachment(attachment.path, told)
    with replaced(amended.sidecar) as temporary:
        temporary.write_text(json.dumps(told, indent=2) + "\n")
    return amended


def remove(attachment: Attachment) -> None:
    """Take a file away again, its sidecar first."""
    attachment.sidecar.unlink()
    attachment.path.unlink()


def attachments(bundle: Bundle, folder: str) -> list[Attachment]:
    """List what a folder of a bundle holds; EdgeliftError for a sidecar that was edited or is another bundle's."""
    return [_read(bundle, sidecar) for sidecar in sorted((bundle.path / folder).glob("*.json"))]


def find(bundle: Bundle, folder: str, fits: Callable[[dict[str, Any]], bool]) -> list[Attachment]:
    """List the attachments whose facts fit."""
    return [a for a in attachments(bundle, folder) if fits(a.facts)]


def _read(bundle: Bundle, sidecar: Path) -> Attachment:
    remedy = f"Delete {sidecar} and make the file again."
    try:
        facts = json.loads(sidecar.read_text())
        sealed, owner = facts["seal"], facts["bundle_seal"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise EdgeliftError(str(sidecar), f"an unreadable sidecar ({error})", "a sidecar", remedy) from error
    if sealed != seal(facts):
        raise EdgeliftError(str(sidecar), "contents that do not fit its seal", "an unedited sidecar", remedy)
    if owner != bundle.manifest["seal"]:
        raise EdgeliftError(str(sidecar), "a file made for another bundle", f"one made for {bundle.path}", remedy)
    return Attachment(sidecar.with_name(sidecar.name.removesuffix(".json")), facts)
