"""How each inference provider behind HuggingFace's router wants images and speech asked for. Pure, no transport.

HuggingFace calls them inference providers; here they are hosts, to be told from our own providers.
Source of every form: `huggingface_hub` 2.4.0, inference/_providers/*.py, 2026-11-23.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from django.utils.translation import gettext as _

from src.ai.exceptions import InvalidRequest
from src.ai.providers.openai_media import parse_images
from src.ai.providers.passthrough import Fields, to_raw, to_value
from src.ai.providers.payload import read_json
from src.ai.providers.vendor import Answer
from src.core.http import Download

# What an answer holds for each image or recording: a URL, a `data:` URL or base64; or the file itself.
Found = str | Download


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a model is served: the host, the host's own id of the model, and whether it answers now.

    `weights` is the file of a LoRA, which the host lays over the model of `host_model`.
    """

    host: str
    model: str
    host_model: str
    task: str = ""
    status: str = "live"
    weights: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One host's way of doing one task.

    Args:
        path: below `https://router.huggingface.co/{host}`.
        build: the body, of the route, the text and what was asked for.
        read: the files, of the answer. A `ValueError` says that there are none, `NotReady` that there are none yet.
        takes: the options that the host has a field for.
    """

    path: Callable[[Route], str]
    build: Callable[[Route, str, dict[str, Any]], dict[str, Any]]
    read: Callable[[Answer], Sequence[Found]]
    takes: frozenset[str]
    headers: Mapping[str, str] = field(default_factory=dict)
    accept: str = "application/json"


class NotReady(Exception):
    """The host is still at work, and its answer does not wait any longer."""


# -- what the caller says ----------------------------------------------------------------------------------------------

_SIZE: Final = re.compile(r"([1-9]\d{1,3})x([1-9]\d{1,3})")
_IMAGE_OPTIONS: Final = frozenset(
    {"size", "negative_prompt", "num_inference_steps", "guidance_scale", "scheduler", "seed"}
)

# OpenAI's voices, which callers name out of habit. No host has them.
_OPENAI_VOICES: Final = frozenset(
    "alloy ash ballad cedar coral echo fable marin nova onyx sage shimmer verse".split()  # noqa: SIM905 (readable)
)
# Kokoro voices of the same names, and the one it starts with; not verified against its own list (2026-11-23).
_KOKORO_VOICES: Final = {
    "alloy": "af_alloy",
    "echo": "am_echo",
    "fable": "bm_fable",
    "nova": "af_nova",
    "onyx": "am_onyx",
}
_KOKORO_VOICE: Final = "af_heart"


def build_image(form: Form, route: Route, prompt: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The body for one image, and the names of the options that it had to leave out."""
    taken: dict[str, Any] = {}
    dropped: list[str] = []
    for name, value in options.items():
        if value is None:
            continue
        if name not in form.takes:
            dropped.append(name)
        elif name != "size":
            taken[name] = value
        elif size := _SIZE.fullmatch(str(value)):
            taken |= {"width": int(size[1]), "height": int(size[2])}
        else:
            dropped.append(name)
    return form.build(route, prompt, taken), dropped


