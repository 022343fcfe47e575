"""What harms a live loop, a thousand times each: what was counted, whether it lived, whether good frames came through.

python benchmarks/live/faults.py --bundle BUNDLE --data ../shared/data -o benchmarks/results

Each fault has an `edgelift lift` of its own, with a second source or sink through which it is harmed. After every
injection one good frame is sent over UDP and has to come out before the next. All is on loopback. `longest`: that a
good frame took; `slower`: the last tenth of them beside the first; `grown`: memory that the loop gained since a tenth
of the injections. Exit code 1 if a check fails.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import injections as harm
from loops import machine, table, write
from scene import Fault, harmed

UDP, TCP = ("--source", "udp://{host}:{port}"), ("--source", "tcp://{host}:{port}")
LISTEN = ("--source", "tcp-listen://{host}:{port}")

FAULTS = (
    Fault("random bytes", harm.random_bytes, lambda t, n: t["malformed"] == n, UDP),
    Fault("JSON that is cut short", harm.cut_short, lambda t, n: t["malformed"] == n, UDP),
    Fault("wrong types and values", harm.wrong_types, lambda t, n: t["malformed"] == n, UDP),
    Fault(
        "NaN, infinite and huge coordinates", harm.odd_numbers, lambda t, n: t["failed"] == 0 < t["malformed"] < n, UDP
    ),
    Fault("10,000 people", harm.crowd, lambda t, n: t["oversized"] == n, LISTEN),
    Fault(
        "10,000 people, --max-bytes enough for them", harm.crowd, lambda t, n: t["malformed"] == n,
        (*LISTEN, "--max-bytes", "16777216"), share=0.1, slower=1000.0,
    ),
    Fault("a line of 100 MB", harm.giant, lambda t, n: t["oversized"] == n, LISTEN, share=0.02),
    Fault("streams nobody knows", harm.strangers, lambda t, n: t["unplaced"] == n, UDP, more=200),
    Fault(  # a sequence lifter refuses what is over 1,000 frames a second, once its window is full of it
        "times in another unit", harm.wrong_clock, lambda t, n: t["failed"] == 0 or t["failed"] > n - 1500, UDP, more=10
    ),
    Fault("32 people who are new in every frame", harm.other_people, lambda t, n: t["failed"] == 0, UDP),
    Fault("a clock that jumps back", harm.clock_back, lambda t, n: t["clock_resets"] == n, own=True),
    Fault("frames twice and late", harm.twice_and_late, lambda t, n: t["stale"] == 2 * n, own=True),
    Fault(
        "ten times the allowed rate", harm.flood, lambda t, n: t["flooded"] >= 0.7 * n - 100,
        (*UDP, "--max-rate", "100"), own=True,
    ),
    Fault("a caller that vanishes (TCP)", harm.caller_vanishes, lambda t, n: t["malformed"] == 0, LISTEN),
    Fault("a server that vanishes (TCP)", harm.server_vanishes, lambda t, n: t["reconnects"] >= n, TCP),
    Fault(
        "a publisher that vanishes (ZeroMQ)", harm.publisher_vanishes, lambda t, n: t["failed"] == 0,
        ("--source", "zmq://{host}:{port}"), share=0.1,
    ),
    Fault(
        "a server that vanishes (WebSocket)", harm.websocket_server_vanishes, lambda t, n: t["reconnects"] >= n,
        ("--source", "ws://{host}:{port}"), share=0.1,
    ),
    Fault(
        "a full disk", harm.written_until_full, lambda t, n: t["sink_lost"] >= n - 30,
        ("--sink", "{folder}/poses.jsonl"), before=harm.full_disk,
    ),
    Fault(
        "a reader that does not read (TCP)", harm.reader_of_tcp, lambda t, n: t["sink_lost"] >= n,
        ("--sink", "tcp-listen://{host}:{port}"),
    ),
    Fault(
        "a reader that does not read (WebSocket)", harm.reader_of_websocket, lambda t, n: t["sink_lost"] >= n,
        ("--sink", "ws://{host}:{port}"),
    ),
    Fault(
        "a reader that vanishes (TCP)", harm.sink_peer_vanishes, lambda t, n: t["reconnects"] >= n,
        ("--sink", "tcp://{host}:{port}"), share=0.5,
    ),
    Fault(
        "good bundles published", harm.good_swaps, lambda t, n: t["swaps"] == n, ("--follow",), share=0.1,
        prepare=harm.registry,
    ),
    Fault(
        "broken bundles published", harm.bad_swaps, lambda t, n: t["swaps"] == 0, ("--follow",), share=0.1,
        prepare=harm.registry,
    ),
    Fault(
        "fused: a clock that jumps back", harm.clock_back, lambda t, n: t["clock_resets"] == 2 * n, own=True, fuse=True
    ),
    Fault("fused: a view that comes and goes", harm.partner_comes_and_goes, lambda t, n: t["failed"] == 0, fuse=True),
    Fault("fused: a view whose clock is astray", harm.clock_astray, lambda t, n: t["failed"] == 0, UDP, fuse=True),
    Fault("fused: a view of odd numbers", harm.odd_numbers, lambda t, n: t["failed"] == 0, UDP, fuse=True),
    Fault("fused: a view of 32 new people", harm.other_people, lambda t, n: t["failed"] == 0, UDP, fuse=True),
)  # fmt: skip


def show(rows: list[dict[str, Any]]) -> None:
    head = ("fault", "times", "good in -> out", "longest ms", "slower", "grown MiB", "counted", "failed checks")
    table(head, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> tuple[object, ...]:
    through = f"{row['good_sent']} -> {row['good_out']}" + (f" +{row['twice']}" if row["twice"] else "")
    counted = ", ".join(f"{v} {k}" for k, v in row["counts"].items() if k not in ("frames", "lifted"))
    failed = ", ".join(name for name, good in row["checks"].items() if not good) or "-"
    return row["fault"], row["times"], through, row["longest_ms"], row["slower"], row["grown_mib"], counted, failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--times", type=int, default=1000)
    parser.add_argument("--only", default="", help="faults whose name holds this")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for fault in FAULTS:
        if options.only in fault.name:
            rows.append(harmed(fault, options.times, options.bundle, options.data))
            show(rows[-1:])
            if not rows[-1]["ok"]:
                print("  " + "\n  ".join(rows[-1]["last_words"]))
    show(rows)
    result = {"machine": machine(), "bundle": options.bundle.name, "times": options.times, "faults": rows}
    write(result, "faults", options.output)
    raise SystemExit(not all(row["ok"] for row in rows))


if __name__ == "__main__":
    main()
