"""The part of TensorRT's Python interface that edgelift touches, as protocols.

The bindings ship no types. These make mypy refuse every other attribute, and a test checks every one of these against
the compiled bindings of each declared version. Classes carry the bindings' names. What exists in TensorRT-RTX alone is
in classes whose name ends in `Rtx`. `TensorRT` and `TensorRTRtx` are the modules.
"""
# ruff: noqa: D102 - the vendor's methods, which its manual describes

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol


class IHostMemory(Protocol):
    """A serialised plan."""

    nbytes: int

    def __buffer__(self, flags: int, /) -> memoryview: ...


class Dims(Protocol):
    """A shape; -1 is dynamic."""

    def __iter__(self) -> Iterator[int]: ...
    def __len__(self) -> int: ...


class ITensor(Protocol):
    """A tensor of a network."""

    name: str
    shape: Dims


class IOptimizationProfile(Protocol):
    """Ranges of dynamic dimensions."""

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None: ...


class INetworkDefinition(Protocol):
    """A network being built."""

    num_inputs: int
    num_outputs: int

    def get_input(self, index: int) -> ITensor: ...
    def get_output(self, index: int) -> ITensor: ...
    def mark_weights_refittable(self, name: str) -> bool: ...


class IBuilderConfig(Protocol):
    """How to build."""

    builder_optimization_level: int

    def set_flag(self, flag: Any) -> None: ...
    def clear_flag(self, flag: Any) -> None: ...
    def add_optimization_profile(self, profile: IOptimizationProfile) -> int: ...


class IBuilderConfigRtx(IBuilderConfig, Protocol):
    """TensorRT-RTX builds for machines other than this one."""

    num_compute_capabilities: int

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool: ...


class Builder(Protocol):
    """Makes plans."""

    def create_network(self, flags: int) -> INetworkDefinition: ...
    def create_builder_config(self) -> IBuilderConfig: ...
    def create_optimization_profile(self) -> IOptimizationProfile: ...
    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None: ...


class ParserError(Protocol):
    """One complaint of the ONNX parser."""

    def desc(self) -> str: ...


class OnnxParser(Protocol):
    """Fills a network from an ONNX file."""

    num_errors: int

    def parse(self, model: bytes) -> bool: ...
    def get_error(self, index: int) -> ParserError: ...


class IExecutionContext(Protocol):
    """State of one execution of an engine."""

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def infer_shapes(self) -> list[str]: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class IExecutionContextRtx(IExecutionContext, Protocol):
    """One of TensorRT-RTX, which can say beforehand whether a graph of it can be captured."""

    def is_stream_capturable(self, stream: int) -> bool: ...


class ICudaEngine(Protocol):
    """A deserialised plan."""

    num_io_tensors: int
    num_optimization_profiles: int
    refittable: bool

    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> Any: ...
    def get_tensor_dtype(self, name: str) -> Any: ...
    def get_tensor_shape(self, name: str) -> Dims: ...
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]: ...
    def create_execution_context(self) -> IExecutionContext | None: ...
    def serialize(self) -> IHostMemory | None: ...


class IRuntimeConfigRtx(Protocol):
    """How an execution context of TensorRT-RTX works."""

    dynamic_shapes_kernel_specialization_strategy: Any


class ICudaEngineRtx(ICudaEngine, Protocol):
    """A deserialised plan of TensorRT-RTX, which compiles its kernels on the GPU it meets."""

    def create_runtime_config(self) -> IRuntimeConfigRtx: ...
    def create_execution_context(self, runtime_config: IRuntimeConfigRtx | None = None) -> IExecutionContext | None: ...


class Runtime(Protocol):
    """Makes engines out of plans."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None: ...


class Refitter(Protocol):
    """Replaces an engine's weights."""

    def get_all_weights(self) -> list[str]: ...
    def get_missing_weights(self) -> list[str]: ...
    def set_named_weights(self, name: str, weights: Any) -> bool: ...
    def refit_cuda_engine(self) -> bool: ...


class BuilderFlag(Protocol):
    """Switches of a build."""

    TF32: Any
    REFIT: Any


class BuilderFlagRtx(BuilderFlag, Protocol):
    """Switches of a build by TensorRT-RTX."""

    REQUIRE_USER_ALLOCATION: Any


class NetworkDefinitionCreationFlag(Protocol):
    """Kinds of network."""

    STRONGLY_TYPED: Any


class TensorIOMode(Protocol):
    """What a tensor is to an engine."""

    INPUT: Any
    OUTPUT: Any


class ILogger(Protocol):
    """Receives messages; the severities are its class's."""

    ERROR: Any
    INTERNAL_ERROR: Any

    def log(self, severity: Any, message: str) -> None: ...


class ComputeCapabilityRtx(Protocol):
    """What TensorRT-RTX can build for."""

    SM75: Any
    SM80: Any
    SM86: Any
    SM89: Any
    SM120: Any
    SM121: Any


class DynamicShapesKernelSpecializationStrategyRtx(Protocol):
    """When TensorRT-RTX compiles the kernels of a batch size."""

    EAGER: Any


class TensorRT(Protocol):
    """The module itself: `tensorrt` or `tensorrt_rtx`."""

    __version__: str
    Builder: Callable[[ILogger], Builder]
    OnnxParser: Callable[[INetworkDefinition, ILogger], OnnxParser]
    Runtime: Callable[[ILogger], Runtime]
    Refitter: Callable[[ICudaEngine, ILogger], Refitter]
    Weights: Callable[[Any], Any]
    BuilderFlag: BuilderFlag
    NetworkDefinitionCreationFlag: NetworkDefinitionCreationFlag
    TensorIOMode: TensorIOMode
    ILogger: ILogger

    def nptype(self, trt_type: Any) -> type: ...


class TensorRTRtx(TensorRT, Protocol):
    """`tensorrt_rtx` knows the machines it can build for, and when it compiles for the one it is on."""

    BuilderFlag: BuilderFlagRtx
    ComputeCapability: ComputeCapabilityRtx
    DynamicShapesKernelSpecializationStrategy: DynamicShapesKernelSpecializationStrategyRtx
