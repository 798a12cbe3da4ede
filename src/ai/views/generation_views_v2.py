"""Generation: parse, call the service, answer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, TypeVar, cast

from django.contrib.auth.models import AbstractUser
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django_filters import FilterSet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.decorators import action
from rest_framework.exceptions import ValidationError
from rest_framework.permissions import IsAdminUser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.settings import api_settings
from rest_framework.viewsets import GenericViewSet

from src.ai.models import AIModel, AIProvider, APIToken, GeneratedMedia
from src.ai.providers.base import OPERATIONS
from src.ai.results import Article, Media, Reply
from src.ai.serializers.ai_provider_serializer import AvailableModelSerializer, AvailableProviderSerializer
from src.ai.serializers.audio_generation_serializer import AudioGenerationResponseSerializer, AudioGenerationSerializer
from src.ai.serializers.base import shared
from src.ai.serializers.chat_serializer import ChatResponseSerializer, ChatSerializer
from src.ai.serializers.content_generation_serializer import (
    ContentGenerationResponseSerializer,
    ContentGenerationSerializer,
)
from src.ai.serializers.image_generation_serializer import ImageGenerationResponseSerializer, ImageGenerationSerializer
from src.ai.services.caller import Caller, calling, identify
from src.ai.services.ledger.entries import Standing
from src.ai.services.limit_headers import limit_headers
from src.ai.services.listing import describe_models, describe_providers, models_with, providers_with
from src.ai.services.media import save_all
from src.ai.services.token_rules import rules_of
from src.ai.services.unified_service import UnifiedAIService
from src.ai.views.filters import AvailableModelFilter
from src.ai.views.idempotency import idempotent
from src.ai.views.pagination import CataloguePagination
from src.ai.views.streaming import EventStreamRenderer, StreamingMixin, or_stream
from src.core.graceful import to_its_end
from src.core.request_id import current_request_id

R = TypeVar("R", Article, Media, Reply)


class UnifiedAIGenerationViewSet(StreamingMixin, GenericViewSet[Any]):
    """Images, content, chat and speech from whichever model is active."""

    permission_classes = (IsAdminUser,)
    pagination_class = CataloguePagination
    filterset_class: type[FilterSet] | None = None
    search_fields: Sequence[str] = ()
    ordering_fields: Sequence[str] = ()
    _standings: Sequence[Standing] = ()

    @idempotent
    @extend_schema(request=ImageGenerationSerializer, responses=ImageGenerationResponseSerializer)
    @action(detail=False, methods=["post"], url_path="image/generate", serializer_class=ImageGenerationSerializer)
    def generate_image(self, request: Request) -> Response:
        """Make an image: a URL where it is saved, base64 where not."""
        asked = self._validated(request)
        keep = {name: asked.pop(name) for name in ("save_to_media", "title", "alt_text")}
        made = self._told(UnifiedAIService.generate_image(admin=self._admin, **asked))
        files = self._files(request, made, GeneratedMedia.Kind.IMAGE, asked["prompt"], **keep)
        answer = {**files[0], "more": files[1:], "placeholder": made.placeholder, "info": made.info}
        return Response(shared(ImageGenerationResponseSerializer).to_representation(answer))

    @idempotent
    @extend_schema(request=ContentGenerationSerializer, responses=ContentGenerationResponseSerializer)
    @action(detail=False, methods=["post"], url_path="content/generate", serializer_class=ContentGenerationSerializer)
    def generate_content(self, request: Request) -> Response:
        """Write an article about a topic."""
        article = self._told(UnifiedAIService.generate_content(admin=self._admin, **self._validated(request)))
        return Response(
            shared(ContentGenerationResponseSerializer).to_representation({**article, "info": article.info})
        )

    @or_stream
    @idempotent
    @extend_schema(
        request=ChatSerializer,
        responses={
            (200, JSONRenderer.media_type): ChatResponseSerializer,
            (200, EventStreamRenderer.media_type): OpenApiTypes.STR,
        },
    )
    @action(
        detail=False,
        methods=["post"],
        url_path="chat/send",
        serializer_class=ChatSerializer,
        renderer_classes=[*api_settings.DEFAULT_RENDERER_CLASSES, EventStreamRenderer],
    )
    def send_chat(self, request: Request) -> Response:
        """Reply to a message; with `stream`, as events: `delta` (`text`) …, then `done` (as `info`) or `error`."""
        return self._replied(UnifiedAIService.chat(admin=self._admin, **self._validated(request)))

    async def asend_chat(self, request: Request) -> HttpResponseBase:
        """The asynchronous twin of `send_chat`, without `Idempotency-Key`. As there, who leaves ends streams alone."""
        asked = self._validated(request)
        if not self.wants_stream(request):
            return self._replied(await to_its_end(UnifiedAIService.achat(admin=self._admin, **asked)))
        response, info = await self.astream_chat(admin=self._admin, **asked)
        self._standings = info.standings
        return response

    @idempotent
    @extend_schema(request=AudioGenerationSerializer, responses=AudioGenerationResponseSerializer)
    @action(detail=False, methods=["post"], url_path="audio/generate", serializer_class=AudioGenerationSerializer)
    def generate_audio(self, request: Request) -> Response:
        """Speak a text: a URL where it is saved, base64 where not."""
        asked = self._validated(request)
        keep = {name: asked.pop(name) for name in ("save_to_media", "title")}
        made = self._told(UnifiedAIService.text_to_speech(admin=self._admin, **asked))
        answer = {
            **self._files(request, made, GeneratedMedia.Kind.AUDIO, asked["text"], **keep)[0],
            "placeholder": made.placeholder,
            "info": made.info,
        }
        return Response(shared(AudioGenerationResponseSerializer).to_representation(answer))

    @extend_schema(
        operation_id="ai_available_models_list",
        responses=AvailableModelSerializer(many=True),
        parameters=[
            OpenApiParameter("capability", str, OpenApiParameter.PATH, enum=["image", "content", "chat", "audio"])
        ],
    )
    @action(
        detail=False,
        url_path=f"(?P<capability>{'|'.join(OPERATIONS)})/models",
        serializer_class=AvailableModelSerializer,
        filterset_class=AvailableModelFilter,
        search_fields=("name", "display_name", "model_id"),
        ordering_fields=("name", "model_id", "pricing_input", "pricing_output", "sort_order"),
        queryset=AIModel.objects.all(),
    )
    def models(self, request: Request, capability: str) -> Response:
        """The models that have a capability, active ones first, and whether you may use them."""
        page = self.paginate_queryset(self.filter_queryset(models_with(capability)))
        return self.get_paginated_response(
            AvailableModelSerializer(describe_models(page or (), self._admin, capability), many=True).data
        )

    @extend_schema(
        operation_id="ai_available_providers_list",
        responses=AvailableProviderSerializer(many=True),
        parameters=[OpenApiParameter("capability", str, required=True, description='Such as "image".')],
    )
    @action(
        detail=False,
        serializer_class=AvailableProviderSerializer,
        search_fields=("slug", "name", "display_name"),
        ordering_fields=("sort_order", "name"),
        queryset=AIProvider.objects.all(),
    )
    def providers(self, request: Request) -> Response:
        """The active providers that have a capability, and whether you may use them."""
        capability = request.query_params.get("capability", "")
        page = self.paginate_queryset(self.filter_queryset(providers_with(capability)))
        rows = describe_providers(page or (), self._admin, capability)
        return self.get_paginated_response(AvailableProviderSerializer(rows, many=True).data)

    def stream(self, request: Request) -> HttpResponseBase:
        """Reply to a message with events."""
        response, info = self.stream_chat(request, admin=self._admin, **self._validated(request))
        self._standings = info.standings
        return response

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Answer on behalf of whoever sends the request."""
        with self.calling():
            return super().dispatch(request, *args, **kwargs)

    @staticmethod
    def calling() -> AbstractContextManager[None]:
        """What runs inside calls as whoever sends the request."""
        return calling(Caller(request_id=current_request_id(), shares_connections=True))

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Once it is known who that is, the books may know it too."""
        super().initial(request, *args, **kwargs)
        if isinstance(request.auth, APIToken):
            identify(token=request.auth.token_key, rules=rules_of(request.auth))

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        """Say what is left of the limits."""
        for name, value in limit_headers(self._standings).items():
            response[name] = value
        return super().finalize_response(request, response, *args, **kwargs)

    def _replied(self, reply: Reply) -> Response:
        self._told(reply)
        return Response(shared(ChatResponseSerializer).to_representation({"reply": reply, "info": reply.info}))

    def _told(self, result: R) -> R:
        """The result, after its headers are taken from it."""
        self._standings = result.info.standings
        return result

    @property
    def _admin(self) -> AbstractUser:
        return cast(AbstractUser, self.request.user)  # the permission lets nobody else in

    def _validated(self, request: Request) -> dict[str, Any]:
        with suppress(ValidationError):
            return dict(shared(cast(type[Serializer[Any]], self.get_serializer_class())).run_validation(request.data))
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)

    def _files(
        self,
        request: Request,
        made: Media,
        kind: GeneratedMedia.Kind,
        prompt: str,
        *,
        save_to_media: bool,
        **described: str,
    ) -> list[dict[str, Any]]:
        facts = [{"content_type": media.content_type, "size": media.getbuffer().nbytes} for media in made.all]
        sent: list[dict[str, Any]]
        if not save_to_media:
            sent = [{"url": None, "base64": media.base64(), "media_id": None} for media in made.all]
        else:
            kept = save_all(made.all, kind=kind, prompt=prompt, owner=self._admin, **described)
            urls = [request.build_absolute_uri(row.file.url) for row in kept]
            sent = [
                {"url": url, "base64": None, "media_id": row.public_id} for url, row in zip(urls, kept, strict=True)
            ]
        return [{**fact, **file} for fact, file in zip(facts, sent, strict=True)]
