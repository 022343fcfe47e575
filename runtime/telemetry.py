"""Clocks, power, memory and temperature while something runs: a figure without them cannot be repeated.

A Jetson tells through tegrastats, other NVIDIA GPUs through NVML. Sampling takes a little of the machine that is being
measured, so it is done seldom: about once a second.
"""

from __future__ import annotations

import importlib
import re
import shutil
import statistics
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgelift.poses.errors import EdgeliftError

Sample = dict[str, float]
Summary = dict[str, dict[str, float]]

ROOT = Path("/")
OFF_C = -256  # what tegrastats reports for a sensor whose part is powered down


@dataclass
class Telemetry:
    """What was sampled so far, one dict of quantities a sample; units are in the quantities' names.

    source: tegrastats, nvml, or None where nothing tells about a GPU, and then `reason` says why. gpus: their names;
    `gpu0_power_mw` is of the first. NVML counts by PCI bus, whatever CUDA_VISIBLE_DEVICES says. driver: its version.
    """

    source: str | None = None
    reason: str | None = None
    gpus: list[str] = field(default_factory=list)
    driver: str | None = None
    samples: list[Sample] = field(default_factory=list)

    def summary(self, since: int = 0) -> Summary:
        """Return {quantity: {min, median, max}} of the samples from number `since` on; {} where there is none."""
        gathered: dict[str, list[float]] = {}
        for sample in self.samples[since:]:
            for name, value in sample.items():
                gathered.setdefault(name, []).append(value)
        return {name: _spread(values) for name, values in sorted(gathered.items())}

    def to_dict(self) -> dict[str, Any]:
        """Return source, reason, the number of samples and their summary."""
        told = {"source": self.source, "reason": self.reason, "samples": len(self.samples)}
        return told | {"quantities": self.summary()}


def _spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


@contextmanager
def sampled(interval_s: float = 1.0) -> Iterator[Telemetry]:
    """Sample in the background until the block ends; one sample is taken at once and one at the end.

    What is not there (a GPU, a library, a CPU clock) is left out and never an error: it is not what is measured.
    """
    telemetry = Telemetry()
    readers: list[Callable[[], Sample]] = [cpu_clock]
    with ExitStack() as stack:
        if shutil.which("tegrastats"):  # first: on a Jetson NVML is absent, or knows little
            stack.enter_context(_tegrastats(interval_s, telemetry))
        else:
            readers += _nvml(telemetry, stack)
        stack.enter_context(_periodically(readers, interval_s, telemetry.samples))
        yield telemetry


@contextmanager
def _periodically(readers: Sequence[Callable[[], Sample]], interval_s: float, samples: list[Sample]) -> Iterator[None]:
    stop = threading.Event()

    def sample() -> None:
        samples.append({name: value for read in readers for name, value in read().items()})

    def loop() -> None:
        while not stop.wait(interval_s):
            sample()

    thread = threading.Thread(target=loop, name="telemetry", daemon=True)
    sample()
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        sample()


# NVML


def _nvml(telemetry: Telemetry, stack: ExitStack) -> list[Callable[[], Sample]]:
    """Open NVML until the stack unwinds and return its reader; where it is absent none, and `telemetry` says why."""
    try:
        nvml = Nvml()
    except EdgeliftError as error:
        telemetry.reason = str(error)
        return []
    stack.callback(nvml.close)
    telemetry.source, telemetry.gpus, telemetry.driver = "nvml", nvml.gpus, nvml.driver
    return [nvml.read]


class Nvml:
    """NVIDIA's management library; EdgeliftError where it, or a GPU, is missing. gpus: names, in its own order."""

    def __init__(self) -> None:
        try:
            self.api: Any = importlib.import_module("pynvml")
        except ModuleNotFoundError as error:
            raise EdgeliftError(
                "module pynvml", "no such module", "an installed package", "Run: pip install nvidia-ml-py"
            ) from error
        try:
            self.api.nvmlInit()
            self.handles = [self.api.nvmlDeviceGetHandleByIndex(i) for i in range(self.api.nvmlDeviceGetCount())]
            self.gpus = [str(self.api.nvmlDeviceGetName(handle)) for handle in self.handles]
            self.driver = str(self.api.nvmlSystemGetDriverVersion())
        except self.api.NVMLError as error:
            raise _no_gpu(str(error)) from error
        if not self.handles:
            self.close()
            raise _no_gpu("no GPU")

    def read(self) -> Sample:
        """Return every GPU's quantities; those that a GPU does not tell are left out."""
        return {
            f"gpu{index}_{name}": value
            for index, handle in enumerate(self.handles)
            for name, value in self._read_one(handle).items()
        }

    def _read_one(self, handle: Any) -> Sample:
        api = self.api
        quantities: dict[str, Callable[[], float]] = {
            "sm_clock_mhz": lambda: api.nvmlDeviceGetClockInfo(handle, api.NVML_CLOCK_SM),
            "memory_clock_mhz": lambda: api.nvmlDeviceGetClockInfo(handle, api.NVML_CLOCK_MEM),
            "power_mw": lambda: api.nvmlDeviceGetPowerUsage(handle),
            "memory_mib": lambda: api.nvmlDeviceGetMemoryInfo(handle).used / 2**20,
            "temperature_c": lambda: api.nvmlDeviceGetTemperature(handle, api.NVML_TEMPERATURE_GPU),
            "load_percent": lambda: api.nvmlDeviceGetUtilizationRates(handle).gpu,
        }
        sample: Sample = {}
        for name, read in quantities.items():
            try:
                sample[name] = float(read())
            except api.NVMLError:  # not every GPU tells everything
                continue
        return sample

    def close(self) -> None:
        """Release the library."""
        self.api.nvmlShutdown()


