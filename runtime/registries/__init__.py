"""Registries: versions of a lifter, in a directory or in a store with a URL; and what follows one."""

from __future__ import annotations

from pathlib import Path

from edgelift.runtime.bundle import Bundle, load_bundle
from edgelift.runtime.registries.contract import Event, Registry, number_of
from edgelift.runtime.registries.local import LocalRegistry
from edgelift.runtime.registries.places import is_url, path_of

__all__ = ["Event", "LocalRegistry", "Registry", "is_url", "load_current", "number_of", "open_registry", "path_of"]


def open_registry(place: str | Path) -> Registry:
    """Return the registry at a path or a URL, whether there is one yet or not; EdgeliftError where none can be."""
    if not is_url(place):
        return LocalRegistry(path_of(place))
    from edgelift.runtime.registries.remote import RemoteRegistry

    return RemoteRegistry(str(place))


def load_current(place: str | Path) -> Bundle:
    """Open what a user names: a bundle, or the current version of a registry at a path or a URL."""
    registry = open_registry(place)
    if is_url(place):
        registry.check()
    return registry.load() if registry.exists() else load_bundle(path_of(place))
