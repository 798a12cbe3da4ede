"""HuggingFace beyond the battery: hosts and their forms, the Hub's mappings and lists, keys."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from django.contrib.auth.models import User

from src.ai.exceptions import (
    InvalidConfig,
    InvalidRequest,
    ProviderAuthFailed,
    ProviderInvalidResponse,
    ProviderModelNotFound,
    ProviderUnavailable,
)
from src.ai.models import AIModel, AIProvider
from src.ai.providers import huggingface, huggingface_forms
from src.ai.providers.huggingface import HuggingFaceProvider
from src.ai.providers.huggingface_forms import IMAGE_FORMS, SPEECH_FORMS, Form, Route
from src.ai.results import Media, ModelInfo
from src.ai.services.unified_service import UnifiedAIService
from src.core import http
from tests.providers.answers import b64, chunk, completion, mp3, png, wav
from tests.providers.vendors.huggingface import FLUX, KOKORO, VENDOR, entry, mapping, token
from tests.upstream.server import Reply, Request, Upstream, events, whole

IMAGE, SPEECH = "text-to-image", "text-to-speech"


def provider(upstream: Upstream, key: str = VENDOR.key, **config: Any) -> HuggingFaceProvider:
    found = VENDOR.provider(upstream, key, **config)
    assert isinstance(found, HuggingFaceProvider)
    return found


def serve(upstream: Upstream, model: str, task: str, host: str, host_model: str = "host/model", **more: Any) -> None:
    upstream.on("GET", f"/api/models/{model}", mapping(model, entry(host, host_model, task, **more)))


def linked(path: str) -> Callable[[Request], Reply]:
    """An answer in JSON with the URL of a file at this very host, by the word URL in it."""

    def answer(request: Request, body: str = path) -> Reply:
        url = f"http://{request.headers['host']}/files/made"
        return whole(200, body.replace("URL", url), content_type="application/json")

    return answer


def looked_up(upstream: Upstream) -> int:
    return sum(request.path.startswith("/api/models/") for request in upstream.requests)


# -- the forms ---------------------------------------------------------------------------------------------------------

PARAMETERS = {"width": 1024, "height": 768, "num_inference_steps": 4, "guidance_scale": 3.5, "seed": 7}
OPTIONS = {"size": "1024x768", "num_inference_steps": 4, "guidance_scale": 3.5, "seed": 7}
KINDS = {
    "plain": Route(host="", model=FLUX, host_model="owner/name"),
    "versioned": Route(host="", model=FLUX, host_model="owner/name:abc123"),
    "lora": Route(host="", model="ill/lora", host_model="fal-ai/lora", weights="my lora.safetensors"),
}
PAIRS = [(IMAGE, host) for host in IMAGE_FORMS] + [(SPEECH, host) for host in SPEECH_FORMS]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("task", "host"), PAIRS)
def test_every_request_is_the_one_that_the_official_sdk_would_send(
    task: str, host: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.hf_api import InferenceProviderMapping
    from huggingface_hub.inference import _providers
    from huggingface_hub.inference._providers import _common, hf_inference

    route = KINDS[kind]
    if host == "hf-inference":
        route = Route(host=host, model=FLUX, host_model=FLUX)
    known = InferenceProviderMapping(
        provider=host,
        hf_model_id=route.model,
        providerId=route.host_model,
        status="live",
        task=task,
        adapterWeightsPath=route.weights or None,
    )
    monkeypatch.setitem(_common.HARDCODED_MODEL_INFERENCE_MAPPING, host, {route.model: known})
    monkeypatch.setattr(_common, "build_hf_headers", lambda token: {})
    monkeypatch.setattr(hf_inference, "_check_supported_task", lambda *_: None)
    helper: Any = _providers.PROVIDERS[host][task]  # type: ignore[index]
    wanted = helper.prepare_request(
        inputs="A cat",
        parameters=dict(PARAMETERS) if task == IMAGE else {"voice": "tara"} if host != "hf-inference" else {},
        headers={},
        model=route.model,
        api_key="hf_x",
    )

    form: Form = (IMAGE_FORMS if task == IMAGE else SPEECH_FORMS)[host]
    if task == IMAGE:
        body, _ = huggingface_forms.build_image(form, route, "A cat", OPTIONS)
    else:
        body, _ = huggingface_forms.build_speech(form, route, "A cat", {"voice": "tara"})
    url = f"https://router.huggingface.co/{host}{form.path(route)}"
    assert (url, body) == (wanted.url, json.loads(json.dumps(wanted.json).replace("my lora", "my%20lora")))
    assert wanted.headers.get("Prefer", wanted.headers.get("prefer")) == form.headers.get("Prefer")


ASKED = {"size": "1024x768", "num_inference_steps": 4, "quality": "hd"}
IMAGES_BY_HOST: dict[str, tuple[str, Any, Any, Mapping[str, Any], tuple[str, ...]]] = {
    "hf-inference": (
        f"/hf-inference/models/{FLUX}",
        whole(200, png(), content_type="image/jpeg"),
        {"accept": "image/png"},
        {"inputs": "A cat", "parameters": {"width": 1024, "height": 768, "num_inference_steps": 4}},
        ("quality",),
    ),
    "fal-ai": (
        "/fal-ai/host/model",
        linked('{"images": [{"url": "URL", "content_type": "image/jpeg"}], "seed": 42}'),
        {"accept": "application/json"},
        {"prompt": "A cat", "image_size": {"width": 1024, "height": 768}, "num_inference_steps": 4},
        ("quality",),
    ),
    "nscale": (
        "/nscale/v1/images/generations",
        whole(200, {"data": [{"b64_json": b64(png())}]}),
        {},
        {"model": "host/model", "prompt": "A cat", "size": "1024x768", "response_format": "b64_json"},
        ("num_inference_steps", "quality"),
    ),
    "replicate": (
        "/replicate/v1/models/host/model/predictions",
        linked('{"status": "succeeded", "error": null, "output": ["URL"]}'),
        {"prefer": "wait"},
        {"input": {"prompt": "A cat", "width": 1024, "height": 768, "num_inference_steps": 4}},
        ("quality",),
    ),
}


@pytest.mark.parametrize("host", IMAGES_BY_HOST)
async def test_an_image_comes_from_each_host_in_its_own_form(host: str, upstream: Upstream) -> None:
    path, reply, headers, sent, dropped = IMAGES_BY_HOST[host]
    serve(upstream, FLUX, IMAGE, host, FLUX if host == "hf-inference" else "host/model")
    upstream.on("POST", path, reply)
    upstream.on("GET", "/files/made", whole(200, png(), content_type="application/octet-stream"))
    media = await provider(upstream).generate_image("A cat", model=FLUX, **ASKED)
    assert isinstance(media, Media)
    assert (media.getvalue(), media.content_type, media.dropped_params) == (png(), "image/png", dropped)
    asked = next(request for request in upstream.requests if request.path == path)
    assert asked.json == sent
    assert headers.items() <= asked.headers.items()
    assert VENDOR.key_in(asked) == VENDOR.key


SPEECH_BY_HOST: dict[str, tuple[str, Any, Mapping[str, Any], tuple[str, ...]]] = {
    "hf-inference": (
        f"/hf-inference/models/{KOKORO}",
        whole(200, wav(), content_type="audio/flac"),
        {"inputs": "Hello.", "parameters": {}},
        ("voice",),
    ),
    "fal-ai": (
        "/fal-ai/host/kokoro",
        linked('{"audio": {"url": "URL"}}'),
        {"text": "Hello.", "voice": "am_onyx"},
        (),
    ),
    "together": (
        "/together/v1/audio/speech",
        whole(200, wav(), content_type="audio/wav"),
        {"model": "host/kokoro", "input": "Hello.", "voice": "am_onyx"},
        (),
    ),
    "replicate": (
        "/replicate/v1/models/host/kokoro/predictions",
        linked('{"status": "succeeded", "output": "URL"}'),
        {"input": {"text": "Hello.", "voice": "am_onyx"}},
        (),
    ),
}


@pytest.mark.parametrize("host", SPEECH_BY_HOST)
async def test_speech_comes_from_each_host_in_its_own_form(host: str, upstream: Upstream) -> None:
    path, reply, sent, dropped = SPEECH_BY_HOST[host]
    serve(upstream, KOKORO, SPEECH, host, KOKORO if host == "hf-inference" else "host/kokoro")
    upstream.on("POST", path, reply)
    upstream.on("GET", "/files/made", whole(200, wav(), content_type="application/octet-stream"))
    media = await provider(upstream).text_to_speech("Hello.", model=KOKORO, voice="onyx", speed=1.0)
    assert isinstance(media, Media)
    assert (media.getvalue(), media.content_type, media.dropped_params) == (wav(), "audio/wav", dropped)
    assert next(request for request in upstream.requests if request.path == path).json == sent


async def test_the_key_stays_at_home_when_a_host_answers_with_a_url(upstream: Upstream) -> None:
    serve(upstream, FLUX, IMAGE, "fal-ai")
    upstream.on("POST", "/fal-ai/host/model", linked('{"images": [{"url": "URL"}]}'))
    upstream.on("GET", "/files/made", whole(200, png()))
    await provider(upstream, bill_to="acme").generate_image("A cat", model=FLUX)
    assert upstream.last.path == "/files/made"
    assert not {"authorization", "x-hf-bill-to"} & upstream.last.headers.keys()
    assert VENDOR.key not in str(upstream.last)


async def test_a_file_inside_the_network_is_not_fetched(upstream: Upstream) -> None:
    serve(upstream, FLUX, IMAGE, "fal-ai")
    upstream.on("POST", "/fal-ai/host/model", whole(200, {"images": [{"url": "https://169.254.169.254/x.png"}]}))
    with pytest.raises(ProviderInvalidResponse, match="refused"):
        await provider(upstream).generate_image("A cat", model=FLUX)


@pytest.mark.parametrize(
    ("data", "mime_type"),
    [
        (mp3(), "audio/mpeg"),
        (b"ID3" + bytes(20), "audio/mpeg"),
        (b"OggS" + bytes(20), "audio/ogg"),
        (b"fLaC" + bytes(20), "audio/flac"),
        (wav(), "audio/wav"),
    ],
)
async def test_the_container_is_told_by_the_bytes(upstream: Upstream, data: bytes, mime_type: str) -> None:
    serve(upstream, KOKORO, SPEECH, "deepinfra")
    upstream.on("POST", "/deepinfra/v1/openai/audio/speech", whole(200, data, content_type="audio/x-wrong"))
    media = await provider(upstream).text_to_speech("Hello.", model=KOKORO)
    assert isinstance(media, Media)
    assert (media.getvalue(), media.content_type) == (data, mime_type)


@pytest.mark.parametrize("host", ["hf-inference", "fal-ai"])
async def test_a_page_is_no_image(upstream: Upstream, host: str) -> None:
    serve(upstream, FLUX, IMAGE, host)
    page = whole(200, "<html>busy</html>", content_type="text/html")
    upstream.on("POST", f"/hf-inference/models/{FLUX}", page)
    upstream.on("POST", "/hf-inference/models/host/model", page)
    upstream.on("POST", "/fal-ai/host/model", linked('{"images": [{"url": "URL"}]}'))
    upstream.on("GET", "/files/made", page)
    with pytest.raises(ProviderInvalidResponse, match="no image"):
        await provider(upstream).generate_image("A cat", model=FLUX)


async def test_a_host_that_is_still_at_work_is_not_asked_to_work_twice(upstream: Upstream) -> None:
    serve(upstream, FLUX, IMAGE, "replicate", "owner/name:abc")
    path = "/replicate/v1/predictions"
    upstream.on("POST", path, whole(201, {"status": "starting", "error": None, "output": None}))
    with pytest.raises(ProviderUnavailable, match="starting") as caught:
        await provider(upstream).generate_image("A cat", model=FLUX)
    assert (caught.value.operation, caught.value.model) == ("generate_image", FLUX)
    assert [request.json["version"] for request in upstream.requests if request.path == path] == ["abc"]


@pytest.mark.parametrize("size", ["auto", "1024", "0x10", "axb"])
async def test_a_size_that_is_none_is_dropped_and_said(upstream: Upstream, size: str) -> None:
    VENDOR.serve(upstream, VENDOR.image or VENDOR.chat)
    media: Any = await provider(upstream).generate_image("A cat", model=FLUX, size=size)
    assert media.dropped_params == ("size",)
    assert not {"width", "height"} & upstream.last.json.keys()


async def test_several_images_are_several_calls_with_different_seeds(upstream: Upstream) -> None:
    VENDOR.serve(upstream, VENDOR.image or VENDOR.chat)
    media: Any = await provider(upstream).generate_image("A cat", model=FLUX, n=3, seed=5)
    assert (len(media.all), media.usage.images, media.dropped_params) == (3, 3, ())
    assert sorted(request.json["seed"] for request in upstream.requests if request.method == "POST") == [5, 6, 7]
    assert looked_up(upstream) == 1


async def test_no_more_than_ten_images_are_made(upstream: Upstream) -> None:
    VENDOR.serve(upstream, VENDOR.image or VENDOR.chat)
    media: Any = await provider(upstream).generate_image("A cat", model=FLUX, n=1000)
    assert (len(media.all), media.dropped_params) == (10, ("n",))


@pytest.mark.parametrize(
    ("model", "said", "sent", "dropped"),
    [
        ("hexgrad/Kokoro-82M", {}, "af_heart", ()),
        ("hexgrad/Kokoro-82M", {"voice": "bf_emma"}, "bf_emma", ()),
        ("hexgrad/Kokoro-82M", {"voice": "shimmer"}, "af_heart", ("voice",)),
        ("canopylabs/orpheus", {"voice": "tara"}, "tara", ()),
    ],
)
async def test_together_gets_the_voice_that_it_demands(
    upstream: Upstream, model: str, said: dict[str, str], sent: str, dropped: tuple[str, ...]
) -> None:
    serve(upstream, model, SPEECH, "together")
    upstream.on("POST", "/together/v1/audio/speech", whole(200, mp3()))
    media: Any = await provider(upstream).text_to_speech("Hello.", model=model, **said)
    assert (upstream.last.json["voice"], media.dropped_params) == (sent, dropped)


async def test_a_voice_that_nobody_named_is_asked_for_before_anything_is_paid(upstream: Upstream) -> None:
    serve(upstream, "canopylabs/orpheus", SPEECH, "together")
    with pytest.raises(InvalidRequest, match="needs one of its own voices"):
        await provider(upstream).text_to_speech("Hello.", model="canopylabs/orpheus", voice="alloy")
    assert {request.method for request in upstream.requests} == {"GET"}


# -- where a model is served -------------------------------------------------------------------------------------------


async def host_of(found: HuggingFaceProvider, model: str) -> str:
    return (await found._route("generate_image", IMAGE, model)).host


@pytest.mark.parametrize("as_list", [True, False])
async def test_the_first_live_host_with_a_known_form_is_asked(upstream: Upstream, as_list: bool) -> None:
    entries = [
        entry("wavespeed", "w", IMAGE),
        entry("nscale", "n", IMAGE, "error"),
        entry("together", "t", IMAGE, "staging"),
        entry("replicate", "r", "image-to-image"),
        entry("fal-ai", "f", IMAGE),
        entry("hf-inference", "h", IMAGE),
    ]
    listed = whole(200, {"id": FLUX, "inferenceProviderMapping": entries})
    upstream.on("GET", f"/api/models/{FLUX}", listed if as_list else mapping(FLUX, *entries))
    assert await host_of(provider(upstream), FLUX) == "fal-ai"
    assert await host_of(provider(upstream), f"{FLUX}:fastest") == "fal-ai"
    assert await host_of(provider(upstream), f"{FLUX}:hf-inference") == "hf-inference"
    assert await host_of(provider(upstream, media_host="hf-inference"), FLUX) == "hf-inference"
    assert await host_of(provider(upstream, media_host="hf-inference"), f"{FLUX}:fal-ai") == "fal-ai"
    assert (upstream.last.query, VENDOR.key_in(upstream.last)) == (
        "expand%5B%5D=inferenceProviderMapping",
        VENDOR.key,
    )


@pytest.mark.parametrize(
    ("entries", "model", "why"),
    [
        ([], FLUX, "no host serves it"),
        ([entry("fal-ai", "f", IMAGE, "error")], FLUX, "no host serves it"),
        ([entry("fal-ai", "f", "image-to-video")], FLUX, "no host serves it"),
        ([entry("fal-ai", "f", IMAGE)], f"{FLUX}:nscale", "'nscale' does not serve it.* live at: fal-ai"),
        ([entry("wavespeed", "w", IMAGE)], FLUX, "wavespeed, whose form .* is not documented"),
        (
            [entry("zai-org", "z", IMAGE), entry("fal-ai", "f", IMAGE)],
            f"{FLUX}:zai-org",
            "zai-org, whose form .* is not documented",
        ),
    ],
)
async def test_a_model_that_cannot_be_asked_says_why(
    upstream: Upstream, entries: list[Any], model: str, why: str
) -> None:
    upstream.on("GET", f"/api/models/{FLUX}", mapping(FLUX, *entries))
    with pytest.raises(ProviderModelNotFound, match=why) as caught:
        await provider(upstream).generate_image("A cat", model=model)
    assert (caught.value.operation, caught.value.model) == ("generate_image", model)
    assert {request.method for request in upstream.requests} == {"GET"}


async def test_hf_inference_needs_no_look_up(upstream: Upstream) -> None:
    upstream.on("POST", f"/hf-inference/models/{FLUX}", whole(200, png(), content_type="image/png"))
    await provider(upstream).generate_image("A cat", model=f"{FLUX}:hf-inference")
    assert looked_up(upstream) == 0


async def test_a_mapping_is_looked_up_once_for_everyone(upstream: Upstream) -> None:
    VENDOR.serve(upstream, VENDOR.image or VENDOR.chat)
    for key in ("hf_first-0123456789", "hf_second-0123456789"):
        await provider(upstream, key).generate_image("A cat", model=FLUX)
    assert [request.method for request in upstream.requests] == ["GET", "POST", "POST"]
    assert [VENDOR.key_in(request)[:8] for request in upstream.requests] == ["hf_first", "hf_first", "hf_secon"]
    assert upstream.connections == 1


async def test_a_mapping_is_forgotten_in_time(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    VENDOR.serve(upstream, VENDOR.image or VENDOR.chat)
    now = 1000.0
    monkeypatch.setattr(huggingface, "monotonic", lambda: now)
    for later in (0.0, huggingface.ROUTES_KEPT - 1, 2):
        now += later
        await provider(upstream).generate_image("A cat", model=FLUX)
    assert looked_up(upstream) == 2


async def test_a_mapping_that_led_nowhere_is_looked_up_again(upstream: Upstream) -> None:
    image = VENDOR.image or VENDOR.chat
    VENDOR.serve(upstream, image, whole(404, {"error": "Not Found"}))
    with pytest.raises(ProviderModelNotFound):
        await provider(upstream).generate_image("A cat", model=FLUX)
    VENDOR.serve(upstream, image)
    await provider(upstream).generate_image("A cat", model=FLUX)
    assert looked_up(upstream) == 2


async def test_a_look_up_that_failed_for_a_moment_is_tried_again(upstream: Upstream) -> None:
    VENDOR.serve(upstream, VENDOR.image or VENDOR.chat)
    upstream.send(whole(503, {"error": "busy"}))
    await provider(upstream).generate_image("A cat", model=FLUX)
    assert looked_up(upstream) == 2


async def test_a_refused_key_is_told_by_the_look_up_already(upstream: Upstream) -> None:
    upstream.on("GET", f"/api/models/{FLUX}", VENDOR.bad_key)
    with pytest.raises(ProviderAuthFailed):
        await provider(upstream).generate_image("A cat", model=FLUX)
    upstream.on("GET", f"/api/models/{FLUX}", whole(404, {"error": "Repository not found"}))
    with pytest.raises(ProviderModelNotFound):
        await provider(upstream).generate_image("A cat", model=FLUX)


async def test_what_is_remembered_has_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "KEPT", 2)
    recent = huggingface._Recent[int](60)
    for number in range(3):
        recent.put(number, number)
    assert [recent.get(number) for number in range(3)] == [None, 1, 2]


# -- which hosts a key goes to -----------------------------------------------------------------------------------------


def test_the_hub_is_huggingfaces_own_only_where_the_router_is() -> None:
    def hub(**config: Any) -> str:
        return HuggingFaceProvider("hf_x", config)._hub

    assert hub() == "https://huggingface.co/api"
    assert hub(base_url="https://router.huggingface.co/v1/") == "https://huggingface.co/api"
    assert hub(base_url="https://proxy.example.com/hf/v1") == "https://proxy.example.com/hf/api"
    assert hub(base_url="https://proxy.example.com/v1", hub_url="https://hub.example.com/api/") == (
        "https://hub.example.com/api"
    )
    with pytest.raises(InvalidConfig, match="hub_url"):
        hub(hub_url="https://169.254.169.254/api")


async def test_hub_url_is_asked_in_place_of_the_routers_host(upstream: Upstream) -> None:
    with Upstream() as hub:
        VENDOR.serve(hub, VENDOR.validate)
        assert await provider(upstream, hub_url=f"{hub.url}/api").validate_api_key() is True
        assert len(hub.requests) == 1
    assert not upstream.requests


async def test_the_organisation_that_pays_is_named(upstream: Upstream) -> None:
    for name in ("chat", "image"):
        exchange = VENDOR.exchanges()[name]
        VENDOR.serve(upstream, exchange)
        call = {"chat": "chat", "image": "generate_image"}[name]
        await getattr(provider(upstream, bill_to="acme-inc"), call)("Hi", model=exchange.kwargs["model"])
        assert upstream.last.headers["x-hf-bill-to"] == "acme-inc"
    with pytest.raises(InvalidConfig, match="bill_to"):
        await provider(upstream, bill_to="acme\r\nX: y").chat("Hi", model="a/b")


# -- chat --------------------------------------------------------------------------------------------------------------


async def test_streamed_thoughts_without_an_opening_tag_stay_hidden(upstream: Upstream) -> None:
    reply = events(chunk("Okay, "), chunk("secret.</th"), chunk("ink>\n\nHi"), chunk("!"), chunk(finish="stop"))
    VENDOR.serve(upstream, VENDOR.stream, reply)
    stream = provider(upstream).stream_chat("Hello", model="deepseek-ai/DeepSeek-R1")
    assert "".join([delta async for delta in stream]) == "Hi!"


async def test_options_that_the_router_does_not_document_are_dropped_and_said(upstream: Upstream) -> None:
    VENDOR.serve(upstream, VENDOR.chat)
    options = {"verbosity": "low", "service_tier": "flex", "user": "x", "seed": 7, "top_p": 0.9, "max_tokens": 5}
    reply = await provider(upstream).chat("Hello", model="a/b", **options)
    assert reply.dropped_params == ("verbosity", "service_tier", "user")
    assert upstream.last.json.keys() == {"model", "messages", "seed", "top_p", "max_tokens"}


# -- lists -------------------------------------------------------------------------------------------------------------


def hub_page(*ids: str, next_url: str = "", task: str = IMAGE) -> Reply:
    rows = [{"id": id_, "inferenceProviderMapping": [entry("fal-ai", id_, task)]} for id_ in ids]
    before = '<https://huggingface.co/api/models?cursor=x>; rel="prev", '
    return whole(200, rows, {"link": f'{before}<{next_url}>; rel="next"'} if next_url else {})


def hub_pages(pages: Mapping[str, Reply]) -> Callable[[Request], Reply]:
    """A page of the image list for each cursor; the other lists are empty."""

    def answer(request: Request) -> Reply:
        if "text-to-image" not in request.query:
            return whole(200, [])
        return pages[request.query.partition("cursor=")[2]]

    return answer


async def test_the_hubs_list_is_read_page_by_page_and_the_key_stays_at_our_host(upstream: Upstream) -> None:
    upstream.on("GET", "/v1/models", whole(200, {"object": "list", "data": []}))
    with Upstream() as elsewhere:
        following = f"{elsewhere.url}/api/models?pipeline_tag=text-to-image&cursor=two"
        pages = {"": hub_page("a/1", next_url=following), "two": hub_page("a/2")}
        upstream.on("GET", "/api/models", hub_pages(pages))
        models = await provider(upstream).get_available_models()
        assert not elsewhere.requests
    assert [model.model_id for model in models] == ["a/1", "a/2"]
    assert all(VENDOR.key_in(request) == VENDOR.key for request in upstream.requests)
    assert upstream.requests[1].query == (
        "inference_provider=all&pipeline_tag=text-to-image&sort=trendingScore&limit=50"
        "&expand%5B%5D=inferenceProviderMapping&expand%5B%5D=pipeline_tag"
    )


async def test_a_hub_that_repeats_its_page_ends_with_an_error(upstream: Upstream) -> None:
    upstream.on("GET", "/v1/models", whole(200, {"object": "list", "data": []}))
    again = hub_page("a/1", next_url="https://huggingface.co/api/models?pipeline_tag=text-to-image&cursor=two")
    upstream.on("GET", "/api/models", hub_pages({"": again, "two": again}))
    with pytest.raises(ProviderInvalidResponse, match="repeats a page"):
        await provider(upstream).get_available_models()
    assert len(upstream.requests) == 3


@pytest.mark.parametrize(("task", "kept"), [(IMAGE, huggingface.ROWS), ("image-to-video", 0)])
async def test_a_list_without_an_end_is_left(upstream: Upstream, task: str, kept: int) -> None:
    upstream.on("GET", "/v1/models", whole(200, {"object": "list", "data": []}))

    def endless(request: Request) -> Reply:
        if "text-to-image" not in request.query:
            return whole(200, [])
        number = int(request.query.partition("cursor=")[2] or 0)
        ids = [f"a/{number}-{row}" for row in range(50)]
        following = f"https://x/api/models?pipeline_tag=text-to-image&cursor={number + 1}"
        return hub_page(*ids, next_url=following, task=task)

    upstream.on("GET", "/api/models", endless)
    assert len(await provider(upstream).get_available_models()) == kept
    assert len(upstream.requests) == 1 + huggingface.ROWS // 50 + 2


async def test_the_lists_are_open_to_all(upstream: Upstream) -> None:
    VENDOR.serve(upstream, VENDOR.models)
    assert HuggingFaceProvider.public_model_list
    assert await provider(upstream, "").get_available_models() == VENDOR.models.result
    assert not any("authorization" in request.headers for request in upstream.requests)


async def test_half_a_list_is_none(upstream: Upstream) -> None:
    """A sync would take what is missing for gone."""
    VENDOR.serve(upstream, VENDOR.models)
    upstream.on("GET", "/api/models", whole(404, {"error": "no"}))
    with pytest.raises(Exception, match="no"):
        await provider(upstream).get_available_models()


@pytest.mark.parametrize(
    ("providers", "expected"),
    [
        (None, ModelInfo(model_id="a/b", capabilities=("chat", "content"))),
        ([{"provider": "x", "status": "live"}], ModelInfo(model_id="a/b", capabilities=("chat", "content"))),
        (
            [{"provider": "x", "status": "live", "pricing": {"input": "1", "output": -1}, "context_length": "much"}],
            ModelInfo(model_id="a/b", capabilities=("chat", "content")),
        ),
        ([{"provider": "x", "status": "error"}], None),
        ([{"provider": "x"}], None),
    ],
)
def test_what_a_row_does_not_say_is_unknown_and_not_free(providers: Any, expected: ModelInfo | None) -> None:
    assert HuggingFaceProvider("hf_x").parse_model({"id": "a/b", "providers": providers}) == expected


# -- keys --------------------------------------------------------------------------------------------------------------

NO_INFERENCE = {"role": "fineGrained", "fineGrained": {"global": ["discussion.write"], "scoped": []}}


@pytest.mark.parametrize(
    ("told", "accepted"),
    [
        (token(role="read"), True),
        (token(role="write"), True),
        (token(**NO_INFERENCE), False),
        (token(role="fineGrained", fineGrained={"scoped": [{"permissions": ["inference.serverless.write"]}]}), True),
        (token(role="fineGrained"), False),
        (whole(200, {"name": "acme", "auth": {"type": "oauth"}}), True),
        (whole(403, {"error": "no"}), False),
    ],
)
async def test_a_key_is_good_if_it_may_call_inference_providers(
    upstream: Upstream, told: Reply, accepted: bool
) -> None:
    VENDOR.serve(upstream, VENDOR.validate, told)
    assert await provider(upstream).validate_api_key() is accepted


async def test_an_answer_about_no_key_tells_nothing(upstream: Upstream) -> None:
    VENDOR.serve(upstream, VENDOR.validate, whole(200, ["a", "list"]))
    with pytest.raises(ProviderInvalidResponse):
        await provider(upstream).validate_api_key()


async def test_only_a_yes_is_remembered_and_not_for_long(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(huggingface, "monotonic", lambda: now)
    VENDOR.serve(upstream, VENDOR.validate, token(**NO_INFERENCE))
    assert [await provider(upstream).validate_api_key() for _ in range(2)] == [False, False]
    VENDOR.serve(upstream, VENDOR.validate)
    assert [await provider(upstream).validate_api_key() for _ in range(2)] == [True, True]
    assert len(upstream.requests) == 3
    assert await provider(upstream, "hf_another-0123456789").validate_api_key() is True
    assert len(upstream.requests) == 4
    with Upstream() as other_hub:
        VENDOR.serve(other_hub, VENDOR.validate, VENDOR.bad_key)
        assert await provider(other_hub).validate_api_key() is False
    VENDOR.serve(upstream, VENDOR.validate, VENDOR.bad_key)
    now += huggingface.KEYS_KEPT + 1
    assert await provider(upstream).validate_api_key() is False


async def test_no_key_is_remembered_as_it_is(upstream: Upstream) -> None:
    VENDOR.serve(upstream, VENDOR.validate)
    await provider(upstream).validate_api_key()
    remembered = await http.shared(("huggingface", "keys"), lambda _: None)
    assert len(remembered._values) == 1
    assert VENDOR.key not in repr(remembered)


# -- the whole way -----------------------------------------------------------------------------------------------------


def test_a_row_with_the_upstream_as_its_base_url_serves_every_capability(
    upstream: Upstream, superuser: User, make_provider: Callable[..., AIProvider], make_model: Callable[..., AIModel]
) -> None:
    for name in ("chat", "image", "audio"):
        VENDOR.serve(upstream, VENDOR.exchanges()[name])
    row = make_provider("huggingface", api_base_url=f"{upstream.url}/v1", shared_api_key=VENDOR.key)
    make_model(row, "chat", "content", model_id="deepseek-ai/DeepSeek-R1:together")
    make_model(row, "image", model_id=FLUX)
    make_model(row, "audio", model_id=KOKORO)
    assert AIModel.objects.filter(is_active=True).count() == 3

    reply = UnifiedAIService.chat("Hello", admin=superuser)
    image = UnifiedAIService.generate_image("A cat", admin=superuser, size="1024x768", quality="hd", style="vivid")
    speech = UnifiedAIService.text_to_speech("Hello there.", admin=superuser, voice="alloy", speed=1.0)
    assert (reply, reply.usage) == ("Hi there.", VENDOR.chat.info["usage"])
    assert (image.getvalue(), image.dropped_params) == (png(), ("quality", "style"))
    assert (speech.getvalue(), speech.dropped_params) == (mp3(), ())

    article = dict.fromkeys(("title", "meta_title", "meta_description", "content", "slug"), "Cats") | {"keywords": []}
    VENDOR.serve(upstream, VENDOR.chat, whole(200, completion(f"Hmm.</think>{json.dumps(article)}")))
    assert UnifiedAIService.generate_content("Cats", admin=superuser)["title"] == "Cats"
    assert {VENDOR.key_in(request) for request in upstream.requests} == {VENDOR.key}
