"""What `edgelift export` adds to a bundle: a reduced graph, a CPU file, an engine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from edgelift.calibration.ranges import Ranges
from edgelift.export.cpu_file import keep_cpu_file
from edgelift.export.reduced import keep_graph
from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.attachments import Attachment, find
from edgelift.runtime.budget import Budget, budget_of
from edgelift.runtime.bundle import Bundle, sha256
from edgelift.runtime.engines.build import BuildSettings, check_precision
from edgelift.runtime.engines.make import make_engine


@dataclass(frozen=True)
class Addition:
    """engine: cpu, rtx, tensorrt or None (the graph alone); targets: of rtx; ranges: folder, for int8 and fp8.

    budget_mm, budget_p99_mm, budget_max_mm: limits in place of the precision's own.
    """

    engine: str | None = None
    precision: str = "fp32"
    targets: tuple[str, ...] = ()
    max_batch: int = 16
    refittable: bool = False
    ranges: Path | None = None
    budget_mm: float | None = None
    budget_p99_mm: float | None = None
    budget_max_mm: float | None = None
    force: bool = False

    @property
    def nothing(self) -> bool:
        """Whether it asks for no more than a bundle has."""
        return self.engine is None and self.precision == "fp32"

    @property
    def budget(self) -> Budget:
        """The precision's limits, with those that were given."""
        return budget_of(self.precision, self.budget_mm, self.budget_p99_mm, self.budget_max_mm)

    def settings(self) -> BuildSettings:
        """What to build."""
        assert self.engine is not None
        return BuildSettings(self.engine, self.precision, self.targets, self.max_batch, self.refittable)

    def check(self) -> None:
        """EdgeliftError for what cannot be, before anything is made."""
        for target in self.targets or ("sm_89",):  # a graph alone is for whatever can run it
            check_precision(self.precision, target)
        if self.engine in ("rtx", "tensorrt"):
            self.settings().check()
        elif self.targets or self.refittable:
            raise EdgeliftError("--target, --refittable", f"--engine {self.engine}", "--engine rtx", "Leave them out.")
        if self.engine == "cpu" and self.precision != "int8":
            raise EdgeliftError(
                f"--engine cpu --precision {self.precision}", "no file of its own", "int8",
                "fp32 runs the bundle's portable graph.",
            )  # fmt: skip


def add(bundle: Bundle, addition: Addition) -> list[Attachment]:
    """Make what is asked for and keep it in the bundle; EdgeliftError where a limit refuses it."""
    addition.check()
    if addition.engine == "cpu":
        return [keep_cpu_file(bundle, addition.budget, addition.force)]
    made = []
    if addition.precision != "fp32" and not _kept(bundle, addition):
        ranges = None if addition.ranges is None else Ranges.load(addition.ranges, sha256(bundle.onnx))
        made.append(keep_graph(bundle, addition.precision, ranges, addition.budget, addition.force))
    if addition.engine is not None:
        made.append(make_engine(bundle, addition.settings(), addition.force))
    return made


def _kept(bundle: Bundle, addition: Addition) -> bool:
    """Whether the graph that an engine needs is there already, under the same budget, and no other ranges are given."""
    graphs = find(bundle, "graphs", lambda f: f["precision"] == addition.precision)
    same = bool(graphs) and graphs[0].facts["budget"] == asdict(addition.budget)
    return same and addition.ranges is None and addition.engine is not None
