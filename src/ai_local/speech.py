"""Speech: espeak-ng by ctypes, as the WAV file of one voice.

espeak-ng keeps one global state, so its calls run one at a time in a thread of their own. 10,000 characters of English
took 0.8 s and gave nine minutes, 24 MB (two cores; `python -m tests.local.measure` prints the figures again).
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
import unicodedata
import wave
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from django.utils.translation import gettext as _

from src.ai.exceptions import InvalidRequest, ProviderError, ProviderUnavailable
from src.ai_local import packages
from src.ai_local.worker import SerialWorker

MAX_CHARACTERS: Final = 10_000
SLOWEST, FASTEST = 0.25, 4.0

# Names that callers bring along from OpenAI's API: here they all mean the default voice of the text's language.
FOREIGN_VOICES: Final = frozenset(
    "alloy ash ballad cedar coral echo fable marin nova onyx sage shimmer verse".split()  # noqa: SIM905 (reads better)
)
ENGLISH, PERSIAN = "en", "fa"

# espeak-ng's speak_lib.h, version 1.52
_SYNCHRONOUS, _DO_NOT_EXIT = 2, 0x8000
_RATE, _UTF8 = 1, 1
_NORMAL_WPM, _SLOWEST_WPM = 175, 80
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)

_VOICE = re.compile(r"[a-z]{2,3}(-[a-z0-9]+)*(\+[a-z0-9]+)?", re.IGNORECASE)

_worker = SerialWorker("ai-local-speech")
_engine: _Engine | None = None  # touched by the worker's thread alone; espeak-ng has no threads that a fork could lose


@dataclass(frozen=True, slots=True)
class Speech:
    """A WAV file, its length and the voice that speaks."""

    wav: bytes
    seconds: float
    voice: str


@dataclass(frozen=True, slots=True)
class _Engine:
    library: Any
    sample_rate: int


async def speak(text: str, *, voice: str | None = None, speed: float = 1.0) -> Speech:
    """`text` as speech; markup in it is read out. Calls queue; a cancelled one ends within a sentence.

    Args:
        voice: a language of espeak-ng ("en", "fa", "de", "en-us", "en+f3"). None and OpenAI's names choose Persian for
            text that is mostly in Arabic script, else English.
        speed: 0.25 to 4; 1.0 is 175 words a minute.

    Raises:
        InvalidRequest: the text is too long or holds nothing that can be spoken, or voice or speed do not exist.
        ProviderUnavailable: the package is missing or can't be loaded.
    """
    if len(text) > MAX_CHARACTERS:
        reason = _("The text has {length} characters; this voice takes {limit}. Send it in parts.")
        raise InvalidRequest(attr="text", reason=reason.format(length=len(text), limit=MAX_CHARACTERS))
    if not SLOWEST <= speed <= FASTEST:
        reason = _("speed must be between {slowest} and {fastest}.").format(slowest=SLOWEST, fastest=FASTEST)
        raise InvalidRequest(attr="speed", reason=reason)
    plain = clean(text)
    chosen = resolve_voice(voice, plain)
    return await _worker.run(lambda stop: _speak(plain, chosen, speed, stop))


def clean(text: str) -> str:
    """The text without control characters, in which espeak-ng would see commands of its own."""
    return "".join(" " if unicodedata.category(character) == "Cc" else character for character in text)


def resolve_voice(voice: str | None, text: str) -> str:
    """espeak-ng's name of the voice to use."""
    if voice and not is_foreign(voice):
        return voice.lower()
    letters = [character for character in text if character.isalpha()]
    arabic = sum("\u0600" <= letter <= "\u06ff" or "\ufb50" <= letter <= "\ufefc" for letter in letters)
    return PERSIAN if arabic * 2 > len(letters) else ENGLISH


def is_foreign(voice: str | None) -> bool:
    """Whether the name is that of another vendor's voice, which stands for none here."""
    return (voice or "").lower() in FOREIGN_VOICES


def _speak(text: str, voice: str, speed: float, stop: threading.Event) -> Speech:
    engine = _get_engine()
    library = engine.library
    # The pattern keeps file paths out: a name is looked up below espeak-ng's folder of voices.
    if not _VOICE.fullmatch(voice) or library.espeak_SetVoiceByName(voice.encode()) != 0:
        reason = _("There is no voice '{voice}'. Leave it out, or name a language, such as en, en-us, fa, de or fr.")
        raise InvalidRequest(attr="voice", reason=reason.format(voice=voice))
    words_per_minute = _NORMAL_WPM * speed
    library.espeak_SetParameter(_RATE, max(_SLOWEST_WPM, round(words_per_minute)), 0)
    samples = _synthesize(library, text, stop)
    if words_per_minute < _SLOWEST_WPM:
        samples = _stretch(engine, samples, words_per_minute / _SLOWEST_WPM)
    if not any(samples):
        raise InvalidRequest(attr="text", reason=_("The text holds nothing that can be spoken."))
    return Speech(_build_wav(samples, engine.sample_rate), len(samples) / 2 / engine.sample_rate, voice)


def _synthesize(library: Any, text: str, stop: threading.Event) -> bytes | bytearray:
    """16-bit mono samples."""
    samples = bytearray()

    def on_samples(start: int | None, count: int, _events: int) -> int:
        if start and count > 0:
            samples.extend(ctypes.string_at(start, count * 2))
        return int(stop.is_set())

    data = text.encode()
    callback = _Callback(on_samples)  # has to live as long as espeak-ng may call it
    library.espeak_SetSynthCallback(callback)
    status = library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
    if status != 0:
        raise ProviderError(provider=packages.PROVIDER, operation="text_to_speech", reason=f"espeak-ng: error {status}")
    return samples


def _stretch(engine: _Engine, samples: bytes | bytearray, speed: float) -> bytes:
    """Slower without a lower pitch, by the sonic library inside espeak-ng: its own rate ends at 80 words a minute."""
    count = len(samples) // 2
    room = ctypes.create_string_buffer(bytes(samples), int(len(samples) / speed) + 2 * engine.sample_rate)
    change = engine.library.sonicChangeShortSpeed
    change.argtypes = [ctypes.c_void_p, ctypes.c_int, *[ctypes.c_float] * 4, *[ctypes.c_int] * 3]
    written = change(room, count, speed, 1.0, 1.0, 1.0, 0, engine.sample_rate, 1)
    return room.raw[: written * 2]


def _build_wav(samples: bytes | bytearray, sample_rate: int) -> bytes:
    buffer = BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(samples)
    return buffer.getvalue()


def _shorten(folder: str) -> str:
    """Another path to the folder: espeak-ng cuts paths at 160 characters, and virtual environments can lie deep."""
    if not os.path.isdir("/proc/self/fd"):
        return folder
    return f"/proc/self/fd/{os.open(folder, os.O_RDONLY)}"  # stays open, as voices are read when they are first used


def _get_engine() -> _Engine:
    global _engine
    if _engine is None:
        loader = packages.load("espeakng_loader")
        try:
            library = ctypes.CDLL(loader.get_library_path())
            data = _shorten(loader.get_data_path())
        except (OSError, RuntimeError) as error:
            raise ProviderUnavailable(provider=packages.PROVIDER, reason=str(error)) from error
        # Unless told not to, it ends the whole process where it misses its data.
        rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), _DO_NOT_EXIT)
        if rate <= 0:
            reason = _("espeak-ng can't read its data in '{path}'").format(path=data)
            raise ProviderUnavailable(provider=packages.PROVIDER, reason=reason)
        _engine = _Engine(library, rate)
    return _engine
