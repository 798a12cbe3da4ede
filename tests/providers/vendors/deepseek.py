"""DeepSeek, as it answered in autumn 2026."""

import json
from decimal import Decimal

from src.ai.exceptions import (
    ContentBlocked,
    EmptyReply,
    ProviderModelNotFound,
    ProviderNoCredit,
    ProviderUnavailable,
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
)
from tests.upstream.server import CLOSE, Reply, events, whole

USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 7,
    "total_tokens": 19,
    "prompt_cache_hit_tokens": 4,
    "prompt_cache_miss_tokens": 8,
    "completion_tokens_details": {"reasoning_tokens": 3},
}
READ = Usage(input_tokens=12, output_tokens=7, cache_read_tokens=4, reasoning_tokens=3)
CHAT_KWARGS = {
    "conversation_history": HISTORY,
    "model": "deepseek-flash",
    "system_message": "Be brief.",
    "temperature": 0.5,
    "max_tokens": 50,
}
CHAT_BODY = {
    "model": "deepseek-flash",
    "messages": [{"role": "system", "content": "Be brief."}, *HISTORY, {"role": "user", "content": "Hello"}],
    "thinking": {"type": "disabled"},
    "temperature": 0.5,
    "max_tokens": 50,
}
DEMAND = f"Answer with one JSON object of this JSON Schema, and nothing else: {json.dumps(SCHEMA)}"
# Empty lines keep the connection awake while the model works.
UNDER_LOAD = Reply(200, [b"\n\n\n", json.dumps(completion("Hi there.", usage=USAGE)).encode()])

VENDOR = VendorAnswers(
    name="deepseek",
    base_path="",
    key="sk-0123456789abcdef0123456789abcdef",
    chat=Exchange(
        path="/chat/completions",
        kwargs=CHAT_KWARGS,
        sent=CHAT_BODY,
        reply=UNDER_LOAD.replace_headers(content_type="application/json"),
        result="Hi there.",
        info={"usage": READ, "finish_reason": "stop"},
    ),
    stream=Exchange(
        path="/chat/completions",
        kwargs=CHAT_KWARGS,
        sent={**CHAT_BODY, "stream": True, "stream_options": {"include_usage": True}},
        reply=events(
            ": keep-alive\n\n",
            chunk(delta={"role": "assistant", "content": None, "reasoning_content": "Hmm, secret."}, usage=None),
            chunk("Hi ", delta={"reasoning_content": None}, usage=None),
            ": keep-alive\n\n",
            chunk("thère.", usage=None),
            chunk("", finish="stop", usage=USAGE),
        ),
        result="Hi thère.",
        info={"usage": READ, "finish_reason": "stop"},
    ),
    content=Exchange(
        path="/chat/completions",
        kwargs={"model": "deepseek-flash", "json_schema": SCHEMA, "system_message": "Write well."},
        sent={
            "model": "deepseek-flash",
            "messages": [
                {"role": "system", "content": f"Write well.\n\n{DEMAND}"},
                {"role": "user", "content": "Write."},
            ],
            "thinking": {"type": "disabled"},
            "response_format": {"type": "json_object"},
        },
        reply=whole(200, completion('{"title": "T"}', message={"reasoning_content": "secret"})),
        result='{"title": "T"}',
    ),
    models=Exchange(
        path="/models",
        reply=whole(
            200,
            {
                "object": "list",
                "data": [
                    {
                        "id": "deepseek-flash",
                        "object": "model",
                        "owned_by": "deepseek",
                        "name": "DeepSeek-V4.1-Flash",
                        "context_window": 1_048_576,
                        "max_output_tokens": 393_216,
                        "input_modalities": ["text", "image"],
                        "output_modalities": ["text"],
                    },
                    {"id": "deepseek-unheard-of", "object": "model", "owned_by": "deepseek"},
                ],
            },
        ),
        result=[
            ModelInfo(
                model_id="deepseek-flash",
                display_name="DeepSeek-V4.1-Flash",
                capabilities=("chat", "content", "vision"),
                pricing_input=Decimal("0.15"),
                pricing_output=Decimal("0.6"),
                context_window=1_048_576,
                max_tokens=393_216,
            ),
            ModelInfo(model_id="deepseek-unheard-of", capabilities=("chat", "content")),
        ],
    ),
    validate=Exchange(path="/models", reply=whole(200, {"object": "list", "data": []})),
    bad_key=openai_error(401, "Authentication Fails, Your api key: ****cdef is invalid", type="authentication_error"),
    cut_stream=events(chunk("Hi "), CLOSE, done=False),
    failures=[
        Failure(name="no balance", reply=openai_error(402, "Insufficient Balance"), error=ProviderNoCredit),
        Failure(
            name="its content filter",
            reply=openai_error(400, "Content Exists Risk", code="invalid_request_error"),
            error=ContentBlocked,
        ),
        Failure(
            name="retired model",
            reply=openai_error(404, "Model Not Exist"),
            error=ProviderModelNotFound,
        ),
        Failure(
            name="out of resources",
            reply=whole(200, completion("Half", finish="insufficient_system_resource")),
            error=ProviderUnavailable,
        ),
        Failure(
            name="only thoughts",
            reply=whole(200, completion("", finish="length", message={"reasoning_content": "secret"})),
            error=EmptyReply,
            facts={"finish_reason": "length"},
        ),
    ],
)
