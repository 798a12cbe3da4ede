"""A gateway that does nothing but pass on, of Starlette and aiohttp: what tells one machine's speed from another's.

Served by uvicorn as the site is; UPSTREAM is the vendor's base URL.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

URL = f"{os.environ.get('UPSTREAM', '')}/chat/completions"
HEADERS = {"authorization": "Bearer sk-upstream", "content-type": "application/json"}

_sessions: list[aiohttp.ClientSession] = []  # the one of this process, once its loop runs


async def chat(request: Request) -> Response:
    """Pass a chat completion on, and its answer back."""
    if not _sessions:
        _sessions.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
    answer = await _sessions[0].post(URL, data=await request.body(), headers=HEADERS)
    if answer.content_type == "text/event-stream":
        return StreamingResponse(pieces(answer), media_type="text/event-stream")
    async with answer:
        return Response(await answer.read(), answer.status, media_type=answer.content_type)


async def pieces(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """A stream, as it comes."""
    async with answer:
        async for piece in answer.content.iter_any():
            yield piece


async def ready(_request: Request) -> Response:
    """Whether it serves."""
    return Response("{}", media_type="application/json")


application = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"]), Route("/readyz", ready)])
