"""Images and audio are what their bytes say, and headerless audio is wrapped exactly once."""

from __future__ import annotations

import wave
from io import BytesIO

import pytest
from PIL import Image

from src.ai.providers.media_bytes import decode_image, media_type, playable
from tests.providers.answers import b64, mp3, png, wav

PCM = b"\x01\x00\xff\x7f" * 50


def image(kind: str) -> bytes:
    file = BytesIO()
    Image.new("RGB", (2, 2)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "mime_type"),
    [
        (image("PNG"), "image/png"),
        (image("JPEG"), "image/jpeg"),
        (image("GIF"), "image/gif"),
        (image("WEBP"), "image/webp"),
        (wav(), "audio/wav"),
        (mp3(), "audio/mpeg"),
        (b"ID3\x04" + mp3(), "audio/mpeg"),
        (b"OggS\x00\x02", "audio/ogg"),
        (b"fLaC\x00", "audio/flac"),
        (b"\xff\xf1\x50\x80", "audio/aac"),
        (b"", None),
        (b"\xff", None),
        (b"<html>", None),
        (b'{"error": 1}', None),
    ],
)
def test_the_first_bytes_tell_what_it_is(data: bytes, mime_type: str | None) -> None:
    assert media_type(data) == mime_type


@pytest.mark.parametrize(
    ("content_type", "rate"),
    [
        ("audio/L16;codec=pcm;rate=24000", 24_000),
        ("audio/L16;rate=16000", 16_000),
        ("audio/l16; RATE=48000", 48_000),
        ("audio/pcm", 24_000),
        ("audio/pcm;rate=0", 24_000),
        ("audio/pcm;rate=99999999999", 24_000),
        ("audio/pcm;rate=fast", 24_000),
    ],
)
def test_point_05_headerless_audio_is_wrapped_at_its_own_rate(content_type: str, rate: int) -> None:
    data, mime_type = playable(PCM, content_type)
    with wave.open(BytesIO(data)) as read:
        shape = (read.getnchannels(), read.getsampwidth(), read.getframerate(), read.readframes(1000))
    assert (mime_type, shape) == ("audio/wav", (1, 2, rate, PCM))


@pytest.mark.parametrize("content_type", ["audio/L16;rate=24000", "audio/pcm", "audio/wav", "application/octet-stream"])
def test_point_05_a_wav_is_not_wrapped_twice(content_type: str) -> None:
    assert playable(wav(), content_type) == (wav(), "audio/wav")


def test_point_05_samples_that_look_like_the_head_of_an_mp3_are_samples() -> None:
    assert playable(b"\xff\xfb" * 50, "audio/pcm")[1] == "audio/wav"
    assert playable(b"\xff\xfb" * 50, "audio/mpeg")[1] == "audio/mpeg"


def test_half_a_sample_at_the_end_is_left_out() -> None:
    with wave.open(BytesIO(playable(PCM + b"\x01", "audio/pcm")[0])) as read:
        assert read.readframes(1000) == PCM


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"", "audio/pcm"),
        (b"\x01", "audio/pcm"),
        (b"", "audio/mpeg"),
        (b"<html></html>", "audio/mpeg"),
        (PCM, "audio/mpeg"),
        (PCM, ""),
        (png(), "image/png"),
        (png(), "audio/mpeg"),
    ],
)
def test_what_does_not_play_is_no_audio(data: bytes, content_type: str) -> None:
    with pytest.raises(ValueError, match="no audio"):
        playable(data, content_type)


def test_base64_is_read_bare_and_in_a_data_url() -> None:
    assert decode_image(b64(png())) == decode_image(f"data:image/png;base64,{b64(png())}") == png()


@pytest.mark.parametrize("text", ["", "data:", "data:image/png;base64,", "%%%", "abc", "https://vendor.example/x.png"])
def test_what_is_no_base64_is_no_image(text: str) -> None:
    with pytest.raises(ValueError, match=r"broken|empty"):
        decode_image(text)
