"""Gemini, as it answered in autumn 2026."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from src.ai.exceptions import (
    ContentBlocked,
    EmptyReply,
    ProviderAuthFailed,
    ProviderBadRequest,
    ProviderError,
    ProviderInvalidResponse,
    ProviderModelNotFound,
    ProviderNoCredit,
    ProviderRateLimited,
    ProviderUnavailable,
)
from src.ai.results import ModelInfo, Usage
from tests.providers.answers import HISTORY, SCHEMA, Exchange, Failure, VendorAnswers, b64, png, wav
from tests.upstream.server import CLOSE, Content, Reply, whole

USAGE = {
    "promptTokenCount": 12,
    "cachedContentTokenCount": 4,
    "candidatesTokenCount": 4,
    "thoughtsTokenCount": 3,
    "totalTokenCount": 19,
}
READ = Usage(input_tokens=12, output_tokens=7, cache_read_tokens=4, reasoning_tokens=3)
THOUGHT = {"text": "Hmm, secret.", "thought": True}


def answer(*parts: str | dict[str, Any], finish: str | None = "STOP", **more: Any) -> dict[str, Any]:
    """A `GenerateContentResponse`; `more` are fields beside its one candidate."""
    content = {"role": "model", "parts": [{"text": part} if isinstance(part, str) else part for part in parts]}
    candidate = {"content": content if parts else {}, **({"finishReason": finish} if finish else {}), "index": 0}
    return {
        "candidates": [candidate],
        "usageMetadata": USAGE,
        "modelVersion": "answering-model",
        "responseId": "answer-1",
        **more,
    }


def inline(data: bytes, mime_type: str, **more: Any) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime_type, "data": b64(data)}, **more}


def stream(*parts: Content | dict[str, Any]) -> Reply:
    """A stream as Gemini sends it: `\\r\\n`, and no `[DONE]`."""
    frames = [
        b"data: " + json.dumps(part, ensure_ascii=False).encode() + b"\r\n\r\n" if isinstance(part, dict) else part
        for part in parts
    ]
    return Reply(200, frames, {"content-type": "text/event-stream"})


def failure(code: int, status: str, message: str, *details: dict[str, Any], listed: bool = False) -> Reply:
    """Google's error object, where `listed` inside a list."""
    body = {"error": {"code": code, "message": message, "status": status, "details": list(details)}}
    return whole(code, [body] if listed else body)


def quota(quota_id: str, delay: str) -> Reply:
    return failure(
        429,
        "RESOURCE_EXHAUSTED",
        "You exceeded your current quota.",
        {"@type": "type.googleapis.com/google.rpc.Help", "links": []},
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota_id}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay},
    )


def row(name: str, *methods: str, **more: Any) -> dict[str, Any]:
    return {"name": f"models/{name}", "supportedGenerationMethods": list(methods or ("generateContent",)), **more}


CHAT_KWARGS = {
    "conversation_history": HISTORY,
    "model": "models/gemini-3.8-flash",
    "system_message": "Be brief.",
    "temperature": 0.5,
    "max_tokens": 50,
}
CHAT_BODY = {
    "systemInstruction": {"parts": [{"text": "Be brief."}]},
    "contents": [
        {"role": "user", "parts": [{"text": "Who are you?"}]},
        {"role": "model", "parts": [{"text": "A model."}]},
        {"role": "user", "parts": [{"text": "Hello"}]},
    ],
    "generationConfig": {"temperature": 0.5, "maxOutputTokens": 50 + 8192},
}
CHAT_PATH = "/v1beta/models/gemini-3.8-flash:generateContent"
IMAGE_PATH = "/v1beta/models/gemini-3.1-flash-image:generateContent"
SPEECH_PATH = "/v1beta/models/gemini-3.8-flash-tts:generateContent"
LIMITS = {"inputTokenLimit": 1_048_576, "outputTokenLimit": 65_536}
ALL_ROUND = ("chat", "content", "vision")

