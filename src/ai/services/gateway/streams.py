"""What the books need to know of a stream of chat chunks that only passes through."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import structs

from src.ai.providers import openai_format
from src.ai.providers.payload import read_json
from src.ai.results import ResultInfo, Usage
from src.ai.services.ledger.estimates import BYTES_PER_TOKEN

ENDS: Final = (b"\n\n", b"\n\r\n")  # of an event
READ_AFTER: Final = 512  # bytes: what has come is read together, which is cheaper than piece by piece
LONGEST_LINE: Final = 64 * 1024 * 1024  # that is read; an image may be one
LONGEST_USAGE: Final = 16 * 1024  # an event that may be held back
_END: Final = re.compile(rb"(\r?\n\r?\n)")
_IMAGE_DONE: Final = (".completed",)
_DONE: Final = b"[DONE]"
_NO_CHOICES: Final = (b'"choices":[]', b'"choices": []')


class _Delta(msgspec.Struct, gc=False):  # what is read from JSON refers to nothing that refers to it
    content: str | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class Facts(msgspec.Struct, gc=False):
    """A chat completion, or a chunk of one, without what nobody here needs."""

    id: str | None = None
    model: str | None = None
    choices: list[_Choice] = []
    usage: dict[str, Any] | None = None
    x_groq: dict[str, Any] | None = None
    error: Any = None
    data: list[msgspec.Raw] | None = None  # of images
    type: str = ""  # of an event in a stream of images

    @property
    def info(self) -> ResultInfo:
        """The same as the providers' own reading has it."""
        used = openai_format.find_usage({"usage": self.usage, "x_groq": self.x_groq})
        return ResultInfo(
            finish_reason=self.choices[0].finish_reason if self.choices else None,
            usage=openai_format.parse_usage(used),
            cost=openai_format.parse_decimal(used.get("cost")) if used else None,
            model=self.model,
            response_id=self.id,
        )

    @property
    def is_only_usage(self) -> bool:
        return bool(self.usage) and not self.choices and not self.error

    @property
    def text(self) -> str:
        text = ""
        for choice in self.choices:
            said = choice.delta or choice.message
            if said is not None and said.content:
                text += said.content
        return text


_decoder: Final = msgspec.json.Decoder(Facts)


