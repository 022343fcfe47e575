"""Fuzz one target under atheris, in a process of its own: `python -m edgelift.fuzz.worker TARGET HOME [FLAG...]`.

FLAG: libFuzzer's. HOME gets `corpus`; and, for each thing that a reader should not have raised, a line of JSON in
`found.jsonl` and the input beside it, and the process goes on. A reader that never ends, or takes the process with it,
ends the process.
"""

from __future__ import annotations

import json
import resource
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["edgelift.poses"]):
    from edgelift.fuzz.mutations import mutate
    from edgelift.fuzz.targets import TARGETS, Target

MEMORY = 2**32  # bytes of address space: a reader that wants more gets a MemoryError
OURS = "/poses/"


class Fuzzing:
    """What libFuzzer calls: with each input, and for each new one."""

    def __init__(self, target: Target, home: Path) -> None:
        self.target, self.home = target, home
        self.folder, seeds = target.prepare(home / "files")
        self.found: set[str] = set()
        (home / "corpus").mkdir()
        for number, seed in enumerate(seeds):
            (home / "corpus" / f"seed{number}").write_bytes(seed)

    def try_input(self, data: bytes) -> None:
        """Read it; note what was raised, once for each place where it was."""
        try:
            self.target.takes(self.folder, data)
        except Exception as error:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if OURS in f.filename]
            place = f"{frames[-1].filename.partition(OURS)[2]}, {frames[-1].name}" if frames else "what is told"
            if (key := f"{type(error).__name__} {place}") not in self.found:
                self.found.add(key)
                self._note(data, f"{type(error).__name__}: {error}"[:300], place)

    def _note(self, data: bytes, raised: str, place: str) -> None:
        path = self.home / f"found{len(self.found)}"
        path.write_bytes(data)
        with (self.home / "found.jsonl").open("a") as file:
            file.write(json.dumps({"raised": raised, "in": place, "input": path.name}) + "\n")

    def change(self, data: bytes, most: int, seed: int) -> bytes:
        """Change it as its form allows, or as libFuzzer thinks fit."""
        random = Random(seed)
        if random.random() < 0.3:
            return bytes(atheris.Mutate(data, most))
        return mutate(data, self.target.form, random)[:most]


def main(words: Sequence[str]) -> None:
    """Fuzz; libFuzzer ends the process."""
    name, home, *flags = words
    fuzzing = Fuzzing(TARGETS[name], Path(home))
    warnings.simplefilter("error")  # numpy's would be printed between what the user is told
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    arguments = [sys.argv[0], *flags, str(Path(home) / "corpus")]
    atheris.Setup(arguments, fuzzing.try_input, custom_mutator=fuzzing.change)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
