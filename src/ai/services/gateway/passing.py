"""A request that goes on to a vendor as it is, and an answer that comes back as it is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

import httpx
import msgspec
from msgspec import structs

from src.ai.exceptions import (
    AIError,
    ContentBlocked,
    ProviderBadRequest,
    ProviderError,
    ProviderModelNotFound,
    ProviderRateLimited,
)
from src.ai.providers import errors, retry
from src.ai.providers.passthrough import CHAT, EMBEDDINGS, IMAGES, SPEECH, Fields, Route, encode, to_raw
from src.ai.providers.vendor import JSON_LIMIT, MEDIA_LIMIT, interrupted
from src.ai.results import ResultInfo, Usage
from src.ai.services import rates
from src.ai.services.gateway.bodies import LONGEST_REPLY, is_null, read_field
from src.ai.services.gateway.keep_alive import Line
from src.ai.services.gateway.options import options
from src.ai.services.gateway.routing import Target
from src.ai.services.gateway.sessions import Session
from src.ai.services.gateway.streams import Facts, StreamWatch, read_facts
from src.ai.services.gateway.wire import (
    SENT,
    STREAM_HEADERS,
    Headers,
    Request,
    Responder,
    error_object,
    to_headers,
    to_json,
)
from src.ai.services.ledger.entries import CallFacts, Settle
from src.ai.services.ledger.estimates import LARGEST_COST, cost_at_most
from src.ai.services.ledger.meter import Meter
from src.ai.services.ledger.writer import Desk
from src.ai.services.limit_headers import limit_headers
from src.ai.services.usage import LEASE_MARGIN, aannounce, keep_texts, somebody_listens
from src.core import http
from src.core.exchange import ANY, Answer, Endpoint, RawHeaders, Reading
from src.core.http import Timeouts

IMAGE_TOKENS: Final = 5000  # more than a vendor counts for an image in a message at its finest (OpenAI, 2026-11)
_DATA_URL: Final = re.compile(rb'"data:[^"]*"')
STREAMED: Final = (CHAT, IMAGES)
MOST_REPLIES: Final = 128  # to one request (OpenAI's own bound of `n`)
WATCH_AFTER: Final = 1.0  # seconds without an answer, after which it is worth while to see whether the client stays
_NO_STREAM: Final = (b"application/json", b"text/html")  # content types that no stream has
_EMPTY: Final = (204, 205)  # statuses of answers that can have no body
_LAST: Final = (b"data: [DONE]\n\n", b"data: [DONE]\r\n\r\n")  # after which clients read no further
_MAX_TOKENS: Final = ("max_completion_tokens", "max_tokens")
# What is between this process and the vendor, or is said by this server itself.
_NOT_PASSED: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"trailers",
        b"transfer-encoding",
        b"upgrade",
        b"content-length",
        b"content-encoding",
        b"date",
        b"server",
        b"via",
        b"set-cookie",
        b"alt-svc",
        b"strict-transport-security",
        b"x-request-id",
        b"cache-control",
        b"x-accel-buffering",
    }
)
# The caller's headers that a vendor may want; what names an account comes with the key.
_PASSED_ON: Final = (b"user-agent", b"openai-beta", b"http-referer", b"x-title", b"x-openrouter-title")
# What the vendor means for whoever wrote the request, and so in its own words.
_PASSED_ERRORS: Final = (ProviderBadRequest, ProviderModelNotFound, ProviderRateLimited, ContentBlocked)


@dataclass(frozen=True, slots=True)
class Passed:
    """A vendor's error as it goes on to the caller."""

    status: int
    headers: Headers
    body: bytes


