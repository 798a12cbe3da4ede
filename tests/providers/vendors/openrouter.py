"""OpenRouter, as it answered in autumn 2026."""

import json
from decimal import Decimal
from typing import Any

from src.ai.exceptions import (
    ContentBlocked,
    EmptyReply,
    ProviderAuthFailed,
    ProviderBadRequest,
    ProviderInvalidResponse,
    ProviderModelNotFound,
    ProviderNoCredit,
    ProviderRateLimited,
    ProviderUnavailable,
)
from src.ai.results import ModelInfo, Usage
from tests.providers.answers import (
    HISTORY,
    SCHEMA,
    Exchange,
    Failure,
    VendorAnswers,
    b64,
    chunk,
    completion,
    mp3,
    png,
)
from tests.upstream.server import CLOSE, Reply, events, whole

USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 7,
    "total_tokens": 19,
    "cost": 0.00435825,
    "is_byok": False,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "cost_details": {"upstream_inference_cost": None},
    "completion_tokens_details": {"reasoning_tokens": 3, "image_tokens": 0},
}
READ = Usage(input_tokens=12, output_tokens=7, cache_read_tokens=4, reasoning_tokens=3)
COST = Decimal("0.00435825")
CHAT_KWARGS = {
    "conversation_history": HISTORY,
    "model": "google/gemini-3.8-flash",
    "system_message": "Be brief.",
    "temperature": 0.5,
    "max_tokens": 50,
}
CHAT_BODY = {
    "model": "google/gemini-3.8-flash",
    "messages": [{"role": "system", "content": "Be brief."}, *HISTORY, {"role": "user", "content": "Hello"}],
    "reasoning": {"exclude": True},
    "temperature": 0.5,
    "max_tokens": 50,
}
ATTRIBUTION = {"site_url": "https://example.com/آغاز", "app_name": "Café ai\nX: y"}
SENT_ATTRIBUTION = {
    "http-referer": "https://example.com/%D8%A2%D8%BA%D8%A7%D8%B2",
    "x-openrouter-title": "Cafe aiX: y",
}


def failure(code: int, message: str, *, headers: Any = None, **metadata: Any) -> Reply:
    more = {"metadata": metadata} if metadata else {}
    return whole(code, {"error": {"code": code, "message": message, **more}, "user_id": "user_1"}, headers)


def row(model_id: str, outputs: list[str] | None, inputs: list[str] | None = None, **more: Any) -> dict[str, Any]:
    """A row of the list with prices per token, as texts."""
    return {
        "id": model_id,
        "architecture": {"input_modalities": inputs or ["text"], "output_modalities": outputs},
        "pricing": {"prompt": "0.0000001", "completion": "0.0000005"},
        **more,
    }


TENTH, HALF, FREE = Decimal("0.1"), Decimal("0.5"), Decimal(0)

