"""What every backend is: something that executes a bundle's lifter, and says what really does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.bundle import Bundle

Float32 = NDArray[np.float32]
Self = TypeVar("Self", bound="Backend")


class Backend(ABC):
    """A context manager that lifts windows; release it by leaving the context.

    `name` is what was asked for (cpu, cuda, tensorrt, rtx), `provider` what really executes, read back; `precision`
    that of the file it runs; `max_batch` the most windows a call takes, None for any number.

    Arrays that go in are read during the call only; those that come out belong to the caller, and no later call changes
    them.
    """

    name: str
    provider: str
    precision: str
    max_batch: int | None = None

    def __init__(self, bundle: Bundle) -> None:
        # as dtype objects: comparing names costs a live lifter microseconds a call
        self.inputs = [i | {"dtype": np.dtype(i["dtype"])} for i in bundle.manifest["inputs"]]
        self.input_names = {i["name"] for i in self.inputs}

    def run(self, inputs: Mapping[str, Float32]) -> dict[str, Float32]:
        """Execute the graph on named arrays of one batch size; EdgeliftError where they are not what it takes."""
        self._check(inputs)
        return self._execute(inputs)

    def __call__(self, keypoints: Float32, intrinsics: Float32) -> Float32:
        """Lift keypoints (n, frames, joints, 3), pixels and confidence, intrinsics (n, 4) to (n, joints, 3) metres."""
        return self.run({"keypoints": keypoints, "intrinsics": intrinsics})["poses"]

    @abstractmethod
    def _execute(self, inputs: Mapping[str, Float32]) -> dict[str, Float32]:
        """Execute on checked arrays."""

    def close(self) -> None:  # noqa: B027 - most backends hold nothing that the garbage collector does not free
        """Release what is held on a device."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, inputs: Mapping[str, Float32]) -> None:
        if inputs.keys() != self.input_names:
            wanted = sorted(self.input_names)
            raise EdgeliftError(
                "lifter input", f"arrays {sorted(inputs)}", f"{wanted}", "Name them as the bundle does."
            )
        batch = len(inputs[self.inputs[0]["name"]])
        for wanted_input in self.inputs:
            _check_array(wanted_input, inputs[wanted_input["name"]], batch)
        if self.max_batch is not None and batch > self.max_batch:
            raise EdgeliftError(
                "lifter input", f"{batch} windows", f"at most {self.max_batch}, the engine's profile",
                "Lift fewer at once, or build with a larger --max-batch.",
            )  # fmt: skip


def _check_array(wanted: dict[str, Any], array: Float32, batch: int) -> None:
    rest = tuple(wanted["shape"][1:])
    if array.dtype != wanted["dtype"] or array.shape != (batch, *rest) or not batch:
        raise EdgeliftError(
            f"lifter input {wanted['name']}", f"{array.dtype} {array.shape}",
            f"{wanted['dtype']} (n, {', '.join(map(str, rest))}), n as in the others and 1 or more",
            "Convert the keypoints to the bundle's skeleton and to float32.",
        )  # fmt: skip