def build_speech(form: Form, route: Route, text: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The body for one recording, and the names of the options that it had to leave out.

    No host documents a field for `speed`. Raises `InvalidRequest` where the host needs a voice and none is known.
    """
    asked = {name: value for name, value in options.items() if value is not None}
    voice = resolve_voice(route.model, asked.get("voice")) if "voice" in form.takes else None
    dropped = [name for name, value in asked.items() if name != "voice" and (name, value) != ("speed", 1)]
    if "voice" in asked and voice is None:
        dropped.append("voice")
    if voice is None and route.host == "together":
        voice = _KOKORO_VOICE if is_kokoro(route.model) else None
        if voice is None:
            raise InvalidRequest(
                reason=f"{route.model} at together needs one of its own voices: name it, or set 'tts': {{'voice': …}}."
            )
    return form.build(route, text, {} if voice is None else {"voice": voice}), dropped


def resolve_voice(model: str, voice: object) -> str | None:
    """The model's name of a voice, or `None` where it is one that only OpenAI has."""
    name = str(voice or "")
    if name not in _OPENAI_VOICES:
        return name or None
    return _KOKORO_VOICES.get(name) if is_kokoro(model) else None


def is_kokoro(model: str) -> bool:
    return "kokoro" in model.lower()


# -- bodies ------------------------------------------------------------------------------------------------------------


def _hf_inference(route: Route, text: str, taken: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": text, "parameters": taken}


def _fal_image(route: Route, prompt: str, taken: dict[str, Any]) -> dict[str, Any]:
    body = {"prompt": prompt, **taken}
    if "width" in body:
        body["image_size"] = {"width": body.pop("width"), "height": body.pop("height")}
    if route.weights:
        path = f"https://huggingface.co/{route.model}/resolve/main/{quote(route.weights)}"
        body["loras"] = [{"path": path, "scale": 1}]
        if route.host_model == "fal-ai/lora":
            body["model_name"] = "stabilityai/stable-diffusion-xl-base-1.0"
    return body


def _fal_speech(route: Route, text: str, taken: dict[str, Any]) -> dict[str, Any]:
    return {"text": text, **taken}


def _nscale(route: Route, prompt: str, taken: dict[str, Any]) -> dict[str, Any]:
    body = {"model": route.host_model, "prompt": prompt, "response_format": "b64_json", **taken}
    if "width" in body:
        body["size"] = f"{body.pop('width')}x{body.pop('height')}"
    return body


def _together_image(route: Route, prompt: str, taken: dict[str, Any]) -> dict[str, Any]:
    body = {"model": route.host_model, "prompt": prompt, "response_format": "base64", **taken}
    if "num_inference_steps" in body:
        body["steps"] = body.pop("num_inference_steps")
    return body


def _openai_speech(route: Route, text: str, taken: dict[str, Any]) -> dict[str, Any]:
    return {"model": route.host_model, "input": text, **taken}


def _replicate(name: str) -> Callable[[Route, str, dict[str, Any]], dict[str, Any]]:
    def build(route: Route, text: str, taken: dict[str, Any]) -> dict[str, Any]:
        body: dict[str, Any] = {"input": {name: text, **taken}}
        if route.weights and name == "prompt":
            body["input"]["lora_weights"] = f"https://huggingface.co/{route.model}"
        _, _, version = route.host_model.partition(":")
        return {**body, "version": version} if version else body

    return build


# -- answers -----------------------------------------------------------------------------------------------------------


def _file(answer: Answer) -> list[Found]:
    """The body is the file."""
    if "json" in answer.content_type:
        answer.json()
        raise ValueError("it is JSON and no file")
    return [Download(answer.content, answer.content_type)]


def _fal_images(answer: Answer) -> list[Found]:
    return _some(image["url"] for image in answer.json()["images"])


def _fal_audio(answer: Answer) -> list[Found]:
    return _some([answer.json()["audio"]["url"]])


def _openai_images(answer: Answer) -> list[Found]:
    return _some(parse_images(answer.json()))


def _replicate_output(answer: Answer) -> list[Found]:
    """`Prefer: wait` ends after a minute, with a prediction that has no output yet."""
    data = answer.json()
    output = data["output"]
    if output is None and data.get("status") in ("starting", "processing", "queued"):
        raise NotReady(f"the host has not finished after its longest wait (status: {data['status']}). Try again later.")
    return _some([output] if isinstance(output, str) else output or [])


def _some(found: Iterable[Any]) -> list[Found]:
    files = list(found)
    if not files or not all(isinstance(file, str) and file for file in files):
        raise ValueError("it holds no file")
    return files


# -- forms -------------------------------------------------------------------------------------------------------------


def _at(path: str) -> Callable[[Route], str]:
    return lambda route: path.format(model=quote(route.host_model, safe="/:"))


def _prediction(route: Route) -> str:
    """An id with a version, `owner/name:version`, has it in the body."""
    return "/v1/predictions" if ":" in route.host_model else _at("/v1/models/{model}/predictions")(route)


_VOICE: Final = frozenset({"voice"})
_WAIT: Final = {"Prefer": "wait"}

IMAGE_FORMS: Final[Mapping[str, Form]] = {
    "hf-inference": Form(
        path=_at("/models/{model}"), build=_hf_inference, read=_file, takes=_IMAGE_OPTIONS, accept="image/png"
    ),
    "fal-ai": Form(path=_at("/{model}"), build=_fal_image, read=_fal_images, takes=_IMAGE_OPTIONS),
    "nscale": Form(
        path=_at("/v1/images/generations"),
        build=_nscale,
        read=_openai_images,
        takes=_IMAGE_OPTIONS - {"num_inference_steps"},
    ),
    "together": Form(
        path=_at("/v1/images/generations"), build=_together_image, read=_openai_images, takes=_IMAGE_OPTIONS
    ),
    "replicate": Form(
        path=_prediction, build=_replicate("prompt"), read=_replicate_output, takes=_IMAGE_OPTIONS, headers=_WAIT
    ),
}
SPEECH_FORMS: Final[Mapping[str, Form]] = {
    "hf-inference": Form(path=_at("/models/{model}"), build=_hf_inference, read=_file, takes=frozenset(), accept="*/*"),
    "fal-ai": Form(path=_at("/{model}"), build=_fal_speech, read=_fal_audio, takes=_VOICE),
    "together": Form(path=_at("/v1/audio/speech"), build=_openai_speech, read=_file, takes=_VOICE, accept="*/*"),
    "replicate": Form(path=_prediction, build=_replicate("text"), read=_replicate_output, takes=_VOICE, headers=_WAIT),
    "deepinfra": Form(
        path=_at("/v1/openai/audio/speech"), build=_openai_speech, read=_file, takes=_VOICE, accept="*/*"
    ),
}


# -- embeddings, of clients that speak OpenAI's form -------------------------------------------------------------------


def prepare_embeddings(fields: Fields) -> None:
    """OpenAI's fields as `hf-inference` takes them (huggingface_hub 2.4.0, `feature_extraction`).

    Raises:
        InvalidRequest: the input is tokens, which only OpenAI's own models share.
    """
    try:
        asked = to_value(fields["input"]) if "input" in fields else None
    except (ValueError, RecursionError):
        asked = None
    texts = [asked] if isinstance(asked, str) else asked
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest(reason=_("'input' must be a text or a list of texts for this model."), attr="input")
    fields.clear()
    fields["inputs"] = to_raw(texts)


def read_embeddings(content: bytes, model: str) -> bytes:
    """A list of vectors in OpenAI's form; numbers also where base64 was asked for, as clients read both.

    Raises:
        ValueError: it is none.
    """
    vectors = read_json(content)
    if not isinstance(vectors, list) or not all(isinstance(row, list) and _are_numbers(row) for row in vectors):
        raise ValueError("it is no list of vectors")
    rows = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(vectors)]
    answer = {"object": "list", "data": rows, "model": model, "usage": {"prompt_tokens": 0, "total_tokens": 0}}
    return json.dumps(answer).encode()


def _are_numbers(row: list[Any]) -> bool:
    return bool(row) and all(isinstance(number, int | float) for number in row)
