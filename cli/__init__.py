"""The command line: one thin command a verb; it parses, calls, prints. Heavy imports stay inside the commands."""

from edgelift.cli import calibrate, check, detect, engines, files, lifters, live, refresh, view
from edgelift.cli.output import app, main

__all__ = ["app", "calibrate", "check", "detect", "engines", "files", "lifters", "live", "main", "refresh", "view"]
