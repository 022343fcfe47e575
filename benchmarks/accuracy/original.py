"""The original report's Table 1, every row, on its own data sets for whoever holds them, and on cmu17.

python benchmarks/accuracy/original.py cmu17 --data ../shared/data -o benchmarks/results
python benchmarks/accuracy/original.py humaneva --keypoints data_2d_humaneva15_gt.npz --poses data_3d_humaneva15.npz \\
  --rigs 'rigs.json:humaneva_{subject}' -o results
python benchmarks/accuracy/original.py human36m --keypoints data_2d_h36m_gt.npz --poses data_3d_h36m.npz \\
  --rigs 'rigs.json:h36m_{subject}' -o results

The files are VideoPose3D's; --keep keeps the runs in a folder, and goes on from them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from protocols import SEEN, Case, sessions

from edgelift.poses.formats.videopose3d import read_videopose3d
from edgelift.poses.rigs import read_rig
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import skeleton
from edgelift.trainer.original import HUMAN36M, HUMANEVA, Protocol, split, table_1

PROTOCOLS = {"cmu17": HUMAN36M, "human36m": HUMAN36M, "humaneva": HUMANEVA}
FPS = {"humaneva": 60.0, "human36m": 50.0}


def of_files(options: argparse.Namespace) -> tuple[list[Session], list[Session]]:
    """Training and test sessions of the report's splits, first three cameras."""
    found = read_videopose3d(
        options.keypoints, options.poses,
        lambda subject: read_rig(options.rigs.replace("{subject}", subject), options.units),
        FPS[options.dataset], skeleton(PROTOCOLS[options.dataset].skeleton),
    )  # fmt: skip
    return split(found, options.dataset)


def of_motion(data: Path) -> tuple[list[Session], list[Session]]:
    """Protocol M, exact keypoints, the data's own split, as Human3.6M's subjects are split."""
    case = Case("M", 0, "exact", "views_plain")
    train, test = (sessions(data, case, testing) for testing in (False, True))
    return [s.only(SEEN) for s in train], [s.only(SEEN) for s in test]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=PROTOCOLS)
    parser.add_argument("--data", type=Path, help="of cmu17: the folder with mocap/ and rigs.json")
    parser.add_argument("--keypoints", type=Path, help="VideoPose3D's 2D file")
    parser.add_argument("--poses", type=Path, help="VideoPose3D's 3D file")
    parser.add_argument("--rigs", help="FILE.json:NAME, {subject} is filled in")
    parser.add_argument("--units", choices=("m", "mm"))
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--epochs", type=int, help="instead of the report's")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(words)
    training, test = of_motion(options.data) if options.dataset == "cmu17" else of_files(options)
    protocol: Protocol = PROTOCOLS[options.dataset]
    protocol = replace(protocol, epochs=options.epochs or protocol.epochs)
    with tempfile.TemporaryDirectory() as scratch:
        rows = table_1(
            training, test, protocol, options.width, options.keep or Path(scratch), lambda s: print(s, flush=True)
        )
    for row in rows:
        print(f"{row['mixed_mpjpe_mm']:8.2f} mm  {row['row']}")
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"original_{options.dataset}_w{options.width}_e{protocol.epochs}_cpu_{date.today()}.json"
    path.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
