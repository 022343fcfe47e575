"""Sends back what it is sent: SOURCE and SINK as `edgelift lift` takes them, udp:// or zmq:// and zmq-connect://."""

from __future__ import annotations

import socket
import sys
from urllib.parse import urlsplit


def over_udp(source: str, sink: str) -> None:
    here, there = urlsplit(source), urlsplit(sink)
    with socket.socket(type=socket.SOCK_DGRAM) as receiver, socket.socket(type=socket.SOCK_DGRAM) as sender:
        receiver.bind((here.hostname or "", here.port or 0))
        sender.connect((there.hostname or "", there.port or 0))
        while True:
            data = receiver.recv(1 << 16)
            sender.send(data)


def over_zmq(source: str, sink: str) -> None:
    import zmq

    receiver: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    sender: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
    with receiver, sender:
        receiver.connect(source.replace("zmq://", "tcp://"))
        sender.connect(sink.replace("zmq-connect://", "tcp://"))
        receiver.subscribe(b"")
        while True:
            sender.send(receiver.recv())


if __name__ == "__main__":
    (over_udp if sys.argv[1].startswith("udp") else over_zmq)(sys.argv[1], sys.argv[2])
