"""XML of others: no document type, so no entities to expand, and no deeper than such files are."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.untrusted import read_text

DEEPEST = 100  # elements inside each other


class _Shallow(ElementTree.TreeBuilder):
    """Builds the tree, and stops where it gets too deep."""

    depth = 0

    def start(self, tag: str, attrs: dict[str, str]) -> ElementTree.Element:
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} elements inside each other")
        return super().start(tag, attrs)

    def end(self, tag: str) -> ElementTree.Element:
        self.depth -= 1
        return super().end(tag)


def read_xml(path: Path, expected: str) -> ElementTree.Element:
    """Return the root element of an XML file in UTF-8; EdgeliftError where it is malformed or declares entities."""
    text = read_text(path, expected)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise EdgeliftError(
            str(path),
            "XML with a document type",
            "XML without one",
            "Export it again; such a file may fill the memory.",
        )
    try:
        return ElementTree.fromstring(text, ElementTree.XMLParser(target=_Shallow()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        received = f"malformed XML ({error})"
        raise EdgeliftError(str(path), received, expected, "Export it again; it may be cut short.") from error
