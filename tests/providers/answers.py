"""What a vendor is asked and answers: the data that the one battery of provider tests runs on.

To have a new provider tested, add `tests/providers/vendors/<its name>.py` with

    VENDOR = VendorAnswers(name="…", base_path="/v1", key="…", chat=Exchange(…), …)

and nothing else: every test of the battery runs over `AIProviderRegistry().get_registered_names()`, and a registered
HTTP provider without such a module fails. An operation that the provider has must have its `Exchange`, and one that it
lacks must not. Fixtures are small and our own, in the vendor's shapes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from io import BytesIO
from typing import Any
from wave import open as open_wave

import pytest
from PIL import Image

from src.ai.exceptions import AIError
from src.ai.providers.base import BaseProvider
from src.ai.providers.registry import AIProviderRegistry
from src.ai.providers.vendor import HTTPVendor
from tests.upstream.server import Reply, Request, Upstream, whole

OPERATIONS = {
    "chat": "chat",
    "stream": "stream_chat",
    "content": "generate_content",
    "image": "generate_image",
    "audio": "text_to_speech",
    "models": "get_available_models",
    "validate": "validate_api_key",
}


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One operation of one vendor: what the caller says, what goes over the wire, what comes back.

    Args:
        path: where the request arrives, `base_path` included; `query` likewise.
        kwargs: what the caller says, beside the text.
        sent: the whole JSON body that must arrive; `None` for GET.
        reply: the vendor's answer.
        result: what the operation returns: a text, bytes, or for `models` the list of `ModelInfo`.
        info: facts that the result must carry (`usage`, `finish_reason`, `dropped_params` …), or `content_type`.
        also: answers to further requests that the operation makes, by (method, path).
    """

    path: str
    reply: Reply
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    sent: Mapping[str, Any] | None = None
    result: Any = None
    info: Mapping[str, Any] = field(default_factory=dict)
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    also: Mapping[tuple[str, str], Reply] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return "GET" if self.sent is None else "POST"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A vendor's own error and what it must become. `facts` are attributes of the error; `says` is in its message."""

    name: str
    reply: Reply
    error: type[AIError]
    facts: Mapping[str, Any] = field(default_factory=dict)
    says: str = ""
    operation: str = "chat"


@dataclass(frozen=True, kw_only=True)
class VendorAnswers:
    """See the module's text. `key_header` carries `key_prefix` and the key."""

    name: str
    base_path: str
    key: str
    chat: Exchange
    stream: Exchange
    content: Exchange
    models: Exchange
    validate: Exchange
    bad_key: Reply
    image: Exchange | None = None
    audio: Exchange | None = None
    failures: Sequence[Failure] = ()
    cut_stream: Reply | None = None  # a stream that stops after its first text
    key_header: str = "authorization"
    key_prefix: str = "Bearer "
    config: Mapping[str, Any] = field(default_factory=dict)

    def provider(self, upstream: Upstream, key: str | None = None, **config: Any) -> BaseProvider:
        """The provider with this vendor's upstream as its base URL."""
        settings = {"base_url": f"{upstream.url}{self.base_path}", **self.config, **config}
        return AIProviderRegistry().create_instance(self.name, self.key if key is None else key, settings)

    def key_in(self, request: Request) -> str:
        """The key that arrived with a request."""
        return request.headers[self.key_header].removeprefix(self.key_prefix)

    def exchanges(self) -> dict[str, Exchange]:
        """By the names of `OPERATIONS`, those that this vendor has."""
        found = {name: getattr(self, name) for name in OPERATIONS}
        return {name: exchange for name, exchange in found.items() if exchange is not None}

    def serve(self, upstream: Upstream, exchange: Exchange, reply: Reply | None = None) -> None:
        """Have the upstream answer this exchange, now and again; with `reply` instead of the good answer."""
        for (method, path), answer in exchange.also.items():
            upstream.on(method, path, answer)
        upstream.on(exchange.method, exchange.path, reply or exchange.reply)


async def call(provider: BaseProvider, name: str, kwargs: Mapping[str, Any]) -> Any:
    """One operation, as a caller would call it; of a stream the list of its deltas and the stream itself."""
    if name == "stream":
        stream = provider.stream_chat("Hello", **kwargs)
        try:
            return [delta async for delta in stream], stream
        finally:
            await stream.aclose()
    operation = getattr(provider, OPERATIONS[name])
    texts = {"chat": ["Hello"], "content": ["Write."], "image": ["A cat"], "audio": ["Hello there."]}
    return await operation(*texts.get(name, []), **kwargs)


def http_providers(base: type[HTTPVendor] = HTTPVendor) -> list[str]:
    """The names whose provider asks over HTTP, on this base; others, as the local one, have tests of their own."""
    registry = AIProviderRegistry()
    return [name for name in registry.get_registered_names() if issubclass(registry.get(name), base)]


def answers_of(name: str) -> VendorAnswers:
    vendor: VendorAnswers = import_module(f"tests.providers.vendors.{name}").VENDOR
    return vendor


# -- small media -------------------------------------------------------------------------------------------------------


def png(color: str = "red") -> bytes:
    file = BytesIO()
    Image.new("RGB", (2, 2), color).save(file, "PNG")
    return file.getvalue()


def wav(samples: bytes = b"\x00\x01" * 24, rate: int = 24_000) -> bytes:
    file = BytesIO()
    with open_wave(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(rate)
        written.writeframes(samples)
    return file.getvalue()


def mp3() -> bytes:
    """Four silent frames: MPEG 1 layer III, 128 kbit/s, 44.1 kHz, mono."""
    return (b"\xff\xfb\x90\xc0" + bytes(413)) * 4


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


# -- OpenAI's shapes, for the vendors that speak its format ------------------------------------------------------------


def completion(content: str | None, *, finish: str | None = "stop", message: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "chat-1",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "answering-model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, **(message or {})},
                "finish_reason": finish,
            }
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19},
        **more,
    }


def chunk(content: str | None = None, *, finish: str | None = None, delta: Any = None, **more: Any) -> dict[str, Any]:
    said = {} if content is None else {"content": content}
    return {
        "id": "chat-1",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": "answering-model",
        "choices": [{"index": 0, "delta": {**said, **(delta or {})}, "finish_reason": finish}],
        **more,
    }


def openai_error(status: int, message: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> Reply:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None, **more}
    return whole(status, {"error": error}, headers)


HISTORY = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A model."}]
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["title"],
    "properties": {"title": {"type": "string"}},
}


def each(*names: str) -> pytest.MarkDecorator:
    """Run a test for every vendor and each of its operations, or those of them that are named."""
    pairs = [
        pytest.param(vendor, name, id=f"{vendor}-{name}")
        for vendor in http_providers()
        for name in answers_of(vendor).exchanges()
        if name in (names or OPERATIONS)
    ]
    return pytest.mark.parametrize(("vendor", "operation"), pairs, indirect=["vendor"])
