"""Load on loopback, light enough to share a core with the upstream: `wrk` for requests, raw sockets for streams."""

from __future__ import annotations

import json
import re
import select
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from machine import HOST
from upstream import WORD

WRK = shutil.which("wrk")
LUA = """
wrk.method = "POST"
{headers}
wrk.body = {body}
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n{{"answered": %d, "microseconds": %d, "refused": %d, "broken": %d, "p50": %f}}\\n',
    summary.requests, summary.duration, e.status, e.connect + e.read + e.write + e.timeout, latency:percentile(50)))
end
"""
LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """A POST of JSON."""

    port: int
    path: str
    body: Mapping[str, object]
    headers: Mapping[str, str] = field(default_factory=dict)

    def all_headers(self) -> dict[str, str]:
        return {"Host": f"{HOST}:{self.port}", "Content-Type": "application/json", **self.headers}

    def wire(self) -> bytes:
        """The bytes of it."""
        body = json.dumps(self.body).encode()
        lines = [f"POST {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in self.all_headers().items())]
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


@dataclass(frozen=True)
class Load:
    """What came of so many seconds of requests."""

    answered: int  # with 2xx
    failed: int
    seconds: float
    p50: float  # milliseconds

    @property
    def rate(self) -> float:
        return self.answered / self.seconds


def load(request: Request, in_flight: int, seconds: int) -> Load:
    """Send the request over and over, so many at once on as many connections that stay open."""
    return _by_wrk(request, in_flight, seconds) if WRK else _by_hand(request, in_flight, seconds)


def _by_wrk(request: Request, in_flight: int, seconds: int) -> Load:
    headers = "\n".join(
        f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in request.all_headers().items()
    )
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(LUA.format(headers=headers, body=json.dumps(json.dumps(request.body))))
        script.flush()
        command = [str(WRK), "-t1", f"-c{in_flight}", f"-d{seconds}s", "--timeout", "60s", "-s", script.name]
        done = subprocess.run([*command, f"http://{HOST}:{request.port}{request.path}"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"wrk: {done.stderr or done.stdout}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    failed = found["refused"] + found["broken"]
    return Load(found["answered"] - found["refused"], failed, found["microseconds"] / 1e6, found["p50"] / 1e3)


def _by_hand(request: Request, in_flight: int, seconds: int) -> Load:
    wire, poll = request.wire(), select.epoll()
    sockets = [socket.create_connection((HOST, request.port)) for _ in range(in_flight)]
    by_number = {one.fileno(): one for one in sockets}
    received = dict.fromkeys(by_number, b"")
    begun: dict[int, float] = {}
    latencies: list[float] = []
    failed = 0
    start = time.perf_counter()
    for number, one in by_number.items():
        poll.register(number, select.EPOLLIN)
        begun[number] = time.perf_counter()
        one.sendall(wire)
    try:
        while time.perf_counter() < start + seconds:
            for number, _what in poll.poll(0.1):
                data = by_number[number].recv(65536)
                received[number] += data
                if data and not _is_whole(received[number]):
                    continue
                now = time.perf_counter()
                if received[number].startswith(b"HTTP/1.1 2"):
                    latencies.append(now - begun[number])
                else:
                    failed += 1
                received[number] = b""
                begun[number] = now
                if data:
                    by_number[number].sendall(wire)
                else:
                    poll.unregister(number)
        spent = time.perf_counter() - start
    finally:
        poll.close()
        for one in sockets:
            one.close()
    return Load(len(latencies), failed, spent, statistics.median(latencies or [0.0]) * 1e3)


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    length = LENGTH.search(head)
    return len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")


@dataclass(frozen=True)
class Streams:
    """What came of so many streams at once."""

    begun: int
    whole: int  # ended in order, with all their chunks and [DONE]
    first: float  # milliseconds to the first chunk, median; from before the connection is opened
    chunks: int
    seconds: float  # until the last one had ended
    trouble: str  # how the answer began of one that was not whole


class Reader:
    """One stream."""

    word = WORD.encode()

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.first: float | None = None
        self.chunks = 0
        self.is_done = False
        self.is_whole = False
        self.start = b""
        self.tail = b""

    def take(self, data: bytes) -> None:
        """Note what has come."""
        self.start = self.start or data[:1000]
        seen = self.tail + data
        self.chunks += seen.count(self.word) - self.tail.count(self.word)  # what is looked for may come in two parts
        if self.first is None and b"data:" in seen:
            self.first = time.perf_counter() - self.begun
        self.is_done = self.is_done or b"[DONE]" in seen
        self.is_whole = self.is_done and seen.endswith(b"\r\n0\r\n\r\n")
        self.tail = seen[-16:]


def stream(request: Request, count: int, chunks: int, seconds: float = 180) -> Streams:
    """Open so many streams at once, each on a connection of its own, and read them all to their end."""
    wire, poll = request.wire(), select.epoll()
    start = time.perf_counter()
    readers: dict[int, tuple[socket.socket, Reader]] = {}
    ended: list[Reader] = []
    try:
        for _ in range(count):
            reader = Reader()
            one = socket.create_connection((HOST, request.port))
            one.setblocking(False)
            one.send(wire)  # a new connection takes it whole
            readers[one.fileno()] = one, reader
            poll.register(one, select.EPOLLIN)
        while readers and time.perf_counter() < start + seconds:
            for number, _what in poll.poll(1):
                one, reader = readers[number]
                try:
                    data = one.recv(262144)
                except ConnectionError:
                    data = b""
                if data:
                    reader.take(data)
                if reader.is_whole or not data:
                    one.close()
                    ended.append(readers.pop(number)[1])
    finally:
        poll.close()
        for one, reader in readers.values():
            one.close()
            ended.append(reader)
    broken = [reader for reader in ended if not (reader.is_done and reader.chunks == chunks)]
    return Streams(
        begun=count,
        whole=count - len(broken),
        first=statistics.median([reader.first for reader in ended if reader.first is not None] or [0.0]) * 1e3,
        chunks=sum(reader.chunks for reader in ended),
        seconds=time.perf_counter() - start,
        trouble=repr(broken[0].start[:40] + b" ... " + broken[0].start[-160:]) if broken else "",
    )
