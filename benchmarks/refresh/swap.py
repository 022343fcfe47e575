"""Swaps under load: one camera at 120 Hz, 500 versions published one after the other.

python benchmarks/refresh/swap.py --bundle BUNDLE --other BUNDLE --data ../shared/data -o benchmarks/results

`edgelift lift --follow` is a process of its own; frames go to it over UDP every 1/120 s, whatever comes back. Versions
are links to two lifters of one kind, in turn, so each is opened, verified and warmed, runs in the shadow, takes over.
Every message is compared with what the lifter that it names gives for the frame that it answers. dropped: frames that
did not come out; twice; wrong: poses of another version than the message says, or of an older one than the message
before. Latency in ms from just before sending to just after receiving; `around`: frames within 10 of a swap.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "live"))
from detected import filmed, message, rig_of
from loops import HOST, Loop, free_port, machine, percentiles, udp_receiver, until_answered
from orjson import dumps, loads

from edgelift.poses.cameras import Camera
from edgelift.poses.rigs import read_rig
from edgelift.runtime.bundle import load_bundle
from edgelift.runtime.lifter import Lifter
from edgelift.runtime.registries import LocalRegistry

HERTZ, FRAMES, AROUND, SHADOW_S = 120.0, 600, 10, 0.2
WAIT_S = 60.0


class Load:
    """Frames at 120 Hz, and all that comes back."""

    def __init__(self, frames: list[dict[str, Any]], port: int, receiver: socket.socket) -> None:
        self.frames, self.port, self.receiver = frames, port, receiver
        self.sender = socket.socket(type=socket.SOCK_DGRAM)
        self.sent_ns: list[int] = []
        self.back: list[tuple[int, int, str, np.ndarray]] = []  # seq, when, lifter, xyz
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=run, daemon=True) for run in (self._send, self._receive)]

    def start(self) -> None:
        """Wait until the loop answers, then send for good."""
        until_answered(self.send, self._answer)
        time.sleep(0.5)
        self.receiver.setblocking(False)
        while self._answer(0.0):  # what was sent while it was not up yet does not count
            pass
        self.receiver.settimeout(None)
        self.first = len(self.sent_ns)
        for thread in self.threads:
            thread.start()

    def end(self) -> None:
        """Stop sending; whatever is on its way comes back."""
        self.ending.set()
        self.threads[0].join()
        time.sleep(1.0)

    def wait_for(self, version: str) -> None:
        """Until a frame was lifted by a version."""
        until = time.monotonic() + WAIT_S
        while self.lifter != version:
            if time.monotonic() > until:
                raise TimeoutError(f"{version} did not take over, {self.lifter} goes on")
            time.sleep(0.01)

    def _answer(self, seconds: float) -> bytes | None:
        try:
            if seconds:
                self.receiver.settimeout(seconds)
            return self.receiver.recv(1 << 16)
        except OSError:
            return None

    def send(self) -> None:
        seq = len(self.sent_ns)
        told = self.frames[seq % len(self.frames)] | {"seq": seq, "t_ns": time.time_ns()}
        self.sent_ns.append(time.perf_counter_ns())
        self.sender.sendto(dumps(told), (HOST, self.port))

    def _send(self) -> None:
        due = time.perf_counter()
        while not self.ending.is_set():
            due += 1 / HERTZ
            time.sleep(max(0.0, due - time.perf_counter()))
            self.send()

    def _receive(self) -> None:
        while True:
            try:
                data = self.receiver.recv(1 << 16)
            except OSError:
                return
            now, told = time.perf_counter_ns(), loads(data)
            self.back.append((told["seq"], now, told["lifter"], np.array(told["persons"][0]["xyz"], np.float32)))

    @property
    def lifter(self) -> str:
        return self.back[-1][2] if self.back else ""


def expected(bundle: Path, keypoints: np.ndarray, camera: Camera) -> np.ndarray:
    """(frames, joints, 3) what a lifter gives for each of the frames."""
    with Lifter(bundle, skeleton="coco17") as lifter:
        return np.stack([lifter(one.astype(np.float32), camera) for one in keypoints])


def publish_link(registry: Path, bundle: Path, parent: str) -> str:
    """Publish a bundle whose files are links to another's."""
    with LocalRegistry(registry).staging() as folder:
        shutil.copytree(bundle, folder / "bundle", copy_function=os.link)
        return LocalRegistry(registry).publish(folder / "bundle", parent)


