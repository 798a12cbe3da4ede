"""Speech that plays."""

from __future__ import annotations

import asyncio
import wave

import pytest

from src.ai.exceptions import InvalidRequest
from src.ai.providers.base import BaseProvider
from src.ai.results import Media

pytestmark = pytest.mark.local

PERSIAN = "سلام دنیا، این یک آزمایش است"
ENGLISH = "Hello world, this is a test."


async def seconds(provider: BaseProvider, text: str, **options: object) -> float:
    media = await provider.text_to_speech(text, **options)
    with wave.open(media) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 22050)
        return file.getnframes() / file.getframerate()


@pytest.mark.parametrize("text", [ENGLISH, PERSIAN])
async def test_text_becomes_a_wav_that_plays(provider: BaseProvider, text: str) -> None:
    media = await provider.text_to_speech(text)
    assert isinstance(media, Media)
    with wave.open(media) as file:
        length = file.getnframes() / file.getframerate()
        assert any(file.readframes(file.getnframes()))
    assert length > 0.5
    assert media.content_type == "audio/wav"
    assert media.usage is not None
    assert (media.usage.characters, media.usage.audio_seconds) == (len(text), pytest.approx(length, abs=0.001))


def about(length: float) -> object:
    """The same words in the same voice: espeak-ng varies a few samples from call to call."""
    return pytest.approx(length, rel=0.02)


async def test_persian_text_is_spoken_in_persian_unless_another_voice_is_named(provider: BaseProvider) -> None:
    persian = await seconds(provider, PERSIAN, voice="fa")
    assert await seconds(provider, PERSIAN, voice="alloy") == about(persian)
    assert await seconds(provider, PERSIAN) == about(persian)
    assert await seconds(provider, PERSIAN, voice="en") > 2 * persian  # it spells the letters out
    assert await seconds(provider, ENGLISH) == about(await seconds(provider, ENGLISH, voice="en"))


async def test_another_vendors_voice_is_said_to_be_dropped(provider: BaseProvider) -> None:
    alloy = await provider.text_to_speech("hello", voice="Alloy")
    english = await provider.text_to_speech("hello", voice="en")
    assert isinstance(alloy, Media)
    assert isinstance(english, Media)
    assert (alloy.dropped_params, english.dropped_params) == (("voice",), ())


@pytest.mark.parametrize("voice", ["klingon-voice", "../../../etc/passwd", "a b", "xx"])
async def test_a_voice_that_does_not_exist_is_refused(provider: BaseProvider, voice: str) -> None:
    with pytest.raises(InvalidRequest, match="no voice") as caught:
        await provider.text_to_speech("hello", voice=voice)
    assert caught.value.attr == "voice"


@pytest.mark.parametrize("speed", [0.25, 0.5, 2.0, 4.0])
async def test_speed_changes_the_length_by_its_factor(provider: BaseProvider, speed: float) -> None:
    text = ENGLISH * 5
    assert await seconds(provider, text, speed=speed) == pytest.approx(await seconds(provider, text) / speed, rel=0.15)


@pytest.mark.parametrize("speed", [0.2, 4.1, float("nan")])
async def test_a_speed_beyond_the_range_is_refused(provider: BaseProvider, speed: float) -> None:
    with pytest.raises(InvalidRequest, match=r"0\.25 .* 4\.0"):
        await provider.text_to_speech("hello", speed=speed)


async def test_markup_is_read_out_and_not_obeyed(provider: BaseProvider) -> None:
    plain = await seconds(provider, "hello")
    assert await seconds(provider, "<speak>hello</speak>") > plain + 0.5
    assert await seconds(provider, 'hello <break time="60s"/>') < 20
    assert await seconds(provider, "hello \x01900S") > plain  # espeak-ng's own command for 900 words a minute


async def test_ten_thousand_characters_are_spoken_and_one_more_is_refused(provider: BaseProvider) -> None:
    text = ("A sentence of a long text. " * 400)[:10_000]
    assert await seconds(provider, text) > 300
    with pytest.raises(InvalidRequest, match="10001 characters"):
        await provider.text_to_speech(text + ".")


@pytest.mark.parametrize("text", ["", "  ", "..."])
async def test_text_without_a_word_is_refused(provider: BaseProvider, text: str) -> None:
    with pytest.raises(InvalidRequest, match="nothing that can be spoken"):
        await provider.text_to_speech(text)


async def test_calls_at_once_each_get_their_own_words(provider: BaseProvider) -> None:
    texts = ["one", "one two", "one two three", PERSIAN]
    together = await asyncio.gather(*(seconds(provider, text) for text in texts))
    assert together == [about(await seconds(provider, text)) for text in texts]
