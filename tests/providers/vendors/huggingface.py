"""HuggingFace's router, hosts and Hub, as they answered in 2026."""

from decimal import Decimal

from src.ai.exceptions import (
    EmptyReply,
    ProviderAuthFailed,
    ProviderError,
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
    openai_error,
    png,
)
from tests.upstream.server import CLOSE, Reply, events, whole

THINKER = "deepseek-ai/DeepSeek-R1:together"
FLUX = "black-forest-labs/FLUX.1-schnell"
KOKORO = "hexgrad/Kokoro-82M"
USAGE = {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19, "cached_tokens": 4}
READ = Usage(input_tokens=12, output_tokens=7, cache_read_tokens=4)
CHAT_KWARGS = {
    "conversation_history": HISTORY,
    "model": THINKER,
    "system_message": "Be brief.",
    "temperature": 0.5,
    "max_tokens": 50,
}
CHAT_BODY = {
    "model": THINKER,
    "messages": [{"role": "system", "content": "Be brief."}, *HISTORY, {"role": "user", "content": "Hello"}],
    "temperature": 0.5,
    "max_tokens": 50,
}


def entry(host: str, host_model: str, task: str, status: str = "live", **more: object) -> dict[str, object]:
    return {
        "provider": host,
        "providerId": host_model,
        "status": status,
        "task": task,
        "isModelAuthor": False,
        **more,
    }


def mapping(model: str, *entries: dict[str, object]) -> Reply:
    """What the Hub says of one model: an object by host."""
    by_host = {named["provider"]: {k: v for k, v in named.items() if k != "provider"} for named in entries}
    return whole(200, {"_id": "66aa", "id": model, "inferenceProviderMapping": by_host})


def token(**token: object) -> Reply:
    """What whoami-v2 says of a key."""
    auth = {"type": "access_token", "accessToken": {"displayName": "panel", **token}}
    return whole(200, {"type": "user", "name": "acme", "orgs": [], "auth": auth})


HUB_ROWS = [
    {
        "id": FLUX,
        "pipeline_tag": "text-to-image",
        "inferenceProviderMapping": [
            entry("wavespeed", "wavespeed-ai/flux", "text-to-image"),
            entry("fal-ai", "fal-ai/flux/schnell", "text-to-image"),
        ],
    },
    {"id": "ill/image", "inferenceProviderMapping": [entry("fal-ai", "fal-ai/ill", "text-to-image", "error")]},
    {"id": "only/wavespeed", "inferenceProviderMapping": [entry("wavespeed", "w/x", "text-to-image")]},
    {"id": KOKORO, "inferenceProviderMapping": {"deepinfra": entry("", "hexgrad/Kokoro", "text-to-speech")}},
    {"id": "BAAI/bge-m3", "inferenceProviderMapping": [entry("hf-inference", "BAAI/bge-m3", "feature-extraction")]},
    # A chat model that draws, too, stays a chat model.
    {"id": "org/both", "inferenceProviderMapping": [entry("fal-ai", "fal-ai/both", "text-to-image")]},
    {"id": "org/unserved"},
]

