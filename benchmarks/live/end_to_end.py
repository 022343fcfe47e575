"""From four videos to poses in the world, with the commands that a user types; and from one video, live.

python benchmarks/live/end_to_end.py --bundle BUNDLE --data ../shared/data --keep take -o benchmarks/results

`edgelift detect` (MediaPipe, in its own environment; `edgelift detect --detector mediapipe --setup` makes it) finds the
person in Pose2Sim's videos; `edgelift lift` lifts every camera by itself and all of them fused, replayed at the videos'
own rate, which tells the latency; `edgelift view` makes pages of the poses. Then one video is played at its rate and
lifted while it is detected. --keep gets pose2d and pose3d recordings and pages, no image of the videos.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from loops import HOST, Loop, free_port, machine, table, udp_receiver, write

DETECTOR = "mediapipe"


def edgelift(*arguments: str) -> dict[str, Any]:
    """Run a command to its end; its --json."""
    command = [sys.executable, "-m", "edgelift.cli", *arguments, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | {"MPLBACKEND": "agg"})
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def detected(videos: Path, keep: Path) -> list[dict[str, Any]]:
    """What each video gave."""
    found = sorted(map(str, videos.glob("*.mp4")))
    told = edgelift("detect", *found, "--detector", DETECTOR, "-o", f"{keep / 'keypoints'}/")
    names = ("stream", "frames", "frames_with_people", "people", "frames_per_second")
    return [{name: stream[name] for name in names} for stream in told["streams"]]


def lifted(bundle: Path, keep: Path, name: str, *rig: str) -> dict[str, Any]:
    """Replay the keypoints at their own rate and lift them; what the loop said, and what its messages tell of."""
    poses = keep / f"{name}.jsonl"
    arguments = ("--source", str(keep / "keypoints"), "--sink", str(poses), "--units", "m", "--keypoints", *rig)
    told = edgelift("lift", str(bundle), *arguments)
    page = edgelift("view", str(poses), "-o", str(keep / f"{name}.html"))
    facts = {key: value for key, value in told.items() if value and key != "backend_ms"}
    return facts | told_of(poses) | {"page_messages": page["messages"]}


def told_of(poses: Path) -> dict[str, Any]:
    """Messages by their number of people, and, of fused ones, joints by the number of views that made them."""
    messages = [json.loads(line) for line in poses.read_text().splitlines()]
    people = Counter(len(told["persons"]) for told in messages)
    views = Counter(v for told in messages for person in told["persons"] for v in person.get("seen_by", ()))
    facts: dict[str, Any] = {"messages_by_people": dict(sorted(people.items()))}
    return facts | ({"joints_by_views": dict(sorted(views.items()))} if views else {})


def live(bundle: Path, video: Path, rig: str) -> dict[str, Any]:
    """One video at its own rate, detected and lifted at once."""
    port = free_port(socket.SOCK_DGRAM)
    there = f"udp://{HOST}:{port}"
    reader, back = udp_receiver()
    arguments = ("--source", there, "--cameras", rig, "--units", "m", "--sink", f"udp://{HOST}:{back}")
    with reader, Loop(bundle, *arguments) as loop:
        found = edgelift("detect", str(video), "--detector", DETECTOR, "--rate", "-o", there)["streams"][0]
        loop.end()
    names = ("frames", "frames_skipped", "frames_per_second")
    told = {f"detector_{name}".replace("detector_frames_per", "frames_per"): found[name] for name in names}
    counts = {key: value for key, value in loop.told.items() if value}
    return {"stream": found["stream"], **told, "loop": counts}


def show(result: dict[str, Any]) -> None:
    streams = result["detected"]
    keys = ("stream", "frames", "frames_with_people", "frames_per_second")
    table(keys, [[stream[key] for key in keys] for stream in streams])
    for name in ("each camera", "fused"):
        row, t = result[name], result[name]["latency_ms"]
        print(f"{name}: {row['lifted']} lifted, latency ms p50 {t['p50']} p99 {t['p99']} max {t['max']}")
        print(f"  people {row['messages_by_people']}, joints by views {row.get('joints_by_views', '-')}")
    row = result["live"]
    print(f"live, {row['stream']}: {row}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--keep", type=Path, required=True, help="folder for recordings and pages")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    real = options.data / "pose2sim"
    rig = str(real / "Calib.toml")
    options.keep.mkdir(parents=True, exist_ok=True)
    result = {
        "machine": machine(), "bundle": options.bundle.name, "detector": DETECTOR,
        "detected": detected(real / "videos", options.keep),
        "each camera": lifted(options.bundle, options.keep, "each_camera", "--cameras", rig),
        "fused": lifted(options.bundle, options.keep, "fused", "--fuse", rig),
        "live": live(options.bundle, sorted((real / "videos").glob("*.mp4"))[0], rig),
    }  # fmt: skip
    show(result)
    write(result, "end_to_end", options.output)


if __name__ == "__main__":
    main()
