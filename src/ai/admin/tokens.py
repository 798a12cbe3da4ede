"""Bearer tokens: each user's own, shown once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from src.ai.admin.base import OwnedAdmin, is_superuser
from src.ai.admin.display import code, muted
from src.ai.admin.generic import ModelForm
from src.ai.models import APIToken

LIFETIMES = [
    ("7", _("7 days")),
    ("30", _("30 days")),
    ("90", _("90 days")),
    ("365", _("1 year")),
    ("", _("no end: until it is revoked")),
]


class TokenForm(ModelForm[APIToken]):
    """What is chosen of a new token."""

    lifetime = forms.TypedChoiceField(
        label=_("Valid for"),
        choices=LIFETIMES,
        initial="30",
        required=False,
        empty_value=None,
        coerce=lambda days: timedelta(days=int(days)),
    )

    class Meta:
        model = APIToken
        fields = ("name",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "name" in self.fields:
            self.fields["name"].required = True


class ValidityFilter(admin.SimpleListFilter):
    """Tokens that still work, and those that have run out."""

    title = _("validity")
    parameter_name = "validity"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> list[tuple[str, Any]]:
        return [("valid", _("valid")), ("expired", _("expired"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[APIToken]) -> QuerySet[APIToken]:
        expired = Q(expiry__lte=timezone.now())
        chosen: dict[str | None, Callable[[], QuerySet[APIToken]]] = {
            "valid": lambda: queryset.exclude(expired),
            "expired": lambda: queryset.filter(expired),
        }
        return chosen.get(self.value(), lambda: queryset)()


@admin.register(APIToken)
class APITokenAdmin(OwnedAdmin[APIToken]):
    """Each makes and revokes their own; superusers see all and may revoke any. A token is shown once."""

    form = TokenForm
    owner_field = "user"
    fields = ("name", "lifetime")
    list_select_related = ("user",)
    list_display_links = None
    search_fields = ("name", "token_key", "user__username")
    actions = ("delete_selected",)
    hidden_lookups = ("digest",)
    empty_text = _("No API tokens yet. Add one to call the API: it is shown once, right after it is made.")

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        whose = ("user",) if is_superuser(request.user) else ()
        return ("label", "prefix", *whose, "created", "expires", "valid", "last_used_at", "revoke_link")

    def get_list_filter(self, request: HttpRequest) -> tuple[Any, ...]:
        whose = (("user", admin.RelatedOnlyFieldListFilter),) if is_superuser(request.user) else ()
        return (ValidityFilter, *whose)

    def has_change_permission(self, request: HttpRequest, obj: APIToken | None = None) -> bool:
        return False

    def get_fields(self, request: HttpRequest, obj: APIToken | None = None) -> Any:
        whose = ("user",) if is_superuser(request.user) else ()
        return ("name", "prefix", *whose, "created", "expires", "valid", "last_used_at") if obj else self.fields

    def get_readonly_fields(self, request: HttpRequest, obj: APIToken | None = None) -> tuple[str, ...]:
        return ("prefix", "user", "created", "expires", "valid", "last_used_at") if obj else ()

    def save_model(self, request: HttpRequest, obj: APIToken, form: ModelForm[APIToken], change: bool) -> None:
        """Make the token and show it: what is kept of it is a digest."""
        made, token = APIToken.objects.create(user=request.user, name=obj.name, expiry=form.cleaned_data["lifetime"])
        for field in APIToken._meta.concrete_fields:
            setattr(obj, field.attname, getattr(made, field.attname))
        note = gettext("The token “%(name)s” is made. Copy it now: it is not shown again.") % {"name": obj.name}
        shown = '{} <code dir="ltr" class="ai-token" id="new-token">{}</code>'
        self.message_user(request, format_html(shown, note, token), messages.SUCCESS)

    def response_add(self, request: HttpRequest, obj: APIToken, post_url_continue: str | None = None) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:ai_apitoken_changelist"))

    @admin.action(description=_("Revoke selected tokens"), permissions=["delete"])
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[APIToken]) -> HttpResponse | None:
        return delete_selected(self, request, queryset)

    # -- columns ---------------------------------------------------------------------------------------------------

    @admin.display(description=_("name"), ordering="name")
    def label(self, token: APIToken) -> SafeString | str:
        return token.name or muted(_("unnamed"))

    @admin.display(description=_("starts with"), ordering="token_key")
    def prefix(self, token: APIToken) -> SafeString:
        return code(f"{token.token_key}…")

    @admin.display(description=_("expires"), ordering="expiry")
    def expires(self, token: APIToken) -> Any:
        return token.expiry or gettext("never")

    @admin.display(description=_("valid"), boolean=True)
    def valid(self, token: APIToken) -> bool:
        return not token.is_expired

    @admin.display(description=_("revoke"))
    def revoke_link(self, token: APIToken) -> SafeString:
        url = reverse("admin:ai_apitoken_delete", args=[token.pk])
        return format_html('<a href="{}">{}</a>', url, gettext("Revoke"))
