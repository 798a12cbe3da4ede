"""A request in OpenAI's form, for a provider that does not speak it: said by one of its operations."""

from __future__ import annotations

import asyncio
import wave
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from io import BytesIO
from time import time
from typing import Any, Final, TypeVar, cast
from uuid import uuid4

from django.utils.translation import gettext as _

from src.ai.exceptions import AIError, InvalidRequest, UnsupportedParameter
from src.ai.providers.passthrough import CHAT, IMAGES, SPEECH, Fields
from src.ai.results import Media, Reply, ReplyStream, ResultInfo, Usage
from src.ai.services.gateway.bodies import LONGEST_REPLY, read_any, read_field
from src.ai.services.gateway.routing import Target
from src.ai.services.gateway.sessions import Session
from src.ai.services.gateway.wire import (
    JSON,
    KEEP_ALIVE,
    STREAM_HEADERS,
    Headers,
    Request,
    Responder,
    error_object,
    to_headers,
    to_json,
)
from src.ai.services.limit_headers import limit_headers
from src.ai.services.unified_service import UnifiedAIService

T = TypeVar("T")

KEEP_ALIVE_AFTER: float = 15.0  # seconds in which nothing came
EVENT_STREAM: Final[Headers] = [(b"content-type", b"text/event-stream; charset=utf-8"), *STREAM_HEADERS]
PCM: Final = (1, 2, 24_000)  # channels, bytes, samples a second (developers.openai.com, "Text to speech")
# What would change the reply in a way that an operation can't: to leave it out would be to answer another question.
_CHANGES_MEANING: Final = ("tools", "tool_choice", "functions", "function_call", "response_format", "audio", "logprobs")


async def translate(session: Session, target: Target, fields: Fields, request: Request, responder: Responder) -> None:
    """Answer a request by the operation that serves it.

    Raises:
        AIError: what went wrong before anything was answered. `UnsupportedParameter` names what can't be said.
    """
    if target.endpoint == CHAT:
        await _chat(session, target, fields, request, responder)
    elif target.endpoint == IMAGES:
        await _image(session, target, fields, request, responder)
    elif target.endpoint == SPEECH:
        await _speech(session, target, fields, request, responder)
    else:
        raise UnsupportedParameter(
            model=target.model.model_id,
            param="model",
            hint=_("This provider makes no embeddings."),
            attr="model",
        )


# -- chat --------------------------------------------------------------------------------------------------------------


async def _chat(session: Session, target: Target, fields: Fields, request: Request, responder: Responder) -> None:
    asked = {**_chat_arguments(target, fields), "admin": session.admin, "model_id": target.model.pk}
    made = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time()), "model": target.model.model_id}
    if read_field(fields, "stream", bool):
        stream = _stream_chat(request, asked)
        options = read_field(fields, "stream_options", dict) or {}
        with_usage = options.get("include_usage") is True
        from_thread = request.errands is not None
        await _stream(stream, made, responder, with_usage=with_usage, from_thread=from_thread)
        return
    reply: Reply = await _call(request, UnifiedAIService.achat, UnifiedAIService.chat, **asked)
    message = {"role": "assistant", "content": str(reply), "refusal": None}
    answer = {
        **made,
        "id": reply.response_id or made["id"],
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(reply.finish_reason)}
        ],
        "usage": _usage(reply.usage),
    }
    await _send(responder, answer, reply.info)


def _chat_arguments(target: Target, fields: Fields) -> dict[str, Any]:
    for name in _CHANGES_MEANING:
        if read_any(fields, name) not in (None, [], "none", "auto", False, {"type": "text"}):
            raise _unsupported(target, name)
    if (read_field(fields, "n", int) or 1) != 1:
        raise _unsupported(target, "n")
    turns = [_turn(target, turn, number) for number, turn in enumerate(read_field(fields, "messages", list) or ())]
    system = "\n\n".join(text for role, text in turns if role == "system")
    talk = [{"role": role, "content": text} for role, text in turns if role != "system"]
    if not talk or talk[-1]["role"] != "user":
        raise InvalidRequest(reason=_("The last of 'messages' must be the user's."), attr="messages")
    limits = [_within(fields, name, int, 1, LONGEST_REPLY) for name in ("max_completion_tokens", "max_tokens")]
    return {
        "message": talk[-1]["content"],
        "conversation_history": talk[:-1],
        "system_message": system or None,
        "temperature": _within(fields, "temperature", float, 0, 2),
        "max_tokens": next((limit for limit in limits if limit is not None), None),
    }


