"""From an ONNX graph to a plan.

Every network is strongly typed, so that one way serves TensorRT 10.3 to 11 and TensorRT-RTX: what a layer computes in
is what the graph says, and no builder flag can be asked for and silently ignored. TF32 is cleared: fp32 means fp32.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import cast

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.engines.api import (
    Builder,
    IBuilderConfig,
    IBuilderConfigRtx,
    INetworkDefinition,
    OnnxParser,
    TensorRTRtx,
)
from edgelift.runtime.engines.flavours import TITLES, Loaded, load

PRECISIONS = ("fp32", "fp16", "int8", "fp8")
TARGETS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121")  # what TensorRT-RTX 1.7 can build for elsewhere
FP8_SINCE = 89
PORTABLE = "portable"  # no target named: TensorRT-RTX builds for Ampere and later, by its documentation


@dataclass(frozen=True)
class BuildSettings:
    """flavour: tensorrt or rtx; targets of rtx, none: portable; batches 1 to max_batch, tuned for 1."""

    flavour: str
    precision: str = "fp32"
    targets: tuple[str, ...] = ()
    max_batch: int = 16
    refittable: bool = False

    @property
    def flags(self) -> list[str]:
        """What the network and the build are asked for, beside TF32 cleared."""
        rtx = self.flavour == "rtx"
        return ["STRONGLY_TYPED"] + ["REFIT"] * self.refittable + ["REQUIRE_USER_ALLOCATION"] * rtx

    def check(self) -> None:
        """EdgeliftError for what no build can do."""
        if self.flavour == "tensorrt" and self.targets:
            raise EdgeliftError(
                "--target", ", ".join(self.targets), "none: TensorRT builds for the machine it runs on",
                "Run `edgelift build BUNDLE` on the target, or use --engine rtx.",
            )  # fmt: skip
        for target in self.targets:
            check_precision(self.precision, target)
        if self.max_batch < 1:
            raise EdgeliftError("--max-batch", str(self.max_batch), "1 or more", "Name the most people in a frame.")


def check_precision(precision: str, target: str) -> None:
    """EdgeliftError where a target has no such arithmetic, or is none."""
    if precision not in PRECISIONS:
        raise EdgeliftError("--precision", precision, " or ".join(PRECISIONS), "Choose one of them.")
    if target not in TARGETS:
        raise EdgeliftError(
            "--target", target, ", ".join(TARGETS),
            "For other GPUs build on the machine itself: edgelift build BUNDLE --engine tensorrt.",
        )  # fmt: skip
    number = int(target.removeprefix("sm_"))
    if precision == "fp8" and number < FP8_SINCE:
        raise EdgeliftError(
            f"--precision fp8 for {target}", "a GPU without FP8", f"sm_{FP8_SINCE} or newer", "Use fp16."
        )
    if precision != "fp16" and number < 80:
        raise EdgeliftError(f"--precision {precision} for {target}", "Turing", "fp16 there", "Use --precision fp16.")


@dataclass(frozen=True)
class Built:
    """A plan, what built it, the names TensorRT took as refittable (None: not asked) and the seconds it took."""

    plan: bytes
    version: str
    seconds: float


def build_plan(graph: bytes, settings: BuildSettings, name: str) -> Built:
    """Compile an ONNX graph; `name` is for messages. EdgeliftError with TensorRT's own words where it refuses."""
    settings.check()
    trt = load(settings.flavour)
    trt.messages.clear()
    started = time.perf_counter()
    try:
        builder = trt.api.Builder(trt.logger)
    except TypeError as error:  # how the bindings say that there is none, without a driver or with one too old
        raise _refused(trt, name, "no builder") from error
    network, parser = parse(trt, builder, graph, name)
    config = _config(trt, builder, network, settings)
    memory = builder.build_serialized_network(network, config)
    del parser  # must outlive the build: the network points into it
    if memory is None:
        raise _refused(trt, name, "no engine")
    return Built(bytes(memory), trt.version, time.perf_counter() - started)


def parse(trt: Loaded, builder: Builder, graph: bytes, name: str) -> tuple[INetworkDefinition, OnnxParser]:
    """Parse an ONNX graph into a strongly typed network; also returns the parser, which must outlive the network."""
    flags = 1 << int(trt.api.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.api.OnnxParser(network, trt.logger)
    if not parser.parse(graph):
        told = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        trt.messages.clear()
        raise _refused(trt, name, told or "a graph it cannot parse")
    return network, parser


def _config(trt: Loaded, builder: Builder, network: INetworkDefinition, settings: BuildSettings) -> IBuilderConfig:
    config = builder.create_builder_config()
    config.clear_flag(trt.api.BuilderFlag.TF32)
    if settings.refittable:
        config.set_flag(trt.api.BuilderFlag.REFIT)
    if settings.flavour == "rtx":  # else an engine may allocate while it runs, and a CUDA graph cannot hold that
        config.set_flag(cast(TensorRTRtx, trt.api).BuilderFlag.REQUIRE_USER_ALLOCATION)
    if settings.targets:
        _aim(cast(TensorRTRtx, trt.api), cast(IBuilderConfigRtx, config), settings.targets)
    profile = builder.create_optimization_profile()
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, (1, *rest), (1, *rest), (settings.max_batch, *rest))
    config.add_optimization_profile(profile)  # one: TensorRT allows no second on a refittable engine
    return config


def _aim(api: TensorRTRtx, config: IBuilderConfigRtx, targets: tuple[str, ...]) -> None:
    config.num_compute_capabilities = len(targets)
    for number, target in enumerate(targets):
        config.set_compute_capability(getattr(api.ComputeCapability, target.replace("_", "").upper()), number)


def _refused(trt: Loaded, name: str, what: str) -> EdgeliftError:
    title = f"{TITLES[trt.flavour]} {trt.version}"
    return EdgeliftError(
        f"building {name} with {title}", f"{what}: {trt.complaints()[:800]}", "an engine",
        "See `edgelift doctor`; a refittable engine can be built only on a machine with the GPU.",
    )  # fmt: skip
