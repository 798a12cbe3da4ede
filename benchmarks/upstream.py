"""A vendor on loopback: `python benchmarks/upstream.py [--chunks N] [--interval MS]`.

Prints its port and serves until its input closes: chat completions, whole and streamed, embeddings and the list of
models, in OpenAI's form. It answers at once, the chunks of a stream at their interval, and judges no key. A body that
has `fault:NAME` in it, `NAME` being one of `FAULTS`, meets that fault. `GET /counts` tells how many requests came with
each key.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections import Counter, deque
from typing import Any

import uvloop

WORD = " kites"  # what each chunk of a stream brings
MODEL = "gpt-4o-mini"
USAGE = {
    "prompt_tokens": 13,
    "completion_tokens": 11,
    "total_tokens": 24,
    "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 0},
    "completion_tokens_details": {"accepted_prediction_tokens": 0, "audio_tokens": 0, "reasoning_tokens": 0},
}
CHAT = {
    "id": "chatcmpl-B0n7Q2m1XcV5kDwE8rTyU3aLpSzJh",
    "object": "chat.completion",
    "created": 1790000000,
    "model": f"{MODEL}-2024-07-18",
    "service_tier": "default",
    "system_fingerprint": "fp_0badcafe42",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Kites fly best in a steady wind.",
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}
EMBEDDINGS = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [round(n / 999 - 0.1, 7) for n in range(256)]}],
    "model": "text-embedding-3-small",
    "usage": {"prompt_tokens": 8, "total_tokens": 8},
}
MODELS = {
    "object": "list",
    "data": [{"id": MODEL, "object": "model", "created": 1721172741, "owned_by": "system"}],
}
FAULTS = ("500", "429", "cut", "hang", "malformed", "cut-stream")
FAULT = re.compile(rb"fault:([a-z0-9-]+)")
STREAM = re.compile(rb'"stream"\s*:\s*true')
KEY = re.compile(rb"\r\nauthorization: bearer (\S+)", re.IGNORECASE)
LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)


def answer(status: str, value: Any, *headers: str) -> bytes:
    """A whole HTTP answer with JSON."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    lines = (f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(body)}", *headers)
    return "\r\n".join([*lines, "x-request-id: req_0123456789abcdef", "", ""]).encode() + body


def event(value: dict[str, Any] | str) -> bytes:
    """A server-sent event as a chunk of HTTP."""
    data = f"data: {value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


def delta(**more: Any) -> dict[str, Any]:
    """A chunk of a streamed chat completion."""
    head = {key: CHAT[key] for key in ("id", "created", "model", "service_tier", "system_fingerprint")}
    return {**head, "object": "chat.completion.chunk", "choices": [], "usage": None, **more}


def choice(content: dict[str, Any], finish_reason: str | None = None) -> list[dict[str, Any]]:
    """What a chunk says."""
    return [{"index": 0, "delta": content, "logprobs": None, "finish_reason": finish_reason}]


WHOLE = {
    b"/chat/completions": answer("200 OK", CHAT),
    b"/embeddings": answer("200 OK", EMBEDDINGS),
    b"/models": answer("200 OK", MODELS),
}
NOT_FOUND = answer("404 Not Found", {"error": {"message": "Unknown path.", "type": "invalid_request_error"}})
ERRORS = {
    b"500": answer("500 Internal Server Error", {"error": {"message": "Out of order.", "type": "server_error"}}),
    b"429": answer(
        "429 Too Many Requests",
        {"error": {"message": "Slow down.", "type": "requests", "code": "rate_limit_exceeded"}},
        "retry-after: 1",
    ),
    b"malformed": answer("200 OK", b'{"id": "chatcmpl-1", "choices": [{"index": 0, "mess'),
}
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
FIRST = event(delta(choices=choice({"role": "assistant", "content": WORD, "refusal": None})))
CHUNK = event(delta(choices=choice({"content": WORD})))
LAST = (
    event(delta(choices=choice({"content": WORD}, "stop"))) + event(delta(usage=USAGE)) + event("[DONE]") + b"0\r\n\r\n"
)


class Pace:
    """Writes the chunks of all streams when they are due. Their interval is the same, so one queue is in order."""

    def __init__(self, chunks: int, interval: float) -> None:
        self.chunks = chunks
        self.interval = interval
        self._due: deque[tuple[float, asyncio.Transport, int, bool]] = deque()

    def begin(self, transport: asyncio.Transport, *, is_cut: bool) -> None:
        """Send the first chunk, and have the others sent; `is_cut`: three more, and then the connection is cut."""
        loop = asyncio.get_running_loop()
        transport.write(STREAM_HEAD + FIRST)
        self._due.append((loop.time() + self.interval, transport, 4 if is_cut else self.chunks - 1, is_cut))
        if len(self._due) == 1:
            loop.call_at(self._due[0][0], self._send)

    def _send(self) -> None:
        loop, due = asyncio.get_running_loop(), self._due
        now = loop.time() + 0.0005  # what is due within this is not worth another turn of the loop
        while due and due[0][0] <= now:
            at, transport, left, is_cut = due.popleft()
            if transport.is_closing():
                continue
            if left > 1:
                transport.write(CHUNK)
                due.append((at + self.interval, transport, left - 1, is_cut))
            elif is_cut:
                transport.abort()
            else:
                transport.write(LAST)
        if due:
            loop.call_at(due[0][0], self._send)


class Vendor(asyncio.Protocol):
    """Answers every whole request."""

    def __init__(self, pace: Pace, counts: Counter[str]) -> None:
        self.pace = pace
        self.counts = counts
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while self.received:
            head, end, rest = self.received.partition(b"\r\n\r\n")
            if not end:
                return
            length = int(found[1]) if (found := LENGTH.search(head)) else 0
            if len(rest) < length:
                return
            self.received = rest[length:]
            path = head.split(b" ", 2)[1]
            if path == b"/counts":
                self.transport.write(answer("200 OK", self.counts))
                continue
            if key := KEY.search(head):
                self.counts[key[1].decode()] += 1
            self.reply(path, rest[:length])

    def reply(self, path: bytes, body: bytes) -> None:
        """Answer one request."""
        fault = found[1] if (found := FAULT.search(body)) else None
        if fault in ERRORS:
            self.transport.write(ERRORS[fault])
        elif fault == b"cut":
            self.transport.abort()
        elif fault == b"hang":
            pass
        elif path.endswith(b"/chat/completions") and STREAM.search(body):
            self.pace.begin(self.transport, is_cut=fault == b"cut-stream")
        else:
            known = (reply for end, reply in WHOLE.items() if path.endswith(end))
            self.transport.write(next(known, NOT_FOUND))


async def main() -> None:
    """Serve until standard input is closed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=50, help="of a stream")
    parser.add_argument("--interval", type=float, default=20, help="milliseconds between two chunks")
    options = parser.parse_args()
    pace = Pace(options.chunks, options.interval / 1000)
    counts: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Vendor(pace, counts), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())