VENDOR = VendorAnswers(
    name="openrouter",
    base_path="/api/v1",
    key="sk-or-v1-0123456789abcdef0123456789abcdef",
    config=ATTRIBUTION,
    chat=Exchange(
        path="/api/v1/chat/completions",
        kwargs=CHAT_KWARGS,
        sent=CHAT_BODY,
        headers=SENT_ATTRIBUTION,
        reply=whole(
            200,
            completion(
                "Hi there.",
                message={"refusal": None, "reasoning": "secret", "reasoning_details": [{"summary": "secret"}]},
                usage=USAGE,
                provider="Google",
            ),
        ),
        result="Hi there.",
        info={"usage": READ, "finish_reason": "stop", "cost": COST, "response_id": "chat-1"},
    ),
    stream=Exchange(
        path="/api/v1/chat/completions",
        kwargs=CHAT_KWARGS,
        sent={**CHAT_BODY, "stream": True, "stream_options": {"include_usage": True}},
        headers=SENT_ATTRIBUTION,
        reply=events(
            ": OPENROUTER PROCESSING\n\n",
            chunk("", delta={"role": "assistant", "reasoning": "Hmm, secret.", "reasoning_details": []}),
            chunk("Hi ", delta={"role": "assistant", "reasoning": None, "reasoning_details": []}),
            ": OPENROUTER PROCESSING\n\n",
            chunk("thère.", delta={"role": "assistant", "reasoning": None, "reasoning_details": []}),
            chunk("", finish="stop"),
            chunk("", delta={"role": "assistant"}, usage=USAGE),
        ),
        result="Hi thère.",
        info={"usage": READ, "finish_reason": "stop", "cost": COST},
    ),
    content=Exchange(
        path="/api/v1/chat/completions",
        kwargs={"model": "openai/gpt-6-luna", "json_schema": SCHEMA, "temperature": 0.5},
        sent={
            "model": "openai/gpt-6-luna",
            "messages": [{"role": "user", "content": "Write."}],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "content", "strict": True, "schema": SCHEMA},
            },
            "provider": {"require_parameters": True},
        },
        headers=SENT_ATTRIBUTION,
        reply=whole(200, completion('{"title": "T"}', message={"reasoning": "secret"}, usage=USAGE)),
        result='{"title": "T"}',
        info={"cost": COST, "dropped_params": ("temperature",)},
    ),
    image=Exchange(
        path="/api/v1/images",
        kwargs={
            "model": "google/gemini-3.1-flash-image",
            "size": "1792x1024",
            "quality": "hd",
            "style": "vivid",
            "n": 2,
            "moderation": "low",
        },
        sent={
            "model": "google/gemini-3.1-flash-image",
            "prompt": "A cat\n\nStyle: vivid",
            "aspect_ratio": "16:9",
            "resolution": "1K",
            "quality": "high",
            "n": 2,
        },
        headers=SENT_ATTRIBUTION,
        reply=whole(
            200,
            {
                "created": 1_790_000_000,
                "data": [
                    {"b64_json": b64(png("red")), "media_type": "image/png"},
                    {"b64_json": b64(png("blue"))},
                ],
                "usage": {"prompt_tokens": 0, "completion_tokens": 4175, "total_tokens": 4175, "cost": 0.04},
            },
        ),
        result=png("red"),
        info={
            "content_type": "image/png",
            "usage": Usage(input_tokens=0, output_tokens=4175, images=2),
            "cost": Decimal("0.04"),
            "dropped_params": ("moderation",),
        },
    ),
    audio=Exchange(
        path="/api/v1/audio/speech",
        kwargs={"model": "openai/gpt-4o-mini-tts", "voice": "nova", "speed": 1.5, "instructions": "Calm."},
        sent={
            "model": "openai/gpt-4o-mini-tts",
            "input": "Hello there.",
            "voice": "nova",
            "response_format": "mp3",
            "speed": 1.5,
            "instructions": "Calm.",
        },
        headers=SENT_ATTRIBUTION,
        reply=whole(200, mp3(), {"x-generation-id": "gen-tts-1"}, content_type="audio/mpeg"),
        result=mp3(),
        info={"content_type": "audio/mpeg", "usage": Usage(characters=12), "response_id": "gen-tts-1"},
    ),
    models=Exchange(
        path="/api/v1/models",
        query="output_modalities=all",
        headers=SENT_ATTRIBUTION,
        reply=whole(
            200,
            {
                "data": [
                    {
                        "id": "openai/gpt-6-luna",
                        "canonical_slug": "openai/gpt-6-luna-20260914",
                        "name": "OpenAI: GPT-6 Luna",
                        "created": 1_789_406_102,
                        "description": "A model.",
                        "context_length": 1_050_000,
                        "architecture": {
                            "modality": "text+image+file->text",
                            "input_modalities": ["text", "image", "file"],
                            "output_modalities": ["text"],
                        },
                        "pricing": {
                            "prompt": "0.0000001",
                            "completion": "0.0000005",
                            "overrides": [{"min_prompt_tokens": 272_000, "prompt": "0.0000002"}],
                        },
                        "top_provider": {"context_length": 400_000, "max_completion_tokens": 128_000},
                        "per_request_limits": None,
                        "expiration_date": "2099-01-31",
                    },
                    row("openai/gpt-6-luna:batch", ["text"]),
                    row("gone/by", ["text"], expiration_date="2020-01-01"),
                    row(
                        "openrouter/auto",
                        ["text", "image"],
                        ["text", "image"],
                        pricing={"prompt": "-1", "completion": "-1"},
                    ),
                    row("google/gemini-3.1-flash-image", ["text", "image"], ["text", "image"]),
                    row(
                        "maker/paints", ["image"], pricing={"prompt": "0", "completion": "0", "image_output": "0.00003"}
                    ),
                    row("google/gemini-3.8-flash-tts", ["speech"], top_provider={"context_length": 8_192}),
                    row("openai/gpt-audio", ["text", "audio"], ["text", "audio"]),
                    row("maker/embeds", ["embeddings"], ["text", "image"], pricing={"prompt": 2e-8, "completion": "0"}),
                    row("maker/listens", ["transcription"], ["audio"]),
                    row("maker/films", ["video"]),
                    row("meta-llama/llama-guard-4-12b", ["text"], ["text", "image"]),
                    row("maker/free:free", ["text"], pricing=None),
                    row("maker/costs-nothing", ["text"], pricing={"prompt": "0", "completion": "0", "request": "0"}),
                    row(
                        "maker/bills-requests", ["text"], pricing={"prompt": "0", "completion": "0", "request": "0.01"}
                    ),
                    {"id": "maker/older", "architecture": {"modality": "text+image->text"}, "context_length": None},
                    {"id": "maker/bare", "architecture": None, "pricing": None, "top_provider": None},
                ]
            },
        ),
        result=[
            ModelInfo(
                model_id="openai/gpt-6-luna",
                display_name="OpenAI: GPT-6 Luna",
                description="To be withdrawn on 2099-01-31. A model.",
                capabilities=("chat", "content", "vision"),
                pricing_input=TENTH,
                pricing_output=HALF,
                context_window=1_050_000,
                max_tokens=128_000,
            ),
            ModelInfo(model_id="openrouter/auto", capabilities=("chat", "content", "vision")),
            ModelInfo(
                model_id="google/gemini-3.1-flash-image",
                capabilities=("image",),
                pricing_input=TENTH,
                pricing_output=HALF,
            ),
            ModelInfo(model_id="maker/paints", capabilities=("image",)),
            ModelInfo(model_id="google/gemini-3.8-flash-tts", capabilities=("audio",), context_window=8_192),
            ModelInfo(model_id="openai/gpt-audio", capabilities=("audio",)),
            ModelInfo(
                model_id="maker/embeds",
                capabilities=("embedding",),
                pricing_input=Decimal("0.02"),
                pricing_output=FREE,
            ),
            ModelInfo(model_id="maker/listens", capabilities=("transcription",)),
            ModelInfo(model_id="maker/films", pricing_input=TENTH, pricing_output=HALF),
            ModelInfo(
                model_id="meta-llama/llama-guard-4-12b",
                capabilities=("moderation",),
                pricing_input=TENTH,
                pricing_output=HALF,
            ),
            ModelInfo(
                model_id="maker/free:free", capabilities=("chat", "content"), pricing_input=FREE, pricing_output=FREE
            ),
            ModelInfo(
                model_id="maker/costs-nothing",
                capabilities=("chat", "content"),
                pricing_input=FREE,
                pricing_output=FREE,
            ),
            ModelInfo(model_id="maker/bills-requests", capabilities=("chat", "content")),
            ModelInfo(model_id="maker/older", capabilities=("chat", "content", "vision")),
            ModelInfo(model_id="maker/bare"),
        ],
    ),
    validate=Exchange(
        path="/api/v1/key",
        reply=whole(
            200,
            {"data": {"label": "sk-or-v1-012...def", "limit": 100, "limit_remaining": 0, "usage": 100}},
        ),
    ),
    bad_key=failure(401, "User not found."),
    cut_stream=events(": OPENROUTER PROCESSING\n\n", chunk("Hi "), CLOSE, done=False),
    failures=[
        Failure(
            name="no credit",
            reply=failure(402, "Insufficient credits. Add more using https://openrouter.ai/credits"),
            error=ProviderNoCredit,
        ),
        Failure(
            name="rate limit of the host",
            reply=failure(
                429,
                "Provider returned error",
                headers={"retry-after": "60"},
                provider_name="Google",
                raw="gemini is temporarily rate-limited upstream. Key sk-or-v1-0123456789abcdef0123456789abcdef.",
            ),
            error=ProviderRateLimited,
            facts={"retry_after": 60.0},
            says="Provider returned error: gemini is temporarily rate-limited upstream. Key ********",
        ),
        Failure(
            name="the host's own error, in JSON",
            reply=failure(
                400,
                "Provider returned error",
                provider_name="DeepInfra",
                raw=json.dumps({"error": {"message": "prompt is too long", "type": "invalid_request_error"}}),
            ),
            error=ProviderBadRequest,
            says="Provider returned error: prompt is too long",
        ),
        Failure(
            name="moderation",
            reply=failure(
                403,
                "The model requires moderation. Your input was flagged.",
                reasons=["violence"],
                flagged_input="…",
                provider_name="OpenAI",
            ),
            error=ContentBlocked,
            says="Your input was flagged.",
        ),
        Failure(
            name="a guardrail of the account",
            reply=failure(403, "Request blocked: prompt injection patterns detected", patterns=["ignore all"]),
            error=ContentBlocked,
        ),
        Failure(
            name="a key for management",
            reply=failure(403, "Only inference keys may do this"),
            error=ProviderAuthFailed,
        ),
        Failure(
            name="unknown model",
            reply=failure(400, "openai/gpt-4 is not a valid model ID"),
            error=ProviderModelNotFound,
            facts={"model": "openai/gpt-4", "successor": "openai/gpt-6-luna"},
            says="Use 'openai/gpt-6-luna' instead.",
        ),
        Failure(
            name="no host of the model",
            reply=failure(404, "No endpoints found for google/gemini-2.0-flash-exp."),
            error=ProviderModelNotFound,
            facts={"model": "google/gemini-2.0-flash-exp", "successor": "google/gemini-3.8-flash"},
        ),
        Failure(name="host out of order", reply=failure(524, "Provider timed out"), error=ProviderUnavailable),
        Failure(
            name="a success that is an error",
            reply=whole(200, {"error": {"code": 402, "message": "Insufficient credits."}}),
            error=ProviderNoCredit,
            facts={"status_code": 402},
        ),
        Failure(
            name="a reply that broke off",
            reply=whole(200, completion("Half", finish="error")),
            error=ProviderUnavailable,
            says="broke off",
        ),
        Failure(
            name="a stream that breaks down without a finish reason",
            reply=events(
                chunk("", delta={"reasoning": "We need"}),
                chunk("", finish="length"),
                chunk("", error={"code": 400, "message": "Token limit reached"}, usage=USAGE),
            ),
            error=ProviderBadRequest,
            facts={"status_code": 400},
            says="Token limit reached",
            operation="stream",
        ),
        Failure(
            name="a stream that breaks down with a finish reason",
            reply=events(
                chunk("Hi "), chunk("", finish="error", error={"code": "server_error", "message": "Disconnected"})
            ),
            error=ProviderUnavailable,
            says="Disconnected",
            operation="stream",
        ),
        Failure(
            name="thought until the limit",
            reply=whole(200, completion("", finish="length", message={"reasoning": "secret"})),
            error=EmptyReply,
            facts={"finish_reason": "length"},
        ),
        Failure(
            name="no image",
            reply=whole(200, {"created": 1, "data": []}),
            error=ProviderInvalidResponse,
            operation="image",
        ),
        Failure(
            name="JSON for audio",
            reply=whole(200, {"text": "no audio today"}),
            error=ProviderInvalidResponse,
            operation="audio",
        ),
    ],
)
