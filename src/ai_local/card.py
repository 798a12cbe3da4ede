"""The picture that stands in for an image model: a card that says so, with the prompt on it.

Text is shaped and put in order here, for a font that has every joined form of the Arabic letters, so that it looks the
same on every machine: the layout engine that Pillow could use needs a library of the system.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from io import BytesIO
from typing import Final

from django.utils.translation import gettext as _
from PIL import Image, ImageDraw, ImageFont

from src.ai.exceptions import InvalidRequest
from src.ai_local import packages

DEFAULT_SIZE: Final = (1024, 1024)
SHORTEST, LONGEST = 64, 2048
MAX_IMAGES: Final = 10
MAX_CHARACTERS: Final = 2000  # of the prompt; more does not fit on any card

_BACKGROUND, _FRAME, _INK, _NOTE = "#f4f1ea", "#b9b2a3", "#2b2a27", "#8a3b12"
_UNDRAWABLE: Final = "?"
_Font = ImageFont.FreeTypeFont


def parse_size(size: str | None) -> tuple[int, int]:
    """Width and height of "WxH"; None and "auto" leave them to the card.

    Raises:
        InvalidRequest: it is no size, or beyond what is drawn.
    """
    if size is None or size == "auto":
        return DEFAULT_SIZE
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size.strip().lower())
    width, height = map(int, match.groups()) if match else (0, 0)
    if not (SHORTEST <= width <= LONGEST and SHORTEST <= height <= LONGEST):
        reason = _("size must be WIDTHxHEIGHT, each from {shortest} to {longest}, such as 1024x1024.")
        raise InvalidRequest(attr="size", reason=reason.format(shortest=SHORTEST, longest=LONGEST))
    return width, height


def draw_card(prompt: str, size: tuple[int, int], *, number: int = 1, of: int = 1) -> bytes:
    """A PNG of exactly `size`. Characters that the font lacks are drawn as question marks.

    Raises:
        ProviderUnavailable: the font or a package that orders the text is not installed.
    """
    width, height = size
    image = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(image)
    unit = max(min(width, height) // 24, 6)
    bottom = height - 3 * unit
    draw.rectangle((unit // 2, unit // 2, width - unit // 2 - 1, height - unit // 2 - 1), outline=_FRAME, width=2)

    def write(text: str, font: _Font, color: str, y: int) -> int:
        """Lines from `y` on, as many as there is room for, each on the side it is read from; where they end."""
        rtl, room = is_right_to_left(text), width - 4 * unit
        for line in _fit(_wrap(_drawable(text, font), font, room), (bottom - y) // _line_height(font)):
            visual = order(line, rtl=rtl)
            x = width - 2 * unit - font.getlength(visual) if rtl else 2 * unit
            draw.text((x, y), visual, font=font, fill=color)
            y += _line_height(font)
        return y

    end = write(_("placeholder, no image model installed"), _font(unit), _NOTE, 2 * unit)
    write(prompt[:MAX_CHARACTERS], _font(unit * 3 // 2), _INK, end + unit)
    numbers = f"{number} / {of}   " if of > 1 else ""
    draw.text((2 * unit, bottom), f"{numbers}{width} x {height}", font=_font(max(unit * 2 // 3, 6)), fill=_NOTE)
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def is_right_to_left(text: str) -> bool:
    """Whether the first letter with a direction says so."""
    directions = (unicodedata.bidirectional(character) for character in text)
    return next((direction for direction in directions if direction in ("L", "R", "AL")), "L") != "L"


def order(text: str, *, rtl: bool = False) -> str:
    """A line as it is drawn from left to right: Arabic letters joined, right-to-left runs turned, brackets mirrored."""
    joined = packages.load("arabic_reshaper").reshape(text)
    visual = str(packages.load("bidi.algorithm").get_display(joined, base_dir="R" if rtl else "L"))
    # Direction marks have done their work, and fonts draw them as bars.
    return "".join(character for character in visual if unicodedata.category(character) != "Cf")


def _wrap(text: str, font: _Font, room: float) -> list[str]:
    """Lines no wider than `room`, broken between words; a word that is too long alone is broken itself."""

    def fits(line: str) -> bool:
        return font.getlength(order(line)) <= room

    lines: list[str] = []
    for paragraph in text.splitlines():
        lines.append("")
        for word in paragraph.split():
            if lines[-1] and fits(f"{lines[-1]} {word}"):
                lines[-1] += f" {word}"
                continue
            if lines[-1]:
                lines.append("")
            for character in word:
                if lines[-1] and not fits(lines[-1] + character):
                    lines.append("")
                lines[-1] += character
    return lines


def _fit(lines: list[str], count: int) -> list[str]:
    """The first `count` lines, the last of them saying that there were more."""
    return lines if len(lines) <= count else [*lines[: count - 1], "…"][: max(count, 0)]


def _drawable(text: str, font: _Font) -> str:
    missing = bytes(font.getmask("\uffff"))

    @cache
    def draw_as(character: str) -> str:
        if character.isspace() or unicodedata.category(character) == "Cf":
            return character
        return _UNDRAWABLE if bytes(font.getmask(order(character))) == missing else character

    return "".join(map(draw_as, text))


def _line_height(font: _Font) -> int:
    return round(font.size * 1.6)


@cache
def _font(size: int) -> _Font:
    path = packages.find_file(packages.FONT, "files/*.ttf")
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