VENDOR = VendorAnswers(
    name="huggingface",
    base_path="/v1",
    key="hf_0123456789abcdefghijklmnopqrstuv",
    chat=Exchange(
        path="/v1/chat/completions",
        kwargs=CHAT_KWARGS,
        sent=CHAT_BODY,
        reply=whole(
            200,
            # The opening tag is missing; thoughts are elsewhere, too.
            completion("Hmm.\n</think>\nHi there.", usage=USAGE, message={"reasoning": "x", "reasoning_content": "y"}),
            {"retry-after": "30"},
        ),
        result="Hi there.",
        info={"usage": READ, "finish_reason": "stop", "model": "answering-model"},
    ),
    stream=Exchange(
        path="/v1/chat/completions",
        kwargs=CHAT_KWARGS,
        sent={**CHAT_BODY, "stream": True, "stream_options": {"include_usage": True}},
        reply=events(
            chunk("<th", delta={"role": "assistant", "token_id": 128798}, usage=None, text="<th"),
            chunk("ink>\nsec", usage=None),
            chunk("ret</thi", usage=None),
            chunk("nk>\n", usage=None),
            chunk("Hi ", usage=None),
            chunk("thère.", usage=None),
            chunk("", finish="stop", usage=USAGE),
        ),
        result="Hi thère.",
        info={"usage": READ, "finish_reason": "stop", "model": "answering-model"},
    ),
    content=Exchange(
        path="/v1/chat/completions",
        kwargs={"model": "openai/gpt-oss-120b", "json_schema": SCHEMA},
        sent={
            "model": "openai/gpt-oss-120b",
            "messages": [{"role": "user", "content": "Write."}],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "content", "strict": True, "schema": SCHEMA},
            },
        },
        reply=whole(200, completion('{"title": "T"}')),
        result='{"title": "T"}',
    ),
    image=Exchange(
        path="/together/v1/images/generations",
        kwargs={"model": FLUX, "size": "1024x768", "quality": "hd", "style": "vivid", "num_inference_steps": 4},
        sent={
            "model": "black-forest-labs/FLUX.1-schnell-Free",
            "prompt": "A cat",
            "response_format": "base64",
            "width": 1024,
            "height": 768,
            "steps": 4,
        },
        reply=whole(200, {"id": "oX", "object": "list", "data": [{"index": 0, "b64_json": b64(png())}]}),
        result=png(),
        info={
            "content_type": "image/png",
            "usage": Usage(images=1),
            "model": FLUX,
            "dropped_params": ("quality", "style"),
        },
        also={
            ("GET", f"/api/models/{FLUX}"): mapping(
                FLUX,
                entry("wavespeed", "wavespeed-ai/flux", "text-to-image"),
                entry("nscale", FLUX, "text-to-image", "error"),
                entry("together", "black-forest-labs/FLUX.1-schnell-Free", "text-to-image"),
            )
        },
    ),
    audio=Exchange(
        path="/deepinfra/v1/openai/audio/speech",
        kwargs={"model": KOKORO, "voice": "alloy", "speed": 1.5},
        sent={"model": "hexgrad/Kokoro", "input": "Hello there.", "voice": "af_alloy"},
        reply=whole(200, mp3(), content_type="application/octet-stream"),
        result=mp3(),
        info={"content_type": "audio/mpeg", "usage": Usage(characters=12), "dropped_params": ("speed",)},
        also={
            ("GET", f"/api/models/{KOKORO}"): mapping(KOKORO, entry("deepinfra", "hexgrad/Kokoro", "text-to-speech"))
        },
    ),
    models=Exchange(
        path="/v1/models",
        reply=whole(
            200,
            {
                "object": "list",
                "data": [
                    {
                        "id": "org/priced",
                        "object": "model",
                        "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
                        "providers": [
                            {"provider": "a", "status": "error", "pricing": {"input": 0.01, "output": 0.01}},
                            {"provider": "b", "status": "live", "context_length": 9, "pricing": {"input": 0.01}},
                            {
                                "provider": "c",
                                "status": "live",
                                "context_length": 131072,
                                "pricing": {"input": 0.05, "output": 3.38},
                                "is_free": False,
                            },
                            {"provider": "d", "status": "live", "pricing": {"input": 1.69, "output": 3.38}},
                            {"provider": "e", "status": "live", "context_length": 1048576},
                        ],
                    },
                    {
                        "id": "org/free",
                        "providers": [
                            {"provider": "a", "status": "live", "is_free": True},
                            {"provider": "b", "status": "live", "context_length": 4096},
                        ],
                    },
                    {"id": "org/both", "providers": [{"provider": "a", "status": "live"}]},
                    {"id": "org/down", "providers": [{"provider": "a", "status": "error"}]},
                ],
            },
        ),
        result=[
            ModelInfo(
                model_id="org/priced",
                capabilities=("chat", "content", "vision"),
                pricing_input=Decimal("0.05"),
                pricing_output=Decimal("3.38"),
                context_window=131_072,
            ),
            ModelInfo(
                model_id="org/free",
                capabilities=("chat", "content"),
                pricing_input=Decimal(0),
                pricing_output=Decimal(0),
                context_window=4096,
            ),
            ModelInfo(model_id="org/both", capabilities=("chat", "content")),
            ModelInfo(model_id=FLUX, capabilities=("image",)),
            ModelInfo(model_id=KOKORO, capabilities=("audio",)),
            ModelInfo(model_id="BAAI/bge-m3", capabilities=("embedding",)),
        ],
        also={("GET", "/api/models"): whole(200, HUB_ROWS)},
    ),
    validate=Exchange(
        path="/api/whoami-v2",
        reply=token(role="fineGrained", fineGrained={"global": ["inference.serverless.write"], "scoped": []}),
    ),
    bad_key=whole(401, {"error": "Invalid username or password."}),
    cut_stream=events(chunk("<think>x</think>"), chunk("Hi "), CLOSE, done=False),
    failures=[
        Failure(
            name="no model",
            reply=openai_error(
                400,
                "The requested model 'foo/bar' is not supported by any provider you have enabled.",
                param="model",
                code="model_not_supported",
            ),
            error=ProviderModelNotFound,
            facts={"model": "foo/bar"},
        ),
        Failure(
            name="spent credits",
            reply=whole(402, {"error": "You have depleted your monthly included credits."}),
            error=ProviderNoCredit,
            says="depleted",
        ),
        Failure(
            name="no permission",
            reply=whole(403, {"error": "This token does not have sufficient permissions to call Inference Providers."}),
            error=ProviderAuthFailed,
            says="sufficient permissions",
        ),
        Failure(
            name="loading",
            reply=whole(503, {"error": "Model is loading", "estimated_time": 20.0}, {"retry-after": "20"}),
            error=ProviderUnavailable,
            facts={"retry_after": 20.0},
        ),
        Failure(
            name="slow down",
            reply=whole(429, {"error": "Too many requests"}, {"retry-after": "60"}),
            error=ProviderRateLimited,
            facts={"retry_after": 60.0},
        ),
        Failure(
            name="error as a text in a stream",
            reply=events({"error": "Model is overloaded", "error_type": "overloaded"}, done=False),
            error=ProviderError,
            says="Model is overloaded",
            operation="stream",
        ),
        Failure(
            name="only thoughts",
            reply=whole(200, completion("<think>until the limit", finish="length")),
            error=EmptyReply,
            facts={"finish_reason": "length"},
        ),
        Failure(name="no image", reply=whole(200, {"data": []}), error=ProviderInvalidResponse, operation="image"),
        Failure(
            name="text for an image",
            reply=whole(200, {"data": [{"b64_json": b64(b"no image")}]}),
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
