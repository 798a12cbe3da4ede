"""Generated images and audio: to look at, listen to and delete."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from src.ai.admin.base import OwnedAdmin, is_superuser
from src.ai.admin.display import NOTHING, code, muted, warning
from src.ai.models import GeneratedMedia
from src.ai.services.media import delete_media


@admin.register(GeneratedMedia)
class GeneratedMediaAdmin(OwnedAdmin[GeneratedMedia]):
    """Owners see what they made, superusers all of it; deleting removes the file as well."""

    owner_field = "owner"
    readonly_fields = ("preview", "made_by", "file_size", "link")
    list_select_related = ("owner",)
    list_display_links = ("title_or_prompt",)
    search_fields = ("title", "prompt", "alt_text", "model_name")
    fields = (
        "preview",
        "title",
        "alt_text",
        "prompt",
        "kind",
        "made_by",
        "owner",
        "mime_type",
        "file_size",
        "link",
        "created_at",
    )
    empty_text = _("Nothing yet. Images and audio that are generated with save_to_media appear here.")

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        whose = ("owner",) if is_superuser(request.user) else ()
        return ("thumbnail", "title_or_prompt", "kind", "made_by", *whose, "file_size", "created_at")

    def get_list_filter(self, request: HttpRequest) -> tuple[Any, ...]:
        whose = (("owner", admin.RelatedOnlyFieldListFilter),) if is_superuser(request.user) else ()
        return ("kind", "placeholder", "created_at", *whose)

    def get_fields(self, request: HttpRequest, obj: GeneratedMedia | None = None) -> Any:
        # The owner's name leads to a page of users that normal admins can't open, and they know who they are.
        return [name for name in self.fields if name != "owner" or is_superuser(request.user)]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: GeneratedMedia | None = None) -> bool:
        return False

    def delete_model(self, request: HttpRequest, obj: GeneratedMedia) -> None:
        delete_media([obj])

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[GeneratedMedia]) -> None:
        delete_media(queryset)

    # -- columns ---------------------------------------------------------------------------------------------------

    @admin.display(description=_("preview"))
    def thumbnail(self, media: GeneratedMedia) -> SafeString:
        return _player(media, "ai-thumbnail")

    @admin.display(description=_("preview"))
    def preview(self, media: GeneratedMedia) -> SafeString:
        return _player(media, "ai-preview")

    @admin.display(description=_("title"), ordering="title")
    def title_or_prompt(self, media: GeneratedMedia) -> str:
        return str(media)

    @admin.display(description=_("made by"), ordering="model_name")
    def made_by(self, media: GeneratedMedia) -> SafeString:
        if media.placeholder:
            return format_html("{} {}", code(media.model_name), warning(_("placeholder: not made by a model")))
        return code(media.model_name)

    @admin.display(description=_("size"), ordering="size")
    def file_size(self, media: GeneratedMedia) -> str:
        return str(filesizeformat(media.size))

    @admin.display(description=_("file"))
    def link(self, media: GeneratedMedia) -> SafeString:
        if not media.file:
            return muted(NOTHING)
        return format_html('<a href="{}" dir="ltr">{}</a>', media.file.url, media.file.name)


def _player(media: GeneratedMedia, size: str) -> SafeString:
    if not media.file:
        return muted(NOTHING)
    if media.kind == GeneratedMedia.Kind.AUDIO:
        return format_html('<audio controls preload="none" class="{}" src="{}"></audio>', size, media.file.url)
    return format_html(
        '<img loading="lazy" class="{}" src="{}" alt="{}">', size, media.file.url, media.alt_text or str(media)
    )
