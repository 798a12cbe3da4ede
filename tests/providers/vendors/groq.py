"""Groq, as it answered in autumn 2026."""

from decimal import Decimal

from src.ai.exceptions import (
    EmptyReply,
    ProviderAuthFailed,
    ProviderBadRequest,
    ProviderInvalidResponse,
    ProviderModelNotFound,
    ProviderRateLimited,
)
from src.ai.results import ModelInfo, Usage
from tests.providers.answers import (
    HISTORY,
    SCHEMA,
    Exchange,
    Failure,
    VendorAnswers,
    chunk,
    completion,
    openai_error,
    wav,
)
from tests.upstream.server import CLOSE, events, whole

USAGE = {
    "queue_time": 0.1,
    "prompt_tokens": 12,
    "prompt_time": 0.002,
    "completion_tokens": 7,
    "completion_time": 0.03,
    "total_tokens": 19,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
READ = Usage(input_tokens=12, output_tokens=7, cache_read_tokens=4, reasoning_tokens=3)
CHAT_KWARGS = {
    "conversation_history": HISTORY,
    "model": "openai/gpt-oss-120b",
    "system_message": "Be brief.",
    "temperature": 0.5,
    "max_tokens": 50,
    "presence_penalty": 1,
    "logprobs": True,
}
CHAT_BODY = {
    "model": "openai/gpt-oss-120b",
    "messages": [{"role": "system", "content": "Be brief."}, *HISTORY, {"role": "user", "content": "Hello"}],
    "include_reasoning": False,
    "temperature": 0.5,
    "max_completion_tokens": 50,
}
DROPPED = ("presence_penalty", "logprobs")
# A header that was written before the length was known.
STREAMED_WAV = wav()[:4] + b"\xff" * 4 + wav()[8:40] + b"\xff" * 4 + wav()[44:]

VENDOR = VendorAnswers(
    name="groq",
    base_path="/openai/v1",
    key="gsk_0123456789abcdefghijklmnopqrstuvwxyz",
    chat=Exchange(
        path="/openai/v1/chat/completions",
        kwargs=CHAT_KWARGS,
        sent=CHAT_BODY,
        reply=whole(
            200,
            completion("Hi there.", message={"reasoning": "secret"}, usage=USAGE, x_groq={"id": "req_1", "seed": 7}),
        ),
        result="Hi there.",
        info={"usage": READ, "finish_reason": "stop", "response_id": "chat-1", "dropped_params": DROPPED},
    ),
    stream=Exchange(
        path="/openai/v1/chat/completions",
        kwargs=CHAT_KWARGS,
        sent={**CHAT_BODY, "stream": True, "stream_options": {"include_usage": True}},
        reply=events(
            chunk("", delta={"role": "assistant"}, x_groq={"id": "req_1"}),
            chunk(delta={"reasoning": "Hmm, secret.", "channel": "analysis"}),
            chunk("Hi "),
            chunk("thère."),
            chunk(finish="stop", x_groq={"id": "req_1", "usage": USAGE}),
        ),
        result="Hi thère.",
        info={"usage": READ, "finish_reason": "stop", "dropped_params": DROPPED},
    ),
    content=Exchange(
        path="/openai/v1/chat/completions",
        kwargs={"model": "openai/gpt-oss-20b", "json_schema": SCHEMA},
        sent={
            "model": "openai/gpt-oss-20b",
            "messages": [{"role": "user", "content": "Write."}],
            "include_reasoning": False,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "content", "strict": True, "schema": SCHEMA},
            },
        },
        reply=whole(200, completion('{"title": "T"}')),
        result='{"title": "T"}',
    ),
    audio=Exchange(
        path="/openai/v1/audio/speech",
        kwargs={"model": "canopylabs/orpheus-v1-english", "voice": "alloy", "speed": 1.5},
        sent={
            "model": "canopylabs/orpheus-v1-english",
            "input": "Hello there.",
            "voice": "hannah",
            "response_format": "wav",
        },
        reply=whole(200, STREAMED_WAV, content_type="audio/wav"),
        result=wav(),
        info={"content_type": "audio/wav", "usage": Usage(characters=12), "dropped_params": ("voice", "speed")},
    ),
    models=Exchange(
        path="/openai/v1/models",
        reply=whole(
            200,
            {
                "object": "list",
                "data": [
                    {
                        "id": "openai/gpt-oss-20b",
                        "active": True,
                        "context_window": 131_072,
                        "public_apps": None,
                        "max_completion_tokens": 65_536,
                        "name": "GPT OSS 20B",
                        "input_modalities": ["text"],
                        "output_modalities": ["text"],
                        "pricing": {"prompt": "0.00000079", "completion": "0.0000003", "input_cache_read": "0"},
                    },
                    # As the vendor's documentation has a row: no name, no modalities, no prices.
                    {
                        "id": "openai/gpt-oss-120b",
                        "active": True,
                        "context_window": 131_072,
                        "max_completion_tokens": 65_536,
                    },
                    {
                        "id": "qwen/qwen3.6-27b",
                        "active": True,
                        "context_window": 131_072,
                        "max_completion_tokens": 16_384,
                        "input_modalities": ["text", "image"],
                        "output_modalities": ["text"],
                    },
                    {"id": "retired", "active": False, "context_window": 1},
                    {
                        "id": "canopylabs/orpheus-v1-english",
                        "active": True,
                        "context_window": 4_000,
                        "max_completion_tokens": 50_000,
                        "input_modalities": ["text"],
                        "output_modalities": ["speech"],
                        "pricing": {"prompt": "0.000022", "completion": "0"},
                    },
                    {"id": "canopylabs/orpheus-arabic-saudi", "context_window": 4_000},
                    {"id": "new-voice", "input_modalities": ["text"], "output_modalities": ["speech"]},
                    {"id": "new-ears", "input_modalities": ["audio"], "output_modalities": ["transcription"]},
                    {"id": "new-eyes", "input_modalities": ["text"], "output_modalities": ["video"]},
                    {"id": "whisper-large-v3", "active": True},
                    {"id": "openai/gpt-oss-safeguard-20b", "output_modalities": ["text"]},
                ],
            },
        ),
        result=[
            ModelInfo(
                model_id="openai/gpt-oss-20b",
                display_name="GPT OSS 20B",
                capabilities=("chat", "content"),
                pricing_input=Decimal("0.79"),
                pricing_output=Decimal("0.3"),
                context_window=131_072,
                max_tokens=65_536,
            ),
            ModelInfo(
                model_id="openai/gpt-oss-120b",
                capabilities=("chat", "content"),
                pricing_input=Decimal("0.15"),
                pricing_output=Decimal("0.6"),
                context_window=131_072,
                max_tokens=65_536,
            ),
            ModelInfo(
                model_id="qwen/qwen3.6-27b",
                capabilities=("chat", "content", "vision"),
                context_window=131_072,
                max_tokens=16_384,
            ),
            ModelInfo(
                model_id="canopylabs/orpheus-v1-english",
                capabilities=("audio",),
                context_window=4_000,
                max_tokens=50_000,
            ),
            ModelInfo(
                model_id="canopylabs/orpheus-arabic-saudi",
                capabilities=("audio",),
                context_window=4_000,
            ),
            ModelInfo(model_id="new-voice", capabilities=("audio",)),
            ModelInfo(model_id="new-ears", capabilities=("transcription",)),
            ModelInfo(model_id="new-eyes"),
            ModelInfo(model_id="whisper-large-v3", display_name="Whisper Large V3", capabilities=("transcription",)),
            ModelInfo(
                model_id="openai/gpt-oss-safeguard-20b",
                capabilities=("moderation",),
                pricing_input=Decimal("0.075"),
                pricing_output=Decimal("0.3"),
                context_window=131_072,
            ),
        ],
    ),
    validate=Exchange(path="/openai/v1/models", reply=whole(200, {"object": "list", "data": []})),
    bad_key=openai_error(401, "Invalid API Key", code="invalid_api_key"),
    cut_stream=events(chunk("Hi "), CLOSE, done=False),
    failures=[
        Failure(
            name="retired model",
            reply=openai_error(
                400,
                "The model `llama-3.1-8b-instant` has been decommissioned and is no longer supported.",
                code="model_decommissioned",
            ),
            error=ProviderModelNotFound,
            facts={"status_code": 400, "model": "llama-3.1-8b-instant", "successor": "openai/gpt-oss-120b"},
            says="Use 'openai/gpt-oss-120b' instead.",
        ),
        Failure(
            name="unknown model",
            reply=openai_error(
                404, "The model `nope` does not exist or you do not have access to it.", code="model_not_found"
            ),
            error=ProviderModelNotFound,
            facts={"status_code": 404},
        ),
        Failure(
            name="refused key",
            reply=openai_error(401, "Invalid API Key", code="invalid_api_key"),
            error=ProviderAuthFailed,
        ),
        Failure(
            name="rate limit with a header",
            reply=openai_error(
                429,
                "Rate limit reached on tokens per minute (TPM). Please try again in 1.2375s.",
                type="tokens",
                code="rate_limit_exceeded",
                headers={"retry-after": "20", "x-request-id": "req_7"},
            ),
            error=ProviderRateLimited,
            facts={"retry_after": 20.0, "request_id": "req_7"},
        ),
        Failure(
            name="rate limit in words",
            reply=openai_error(
                429,
                "Rate limit reached on requests per day (RPD). Please try again in 7m12.5s.",
                type="requests",
                code="rate_limit_exceeded",
            ),
            error=ProviderRateLimited,
            facts={"retry_after": 432.5},
        ),
        Failure(
            name="no capacity left",
            reply=openai_error(498, "Flex tier capacity exceeded.", code="capacity_exceeded"),
            error=ProviderRateLimited,
        ),
        Failure(
            name="larger than the limit of a minute",
            reply=openai_error(413, "Request too large on tokens per minute (TPM).", code="rate_limit_exceeded"),
            error=ProviderBadRequest,
            facts={"status_code": 413},
        ),
        Failure(
            name="a stream that breaks down",
            reply=events(
                chunk(delta={"reasoning": "We", "channel": "analysis"}),
                "event: error\n",
                {"error": {"message": "Tool call validation failed", "code": "tool_use_failed", "status_code": 400}},
                done=False,
            ),
            error=ProviderBadRequest,
            facts={"status_code": 400, "vendor_code": "tool_use_failed"},
            says="Tool call validation failed",
            operation="stream",
        ),
        Failure(
            name="thought until the limit",
            reply=whole(200, completion("", finish="length", message={"reasoning": "secret"})),
            error=EmptyReply,
            facts={"finish_reason": "length"},
        ),
        Failure(
            name="terms of the model not accepted",
            reply=openai_error(
                400,
                "The model `canopylabs/orpheus-v1-english` requires terms acceptance. Please have the org admin accept "
                "the terms at https://console.groq.com/playground?model=canopylabs%2Forpheus-v1-english",
                code="model_terms_required",
            ),
            error=ProviderBadRequest,
            facts={"vendor_code": "model_terms_required"},
            says="https://console.groq.com/playground",
            operation="audio",
        ),
        Failure(
            name="a recording without samples",
            reply=whole(200, b"RIFF\x04\x00\x00\x00WAVE", content_type="audio/wav"),
            error=ProviderInvalidResponse,
            operation="audio",
        ),
    ],
)
