"""TensorRT and TensorRT-RTX, loaded when asked for and never before: neither belongs to the base installation."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass, field
from typing import Any, cast

from edgelift.poses.errors import EdgeliftError, missing_extra
from edgelift.runtime.engines.api import ILogger, TensorRT

MODULES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
TITLES = {"tensorrt": "TensorRT", "rtx": "TensorRT-RTX"}


@dataclass(frozen=True)
class Loaded:
    """A TensorRT that is there. messages: what it complained of since they were last taken."""

    flavour: str
    api: TensorRT
    logger: ILogger
    messages: list[str] = field(default_factory=list)

    @property
    def version(self) -> str:
        """Four numbers, as plans carry them."""
        return self.api.__version__

    def complaints(self) -> str:
        """Take what was logged since the last call."""
        text = "; ".join(self.messages) or "no reason given"
        self.messages.clear()
        return text


@functools.cache  # TensorRT keeps the first logger a process gives it and ignores every later one
def load(flavour: str) -> Loaded:
    """Import a TensorRT: `tensorrt` or `rtx`. EdgeliftError naming the pip line where it is not installed."""
    try:
        api = importlib.import_module(MODULES[flavour])
    except ModuleNotFoundError as error:
        raise missing_extra(MODULES[flavour], flavour) from error
    except (ImportError, OSError) as error:  # a wheel without its libraries
        raise EdgeliftError(
            f"module {MODULES[flavour]}", str(error), "a working installation",
            f"Run: pip install --force-reinstall 'edgelift[{flavour}]'; on a Jetson use the system's own TensorRT.",
        ) from error  # fmt: skip
    messages: list[str] = []
    typed = cast(TensorRT, api)
    return Loaded(flavour, typed, _logger(typed, messages), messages)


def _logger(api: TensorRT, messages: list[str]) -> ILogger:
    base: Any = api.ILogger  # a class, which the protocol cannot say
    errors = (api.ILogger.ERROR, api.ILogger.INTERNAL_ERROR)

    class Collector(base):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            if severity in errors:
                messages.append(message.strip())

    return cast(ILogger, Collector())
