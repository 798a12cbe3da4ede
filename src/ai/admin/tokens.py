"""Bearer tokens: each user's own, shown once, and what they may be used for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.contrib.admin.widgets import FilteredSelectMultiple
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from src.ai.admin.base import OwnedAdmin, is_superuser, join_names
from src.ai.admin.display import (
    NOTHING,
    badges,
    below,
    code,
    money,
    muted,
    number,
    phrase,
    warning,
    with_held,
    with_unpriced,
)
from src.ai.admin.fields import CapabilitiesField
from src.ai.admin.generic import ModelForm
from src.ai.models import AIModel, AIProvider, APIToken, ModelCapability
from src.ai.providers.base import OPERATIONS
from src.ai.services import usage_reports

LIFETIMES = [
    ("7", _("7 days")),
    ("30", _("30 days")),
    ("90", _("90 days")),
    ("365", _("1 year")),
    ("", _("no end: until it is revoked")),
]


RULES = ("capabilities", "models", "requests_per_minute", "concurrent_requests", "monthly_budget")


class ModelsSelect(FilteredSelectMultiple):
    """In a box of its own: its script puts it first where it stands, which would be before the label."""

    def render(self, *args: Any, **kwargs: Any) -> SafeString:
        return format_html('<div class="related-widget-wrapper">{}</div>', super().render(*args, **kwargs))


class TokenForm(ModelForm[APIToken]):
    """What is chosen of a new token, and all but its life of one that there is."""

    lifetime = forms.TypedChoiceField(
        label=_("Valid for"),
        choices=LIFETIMES,
        initial="30",
        required=False,
        empty_value=None,
        coerce=lambda days: timedelta(days=int(days)),
    )

    capabilities = CapabilitiesField(
        label=_("Capabilities"),
        required=False,
        widget=forms.TextInput(attrs={"class": "vTextField", "dir": "ltr", "spellcheck": "false"}),
    )
    models = forms.MultipleChoiceField(
        label=_("Models"),
        required=False,
        widget=ModelsSelect(_("models"), is_stacked=False),
        help_text=_("None chosen: all. “provider/*” stands for all of a provider's models, later ones too."),
    )

    class Meta:
        model = APIToken
        fields = ("name", *RULES)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "name" in self.fields:
            self.fields["name"].required = True
        if "models" in self.fields:
            field = cast(forms.MultipleChoiceField, self.fields["models"])
            field.choices = _model_choices(self.instance.models)
        if "capabilities" in self.fields:
            hint = gettext("Separated by commas, of: %(known)s. Empty: everything.")
            self.fields["capabilities"].help_text = hint % {"known": ", ".join(_known_capabilities())}


def _model_choices(chosen: Iterable[str]) -> list[tuple[str, str]]:
    """What there is to choose from, and what has been chosen: a model may be gone, or not there yet."""
    rows = AIModel.objects.order_by("provider__slug", "model_id").values_list("provider__slug", "model_id")
    slugs = AIProvider.objects.order_by("slug").values_list("slug", flat=True)
    names = [*(f"{slug}/*" for slug in slugs), *(f"{slug}/{model_id}" for slug, model_id in rows)]
    return [(name, name) for name in dict.fromkeys([*names, *chosen])]


def _known_capabilities() -> list[str]:
    others = set(ModelCapability.objects.values_list("capability", flat=True).distinct()) - set(OPERATIONS)
    return [*OPERATIONS, *sorted(others)]


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
    """Each makes, changes and revokes their own; superusers see all and may do so with any. A token is shown once."""

    form = TokenForm
    owner_field = "user"
    list_select_related = ("user",)
    list_display_links = ("label",)
    search_fields = ("name", "token_key", "user__username")
    actions = ("delete_selected",)
    hidden_lookups = ("digest",)
    empty_text = _("No API tokens yet. Add one to call the API: it is shown once, right after it is made.")

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        whose = ("user",) if is_superuser(request.user) else ()
        about = ("created", "expires", "valid", "last_used_at", "revoke_link")
        return ("label", "prefix", *whose, "allowed", "limits", *about)

    def get_queryset(self, request: HttpRequest) -> QuerySet[APIToken]:
        return usage_reports.with_token_month(super().get_queryset(request))

    def get_list_filter(self, request: HttpRequest) -> tuple[Any, ...]:
        whose = (("user", admin.RelatedOnlyFieldListFilter),) if is_superuser(request.user) else ()
        return (ValidityFilter, *whose)

    def get_fieldsets(self, request: HttpRequest, obj: APIToken | None = None) -> Any:
        whose = ["user"] if is_superuser(request.user) else []
        about = ["prefix", *whose, "created", "expires", "valid", "last_used_at"] if obj else ["lifetime"]
        return [
            (None, {"fields": ["name", *about]}),
            (
                _("What it may be used for"),
                {
                    "fields": ["capabilities", "models"],
                    "description": _("It can do no more than the user whose it is. Other pages of the API stay open."),
                },
            ),
            (
                _("Limits"),
                {
                    "fields": [
                        "requests_per_minute",
                        "concurrent_requests",
                        "monthly_budget",
                        *(["spent"] if obj else []),
                    ]
                },
            ),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: APIToken | None = None) -> tuple[str, ...]:
        return ("prefix", "user", "created", "expires", "valid", "last_used_at", "spent") if obj else ()

    def save_model(self, request: HttpRequest, obj: APIToken, form: ModelForm[APIToken], change: bool) -> None:
        """Make the token and show it: what is kept of it is a digest."""
        if change:
            obj.save(update_fields=("name", *RULES))
            return
        rules = {name: getattr(obj, name) for name in RULES}
        life = form.cleaned_data["lifetime"]
        made, token = APIToken.objects.create(user=request.user, name=obj.name, expiry=life, **rules)
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

    @admin.display(description=_("may be used for"))
    def allowed(self, token: APIToken) -> SafeString:
        if not (token.capabilities or token.models):
            return muted(_("everything"))
        shown = badges(token.capabilities) if token.capabilities else muted(_("every capability"))
        return below(shown, join_names(token.models) or _("every model"))

    @admin.display(description=_("limits"))
    def limits(self, token: APIToken) -> SafeString:
        lines: list[SafeString] = []
        if token.requests_per_minute is not None:
            lines.append(phrase(gettext("{count} requests per minute"), count=number(token.requests_per_minute)))
        if token.concurrent_requests is not None:
            lines.append(phrase(gettext("{count} requests at once"), count=number(token.concurrent_requests)))
        if token.monthly_budget is not None:
            lines.append(self.spent(token))
        return format_html_join("", "<div>{}</div>", ((line,) for line in lines)) or muted(_("no limit"))

    @admin.display(description=_("used this month of the budget"))
    def spent(self, token: APIToken) -> SafeString:
        if token.monthly_budget is None:
            return muted(NOTHING)
        used = usage_reports.this_month_of_token(token)
        shown = phrase(gettext("{used} of {limit}"), used=money(used.cost), limit=money(token.monthly_budget))
        if used.cost + used.held_cost >= token.monthly_budget:
            shown = warning(shown)
        return with_unpriced(with_held(shown, used.held_cost), used.unpriced)

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
