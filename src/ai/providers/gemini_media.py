"""Images and speech of Gemini's `generateContent`. Pure functions (ai.google.dev, autumn 2026)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import log
from typing import Any, Final

from src.ai.providers.gemini_format import Built, File, model_name
from src.ai.providers.media_bytes import decode_image, playable

_RATIOS: Final = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
_LONG_RATIOS: Final = ("1:4", "4:1", "1:8", "8:1")
# imageSize by model. A model that is not named here gets none, which is always legal.
_IMAGE_SIZES: Final = (
    (re.compile(r"gemini-3\.1-flash-image"), ("512", "1K", "2K", "4K")),
    (re.compile(r"gemini-3-pro-image|.*nano-banana-2\.1"), ("1K", "2K", "4K")),
)
_LONG_MODELS: Final = re.compile(r"gemini-3\.1-flash-image|.*nano-banana-2\.1")
_SIZE: Final = re.compile(r"(\d{2,5})\s*x\s*(\d{2,5})", re.IGNORECASE)

VOICES: Final = (
    *("Zephyr", "Puck", "Charon", "Kore", "Fenrir", "Leda", "Orus", "Aoede", "Callirrhoe", "Autonoe", "Enceladus"),
    *("Iapetus", "Umbriel", "Algieba", "Despina", "Erinome", "Algenib", "Rasalgethi", "Laomedeia", "Achernar"),
    *("Alnilam", "Schedar", "Gacrux", "Pulcherrima", "Achird", "Zubenelgenubi", "Vindemiatrix", "Sadachbia"),
    *("Sadaltager", "Sulafat"),
)
DEFAULT_VOICE: Final = "Kore"
_VOICES: Final = {voice.lower(): voice for voice in VOICES}
# They read style out of the text and return PCM; those since 3.8 have a field for it and return WAV.
_STYLE_IN_TEXT: Final = re.compile(r"gemini-(?:2\.5|3\.1)-")


def build_image(model: str, prompt: str, options: Mapping[str, Any]) -> Built:
    """The body for one image: there is no `n`.

    Callers speak DALL·E: a `size` in pixels becomes the nearest aspect ratio that the model has, and with `quality`
    the resolution; `style` goes into the prompt as words. `aspect_ratio` and `image_size` say the same in Gemini's
    words, and win.
    """
    name = model_name(model)
    asked = {option: value for option, value in options.items() if value is not None}
    ratios = _RATIOS + (_LONG_RATIOS if _LONG_MODELS.match(name) else ())
    offered: tuple[str, ...] = next((sizes for pattern, sizes in _IMAGE_SIZES if pattern.match(name)), ())
    config: dict[str, Any] = {}
    dropped: list[str] = []
    pixels = _pixels(asked.get("size"))
    if pixels:
        config["aspectRatio"] = min(ratios, key=lambda ratio: _distance(ratio, pixels))
    wanted = _resolution(max(pixels or (1024,)), asked.get("quality"))
    if wanted != "1K" and wanted in offered:
        config["imageSize"] = wanted
    for option, value in asked.items():
        if option == "size":
            lost = pixels is None and value != "auto"
        elif option == "quality":
            lost = value not in ("standard", "medium", "low", "auto") and "imageSize" not in config
        elif option == "aspect_ratio":
            lost = value not in ratios
            config |= {} if lost else {"aspectRatio": value}
        elif option == "image_size":
            lost = value not in offered
            config |= {} if lost else {"imageSize": value}
        else:
            lost = option != "style"
        if lost:
            dropped.append(option)
    text = f"{prompt}\n\nStyle: {asked['style']}" if "style" in asked else prompt
    generation: dict[str, Any] = {"responseModalities": ["TEXT", "IMAGE"]}
    if config:
        generation["imageConfig"] = config
    return {"contents": [{"role": "user", "parts": [{"text": text}]}], "generationConfig": generation}, tuple(dropped)


def build_speech(model: str, text: str, options: Mapping[str, Any]) -> Built:
    """The body that has `text` read out in one voice.

    A voice that Gemini does not have, as OpenAI's, would be a 400: the default one speaks instead. `style` (or OpenAI's
    `instructions`) is how to say it. There is no speed.
    """
    asked = {option: value for option, value in options.items() if value is not None}
    voice = _VOICES.get(str(asked.get("voice", DEFAULT_VOICE)).lower())
    style = str(asked.get("style") or asked.get("instructions") or "")
    dropped = [option for option in asked if option not in ("voice", "speed", "style", "instructions")]
    dropped += ["voice"] * (voice is None)
    dropped += ["speed"] * (asked.get("speed", 1.0) != 1.0)
    generation: dict[str, Any] = {
        "responseModalities": ["AUDIO"],
        "speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": voice or DEFAULT_VOICE}}},
    }
    part: dict[str, Any] = {"text": text}
    if _STYLE_IN_TEXT.match(model_name(model)):
        part["text"] = f"Say {style}: {text}" if style else text
    else:
        generation["responseFormat"] = {"audio": {"mimeType": "AUDIO_WAV"}}
        part |= {"speechMetadata": {"style": style}} if style else {}
    return {"contents": [{"role": "user", "parts": [part]}], "generationConfig": generation}, tuple(dropped)


def without_response_format(body: Mapping[str, Any], reason: str) -> dict[str, Any] | None:
    """The same request without `responseFormat`, if that is what a 400 that said `reason` was about.

    `google-genai` 3.4.0 knows the field, as a list, for Vertex AI only; WAV is the default without it (2026-11-23).
    """
    generation = dict(body.get("generationConfig", {}))
    named = "response_format" in reason.lower() or "responseformat" in reason.lower()
    if not named or generation.pop("responseFormat", None) is None:
        return None
    return {**body, "generationConfig": generation}


def parse_speech(files: tuple[File, ...]) -> tuple[bytes, str]:
    """The audio of an answer as a file that plays, and its mime type.

    The first file counts. Only headerless PCM may be joined across parts.

    Raises:
        ValueError: it is no audio.
    """
    first, *rest = files
    data = decode_image(first.data)
    if not data.startswith(b"RIFF"):
        more = (decode_image(file.data) for file in rest if file.mime_type == first.mime_type)
        data = b"".join((data, *more)) if re.match("audio/(?:l16|pcm)", first.mime_type, re.IGNORECASE) else data
    return playable(data, first.mime_type)


def _pixels(size: object) -> tuple[int, int] | None:
    found = _SIZE.fullmatch(str(size or "").strip())
    return (int(found[1]), int(found[2])) if found else None


def _distance(ratio: str, pixels: tuple[int, int]) -> float:
    width, _, height = ratio.partition(":")
    return abs(log(int(width) / int(height)) - log(pixels[0] / pixels[1]))


def _resolution(longest: int, quality: object) -> str:
    """1K is what all models make unasked; its sides go up to 1792 pixels, DALL·E's longest."""
    if quality in ("hd", "high") and longest <= 2560:
        return "2K"
    return "512" if longest <= 512 else "1K" if longest <= 1792 else "2K" if longest <= 2560 else "4K"
