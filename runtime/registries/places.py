"""What a user names a place by: a path, a `file://` URL, which is a path too, or the URL of a store."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edgelift.poses.errors import EdgeliftError


def is_url(place: str | Path) -> bool:
    """Whether it is a store's URL rather than a path of this machine."""
    return "://" in str(place) and not str(place).startswith("file://")


def path_of(place: str | Path) -> Path:
    """Return the path that a path or a `file://` URL means."""
    text = str(place)
    return Path(unquote(urlsplit(text).path)) if text.startswith("file://") else Path(place)


def plain_url(url: str) -> str:
    """Return a URL in the one form that names compare by; EdgeliftError without a bucket."""
    protocol, _, path = url.partition("://")
    path = re.sub("/+", "/", path).strip("/")
    if not path:
        raise EdgeliftError(url, "no bucket", f"{protocol}://BUCKET/NAME", "Name the place in full.")
    return f"{protocol}://{path}"