class Passage:
    """One request on its way to a vendor and back."""

    def __init__(
        self,
        session: Session,
        target: Target,
        route: Route,
        goes_to: Endpoint,
        fields: Fields,
        request: Request,
        responder: Responder,
        size: int,
    ) -> None:
        """`size` is that of the caller's body in bytes."""
        self.target = target
        self.route = route
        self._goes_to = goes_to
        self.request = request
        self.responder = responder
        self.is_stream = target.endpoint in STREAMED and read_field(fields, "stream", bool) is True
        self._rules = session.rules
        self._size = size
        self._asked_usage = False
        self._lease: rates.Lease | None = None
        self._input = fields.get("input")
        facts = self._facts(session, fields)
        self.body = self._body(fields)
        self.meter = Meter(facts, Desk(request.errands, alone=request.is_alone), str(target.model.provider))

    async def run(self) -> None:
        """Reserve, ask, answer, settle.

        Raises:
            AIError: what went wrong before anything was answered.
        """
        self._lease = await rates.acquire(self._rules, self._limits.total + LEASE_MARGIN)
        try:
            await self._run()
        finally:
            self._give_place_back()

    def _give_place_back(self) -> None:
        """Before the client has the end of its answer: one that asks in turn is never too many."""
        if self._lease is not None:
            self._lease.release()

    async def _run(self) -> None:
        await self.meter.aopen()
        task = cast("asyncio.Task[None]", asyncio.current_task())
        timer = None
        if self.is_stream:
            timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self.responder.watch, task.cancel)
        try:
            response = await retry.retrying(self.target.operation, self._ask)
        except BaseException as error:
            await self._fail(error)
            if isinstance(error, asyncio.CancelledError) and self.responder.left:
                task.uncancel()
                return
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if not options().stores_texts:
            self.body = b""  # it may be megabytes, and a stream may take minutes
        try:
            if not response.is_stream:
                await self._pass_whole(response)
            elif self.is_stream:
                await self._stream(response)
            else:
                await self._pass_file(response)
        finally:
            response.close()

    # -- what goes out ---------------------------------------------------------------------------------------------

    def _facts(self, session: Session, fields: Fields) -> CallFacts:
        target = self.target
        output = self._output_tokens(fields) if target.endpoint == CHAT else 0
        held = cost_at_most(target.model, self._input_tokens(fields), output)
        return target.kind.facts(
            token=session.token.token_key,
            request_id=self.request.request_id,
            capability=target.capability,
            operation=target.operation,
            streamed=self.is_stream,
            seconds=target.limits.total,
            held_cost=None if held is None else min(held, LARGEST_COST),
        )

    def _output_tokens(self, fields: Fields) -> int:
        """The most that all replies together may come to. A limit that no vendor takes is none."""
        asked = max([read_field(fields, name, int) or 0 for name in _MAX_TOKENS if name in fields], default=0)
        longest = min(asked, LONGEST_REPLY) if asked > 0 else self.target.longest_reply
        replies = read_field(fields, "n", int) if "n" in fields else None
        return longest * min(max(replies or 1, 1), MOST_REPLIES)

    def _input_tokens(self, fields: Fields) -> int:
        """What the request may come to: a token is at least a byte, but for images in it."""
        if self._size < IMAGE_TOKENS or "messages" not in fields:
            return self._size
        shrunk, images = _DATA_URL.subn(b"", bytes(fields["messages"]))
        return len(shrunk) + images * IMAGE_TOKENS if images else self._size

    def _body(self, fields: Fields) -> bytes:
        route = self.route
        fields["model"] = self.target.model_field
        if self.target.endpoint == CHAT:
            self._limit_reply(fields)
            if self.is_stream and route.stream_usage:
                options = read_field(fields, "stream_options", dict) or {}
                self._asked_usage = options.get("include_usage") is True
                if not self._asked_usage:
                    fields["stream_options"] = to_raw({**options, "include_usage": True})
        if route.prepare is not None:
            route.prepare(fields)
        for name, value in route.extra.items():
            fields[name] = to_raw(value)
        return encode(fields)

    def _limit_reply(self, fields: Fields) -> None:
        named = self.route.max_tokens_field
        if not is_null(fields, "max_tokens"):
            return
        if not is_null(fields, "max_completion_tokens"):
            if named == "max_tokens":  # its other name may be ignored silently, as by DeepSeek (2026-11)
                fields[named] = fields.pop("max_completion_tokens")
            return
        if (limit := self.target.reply_limit) is not None:
            fields[named] = to_raw(limit)

    async def _ask(self) -> Answer:
        """The vendor's answer, if it is a good one."""
        attempt = await self.meter.begin()
        try:
            return await self._answered()
        except BaseException as error:
            attempt.failed(GeneratorExit() if self.responder.left else error)
            raise

    async def _answered(self) -> Answer:
        limits, target = self._limits, self.target
        streams = self.is_stream or target.endpoint == SPEECH
        reading = Reading(_NO_STREAM if streams else ANY, MEDIA_LIMIT if target.endpoint == IMAGES else JSON_LIMIT)
        try:
            exchanges = await http.exchanges()
            answer = await exchanges.post(self._goes_to, self.body, self._headers(), limits, reading)
        except Exception as error:
            raise errors.from_exception(target.call, error, limits) from error
        if answer.status in _EMPTY:
            answer.close()
            raise errors.invalid_response(target.call, "it is empty")
        if 200 <= answer.status < 300:
            return answer
        content = answer.content or b""
        failure = errors.from_response(target.call, answer.status, _named(answer.headers), content)
        raise _with_body(failure, answer.status, self._answer_headers(answer), content, target.call.api_key)

    @property
    def _limits(self) -> Timeouts:
        return self.target.streaming_limits if self.is_stream and self.target.endpoint == CHAT else self.target.limits

    def _headers(self) -> bytes:
        """The caller's headers that go on, as lines. WSGI's servers leave a folded one folded."""
        sent = self.request.headers
        lines = [(name, b" ".join(sent[name].splitlines())) for name in _PASSED_ON if name in sent]
        return b"".join([b"%b: %b\r\n" % line for line in lines])

    # -- what comes back -------------------------------------------------------------------------------------------

    async def _pass_whole(self, response: Answer) -> None:
        """An answer that is read before it is passed on: an error in it has a status of its own."""
        try:
            content, info = self._whole(response)
        except BaseException as error:
            await self._fail(error)
            raise
        entries = self.meter.success(info)
        self._give_place_back()
        try:
            await self.responder.send(response.status, self._answer_headers(response), content)
        finally:
            await self._settle(entries, _text_of(content) if options().stores_texts else "")

    def _whole(self, response: Answer) -> tuple[bytes, ResultInfo]:
        call, endpoint, content = self.target.call, self.target.endpoint, response.content or b""
        try:
            if self.route.read is not None:
                content = self.route.read(content)
            facts = read_facts(content)
        except ValueError as error:
            raise errors.invalid_response(call, str(error) or "it is no JSON") from error
        if facts.error:
            raise errors.from_body(call, {"error": facts.error}, _named(response.headers))
        return content, _info(facts, endpoint)

    async def _pass_file(self, response: Answer) -> None:
        """A recording, passed on as it comes."""
        try:
            first = await response.next_piece()  # what breaks before it has a status of its own
        except Exception as error:
            failure = errors.from_exception(self.target.call, error, self._limits, answered=True)
            await self._fail(failure)
            raise failure from error
        except BaseException as error:
            await self._fail(error)
            raise
        headers = self._answer_headers(response)
        if response.content_length is not None:  # shows the client whether it has all of it
            headers.append((b"content-length", b"%d" % response.content_length))
        await self.responder.begin(response.status, headers, response.close)
        spoken = read_field({"input": self._input} if self._input else {}, "input", str) or ""
        info = ResultInfo(usage=Usage(characters=len(spoken)), response_id=response.header(b"x-generation-id") or None)
        entries: Sequence[Settle] = ()
        try:
            piece = first
            while piece:
                self.meter.first_chunk()
                await self.responder.write(piece)
                piece = await response.next_piece()
            self._give_place_back()
            await self.responder.end()
            entries = self.meter.success(info)
        except asyncio.CancelledError:
            self.meter.write_soon(self.meter.left(info, info.usage))
            raise
        except Exception as error:
            if not self.responder.left:
                failure = errors.from_exception(self.target.call, error, self._limits, answered=True)
                entries = self.meter.failure(failure, info.usage)
                raise failure from error  # the head is gone: the connection is broken off
            entries = self.meter.left(info, info.usage)
        finally:
            await self._settle(entries)

    async def _stream(self, response: Answer) -> None:
        responder, meter = self.responder, self.meter
        hides_usage = self.target.endpoint == CHAT and self.route.stream_usage and not self._asked_usage
        watch = StreamWatch(hides_usage=hides_usage, keeps_text=options().stores_texts)
        await responder.begin(response.status, [*self._answer_headers(response), *STREAM_HEADERS], response.close)
        # What an answer's head was made of is not kept for as long as a stream takes.
        response.headers = []
        meter.standings = ()
        self.request.forget()
        line = Line(responder, response, watch)
        entries: Sequence[Settle] = ()
        try:
            failure = await self._pump(response, watch)
            self._give_place_back()
            if failure is None:
                entries = meter.success(watch.info)
                await responder.end()
            elif responder.left:
                entries = meter.left(watch.info, watch.guess(self._size))
            else:
                entries = meter.failure(failure, watch.guess(self._size))
                if not watch.error:
                    await responder.write((b"" if watch.is_whole else b"\n\n") + _error_event(failure))
                await responder.end()
        except asyncio.CancelledError:
            meter.write_soon(meter.left(watch.info, watch.guess(self._size)))  # nobody may be made to wait now
            raise
        finally:
            line.stop()
            await self._settle(entries, watch.text)

    async def _pump(self, response: Answer, watch: StreamWatch) -> ProviderError | None:
        """Pass on whatever comes; what went wrong, if something did."""
        write, call = self.responder.write, self.target.call

        def take(piece: bytes) -> Awaitable[None] | None:
            self.meter.first_chunk()
            passed = watch.feed(piece)
            if not passed:
                return None
            if passed.endswith(_LAST):
                self._give_place_back()
            sent = write(passed)
            return None if sent is SENT else sent

        try:
            await response.hand_to(take)
        except (httpx.TransportError, TimeoutError) as error:
            if rest := watch.finish():
                await write(rest)
            cause = errors.from_exception(call, error, self._limits, answered=True)
            return interrupted(call, cause if isinstance(cause, ProviderError) else str(cause))
        if rest := watch.finish():
            await write(rest)
        if watch.error:
            return errors.from_body(call, {"error": watch.error}, {})
        if not watch.is_complete:
            return interrupted(call, "the connection was closed before the end of the reply.")
        return None

    def _answer_headers(self, response: Answer) -> Headers:
        passed = [(name, value) for raw, value in response.headers if (name := _passed_as(raw))]
        return passed + to_headers(limit_headers(self.meter.standings))

    # -- the books -------------------------------------------------------------------------------------------------

    async def _fail(self, error: BaseException) -> None:
        entries = self.meter.failure(error)
        if isinstance(error, Exception):
            await self._settle(entries)
        else:
            self.meter.write_soon(entries)

    async def _settle(self, entries: Sequence[Settle], reply: str = "") -> None:
        """Nobody is made to wait for it but who wants to be told."""
        if not entries:
            return
        if not (somebody_listens() or options().stores_texts):
            self.meter.write_soon(entries)
            return
        settled = await self.meter.awrite(entries)
        await aannounce(settled)
        if options().stores_texts:
            await self.request.run_sync(keep_texts, settled, self.body.decode("utf-8", "replace"), reply)


