"""The live loop as a process of its own, and what a benchmark needs around it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from edgelift.runtime.bench import cpu_name

HOST = "127.0.0.1"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
SOON_S = 30.0
PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99_9": 99.9, "max": 100.0}


class Loop:
    """`edgelift lift` with some arguments; leaving the block ends it by SIGTERM, and then `told` holds its --json.

    Its standard error is kept in a file: `said`. prepared: done in the new process before it starts.
    """

    def __init__(
        self, bundle: Path, *arguments: str, prepared: Callable[[], None] | None = None, python: str = sys.executable
    ) -> None:
        self.command = [python, "-m", "edgelift.cli", "lift", str(bundle), *arguments, "--json"]
        self.prepared = prepared
        self.told: dict[str, Any] = {}
        self.said = ""

    def __enter__(self) -> Loop:
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=self.errors, env=os.environ | ONE_THREAD,
            preexec_fn=self.prepared,
        )  # fmt: skip
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def rss_mib(self) -> float:
        """Resident memory now."""
        return rss_mib(self.process.pid)

    def end(self) -> None:
        """SIGTERM; then `told` and `said` are known, and code the exit status. A second time does nothing."""
        if self.errors.closed:
            return
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
        try:
            out, _ = self.process.communicate(timeout=SOON_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, _ = self.process.communicate()
        self.code = self.process.returncode
        self.errors.seek(0)
        self.said = self.errors.read()
        self.errors.close()
        if out.strip():
            self.told = json.loads(out)


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return kib / 1024


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A port that nobody listens on."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def udp_receiver(buffer: int = 1 << 22) -> tuple[socket.socket, int]:
    """A datagram socket of this machine that waits SOON_S at most, and its port."""
    opened = socket.socket(type=socket.SOCK_DGRAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    opened.bind((HOST, 0))
    opened.settimeout(SOON_S)
    return opened, opened.getsockname()[1]


def until_answered(
    send: Callable[[], object], receive: Callable[[float], bytes | None], seconds: float = 60.0
) -> bytes:
    """Send again and again until something comes back: until a loop is up. receive: waits at most so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        send()
        came = receive(0.2)
        if came is not None:
            return came
    raise TimeoutError("the loop does not answer")


def percentiles(values: ArrayLike, digits: int = 1) -> dict[str, float]:
    """p50, p99, p99.9 and max; nothing is left out."""
    found = np.percentile(np.asarray(values, np.float64), list(PERCENTILES.values()))
    return {name: round(float(value), digits) for name, value in zip(PERCENTILES, found, strict=True)}


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows in columns."""
    text = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[k]) for row in text) for k in range(len(head))]
    for row in text:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)


def machine() -> dict[str, Any]:
    """What it ran on; `load`: running processes in the last 1, 5 and 15 minutes."""
    names = ("numpy", "onnxruntime", "zmq")
    versions = {name: getattr(sys.modules.get(name), "__version__", None) for name in names}
    load = [round(n, 2) for n in os.getloadavg()]
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "load": load, "python": sys.version.split()[0], **versions}


def write(result: dict[str, Any], what: str, folder: Path) -> None:
    """Write a result under its usual name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"live_{what}_cpu_{date.today()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}", flush=True)
