"""Train the bases of the refresh benchmarks: one for each person left out, and a small one.

python benchmarks/refresh/bases.py --data ../shared/data --runs runs/refresh [--people 02,49]

Leaves RUNS/PERSON (a run) and RUNS/PERSON.bundle; goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from takes import PEOPLE, base_settings, teaching

from edgelift.trainer.deploy import bundle_of
from edgelift.trainer.fit import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--people", default=",".join(PEOPLE))
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    for person in options.people.split(","):
        run = options.runs / person
        sessions, held_out = teaching(options.data, person)
        print(f"{person}: {len(sessions)} sessions", flush=True)
        train(sessions, run, base_settings(options.width, options.epochs), held_out, tell)
        print(bundle_of(run, run.with_suffix(".bundle")).path, flush=True)


def tell(epoch: int, epochs: int, row: dict[str, float]) -> None:
    print(f"  {epoch}/{epochs} {row}", flush=True)


if __name__ == "__main__":
    main()
