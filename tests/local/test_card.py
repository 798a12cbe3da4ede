"""The placeholder in place of an image."""

from __future__ import annotations

import unicodedata
from io import BytesIO

import pytest
from PIL import Image, ImageChops

from src.ai.exceptions import InvalidRequest
from src.ai.providers.base import BaseProvider
from src.ai.results import Media
from src.ai_local import card

pytestmark = pytest.mark.local


async def draw(provider: BaseProvider, prompt: str, **options: object) -> Image.Image:
    return Image.open(await provider.generate_image(prompt, **options))


@pytest.mark.parametrize(
    ("size", "pixels"), [("512x256", (512, 256)), (None, (1024, 1024)), ("auto", (1024, 1024)), ("64X2048", (64, 2048))]
)
async def test_a_png_of_the_size_asked_for(provider: BaseProvider, size: str | None, pixels: tuple[int, int]) -> None:
    image = await draw(provider, "a lighthouse", size=size)
    assert (image.format, image.size) == ("PNG", pixels)


async def test_it_is_marked_as_no_models_work(provider: BaseProvider) -> None:
    media = await provider.generate_image("a lighthouse", size="128x128", quality="hd")
    assert isinstance(media, Media)
    assert (media.placeholder, media.content_type, media.model) == (True, "image/png", "placeholder-card")
    assert media.dropped_params == ("quality",)


async def test_several_cards_differ(provider: BaseProvider) -> None:
    media = await provider.generate_image("a lighthouse", n=3, size="256x256")
    assert isinstance(media, Media)
    assert len({item.getvalue() for item in media.all}) == 3


@pytest.mark.parametrize(
    ("options", "attr"),
    [
        ({"size": "9x9"}, "size"),
        ({"size": "big"}, "size"),
        ({"size": "4096x64"}, "size"),
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
    ],
)
async def test_what_cannot_be_drawn_is_refused(provider: BaseProvider, options: dict[str, object], attr: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await provider.generate_image("a lighthouse", **options)
    assert caught.value.attr == attr


def text_box(prompt: str) -> tuple[int, int, int, int]:
    """Where the prompt's ink is."""
    with_prompt, without = (Image.open(BytesIO(card.draw_card(text, (512, 512)))) for text in (prompt, ""))
    box = ImageChops.difference(with_prompt, without).getbbox()
    assert box is not None
    return box


def test_latin_starts_on_the_left_and_persian_on_the_right() -> None:
    left = text_box("a cat")
    right = text_box("یک گربه")
    assert left[0] < 60
    assert left[2] < 300
    assert right[2] > 440
    assert right[0] > 212


def test_persian_is_joined_ordered_and_free_of_marks_that_draw_as_bars() -> None:
    drawn = card.order("می\u200cخوابد\u200f (۱۲)", rtl=True)  # noqa: RUF001 (Persian)
    assert drawn.startswith("(۱۲) ")  # the brackets mirrored, the digits from left to right
    assert [unicodedata.name(letter).removeprefix("ARABIC LETTER ") for letter in drawn[5:]] == [
        "DAL FINAL FORM",
        "BEH INITIAL FORM",
        "ALEF ISOLATED FORM",
        "WAW FINAL FORM",
        "KHAH INITIAL FORM",
        "FARSI YEH FINAL FORM",
        "MEEM INITIAL FORM",
    ]


def test_what_the_font_lacks_becomes_a_question_mark() -> None:
    assert text_box("中") == text_box("?")
    assert text_box("ب") != text_box("?")


def test_a_long_prompt_stays_inside_the_frame() -> None:
    _left, _top, right, bottom = text_box("x" * 500 + " word" * 2000)
    assert right < 490
    assert bottom < 460