def read_facts(content: bytes) -> Facts:
    """The facts of a completion or a chunk. What has another form than was agreed tells as much as can be read of it.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        return _decoder.decode(content)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        data = read_json(content)
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    if data.get("error"):
        return Facts(error=data["error"])
    try:
        part = openai_format.parse_chat(data)
    except (ValueError, TypeError, AttributeError, KeyError):
        return Facts()
    used = openai_format.find_usage(data)
    choice = _Choice(_Delta(part.text), finish_reason=part.finish_reason)
    return Facts(part.response_id, part.model, [choice], usage=dict(used) if used else None)


class StreamWatch:
    """Reads along: what was used, how it ended, how much was said.

    Where the caller has not asked for the usage, the chunk that only exists for it stays here, as naive clients trip
    over its empty `choices`. Everything else is passed on as it came, whatever the pieces are that it comes in.
    """

    __slots__ = (
        "_chunks",
        "_held",
        "_hides_usage",
        "_images",
        "_is_within",
        "_passed",
        "_said",
        "_texts",
        "_unread",
        "_unread_size",
        "error",
        "info",
        "is_complete",
    )

    def __init__(self, *, hides_usage: bool, keeps_text: bool = False) -> None:
        self.info = ResultInfo()
        self.error: Any = None
        self.is_complete = False  # the vendor has said that this is the end
        self._hides_usage = hides_usage
        self._texts: list[str] | None = [] if keeps_text else None
        self._held = b""  # the beginning of an event that may be the usage
        self._is_within = False  # what was passed on ends within an event that is too long to be held
        self._passed = b""  # the last bytes of that
        self._unread: list[bytes] = []
        self._unread_size = 0
        self._chunks = 0
        self._images = 0
        self._said = 0  # bytes of text

    @property
    def is_whole(self) -> bool:
        """Whether what was passed on ends with an event, not within one."""
        return not self._passed or self._passed.endswith(ENDS)

    def feed(self, piece: bytes) -> bytes:
        """What of a piece is to be passed on now."""
        self._unread.append(piece)
        self._unread_size += len(piece)
        if self._unread_size > READ_AFTER and b"\n" in piece:
            self._read(last=False)
        elif self._unread_size > LONGEST_LINE:
            self._unread, self._unread_size = [], 0
        if self._hides_usage and (self._held or self._is_within or not piece.endswith(ENDS) or _may_be_usage(piece)):
            piece = self._without_usage(piece)
        self._note_end(piece)
        return piece

    def finish(self) -> bytes:
        """What is left to be passed on at the end."""
        held, self._held = self._held, b""
        self._note_end(held)
        self._read(last=True)
        return held

    @property
    def text(self) -> str:
        """What was said, where it is kept."""
        return "".join(self._texts or ())

    def guess(self, input_bytes: int) -> Usage | None:
        """What was used up to here, where something has come and the vendor has not counted.

        Args:
            input_bytes: the size of the request.
        """
        self._read(last=True)
        counted = self.info.usage
        if not self._chunks or counted is not None:
            return counted
        # Most vendors send a token a chunk, some several.
        said = max(self._chunks, -(-self._said // BYTES_PER_TOKEN))
        return Usage(input_tokens=-(-input_bytes // BYTES_PER_TOKEN), output_tokens=said)

    def _note_end(self, piece: bytes) -> None:
        self._passed = piece[-3:] if len(piece) > 2 else (self._passed + piece)[-3:]

    def _without_usage(self, piece: bytes) -> bytes:
        if self._is_within:  # the rest of a long event goes on at once
            joined = self._passed + piece
            found = _END.search(joined)
            if found is None:
                return piece
            self._is_within = False
            cut = found.end() - len(self._passed)
            return piece[:cut] + self._without_usage(piece[cut:])
        if self._held:
            piece, self._held = self._held + piece, b""
        if not piece.endswith(ENDS):
            cut = max(piece.rfind(end) + len(end) if end in piece else 0 for end in ENDS)
            if len(piece) - cut > LONGEST_USAGE:
                self._is_within = True
            else:
                piece, self._held = piece[:cut], piece[cut:]
        if not _may_be_usage(piece):
            return piece
        parts = _END.split(piece)  # events, and in between what ends them
        ends = [*parts[1::2], b""]
        return b"".join(map(_without, parts[::2], ends))

    def _read(self, *, last: bool) -> None:
        content, self._unread, self._unread_size = b"".join(self._unread), [], 0
        if not last:
            cut = content.rfind(b"\n") + 1
            content, rest = content[:cut], content[cut:]
            if rest:
                self._unread, self._unread_size = [rest], len(rest)
        for line in content.split(b"\n"):
            if not line.startswith(b"data:"):
                continue
            if line[5:].strip() == _DONE:
                self.is_complete = True
            elif (facts := _facts_of(line)) is not None:
                self._note(facts)

    def _note(self, facts: Facts) -> None:
        info = self.info
        if info.response_id is None:
            info.response_id, info.model = facts.id, facts.model
        if facts.error:
            self.error = facts.error
        if facts.usage is not None or facts.x_groq is not None:
            told = facts.info
            info.usage = told.usage or info.usage
            info.cost = info.cost if told.cost is None else told.cost
        if facts.type.endswith(_IMAGE_DONE):
            self.is_complete = True
            self._images += 1
            info.usage = structs.replace(info.usage or Usage(), images=self._images)
        if not facts.choices:
            return
        self._chunks += 1
        if text := facts.text:
            self._said += len(text.encode("utf-8", "replace"))
            if self._texts is not None:
                self._texts.append(text)
        if reason := facts.choices[0].finish_reason:
            info.finish_reason, self.is_complete = reason, True


def _without(event: bytes, end: bytes) -> bytes:
    """The event, or what is left where it only tells the usage."""
    if not end or not _is_usage(event):
        return event + end
    return event[: len(event) - len(event.lstrip(b"\r\n"))]


def _may_be_usage(piece: bytes) -> bool:
    return _NO_CHOICES[0] in piece or _NO_CHOICES[1] in piece


def _is_usage(event: bytes) -> bool:
    if len(event) > LONGEST_USAGE or not _may_be_usage(event):
        return False
    told = [_facts_of(line) for line in event.split(b"\n") if line.startswith(b"data:")]
    return len(told) == 1 and told[0] is not None and told[0].is_only_usage


def _facts_of(line: bytes) -> Facts | None:
    try:
        return read_facts(line[5:])
    except ValueError:
        return None
