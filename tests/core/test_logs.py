"""Lines of the log come whole, in order and soon, however many there are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from io import StringIO

import pytest

from config.logs import ATOMIC, Handler

calls, others = logging.getLogger("src.ai.calls"), logging.getLogger("src.other")


class Pipe(StringIO):
    """Keeps what was written at once together."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return super().write(text)


@pytest.fixture
def handler() -> Iterator[Handler]:
    handler = Handler()
    handler.setStream(Pipe())
    handler.writes_together = True
    for logger in (calls, others):
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    yield handler
    for logger in (calls, others):
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


@pytest.fixture
def pipe(handler: Handler) -> Pipe:
    pipe = handler.stream
    assert isinstance(pipe, Pipe)
    return pipe


def test_a_line_of_a_thread_is_written_at_once(pipe: Pipe) -> None:
    calls.info("one")
    assert pipe.writes == ["one\n"]


async def test_lines_of_calls_on_a_loop_are_written_together_and_soon(pipe: Pipe) -> None:
    for number in range(3):
        calls.info("call %d", number)
    assert pipe.writes == []
    async with asyncio.timeout(10):
        while not pipe.writes:
            await asyncio.sleep(0)
    assert pipe.writes == ["call 0\ncall 1\ncall 2\n"]


async def test_any_other_line_comes_at_once_and_after_those_before_it(pipe: Pipe) -> None:
    calls.info("call")
    others.info("something else")
    assert pipe.getvalue() == "call\nsomething else\n"


async def test_no_write_is_larger_than_what_stays_in_one_piece(pipe: Pipe) -> None:
    for _ in range(10):
        calls.info("آ" * 400)  # 800 bytes
    others.info("end")
    assert max(len(text.encode()) for text in pipe.writes) <= ATOMIC
    assert len(pipe.writes) < 10
    assert len(pipe.getvalue().splitlines()) == 11


async def test_a_record_that_has_no_line_keeps_no_other_back(
    pipe: Pipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "propagate", False)  # else pytest's own handler raises
    calls.info("before")
    calls.info("%d", "no number")
    calls.info("after")
    others.info("end")
    assert pipe.getvalue() == "before\nafter\nend\n"
    assert "no number" in capsys.readouterr().err


def test_a_loop_that_ends_leaves_no_line_behind(handler: Handler, pipe: Pipe) -> None:
    async def call() -> None:
        calls.info("call")

    asyncio.run(call())
    handler.flush()  # as `logging.shutdown` does at the end of a process
    assert pipe.getvalue() == "call\n"


def test_what_a_loop_left_behind_comes_with_the_lines_of_the_next(pipe: Pipe) -> None:
    async def call(number: int, lines: int) -> None:
        calls.info("call %d", number)
        async with asyncio.timeout(10):
            while len(pipe.getvalue().splitlines()) < lines:
                await asyncio.sleep(0)

    asyncio.run(call(0, 0))
    asyncio.run(call(1, 2))
    assert pipe.getvalue() == "call 0\ncall 1\n"