def summary(load: Load, tables: list[np.ndarray], versions: list[str]) -> dict[str, Any]:
    """What was lost, what was wrong, and latencies around swaps and elsewhere."""
    number = {name: k for k, name in enumerate(versions)}
    sent = range(load.first, len(load.sent_ns))
    seqs = np.array([row[0] for row in load.back])
    which = np.array([number[row[2]] for row in load.back])
    off = [float(np.abs(row[3] - tables[number[row[2]] % 2][row[0] % len(load.frames)]).max()) for row in load.back]
    wrong = int((np.array(off) > 1e-4).sum() + (np.diff(which) < 0).sum())
    ms = np.array([(row[1] - load.sent_ns[row[0]]) / 1e6 for row in load.back])
    swaps = np.flatnonzero(np.diff(which))
    near = np.zeros(len(ms), bool)
    for at in swaps:
        near[max(0, at - AROUND + 1) : at + 1 + AROUND] = True
    return {
        "frames": len(sent), "swaps": len(swaps), "versions_seen": len(set(which.tolist())),
        "dropped": len(set(sent) - set(seqs.tolist())), "twice": len(seqs) - len(set(seqs.tolist())),
        "wrong": wrong, "worst_joint_off_mm": round(1e3 * max(off), 4), "around": int(near.sum()),
        "around_ms": percentiles(ms[near], 3), "elsewhere_ms": percentiles(ms[~near], 3),
        "p99_ratio": round(float(np.percentile(ms[near], 99) / np.percentile(ms[~near], 99)), 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--other", type=Path, required=True, help="a version of the same kind, with other weights")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--swaps", type=int, default=500)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="swaps-", dir=options.bundle.resolve().parent))  # links: one file system
    try:
        result = run(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(result)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"refresh_swaps_cpu_{date.today()}.json"
    path.write_text(json.dumps(result | {"machine": machine()}, indent=1) + "\n")
    print(f"-> {path}")


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Publish one version after the other while frames go through the loop."""
    rig = read_rig(rig_of(options.data), None)
    camera, people = rig[0], filmed(options.data, rig, 1, FRAMES, HERTZ)[0]
    frames = [message(camera.name, 0, 0, frame, camera.size) for frame in people]
    bundles = (options.bundle, options.other)
    tables = [expected(bundle, people[:, 0], camera) for bundle in bundles]
    registry = folder / "registry"
    versions = [LocalRegistry(registry).create(load_bundle(bundles[0]))]
    port = free_port(socket.SOCK_DGRAM)
    receiver, back = udp_receiver()
    with Loop(
        registry, "--source", f"udp://{HOST}:{port}", "--cameras", rig_of(options.data), "--sink",
        f"udp://{HOST}:{back}", "--every", "--swaps", "ignore", "--follow",
        "--shadow", f"{SHADOW_S}s",
    ) as loop:  # fmt: skip
        load = Load(frames, port, receiver)
        load.start()
        began, before = time.perf_counter(), loop.rss_mib()
        for number in range(1, options.swaps + 1):
            versions.append(publish_link(registry, bundles[number % 2], versions[-1]))
            load.wait_for(versions[-1])
            LocalRegistry(registry).prune(3)
            if number % 50 == 0:
                print(f"{number} swaps, {time.perf_counter() - began:.0f} s, {loop.rss_mib():.0f} MiB", flush=True)
        after = loop.rss_mib()
        load.end()
    told = summary(load, tables, versions)
    return told | {
        "seconds": round(time.perf_counter() - began, 1), "hertz": HERTZ, "shadow_s": SHADOW_S,
        "memory_mib": [round(before, 1), round(after, 1)], "loop": loop.told, "said": loop.said[-400:],
    }  # fmt: skip


if __name__ == "__main__":
    main()