def _no_gpu(received: str) -> EdgeliftError:
    return EdgeliftError("NVML", received, "an NVIDIA GPU and its driver", "See `edgelift doctor`.")


# tegrastats


@contextmanager
def _tegrastats(interval_s: float, telemetry: Telemetry) -> Iterator[None]:
    """Run tegrastats; every line it prints is a sample."""
    command = ["tegrastats", "--interval", str(max(1, round(interval_s * 1000)))]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError as error:
        telemetry.reason = f"tegrastats did not start: {error}"
        yield
        return
    telemetry.source, telemetry.gpus, telemetry.driver = "tegrastats", jetson_board(), jetson_release()

    def follow() -> None:
        for line in process.stdout or ():
            telemetry.samples.append(parse_tegrastats(line))

    thread = threading.Thread(target=follow, name="tegrastats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended = not thread.is_alive()
        process.terminate()
        code = process.wait()
        thread.join()
        if ended:
            telemetry.reason = f"tegrastats ended by itself, with code {code}"
        if process.stdout:
            process.stdout.close()


def parse_tegrastats(line: str) -> Sample:
    """Read one line of tegrastats, of JetPack 4 to 7; what it does not tell, or tells of a part that is off, is absent.

    ram_mb; gpu_load_percent; gpu_clock_mhz (the fastest of its clusters); memory_clock_mhz; and for every sensor and
    rail of the board `temperature_<sensor>_c` and `power_<rail>_mw` (of this moment, not the averages beside it).
    """
    sample: Sample = {}
    if ram := re.search(r"\bRAM (\d+)/\d+MB", line):
        sample["ram_mb"] = float(ram[1])
    if gpu := re.search(r"\bGR3D_FREQ (?:(\d+)%)?(?:@\[?([\d,]+))?", line):
        if gpu[1]:
            sample["gpu_load_percent"] = float(gpu[1])
        if gpu[2]:
            sample["gpu_clock_mhz"] = max(float(clock) for clock in gpu[2].split(",") if clock)
    if memory := re.search(r"\bEMC_FREQ (?:\d+%)?@(\d+)", line):
        sample["memory_clock_mhz"] = float(memory[1])
    for sensor, degrees in re.findall(r"(\w+)@(-?\d+(?:\.\d+)?)C\b", line):
        if float(degrees) > OFF_C:
            sample[f"temperature_{sensor.lower()}_c"] = float(degrees)
    # VDD_IN 5139mW/5139mW, VDD_IN 5139/5139 or three figures; not RAM 100/200MB
    for rail, milliwatts in re.findall(r"\b([A-Z]\w*) (\d+)(?:mW)?/\d+(?:mW)?(?!\w)", line):
        sample[f"power_{rail.lower()}_mw"] = float(milliwatts)
    return sample


def jetson_board(root: Path = ROOT) -> list[str]:
    """Return the board's name, which names its GPU too; [] where the device tree does not tell."""
    name = _text(root / "proc/device-tree/model").strip("\0\n ")
    return [name] if name else []


def jetson_release(root: Path = ROOT) -> str | None:
    """Return the release of Jetson Linux (`R36.4.3`); None where it is not one."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    return f"R{found[1]}.{found[2]}" if found else None


# The CPU


def cpu_clock(root: Path = ROOT) -> Sample:
    """Return {cpu_clock_mhz} of the core that is fastest now; {} where the system does not tell."""
    cores = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    clocks = [float(kilohertz) / 1000 for core in cores if (kilohertz := _text(core).strip()).isdigit()]
    if not clocks:
        clocks = [float(clock) for clock in re.findall(r"^cpu MHz\s*: ([\d.]+)", _text(root / "proc/cpuinfo"), re.M)]
    return {"cpu_clock_mhz": max(clocks)} if clocks else {}


def _text(path: Path) -> str:
    """Read a file of /proc or /sys; "" where it is not there, or not for us."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
