"""Images and audio as bytes: what they are, and how a vendor wraps them. Pure functions."""

from __future__ import annotations

import base64
import binascii
import re
import wave
from collections.abc import Sequence
from io import BytesIO
from typing import Final

PCM_RATE: Final = 24_000  # samples a second where a vendor does not say (OpenAI, Gemini and OpenRouter, 2026-11)
_PCM: Final = re.compile(r"^audio/(?:l16|pcm)\b", re.IGNORECASE)
_RATE: Final = re.compile(r"\brate=(\d{4,6})\b", re.IGNORECASE)
_SIGNATURES: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF8", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (8, b"WAVE", "audio/wav"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"OggS", "audio/ogg"),
    (0, b"fLaC", "audio/flac"),
    (4, b"ftyp", "audio/mp4"),
    (0, b"\xff\xf1", "audio/aac"),
    (0, b"\xff\xf9", "audio/aac"),
)


def media_type(data: bytes) -> str | None:
    """The mime type that the first bytes show."""
    for offset, signature, mime_type in _SIGNATURES:
        if data.startswith(signature, offset):
            return mime_type
    is_mpeg_frame = len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0
    return "audio/mpeg" if is_mpeg_frame else None


def playable(data: bytes, content_type: str) -> tuple[bytes, str]:
    """Audio that plays and its mime type: raw PCM (signed, 16 bits, mono) gets a WAV header, anything else stays.

    Raises:
        ValueError: it is no audio.
    """
    known = media_type(data)
    if known and known.startswith("audio/") and not (_PCM.match(content_type) and known in ("audio/mpeg", "audio/aac")):
        return data, known
    if _PCM.match(content_type) and len(data) > 1:
        rate = _RATE.search(content_type)
        return pcm_as_wav(data, rate=int(rate[1]) if rate else PCM_RATE), "audio/wav"
    raise ValueError(f"it is no audio but {content_type or 'something without a type'} of {len(data)} bytes")


def pcm_as_wav(data: bytes, *, rate: int = PCM_RATE) -> bytes:
    """Raw PCM (signed, 16 bits, mono) with a WAV header."""
    file = BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(rate)
        wav.writeframes(data[: len(data) // 2 * 2])
    return file.getvalue()


def join_wavs(files: Sequence[bytes]) -> bytes:
    """One WAV of several of the same form, in order. Sizes are counted: a streamed header says 0 or 0xFFFFFFFF.

    Raises:
        ValueError: one is no WAV, or their forms differ.
    """
    parts = [_read_wav(file) for file in files]
    forms = {form for form, _ in parts}
    if len(forms) != 1:
        raise ValueError("its recordings differ in their form")
    form, samples = forms.pop(), b"".join(samples for _, samples in parts)
    body = b"".join((b"WAVE", _chunk(b"fmt ", form), _chunk(b"data", samples)))
    return _chunk(b"RIFF", body)


def _read_wav(data: bytes) -> tuple[bytes, bytes]:
    """The form (the `fmt` chunk) and the samples."""
    form, position = b"", 12
    while data.startswith(b"RIFF") and position + 8 <= len(data):
        size, start = int.from_bytes(data[position + 4 : position + 8], "little"), position + 8
        if data.startswith(b"fmt ", position):
            form = data[start : start + size]
        if data.startswith(b"data", position) and len(form) >= 16:
            samples = data[start : start + size if size else None]
            frame = int.from_bytes(form[12:14], "little") or 1
            return form, samples[: len(samples) // frame * frame]
        position = start + size + size % 2
    raise ValueError("it is no WAV with samples")


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + len(data).to_bytes(4, "little") + data + b"\0" * (len(data) % 2)


def decode_image(text: str) -> bytes:
    """The bytes of base64 or of a `data:` URL.

    Raises:
        ValueError: it is neither, or it is empty.
    """
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError(f"its base64 is broken: {error}") from error
    if not data:
        raise ValueError("it is empty")
    return data