VENDOR = VendorAnswers(
    name="gemini",
    base_path="/v1beta",
    key="AIzaSyTest0123456789abcdefghijklmnopqrs",
    key_header="x-goog-api-key",
    key_prefix="",
    chat=Exchange(
        path=CHAT_PATH,
        kwargs=CHAT_KWARGS,
        sent=CHAT_BODY,
        reply=whole(200, answer(THOUGHT, {"text": "Hi ", "thoughtSignature": "c2VjcmV0"}, "there.")),
        result="Hi there.",
        info={"usage": READ, "finish_reason": "stop", "model": "answering-model", "response_id": "answer-1"},
    ),
    stream=Exchange(
        path="/v1beta/models/gemini-3.8-flash:streamGenerateContent",
        query="alt=sse",
        kwargs=CHAT_KWARGS,
        sent=CHAT_BODY,
        reply=stream(
            answer(THOUGHT, finish=None, usageMetadata={"promptTokenCount": 15, "totalTokenCount": 15}),
            answer("Hi ", finish=None, usageMetadata={"promptTokenCount": 15, "totalTokenCount": 16}),
            answer("thè", finish=None),
            answer("re.", finish="STOP"),
        ),
        result="Hi thère.",
        info={"usage": READ, "finish_reason": "stop", "model": "answering-model", "response_id": "answer-1"},
    ),
    content=Exchange(
        path=CHAT_PATH,
        kwargs={"model": "gemini-3.8-flash", "json_schema": SCHEMA, "system_message": "Write well."},
        sent={
            "systemInstruction": {"parts": [{"text": "Write well."}]},
            "contents": [{"role": "user", "parts": [{"text": "Write."}]}],
            "generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA},
        },
        reply=whole(200, answer('{"title": "T"}')),
        result='{"title": "T"}',
    ),
    image=Exchange(
        path=IMAGE_PATH,
        kwargs={
            "model": "gemini-3.1-flash-image",
            "size": "1792x1024",
            "quality": "hd",
            "style": "vivid",
            "seed": 7,
        },
        sent={
            "contents": [{"role": "user", "parts": [{"text": "A cat\n\nStyle: vivid"}]}],
            "generationConfig": {
                "responseModalities": ["TEXT", "IMAGE"],
                "imageConfig": {"aspectRatio": "16:9", "imageSize": "2K"},
            },
        },
        reply=whole(
            200,
            answer(
                inline(png("blue"), "image/png", thought=True),
                "Here is your cat.",
                inline(png("red"), "image/png", thoughtSignature="c2VjcmV0"),
            ),
        ),
        result=png("red"),
        info={
            "content_type": "image/png",
            "usage": Usage(input_tokens=12, output_tokens=7, cache_read_tokens=4, reasoning_tokens=3, images=1),
            "dropped_params": ("seed",),
        },
    ),
    audio=Exchange(
        path=SPEECH_PATH,
        kwargs={"model": "gemini-3.8-flash-tts", "voice": "nova", "speed": 1.5, "style": "cheerful"},
        sent={
            "contents": [
                {"role": "user", "parts": [{"text": "Hello there.", "speechMetadata": {"style": "cheerful"}}]}
            ],
            "generationConfig": {
                "responseModalities": ["AUDIO"],
                "speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}},
                "responseFormat": {"audio": {"mimeType": "AUDIO_WAV"}},
            },
        },
        reply=whole(200, answer(inline(wav(), "audio/x-wav"))),
        result=wav(),
        info={
            "content_type": "audio/wav",
            "usage": Usage(input_tokens=12, output_tokens=7, cache_read_tokens=4, reasoning_tokens=3, characters=12),
            "dropped_params": ("voice", "speed"),
        },
    ),
    models=Exchange(
        path="/v1beta/models",
        query="pageSize=1000",
        reply=whole(
            200,
            {
                "models": [
                    row("gemini-3.8-flash", displayName="Gemini 3.8 Flash", description="Quick.", **LIMITS),
                    row("gemini-2.5-flash", displayName="Gemini 2.5 Flash", description="Old.", **LIMITS),
                    row("gemma-4-31b-it", inputTokenLimit=262_144, outputTokenLimit=32_768),
                    row("gemini-3.1-flash-image", inputTokenLimit=65_536, outputTokenLimit=65_536),
                    row("gemini-nano-banana-2.1"),
                    row("gemini-3.8-flash-lite-tts", inputTokenLimit=8192, outputTokenLimit=16_384),
                    row("gemini-embedding-001", "embedContent", inputTokenLimit=2048, outputTokenLimit=1),
                    row("gemini-9.9-unpriced"),
                    row("gemini-2.5-flash-preview-tts"),
                    row("gemini-2.5-flash-image"),
                    row("gemini-2.0-flash"),
                    row("imagen-4.0-generate-001", "predict"),
                    row("veo-3.1-generate-preview", "predictLongRunning"),
                    row("lyria-3-clip-preview"),
                    row("gemini-robotics-er-1.6"),
                    row("gemini-2.5-computer-use-preview"),
                    row("deep-research-preview-04-2026"),
                    row("antigravity-preview"),
                    row("gemini-3.5-flash-live", "bidiGenerateContent"),
                    row("gemini-2.5-flash-native-audio-latest", "generateContent", "bidiGenerateContent"),
                    row("gemini-3.8-omni"),
                    row("aqa", "generateAnswer"),
                    row("some-new-kind", "bidiGenerateContent"),
                ]
            },
        ),
        result=[
            ModelInfo(
                model_id="gemini-3.8-flash",
                display_name="Gemini 3.8 Flash",
                description="Quick.",
                capabilities=ALL_ROUND,
                pricing_input=Decimal("0.75"),
                pricing_output=Decimal("3.75"),
                context_window=1_048_576,
                max_tokens=65_536,
            ),
            ModelInfo(
                model_id="gemini-2.5-flash",
                display_name="Gemini 2.5 Flash",
                description="Old. Retires on 2026-12-01; a newer model then answers in its place.",
                capabilities=ALL_ROUND,
                pricing_input=Decimal("0.3"),
                pricing_output=Decimal("2.5"),
                context_window=1_048_576,
                max_tokens=65_536,
            ),
            ModelInfo(
                model_id="gemma-4-31b-it",
                capabilities=ALL_ROUND,
                pricing_input=Decimal(0),
                pricing_output=Decimal(0),
                context_window=262_144,
                max_tokens=32_768,
            ),
            ModelInfo(
                model_id="gemini-3.1-flash-image",
                capabilities=("image",),
                pricing_input=Decimal("0.5"),
                pricing_output=Decimal(3),
                context_window=65_536,
                max_tokens=65_536,
            ),
            ModelInfo(
                model_id="gemini-nano-banana-2.1",
                display_name="Gemini Nano Banana 2.1",
                capabilities=("image",),
                pricing_input=Decimal("1.5"),
                pricing_output=Decimal("7.5"),
            ),
            ModelInfo(
                model_id="gemini-3.8-flash-lite-tts",
                display_name="Gemini 3.8 Flash-Lite TTS",
                capabilities=("audio",),
                pricing_input=Decimal("0.5"),
                pricing_output=Decimal(6),
                context_window=8192,
                max_tokens=16_384,
            ),
            ModelInfo(
                model_id="gemini-embedding-001",
                capabilities=("embedding",),
                pricing_input=Decimal("0.15"),
                context_window=2048,
            ),
            ModelInfo(model_id="gemini-9.9-unpriced", capabilities=ALL_ROUND),
        ],
    ),
    validate=Exchange(
        path="/v1beta/models",
        query="pageSize=1",
        reply=whole(200, {"models": [row("gemini-3.8-flash")], "nextPageToken": "more"}),
    ),
    bad_key=failure(
        400,
        "INVALID_ARGUMENT",
        "API key not valid. Please pass a valid API key.",
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"},
    ),
    cut_stream=stream(answer("Hi ", finish=None), CLOSE),
    failures=[
        Failure(
            name="retired image model",
            reply=failure(404, "NOT_FOUND", "models/imagen-4.0 is not found for API version v1beta."),
            error=ProviderModelNotFound,
            facts={"status_code": 404},
            says="is not found",
            operation="image",
        ),
        Failure(
            name="leaked key",
            reply=failure(403, "PERMISSION_DENIED", "Your API key was reported as leaked."),
            error=ProviderAuthFailed,
            says="leaked",
        ),
        Failure(
            name="no key for this country",
            reply=failure(400, "FAILED_PRECONDITION", "User location is not supported for the API use."),
            error=ProviderBadRequest,
            facts={"vendor_code": "FAILED_PRECONDITION"},
        ),
        Failure(
            name="quota of a minute",
            reply=quota("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", "23.4s"),
            error=ProviderRateLimited,
            facts={"retry_after": 23.4},
        ),
        Failure(
            name="quota of a day",
            reply=quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "0s"),
            error=ProviderNoCredit,
        ),
        Failure(
            name="error in a list",
            reply=failure(400, "INVALID_ARGUMENT", "Thinking level MINIMAL is not supported.", listed=True),
            error=ProviderBadRequest,
            says="MINIMAL",
        ),
        Failure(
            name="error in a list before a stream",
            reply=failure(400, "INVALID_ARGUMENT", "Thinking level MINIMAL is not supported.", listed=True),
            error=ProviderBadRequest,
            says="MINIMAL",
            operation="stream",
        ),
        Failure(
            name="blocked prompt",
            reply=whole(200, {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": USAGE}),
            error=ContentBlocked,
            says="PROHIBITED_CONTENT",
        ),
        Failure(
            name="blocked prompt of a stream",
            reply=stream({"promptFeedback": {"blockReason": "JAILBREAK"}}),
            error=ContentBlocked,
            says="JAILBREAK",
            operation="stream",
        ),
        Failure(
            name="blocked reply",
            reply=whole(
                200,
                {
                    "candidates": [
                        {
                            "content": {},
                            "finishReason": "SAFETY",
                            "safetyRatings": [
                                {"category": "HARM_CATEGORY_HATE_SPEECH", "blocked": True},
                                {"category": "HARM_CATEGORY_HARASSMENT"},
                            ],
                        }
                    ]
                },
            ),
            error=ContentBlocked,
            facts={"finish_reason": "content_filter"},
            says="(SAFETY). HARM_CATEGORY_HATE_SPEECH",
        ),
        Failure(
            name="reply blocked on the way",
            reply=stream(answer("Half of", finish=None), answer(finish="RECITATION")),
            error=ContentBlocked,
            says="RECITATION",
            operation="stream",
        ),
        Failure(
            name="thought until the limit",
            reply=whole(200, {"candidates": [{"content": {"role": "model"}, "finishReason": "MAX_TOKENS"}]}),
            error=EmptyReply,
            facts={"finish_reason": "MAX_TOKENS"},
            says="MAX_TOKENS",
        ),
        Failure(
            name="only thoughts of a stream",
            reply=stream(answer(THOUGHT, finish=None), answer(finish="MAX_TOKENS")),
            error=EmptyReply,
            says="MAX_TOKENS",
            operation="stream",
        ),
        Failure(
            name="nothing at all",
            reply=whole(200, {"candidates": [], "usageMetadata": USAGE}),
            error=EmptyReply,
            facts={"finish_reason": "none"},
        ),
        Failure(
            name="broken off",
            reply=whole(200, answer("Half of", finish="MALFORMED_RESPONSE")),
            error=ProviderUnavailable,
            says="MALFORMED_RESPONSE",
        ),
        Failure(
            name="error on the way",
            reply=stream(answer("Half of", finish=None), {"error": {"code": 503, "message": "overloaded"}}),
            error=ProviderUnavailable,
            says="overloaded",
            operation="stream",
        ),
        Failure(
            name="error without a code on the way",
            reply=stream(answer("Half of", finish=None), b'data: [{"error": {"message": "out of luck"}}]\r\n\r\n'),
            error=ProviderError,
            says="out of luck",
            operation="stream",
        ),
        Failure(
            name="not an answer",
            reply=whole(200, {"candidates": "none"}),
            error=ProviderInvalidResponse,
        ),
        Failure(
            name="image declined in words",
            reply=whole(200, answer("I can't draw that person.")),
            error=ContentBlocked,
            says="I can't draw that person.",
            operation="image",
        ),
        Failure(
            name="no image",
            reply=whole(200, answer(finish="NO_IMAGE")),
            error=ContentBlocked,
            says="NO_IMAGE",
            operation="image",
        ),
        Failure(
            name="unsafe image",
            reply=whole(200, answer(finish="IMAGE_SAFETY")),
            error=ContentBlocked,
            says="IMAGE_SAFETY",
            operation="image",
        ),
        Failure(
            name="image not made",
            reply=whole(200, answer(inline(png(), "image/png", thought=True), finish="IMAGE_OTHER")),
            error=EmptyReply,
            facts={"finish_reason": "IMAGE_OTHER"},
            operation="image",
        ),
        Failure(
            name="limit before the image",
            reply=whole(200, answer("Let me draw", finish="MAX_TOKENS")),
            error=EmptyReply,
            facts={"finish_reason": "MAX_TOKENS"},
            operation="image",
        ),
        Failure(
            name="broken base64",
            reply=whole(200, answer({"inlineData": {"mimeType": "image/png", "data": "%%%"}})),
            error=ProviderInvalidResponse,
            operation="image",
        ),
        Failure(
            name="blocked speech",
            reply=whole(200, answer(finish="PROHIBITED_CONTENT")),
            error=ContentBlocked,
            operation="audio",
        ),
        Failure(
            name="no audio",
            reply=whole(200, answer(inline(b"nothing", "audio/unheard-of"))),
            error=ProviderInvalidResponse,
            operation="audio",
        ),
    ],
)