@lru_cache(maxsize=1024)
def _passed_as(name: bytes) -> bytes:
    """The name under which a vendor's header goes on to the caller; empty where it does not."""
    name = name.lower()
    if name == b"x-request-id":
        return b"x-provider-request-id"
    return b"" if name in _NOT_PASSED or name.startswith((b"cf-", b"access-control-")) else name


# -- pieces ------------------------------------------------------------------------------------------------------------


def _named(headers: RawHeaders) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def _info(facts: Facts, endpoint: str) -> ResultInfo:
    info = facts.info
    if endpoint == IMAGES:
        info.usage = structs.replace(info.usage or Usage(), images=len(facts.data or ()))
    elif endpoint == EMBEDDINGS and info.usage is not None:
        info.usage = structs.replace(info.usage, output_tokens=0) if info.usage.input_tokens else None
    return info


def _text_of(content: bytes) -> str:
    return read_facts(content).text


def _error_event(error: AIError) -> bytes:
    return b"data: " + to_json({"error": error_object(error)}) + b"\n\n"


def _with_body(error: ProviderError, status: int, headers: Headers, content: bytes, api_key: str) -> ProviderError:
    """The error with the vendor's own body, where the caller may see it and it has OpenAI's form."""
    if not isinstance(error, _PASSED_ERRORS):
        return error
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        data: Any = msgspec.json.decode(content)
        if isinstance(data, dict) and isinstance(data.get("error"), dict) and "message" in data["error"]:
            told = {"type": None, "param": None, "code": None, **data["error"]}
            told["message"] = error.facts.get("reason", told["message"])
            body = errors.without_key(msgspec.json.encode({**data, "error": told}).decode(), api_key)
            error.facts["passed_on"] = Passed(status, headers, body.encode())
    return error
