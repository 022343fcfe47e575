"""Stub libraries, compiled on the spot, over which NVIDIA's real Python bindings load on a machine without a GPU.

Nothing is computed by them: they show which attributes a binding has, and in which order the driver is called.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BINDINGS = Path(__file__).resolve().parents[1] / ".bindings"

# all that the bindings of TensorRT import; it makes nothing, so that every factory returns NULL
TENSORRT = "\n".join(
    f"void *{name}(void) {{ return 0; }}"
    for name in (
        "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
        "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getNvOnnxParserVersion",
        "getBuilderPluginRegistry", "getPluginRegistry", "initLibNvInferPlugins",
    )
)  # fmt: skip

# The driver as `edgelift.runtime.cuda` needs it. Every call is a line of $STUB_LOG: its name and what tells which.
# $STUB_FAIL names a call that fails with CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED. What is not here ends the process.
DRIVER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uintptr_t handle;
static handle context = 0xC0, made = 0x1000;

static int called(const char *name, const char *format, ...) {
    FILE *log = fopen(getenv("STUB_LOG"), "a");
    va_list rest;
    va_start(rest, format);
    fprintf(log, "%s", name);
    vfprintf(log, format, rest);
    fprintf(log, "\n");
    va_end(rest);
    fclose(log);
    const char *fails = getenv("STUB_FAIL");
    return fails && !strcmp(fails, name) ? 900 : 0;
}
static int number(const char *variable, int otherwise) {
    return getenv(variable) ? atoi(getenv(variable)) : otherwise;
}

int cuInit(unsigned flags) { return number("STUB_DEVICES", 1) ? called("cuInit", "") : 100; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < 1 ? 0 : 101; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "Stub GPU"); return 0; }
int cuDeviceComputeCapability(int *major, int *minor, int device) { *major = 8; *minor = 9; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 18 ? number("STUB_INTEGRATED", 0) : 1;
    return 0;
}
int cuGetErrorString(int error, const char **text) { *text = "told by the stub"; return 0; }

int cuDevicePrimaryCtxRetain(handle *given, int device) {
    *given = context;
    return called("cuDevicePrimaryCtxRetain", "");
}
int cuDevicePrimaryCtxRelease_v2(int device) { return called("cuDevicePrimaryCtxRelease", ""); }
int cuCtxPushCurrent_v2(handle given) { return called("cuCtxPushCurrent", " %lx", given); }
int cuCtxPopCurrent_v2(handle *given) { *given = context; return called("cuCtxPopCurrent", ""); }

int cuStreamCreate(handle *stream, unsigned flags) {
    *stream = ++made;
    return called("cuStreamCreate", " %lx flags=%u", *stream, flags);
}
int cuStreamDestroy_v2(handle stream) { return called("cuStreamDestroy", " %lx", stream); }
int cuStreamSynchronize(handle stream) { return called("cuStreamSynchronize", " %lx", stream); }
int cuEventCreate(handle *event, unsigned flags) { *event = ++made; return 0; }
int cuEventDestroy_v2(handle event) { return 0; }
int cuEventRecord(handle event, handle stream) { return called("cuEventRecord", " %lx", stream); }
int cuEventElapsedTime_v2(float *ms, handle start, handle end) { *ms = 0.25f; return 0; }

int cuMemAlloc_v2(handle *memory, size_t bytes) {
    *memory = ++made;
    return called("cuMemAlloc", " %lx %zu", *memory, bytes);
}
int cuMemFree_v2(handle memory) { return called("cuMemFree", " %lx", memory); }
int cuMemHostAlloc(void **memory, size_t bytes, unsigned flags) {
    *memory = calloc(1, bytes);
    return called("cuMemHostAlloc", " %zu flags=%u", bytes, flags);
}
int cuMemFreeHost(void *memory) { free(memory); return called("cuMemFreeHost", ""); }
int cuMemHostGetDevicePointer_v2(handle *memory, void *host, unsigned flags) {
    *memory = 0xDE;
    return called("cuMemHostGetDevicePointer", "");
}
int cuMemcpyHtoDAsync_v2(handle to, const void *from, size_t bytes, handle stream) {
    return called("cuMemcpyHtoDAsync", " %lx %zu %lx", to, bytes, stream);
}
int cuMemcpyDtoHAsync_v2(void *to, handle from, size_t bytes, handle stream) {
    return called("cuMemcpyDtoHAsync", " %lx %zu %lx", from, bytes, stream);
}

int cuStreamBeginCapture_v2(handle stream, int mode) {
    return called("cuStreamBeginCapture", " %lx mode=%d", stream, mode);
}
int cuStreamEndCapture(handle stream, handle *graph) {
    *graph = 0x6A;
    return called("cuStreamEndCapture", " %lx", stream);
}
int cuGraphInstantiateWithFlags(handle *executable, handle graph, unsigned long long flags) {
    *executable = 0xE8;
    return called("cuGraphInstantiate", " %lx flags=%llu", graph, flags);
}
int cuGraphDestroy(handle graph) { return called("cuGraphDestroy", " %lx", graph); }
int cuGraphLaunch(handle executable, handle stream) { return called("cuGraphLaunch", " %lx %lx", executable, stream); }
int cuGraphExecDestroy(handle executable) { return called("cuGraphExecDestroy", " %lx", executable); }

/* cuda.bindings finds the driver's functions by this one, by their names without a version */
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    static const char *aliases[][2] = {{"cuStreamBeginCapture", "cuStreamBeginCapture_v2"},
                                       {"cuGraphInstantiate", "cuGraphInstantiateWithFlags"}};
    for (int i = 0; i < 2; i++)
        if (!strcmp(name, aliases[i][0])) name = aliases[i][1];
    *function = dlsym(RTLD_DEFAULT, name);
    if (status) *status = *function ? 0 : 1;
    return *function ? 0 : 500;
}
"""


def bindings(name: str) -> Path:
    """Return a folder of installed bindings; the test fails where `make` did not fill it."""
    folder = BINDINGS / name
    if not folder.is_dir():
        pytest.fail(f"{folder.relative_to(BINDINGS.parent)} is missing; run: make bindings")
    return folder


def compile_library(source: str, folder: Path, soname: str) -> None:
    folder.mkdir(exist_ok=True)
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(folder / soname), f"-Wl,-soname,{soname}"]
    subprocess.run(command, input=source, text=True, check=True)


def tensorrt_stubs(folder: Path, major: str) -> Path:
    """Compile what the bindings of a TensorRT of a major version link; return the folder."""
    for name, source in (("nvinfer", TENSORRT), ("nvonnxparser", ""), ("nvinfer_plugin", "")):
        compile_library(source, folder, f"lib{name}.so.{major}")
    return folder


def driver_stub(folder: Path) -> Path:
    """Compile a driver; return the folder."""
    compile_library(DRIVER, folder, "libcuda.so.1")
    return folder


def run_python(
    script: str, packages: Path | None, libraries: Path | None, given: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own; packages go before the installed ones, libraries before the system's."""
    environment = os.environ | variables
    for name, folder in (("PYTHONPATH", packages), ("LD_LIBRARY_PATH", libraries)):
        if folder is not None:
            environment[name] = str(folder)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script], input=given, env=environment, capture_output=True, text=True
    )
