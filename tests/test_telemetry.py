from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.telemetry import (
    Nvml,
    Telemetry,
    cpu_clock,
    jetson_board,
    jetson_release,
    parse_tegrastats,
    sampled,
)

from .live import wait_until

# one line of each form: a first Nano, an AGX Xavier, an Orin Nano and an AGX Orin with the newest tegrastats
NANO = (
    "RAM 1711/3956MB (lfb 82x4MB) SWAP 12/1978MB (cached 3MB) IRAM 0/252kB(lfb 252kB) "
    "CPU [17%@1479,9%@1479,off,off] EMC_FREQ 0% GR3D_FREQ 31% PLL@29C CPU@33.5C PMIC@100C GPU@31C AO@38.5C "
    "thermal@32C POM_5V_IN 3417/2980 POM_5V_GPU 482/240 POM_5V_CPU 763/610\n"
)
XAVIER = (
    "RAM 2201/31925MB (lfb 6780x4MB) SWAP 0/15963MB (cached 0MB) CPU [3%@1190,0%@1190,off,off] "
    "EMC_FREQ 4%@2133 GR3D_FREQ 57%@1109 APE 150 MTS fg 0% bg 1% AO@36.5C GPU@38C Tdiode@39.25C PMIC@100C "
    "GPU 1379/920 CPU 612/610 SOC 2142/2140 CV 0/0 VDDRQ 306/300 SYS5V 2288/2280\n"
)
ORIN_NANO = (
    "11-24-2026 10:12:33 RAM 2873/7620MB (lfb 3x4MB) SWAP 0/3810MB (cached 0MB) "
    "CPU [5%@1510,2%@1510,0%@729,0%@729,1%@729,0%@729] EMC_FREQ 2%@2133 GR3D_FREQ 48%@[624] NVDEC off NVJPG off "
    "VIC off OFA off APE 200 cpu@47.218C soc2@46.75C soc0@45.5C gpu@46.968C tj@47.218C cv0@-256C "
    "VDD_IN 5340mW/4980mW VDD_CPU_GPU_CV 1250mW/980mW VDD_SOC 1480mW/1475mW\n"
)
AGX_ORIN = (
    "11-24-2026 10:12:33 RAM 9215/62817MB (lfb 2x4MB) CPU [8%@2201,1%@2201,off,off] EMC_FREQ 1%@3199 "
    "GR3D_FREQ @[918,1300] NVENC0 off PVA0_FREQ off APE 174 cpu@51.5C/52.25C gpu@47.625C/48C "
    "VDD_GPU_SOC 5139mW/5100mW/7300mW VIN_SYS_5V0 5500mW/5480mW/6100mW\n"
)


def test_tegrastats_of_every_jetpack_is_read() -> None:
    assert parse_tegrastats(NANO) == {
        "ram_mb": 1711, "gpu_load_percent": 31, "temperature_pll_c": 29, "temperature_cpu_c": 33.5,
        "temperature_pmic_c": 100, "temperature_gpu_c": 31, "temperature_ao_c": 38.5, "temperature_thermal_c": 32,
        "power_pom_5v_in_mw": 3417, "power_pom_5v_gpu_mw": 482, "power_pom_5v_cpu_mw": 763,
    }  # fmt: skip
    assert parse_tegrastats(XAVIER) == {
        "ram_mb": 2201, "gpu_load_percent": 57, "gpu_clock_mhz": 1109, "memory_clock_mhz": 2133,
        "temperature_ao_c": 36.5, "temperature_gpu_c": 38, "temperature_tdiode_c": 39.25, "temperature_pmic_c": 100,
        "power_gpu_mw": 1379, "power_cpu_mw": 612, "power_soc_mw": 2142, "power_cv_mw": 0, "power_vddrq_mw": 306,
        "power_sys5v_mw": 2288,
    }  # fmt: skip


def test_a_sensor_that_is_off_is_absent() -> None:
    assert parse_tegrastats(ORIN_NANO) == {
        "ram_mb": 2873, "gpu_load_percent": 48, "gpu_clock_mhz": 624, "memory_clock_mhz": 2133,
        "temperature_cpu_c": 47.218, "temperature_soc2_c": 46.75, "temperature_soc0_c": 45.5,
        "temperature_gpu_c": 46.968, "temperature_tj_c": 47.218,
        "power_vdd_in_mw": 5340, "power_vdd_cpu_gpu_cv_mw": 1250, "power_vdd_soc_mw": 1480,
    }  # fmt: skip


def test_the_newest_form_has_clusters_and_three_figures() -> None:
    assert parse_tegrastats(AGX_ORIN) == {
        "ram_mb": 9215, "gpu_clock_mhz": 1300, "memory_clock_mhz": 3199,
        "temperature_cpu_c": 51.5, "temperature_gpu_c": 47.625,
        "power_vdd_gpu_soc_mw": 5139, "power_vin_sys_5v0_mw": 5500,
    }  # fmt: skip


def test_a_line_that_says_nothing_gives_nothing() -> None:
    assert parse_tegrastats("\n") == {}
    assert parse_tegrastats("GR3D_FREQ off EMC_FREQ off\n") == {}


