"""OpenAI, as it answered in autumn 2026."""

from decimal import Decimal

from src.ai.exceptions import (
    ContentBlocked,
    EmptyReply,
    ProviderAuthFailed,
    ProviderBadRequest,
    ProviderInvalidResponse,
    ProviderModelNotFound,
    ProviderNoCredit,
    ProviderRateLimited,
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
    openai_error,
    png,
)
from tests.upstream.server import CLOSE, events, whole

USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 7,
    "total_tokens": 19,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
READ = Usage(input_tokens=12, output_tokens=7, cache_read_tokens=4, reasoning_tokens=3)
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    *HISTORY,
    {"role": "user", "content": "Hello"},
]
CHAT_KWARGS = {
    "conversation_history": HISTORY,
    "model": "gpt-6-luna",
    "system_message": "Be brief.",
    "temperature": 0.5,
    "max_tokens": 50,
}
CHAT_BODY = {
    "model": "gpt-6-luna",
    "messages": MESSAGES,
    "reasoning_effort": "none",
    "temperature": 0.5,
    "max_completion_tokens": 50,
}

VENDOR = VendorAnswers(
    name="openai",
    base_path="/v1",
    key="sk-test-0123456789abcdefghijkl",
    chat=Exchange(
        path="/v1/chat/completions",
        kwargs=CHAT_KWARGS,
        sent=CHAT_BODY,
        reply=whole(200, completion("Hi there.", usage=USAGE)),
        result="Hi there.",
        info={"usage": READ, "finish_reason": "stop", "model": "answering-model", "response_id": "chat-1"},
    ),
    stream=Exchange(
        path="/v1/chat/completions",
        kwargs=CHAT_KWARGS,
        sent={**CHAT_BODY, "stream": True, "stream_options": {"include_usage": True}},
        reply=events(
            chunk("", delta={"role": "assistant", "refusal": None}, usage=None, obfuscation="x7"),
            chunk("Hi ", usage=None),
            chunk("thère.", usage=None),
            chunk(finish="stop", usage=None),
            {**chunk(), "choices": [], "usage": USAGE},
        ),
        result="Hi thère.",
        info={"usage": READ, "finish_reason": "stop", "model": "answering-model", "response_id": "chat-1"},
    ),
    content=Exchange(
        path="/v1/chat/completions",
        kwargs={"model": "gpt-6-luna", "json_schema": SCHEMA},
        sent={
            "model": "gpt-6-luna",
            "messages": [{"role": "user", "content": "Write."}],
            "reasoning_effort": "none",
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "content", "strict": True, "schema": SCHEMA},
            },
        },
        reply=whole(200, completion('{"title": "T"}')),
        result='{"title": "T"}',
    ),
    image=Exchange(
        path="/v1/images/generations",
        kwargs={"model": "gpt-image-2", "size": "1792x1024", "quality": "hd", "style": "vivid", "n": 2, "seed": 7},
        sent={
            "model": "gpt-image-2",
            "prompt": "A cat\n\nStyle: vivid",
            "size": "1536x1024",
            "quality": "high",
            "n": 2,
        },
        reply=whole(
            200,
            {
                "created": 1_790_000_000,
                "data": [{"b64_json": b64(png("red"))}, {"b64_json": b64(png("blue"))}],
                "usage": {"input_tokens": 50, "output_tokens": 60, "total_tokens": 110},
            },
        ),
        result=png("red"),
        info={
            "content_type": "image/png",
            "usage": Usage(input_tokens=50, output_tokens=60, images=2),
            "dropped_params": ("seed",),
        },
    ),
    audio=Exchange(
        path="/v1/audio/speech",
        kwargs={"model": "gpt-4o-mini-tts", "voice": "nova", "speed": 1.5},
        sent={
            "model": "gpt-4o-mini-tts",
            "input": "Hello there.",
            "voice": "nova",
            "response_format": "mp3",
            "speed": 1.5,
        },
        reply=whole(200, mp3(), content_type="audio/mpeg"),
        result=mp3(),
        info={"content_type": "audio/mpeg", "usage": Usage(characters=12)},
    ),
    models=Exchange(
        path="/v1/models",
        reply=whole(
            200,
            {
                "object": "list",
                "data": [
                    {"id": "gpt-6-luna", "object": "model", "created": 1, "shutdown_date": None},
                    {"id": "gpt-4o-mini", "object": "model", "created": 1, "shutdown_date": "2027-01-14"},
                    {"id": "gpt-3.5-turbo", "object": "model", "created": 1, "shutdown_date": "2020-01-01"},
                    {"id": "gpt-image-2", "object": "model", "created": 1},
                    {"id": "tts-1", "object": "model", "created": 1},
                    {"id": "text-embedding-3-small", "object": "model", "created": 1},
                    {"id": "gpt-4o-transcribe", "object": "model", "created": 1},
                    {"id": "gpt-6-luna-realtime", "object": "model", "created": 1},
                    {"id": "ft:gpt-4.1-mini:acme::abc123", "object": "model", "created": 1},
                    {"id": "unheard-of", "object": "model", "created": 1},
                ],
            },
        ),
        result=[
            ModelInfo(
                model_id="gpt-6-luna",
                display_name="GPT-6 Luna",
                capabilities=("chat", "content", "vision"),
                pricing_input=Decimal("0.1"),
                pricing_output=Decimal("0.5"),
                context_window=1_050_000,
            ),
            ModelInfo(
                model_id="gpt-4o-mini",
                display_name="gpt 4o mini",
                description="To be shut down on 2027-01-14.",
                capabilities=("chat", "content", "vision"),
                pricing_input=Decimal("0.15"),
                pricing_output=Decimal("0.6"),
                context_window=128_000,
            ),
            ModelInfo(
                model_id="gpt-image-2",
                display_name="GPT Image 2",
                capabilities=("image",),
                pricing_input=Decimal(5),
                pricing_output=Decimal(30),
            ),
            ModelInfo(model_id="tts-1", capabilities=("audio",)),
            ModelInfo(
                model_id="text-embedding-3-small",
                capabilities=("embedding",),
                pricing_input=Decimal("0.02"),
                context_window=8192,
            ),
            ModelInfo(
                model_id="gpt-4o-transcribe",
                capabilities=("transcription",),
                pricing_input=Decimal("2.5"),
                pricing_output=Decimal(10),
                context_window=16_000,
            ),
            ModelInfo(model_id="gpt-6-luna-realtime"),
            ModelInfo(model_id="ft:gpt-4.1-mini:acme::abc123", capabilities=("chat", "content", "vision")),
            ModelInfo(model_id="unheard-of"),
        ],
    ),
    validate=Exchange(path="/v1/models", reply=whole(200, {"object": "list", "data": []})),
    bad_key=openai_error(
        401,
        "Incorrect API key provided: sk-test-****************ijkl. Find yours at https://platform.openai.com.",
        code="invalid_api_key",
    ),
    cut_stream=events(chunk("Hi "), CLOSE, done=False),
    failures=[
        Failure(
            name="retired model",
            reply=openai_error(404, "The model `gpt-4` has been deprecated, learn more here.", code="model_not_found"),
            error=ProviderModelNotFound,
            facts={"status_code": 404, "model": "gpt-4", "successor": "gpt-6-luna"},
            says="Use 'gpt-6-luna' instead.",
        ),
        Failure(
            name="spent quota",
            reply=openai_error(429, "You exceeded your current quota.", type="insufficient_quota"),
            error=ProviderNoCredit,
        ),
        Failure(
            name="rate limit in words",
            reply=openai_error(
                429,
                "Rate limit reached for gpt-6-luna. Please try again in 21m6s.",
                code="rate_limit_exceeded",
                headers={"x-request-id": "req_7"},
            ),
            error=ProviderRateLimited,
            facts={"retry_after": 1266.0, "request_id": "req_7", "status_code": 429},
        ),
        Failure(
            name="restricted key",
            reply=openai_error(403, "You have insufficient permissions. Missing scopes: model.request."),
            error=ProviderAuthFailed,
        ),
        Failure(
            name="refused request",
            reply=openai_error(400, "Web search options not supported with this model.", param="web_search_options"),
            error=ProviderBadRequest,
            facts={"param": "web_search_options"},
        ),
        Failure(
            name="refusal",
            reply=whole(200, completion(None, message={"refusal": "I can't help with that."})),
            error=ContentBlocked,
            says="I can't help with that.",
        ),
        Failure(
            name="filtered reply",
            reply=whole(200, completion("Half of", finish="content_filter")),
            error=ContentBlocked,
        ),
        Failure(
            name="thought until the limit",
            reply=whole(200, completion("", finish="length")),
            error=EmptyReply,
            facts={"finish_reason": "length"},
            says="length",
        ),
        Failure(
            name="blocked image",
            reply=openai_error(
                400,
                "Your request was rejected by the safety system.",
                type="image_generation_user_error",
                code="moderation_blocked",
            ),
            error=ContentBlocked,
            operation="image",
        ),
        Failure(
            name="retired image model",
            reply=openai_error(400, "The model 'gpt-image-2' does not exist.", param="model"),
            error=ProviderModelNotFound,
            operation="image",
        ),
        Failure(
            name="no image",
            reply=whole(200, {"created": 1, "data": []}),
            error=ProviderInvalidResponse,
            operation="image",
        ),
        Failure(
            name="broken base64",
            reply=whole(200, {"created": 1, "data": [{"b64_json": "%%%"}]}),
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
