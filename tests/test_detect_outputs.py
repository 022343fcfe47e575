"""Where a detector's lines go: files that are whole, datagrams, connections."""

from __future__ import annotations

import os
import resource
import signal
import socket
from pathlib import Path

import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.detectors.outputs import open_output


def _write_until(target: Path, lines: int, failure: BaseException, keep: bool) -> None:
    with open_output(str(target), keep) as write:
        for _ in range(lines):
            write(b"2\n")
        raise failure


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "new" / "x.jsonl"
    with open_output(str(target), keep=False) as write:
        write(b"1\n")
        assert not target.exists()
    assert target.read_bytes() == b"1\n"
    with pytest.raises(KeyboardInterrupt):
        _write_until(target, 1, KeyboardInterrupt(), keep=False)
    assert target.read_bytes() == b"1\n"
    assert os.listdir(target.parent) == ["x.jsonl"]


@pytest.mark.parametrize("keep", [False, True])
def test_a_full_disk_costs_the_lines_that_find_no_room(tmp_path: Path, keep: bool) -> None:
    target = tmp_path / "x.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill() -> None:
        with open_output(str(target), keep) as write:
            for number in range(100):
                write(b"%07d\n" % number)

    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        with pytest.raises(EdgeliftError, match="Make room"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert target.exists() == keep
    if keep:
        assert target.read_bytes() == b"".join(b"%07d\n" % number for number in range(12))
    assert len(os.listdir(tmp_path)) == keep


def test_what_a_camera_gave_before_it_failed_is_kept(tmp_path: Path) -> None:
    failure = EdgeliftError("camera 0", "no more images", "a camera", "Look.")
    for lines, kept in ((1, True), (0, False)):
        target = tmp_path / f"{lines}.jsonl"
        with pytest.raises(EdgeliftError, match="no more images"):
            _write_until(target, lines, failure, keep=True)
        assert target.exists() == kept


def test_lines_go_out_as_datagrams_and_over_tcp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reader:
        reader.bind(("127.0.0.1", 0))
        with open_output(f"udp://127.0.0.1:{reader.getsockname()[1]}", keep=False) as write:
            for text in (b"1\n", b"22\n"):
                write(text)
            with pytest.raises(EdgeliftError, match="a line of 70000 bytes"):
                write(b"x" * 70_000)
        assert [reader.recv(100), reader.recv(100)] == [b"1\n", b"22\n"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        with open_output(f"tcp://127.0.0.1:{server.getsockname()[1]}", keep=False) as write:
            peer, _ = server.accept()
            write(b"1\n")
            write(b"22\n")
        with peer, peer.makefile("rb") as lines:
            assert lines.read() == b"1\n22\n"


def test_nobody_at_the_other_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with (
        pytest.raises(EdgeliftError, match="expected somebody who listens there"),
        open_output(f"tcp://127.0.0.1:{port}", keep=False),
    ):
        raise AssertionError("it was opened")
    with open_output(f"udp://127.0.0.1:{port}", keep=False) as write:
        for _ in range(3):  # datagrams are lost then, which is no failure
            write(b"1\n")
