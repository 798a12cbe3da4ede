"""The mixed traffic of `soak.py`: what callers do, well and badly, while the vendor is well or not."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Any

import aiohttp
from machine import HOST
from upstream import MODEL

IN_FLIGHT = 300  # at most
CUT_SECONDS = 4  # after a cut, in which the site may refuse: it takes Redis for away for two seconds, if at all
FAULTY = "deepseek/faulty-1"


class Unexpected(Exception):
    """An answer that this caller should not have had."""


class Refused(Exception):
    """What a caller may be told just after a cut."""


@dataclass(frozen=True)
class Kind:
    """Something that callers do, and how often."""

    name: str
    weight: int
    act: Callable[[], Awaitable[None]]


class Traffic:
    """Callers of one site."""

    def __init__(self, port: int, token: str, faulty_model: int, seed: int) -> None:
        self.port = port
        self.token = token
        self.faulty_model = faulty_model
        self.random = random.Random(seed)  # noqa: S311 (a soak that can be had again)
        self.done: Counter[str] = Counter()
        self.unexpected: dict[str, tuple[int, str]] = {}
        self.cut_at = -inf
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, rate: float, seconds: float) -> None:
        """Begin so many a second, evenly, and wait for the last of them."""
        loop = asyncio.get_running_loop()
        timeout = aiohttp.ClientTimeout(total=60)
        # Shorter than the server's five seconds, or a request might go out just as its connection is closed.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
        site = f"http://{HOST}:{self.port}"
        async with aiohttp.ClientSession(site, timeout=timeout, connector=connector) as self.session:
            kinds = self.kinds()
            weights = [kind.weight for kind in kinds]
            start, begun = loop.time(), 0
            while (now := loop.time() - start) < seconds:
                while begun < now * rate and len(self._running) < IN_FLIGHT:
                    (kind,) = self.random.choices(kinds, weights)
                    task = asyncio.create_task(self._act(kind))
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)
                    begun += 1
                begun = max(begun, int(now * rate) - IN_FLIGHT)  # what could not begin is not made up for
                await asyncio.sleep(0.005)
            if self._running:
                await asyncio.wait(self._running)

    async def _act(self, kind: Kind) -> None:
        self.done[kind.name] += 1
        try:
            await kind.act()
        except Refused:
            self.done["503 just after a cut"] += 1
        except (Unexpected, aiohttp.ClientError, OSError, TimeoutError) as error:
            count, first = self.unexpected.get(kind.name, (0, repr(error)))
            self.unexpected[kind.name] = count + 1, first

    def kinds(self) -> list[Kind]:
        """What there is."""
        faults = ("500", "429", "cut", "hang", "malformed")
        return [
            Kind("chat", 40, self.chat),
            Kind("stream", 15, self.stream),
            Kind("stream, read slowly", 3, self.read_slowly),
            Kind("stream, left", 6, self.leave_stream),
            Kind("chat, left", 3, self.leave_chat),
            Kind("chat, sent slowly", 3, self.send_slowly),
            Kind("embeddings", 5, self.embed),
            Kind("list of models", 2, self.list_models),
            Kind("chat/send", 6, self.chat_send),
            Kind("chat/send, streamed", 2, self.chat_send_streamed),
            Kind("no JSON", 2, self.send_no_json),
            Kind("bad body", 2, self.send_bad_body),
            Kind("unknown model", 2, self.ask_unknown_model),
            Kind("wrong token", 2, self.use_wrong_token),
            *(Kind(f"fault {name}", 1, lambda name=name: self.meet(name)) for name in faults),  # type: ignore[misc]
            Kind("fault cut-stream", 1, self.meet_cut_stream),
            *(Kind(f"chat/send, fault {name}", 1, lambda name=name: self.send_into(name)) for name in ("500", "cut")),  # type: ignore[misc]
        ]

    def post(self, path: str, body: Any, token: str = "") -> Any:
        """A POST of JSON, or of bytes or of an iterator as they are."""
        headers = {"Authorization": f"Bearer {token or self.token}", "Content-Type": "application/json"}
        data = json.dumps(body) if isinstance(body, dict) else body
        return self.session.post(path, data=data, headers=headers)

    async def expect(self, path: str, body: Any, statuses: range | tuple[int, ...], token: str = "") -> bytes:
        """The body of an answer with one of these statuses."""
        async with self.post(path, body, token) as response:
            said: bytes = await response.read()
            if response.status == 503 and monotonic() - self.cut_at < CUT_SECONDS:
                raise Refused
            if response.status not in statuses:
                raise Unexpected(f"{response.status} {said[:200]!r}")
        return said

    async def chat(self) -> None:
        said = await self.expect("/v1/chat/completions", ask(), (200,))
        json.loads(said)["choices"][0]["message"]["content"]

    async def stream(self) -> None:
        said = await self.expect("/v1/chat/completions", ask(stream=True), (200,))
        if b"[DONE]" not in said:
            raise Unexpected(f"a stream without its end: {said[-100:]!r}")

    async def read_slowly(self) -> None:
        async with self.post("/v1/chat/completions", ask(stream=True)) as response:
            seen = b""
            while piece := await response.content.read(512):
                seen += piece
                await asyncio.sleep(0.1)
            if b"[DONE]" not in seen:
                raise Unexpected(f"a stream without its end: {response.status} {seen[-100:]!r}")

    async def leave_stream(self) -> None:
        async with self.post("/v1/chat/completions", ask(stream=True)) as response:
            for _ in range(self.random.randrange(4)):
                await response.content.read(300)
            response.close()

    async def leave_chat(self) -> None:
        try:
            async with asyncio.timeout(self.random.uniform(0.001, 0.3)):
                await self.expect("/v1/chat/completions", ask(FAULTY, "fault:hang"), range(200, 600))
        except TimeoutError:
            return

    async def send_slowly(self) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            body = json.dumps(ask()).encode()
            for start in range(0, len(body), 20):
                yield body[start : start + 20]
                await asyncio.sleep(0.1)

        await self.expect("/v1/chat/completions", pieces(), (200,))

    async def embed(self) -> None:
        await self.expect("/v1/embeddings", {"model": "text-embedding-3-small", "input": "kites"}, (200,))

    async def list_models(self) -> None:
        async with self.session.get("/v1/models", headers={"Authorization": f"Bearer {self.token}"}) as response:
            if response.status != 200:
                raise Unexpected(f"{response.status} {(await response.read())[:200]!r}")
            await response.read()

    async def chat_send(self) -> None:
        await self.expect("/api/admin/ai/chat/send", {"message": "How do I fly a kite?"}, (200,))

    async def chat_send_streamed(self) -> None:
        await self.expect("/api/admin/ai/chat/send", {"message": "Tell me all", "stream": True}, (200,))

    async def send_no_json(self) -> None:
        await self.expect("/v1/chat/completions", b'{"model": "chat", "messages": [', (400,))

    async def send_bad_body(self) -> None:
        await self.expect("/v1/chat/completions", {"messages": "Hi", "model": 5}, (400,))

    async def ask_unknown_model(self) -> None:
        await self.expect("/v1/chat/completions", ask("openai/no-such-model"), (400, 404))

    async def use_wrong_token(self) -> None:
        await self.expect("/v1/chat/completions", ask(), (401,), token="0" * 64)

    async def meet(self, fault: str) -> None:
        expected = range(200, 600) if fault == "malformed" else (429,) if fault == "429" else range(500, 600)
        await self.expect("/v1/chat/completions", ask(FAULTY, f"fault:{fault}"), expected)

    async def meet_cut_stream(self) -> None:
        try:
            said = await self.expect("/v1/chat/completions", ask(FAULTY, "fault:cut-stream", stream=True), (200,))
        except aiohttp.ClientPayloadError:
            return
        if b"[DONE]" in said:
            raise Unexpected("a stream that was cut has ended in order")

    async def send_into(self, fault: str) -> None:
        body = {"message": f"fault:{fault}", "model_id": self.faulty_model}
        await self.expect("/api/admin/ai/chat/send", body, range(500, 600))


def ask(model: str = MODEL, text: str = "How do I fly a kite?", **more: Any) -> dict[str, Any]:
    """A chat completion to ask for."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}