def _turn(target: Target, turn: object, number: int) -> tuple[str, str]:
    where = f"messages[{number}]"
    if not isinstance(turn, Mapping) or not isinstance(role := turn.get("role"), str):
        raise InvalidRequest(reason=_("'{name}' must be a message with a role.").format(name=where), attr="messages")
    if role not in ("system", "developer", "user", "assistant") or turn.get("tool_calls"):
        raise _unsupported(target, f"{where}.role={role}")
    content = turn.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = []
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") not in ("text", "refusal"):
            raise _unsupported(target, f"{where}.content")
        text = part.get("text")
        if not isinstance(text, str):
            raise InvalidRequest(reason=_("'{name}' must have a text as content.").format(name=where), attr="messages")
        texts.append(text)
    return "system" if role == "developer" else role, "".join(texts)


async def _stream(
    stream: ReplyStream, made: Mapping[str, Any], responder: Responder, *, with_usage: bool, from_thread: bool
) -> None:
    def chunk(delta: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if with_usage else {}
        return _event({**made, "object": "chat.completion.chunk", "choices": [choice], **usage})

    async def send() -> None:
        first = await anext(stream)  # what is refused has a status of its own
        headers = EVENT_STREAM + to_headers(limit_headers(stream.info.standings))
        await responder.begin(200, headers, task.cancel)
        if not from_thread:
            stream.patience = KEEP_ALIVE_AFTER
        await responder.write(chunk({"role": "assistant", "content": ""}) + chunk({"content": first}))
        try:
            async for text in stream:
                await responder.write(chunk({"content": text}) if text else KEEP_ALIVE)
        except AIError as error:
            await responder.write(_event({"error": error_object(error)}))
        else:
            await responder.write(chunk({}, _finish_reason(stream.info.finish_reason)))
            if with_usage:
                usage = _usage(stream.info.usage)
                await responder.write(
                    _event({**made, "object": "chat.completion.chunk", "choices": [], "usage": usage})
                )
            await responder.write(b"data: [DONE]\n\n")
        await responder.end()

    task = cast("asyncio.Task[None]", asyncio.current_task())
    responder.watch(task.cancel)
    async with aclosing(stream):
        try:
            await send()
        except asyncio.CancelledError:
            if not responder.left:
                raise
            task.uncancel()


# -- images and speech -------------------------------------------------------------------------------------------------


async def _image(session: Session, target: Target, fields: Fields, request: Request, responder: Responder) -> None:
    asked = {name: read_field(fields, name, str) for name in ("size", "quality", "style")}
    made: Media = await _call(
        request,
        UnifiedAIService.agenerate_image,
        UnifiedAIService.generate_image,
        prompt=read_field(fields, "prompt", str, required=True),
        admin=session.admin,
        model_id=target.model.pk,
        n=_within(fields, "n", int, 1, 10),
        size=None if asked["size"] == "auto" else asked["size"],
        quality=None if asked["quality"] == "auto" else asked["quality"],
        style=asked["style"],
    )
    as_url = read_field(fields, "response_format", str) == "url"
    rows = [
        {"url": f"data:{media.content_type};base64,{media.base64()}"} if as_url else {"b64_json": media.base64()}
        for media in made.all
    ]
    await _send(responder, {"created": int(time()), "data": rows}, made.info)


async def _speech(session: Session, target: Target, fields: Fields, request: Request, responder: Responder) -> None:
    wanted = read_field(fields, "response_format", str)
    speed = _within(fields, "speed", float, 0.25, 4)
    taken = ("wav", "pcm") if target.provider.speaks_wav else ("wav", "pcm", "mp3")
    if wanted is not None and wanted not in taken:
        raise _unsupported(target, "response_format", _("Ask for 'wav' or leave it out."))
    media: Media = await _call(
        request,
        UnifiedAIService.atext_to_speech,
        UnifiedAIService.text_to_speech,
        text=read_field(fields, "input", str, required=True),
        admin=session.admin,
        model_id=target.model.pk,
        voice=read_field(fields, "voice", str),
        speed=speed,
    )
    content, content_type = _as_format(target, media, wanted)
    headers = [(b"content-type", content_type.encode()), *to_headers(limit_headers(media.info.standings))]
    await responder.send(200, headers, content)


def _as_format(target: Target, media: Media, wanted: str | None) -> tuple[bytes, str]:
    """The recording in the format that was asked for. Nothing is sent under a name that it does not deserve."""
    content, content_type = media.getvalue(), media.content_type
    if wanted == "pcm" and content_type == "audio/wav" and (samples := _samples(content)) is not None:
        return samples, "audio/pcm"
    has = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3"}.get(content_type, "")
    if wanted is not None and wanted != has:
        raise _unsupported(target, "response_format", _("It makes {has}.").format(has=has or content_type))
    return content, content_type


def _samples(recording: bytes) -> bytes | None:
    """What a WAV file plays, without what describes it, where that is what clients take `pcm` for."""
    with wave.open(BytesIO(recording)) as file:
        samples: bytes = file.readframes(file.getnframes())
        return samples if file.getparams()[:3] == PCM else None


# -- calls -------------------------------------------------------------------------------------------------------------


async def _call(request: Request, on_loop: Callable[..., Awaitable[T]], in_thread: Callable[..., T], **asked: Any) -> T:
    """The result of a service's method: here, or in the thread that waits for it, whose database connection it uses."""
    if request.errands is None:
        return await on_loop(**asked)
    return await request.run_sync(partial(in_thread, **asked))


def _stream_chat(request: Request, asked: Mapping[str, Any]) -> ReplyStream:
    if request.errands is None:
        return UnifiedAIService.astream_chat(**asked)
    info = ResultInfo()
    return ReplyStream(_from_thread(request, asked, info), info)


async def _from_thread(request: Request, asked: Mapping[str, Any], info: ResultInfo) -> AsyncIterator[str]:
    stream = await request.run_sync(partial(UnifiedAIService.stream_chat, **asked))
    try:
        while (text := await request.run_sync(next, stream, None)) is not None:
            info.update(stream.info)
            yield text
            stream.patience = KEEP_ALIVE_AFTER  # here, as the thread that would write comments is the one that waits
        info.update(stream.info)
    finally:
        await request.run_sync(stream.close)


# -- pieces ------------------------------------------------------------------------------------------------------------


async def _send(responder: Responder, answer: Mapping[str, Any], info: ResultInfo) -> None:
    headers = [JSON, *to_headers(limit_headers(info.standings))]
    await responder.send(200, headers, to_json(answer))


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + to_json(data) + b"\n\n"


def _usage(usage: Usage | None) -> dict[str, int] | None:
    if usage is None or (usage.input_tokens is None and usage.output_tokens is None):
        return None
    read, written = usage.input_tokens or 0, usage.output_tokens or 0
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _finish_reason(reason: str | None) -> str:
    """One of those that clients know."""
    reason = (reason or "stop").lower()
    return {"max_tokens": "length", "safety": "content_filter"}.get(
        reason, reason if reason in ("stop", "length", "tool_calls", "content_filter") else "stop"
    )


def _within(fields: Fields, name: str, kind: type, least: float, most: float) -> Any:
    """A number; None where there is none. The bounds are those of the API."""
    value = read_field(fields, name, kind)
    if value is not None and not least <= value <= most:
        reason = _("'{name}' must be from {least} to {most}.").format(name=name, least=least, most=most)
        raise InvalidRequest(reason=reason, attr=name)
    return value


def _unsupported(target: Target, param: str, hint: str = "") -> UnsupportedParameter:
    hint = hint or _("Leave it out or choose another model.")
    return UnsupportedParameter(model=target.model.model_id, param=param, hint=hint, attr=param)
