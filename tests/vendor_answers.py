"""Short answers of an OpenAI-shaped vendor, for tests that are not about the vendor."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from io import BytesIO
from typing import Any
from wave import open as open_wave

CHAT, IMAGES, SPEECH = "/v1/chat/completions", "/v1/images/generations", "/v1/audio/speech"

ARTICLE: dict[str, Any] = {
    "title": "Tea",
    "meta_title": "All about tea",
    "meta_description": "What tea is and how it is made.",
    "content": "Tea is a drink.",
    "keywords": ["tea", "drink"],
    "slug": "tea",
}


def chat(text: str, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-6-luna-2026-10-01",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish_reason}
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
    }


def chunk(text: str | None, finish_reason: str | None = None) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-6-luna-2026-10-01",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }


def article(**changes: Any) -> dict[str, Any]:
    return chat(json.dumps({**ARTICLE, **changes}, ensure_ascii=False))


def png(width: int = 2, height: int = 2, rows: int | None = None) -> bytes:
    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = (b"\0" + b"\x80\x40\x20" * width) * (height if rows is None else rows)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(pixels)) + part(b"IEND", b"")


def images(*files: bytes) -> dict[str, Any]:
    return {"created": 1, "data": [{"b64_json": base64.b64encode(file).decode()} for file in files]}


def wav(seconds: float = 0.6, rate: int = 8000) -> bytes:
    buffer = BytesIO()
    with open_wave(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"\0\0" * int(seconds * rate))
    return buffer.getvalue()