def test_the_summary_is_of_what_each_sample_told() -> None:
    telemetry = Telemetry(samples=[{"a_mw": 9.0}, {"a_mw": 1.0, "b_c": 5.0}, {"a_mw": 2.0}, {"a_mw": 3.0}])
    assert telemetry.summary() == {
        "a_mw": {"min": 1.0, "median": 2.5, "max": 9.0},
        "b_c": {"min": 5.0, "median": 5.0, "max": 5.0},
    }
    assert telemetry.summary(since=2) == {"a_mw": {"min": 2.0, "median": 2.5, "max": 3.0}}
    assert telemetry.summary(since=4) == {}


@pytest.fixture
def path_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first folder of PATH, and nowhere else a tegrastats."""
    folder = tmp_path / "bin"
    folder.mkdir()
    others = [p for p in os.environ["PATH"].split(os.pathsep) if not (Path(p) / "tegrastats").exists()]
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), *others]))
    return folder


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.ESRCH
    return False


def test_tegrastats_is_followed_and_ended(path_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text(ORIN_NANO + ORIN_NANO.replace("VDD_IN 5340", "VDD_IN 9000"))
    (path_folder / "tegrastats").touch()
    executable(
        path_folder / "tegrastats",
        f'#!/bin/sh\necho "$$ $*" > {tmp_path}/called\ncat {tmp_path}/lines\nexec sleep 600\n',
    )
    with sampled(interval_s=0.25) as telemetry:
        wait_until(lambda: sum("power_vdd_in_mw" in sample for sample in telemetry.samples) == 2)
    pid, *arguments = (tmp_path / "called").read_text().split()
    assert arguments == ["--interval", "250"]
    assert gone(int(pid))
    assert (telemetry.source, telemetry.reason) == ("tegrastats", None)
    assert telemetry.summary()["power_vdd_in_mw"] == {"min": 5340, "median": 7170, "max": 9000}
    assert telemetry.to_dict()["quantities"]["gpu_clock_mhz"] == {"min": 624, "median": 624, "max": 624}


def test_a_tegrastats_that_ends_by_itself_is_told(path_folder: Path) -> None:
    executable(path_folder / "tegrastats", "#!/bin/sh\nexit 3\n")
    with sampled() as telemetry:
        wait_until(lambda: all(thread.name != "tegrastats" for thread in threading.enumerate()))
    assert telemetry.reason == "tegrastats ended by itself, with code 3"


def test_a_tegrastats_that_does_not_start_is_told(path_folder: Path) -> None:
    executable(path_folder / "tegrastats", "neither a script nor a program")
    with sampled() as telemetry:
        pass
    assert telemetry.source is None
    assert telemetry.reason is not None
    assert telemetry.reason.startswith("tegrastats did not start")


def test_without_nvml_the_reason_is_told_and_the_rest_is_sampled(
    path_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with sampled(interval_s=3600) as telemetry:
        assert len(telemetry.samples) == 1  # at once
    assert len(telemetry.samples) == 2  # and at the end
    assert (telemetry.source, telemetry.gpus, telemetry.driver) == (None, [], None)
    assert telemetry.reason is not None
    assert "pip install nvidia-ml-py" in telemetry.reason
    assert set(telemetry.summary()) == set(cpu_clock())


def test_nvml_without_its_library_or_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_library() -> None:
        raise RuntimeError("Shared Library Not Found")

    closed: list[bool] = []
    module = SimpleNamespace(NVMLError=RuntimeError, nvmlInit=without_library)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    with pytest.raises(EdgeliftError, match="Shared Library Not Found"):
        Nvml()
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetCount = lambda: 0
    module.nvmlSystemGetDriverVersion = lambda: "0"
    module.nvmlShutdown = lambda: closed.append(True)
    with pytest.raises(EdgeliftError, match="received no GPU"):
        Nvml()
    assert closed == [True]


def test_an_error_in_the_block_ends_the_sampling(path_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(KeyError), sampled(interval_s=3600):
        raise KeyError
    assert all(thread.name != "telemetry" for thread in threading.enumerate())


def test_the_cpu_clock_is_that_of_the_fastest_core(tmp_path: Path) -> None:
    assert cpu_clock(tmp_path) == {}
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("model name\t: X\ncpu MHz\t\t: 1200.500\n\ncpu MHz\t\t: 2600.250\n")
    assert cpu_clock(tmp_path) == {"cpu_clock_mhz": 2600.25}
    for core, kilohertz in (("cpu0", "729600"), ("cpu11", "1510400")):
        folder = tmp_path / "sys/devices/system/cpu" / core / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(f"{kilohertz}\n")
    assert cpu_clock(tmp_path) == {"cpu_clock_mhz": 1510.4}


def test_a_jetson_names_itself(tmp_path: Path) -> None:
    assert (jetson_board(tmp_path), jetson_release(tmp_path)) == ([], None)
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\n")
    assert jetson_board(tmp_path) == ["NVIDIA Jetson Orin Nano Developer Kit"]
    assert jetson_release(tmp_path) == "R36.4.3"
