"""The books: what every call to a vendor took."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeVar, cast

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import PAGE_VAR, ChangeList
from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from src.ai.admin.base import SectionAdmin
from src.ai.admin.display import (
    NOTHING,
    badges,
    below,
    code,
    duration,
    exact_money,
    money,
    muted,
    number,
    price,
    warning,
    with_held,
    with_under_way,
)
from src.ai.admin.usage_filters import (
    KEY_SOURCES,
    AdminFilter,
    BudgetTokenFilter,
    CapabilityFilter,
    DateFilter,
    KeySourceFilter,
    ModelFilter,
    NamedFilter,
    ProviderFilter,
)
from src.ai.models import CostState, UsageRecord, UsageState, UsageText
from src.ai.services import usage_csv, usage_reports
from src.ai.services.access import KeySource
from src.core.fields import EncryptedTextField
from src.core.keyset import ORDER, Page, page_of
from src.core.months import month_name, month_of
from src.core.secrets import Undecryptable

M = TypeVar("M", bound=Model)

SUM_VAR = "sum"  # asks for totals that are not made unasked

BADGES = {UsageState.RESERVED: "ai-wait", UsageState.SETTLED: "ai-on"}


class BooksAdmin(SectionAdmin[M]):
    """What only calls write. Who has the Django permission to view it sees all of it."""

    actions = None
    change_form_template = "admin/ai/books_change_form.html"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        title = capfirst(str(self.opts.verbose_name_plural))
        return super().changelist_view(request, {"title": title, **(extra_context or {})})


class RecordList(ChangeList):
    """The records by their place, never counted: the last page opens as fast as the first."""

    page: Page[UsageRecord]

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        self.sums_all = SUM_VAR in request.GET
        super().__init__(request, *args, **kwargs)

    def get_filters_params(self, params: Any = None) -> dict[str, Any]:
        return {name: value for name, value in super().get_filters_params(params).items() if name != SUM_VAR}

    def get_query_string(self, new_params: Any = None, remove: Any = None) -> str:
        return super().get_query_string(new_params, [*(remove or ()), SUM_VAR])

    def get_results(self, request: HttpRequest) -> None:
        try:
            self.page = page_of(self.queryset, request.GET.get(PAGE_VAR, ""), self.list_per_page)
        except ValueError as error:
            raise IncorrectLookupParameters(error) from error
        self.result_list = self.page.rows
        self.result_count = self.full_result_count = len(self.page.rows)
        self.show_full_result_count = self.can_show_all = self.multi_page = self.show_admin_actions = False

    # -- what the page says beside its rows ------------------------------------------------------------------------

    @cached_property
    def totals(self) -> usage_reports.Totals | None:
        """Of all that is filtered; `None` where that takes long and nobody has asked for it."""
        return self._totals_of_periods() or usage_reports.totals_of_records(
            self.queryset, **({"most": None} if self.sums_all else {})
        )

    @property
    def sums(self) -> Sequence[tuple[object, object]]:
        """The totals with their names; none where they were not made."""
        totals = self.totals
        if totals is None:
            return ()
        counted = () if totals.records is None else ((_("Records"), number(totals.records)),)
        return (
            *counted,
            (_("Requests charged"), with_under_way(number(totals.requests), totals.held_requests)),
            (_("Input tokens"), number(totals.input_tokens)),
            (_("Output tokens"), number(totals.output_tokens)),
            (_("Cost"), with_held(money(totals.cost), totals.held_cost)),
            (_("Calls of unknown cost"), number(totals.unpriced)),
        )

    @cached_property
    def unknown(self) -> int:
        return usage_reports.count_unknown_this_month()

    @property
    def unknown_is_more(self) -> bool:
        return self.unknown >= usage_reports.MOST_COUNTED

    @property
    def unknown_url(self) -> str:
        return f"?{urlencode({'state__exact': UsageState.UNKNOWN.value, 'date': str(month_of().first)})}"

    @property
    def export_url(self) -> str:
        return reverse("admin:ai_usagerecord_export") + super().get_query_string(remove=[SUM_VAR])

    @property
    def newer_url(self) -> str:
        return self._url_of(self.page.newer)

    @property
    def older_url(self) -> str:
        return self._url_of(self.page.older)

    @property
    def newest_url(self) -> str:
        return self.get_query_string() if self.page.newer else ""

    @property
    def sum_url(self) -> str:
        return super().get_query_string({SUM_VAR: "1"})

    def _url_of(self, cursor: str) -> str:
        return self.get_query_string({PAGE_VAR: cursor}) if cursor else ""

    def _totals_of_periods(self) -> usage_reports.Totals | None:
        """Where nothing is filtered by but what periods are kept of."""
        given = {name: values[-1] for name, values in self.get_filters_params().items()}
        named = {str(spec.parameter_name): spec.pk for spec in self.filter_specs if isinstance(spec, NamedFilter)}
        (month,) = (spec.month for spec in self.filter_specs if isinstance(spec, DateFilter))
        shared_key = given.get("key_source") == KeySource.SHARED
        told = {*named, *(["date"] * bool(month)), *(["key_source"] * shared_key)}
        if self.query or given.keys() - told:
            return None
        return usage_reports.totals_of_periods(month=month, shared_key=shared_key, **named)


@admin.register(UsageRecord)
class UsageRecordAdmin(BooksAdmin[UsageRecord]):
    """Every call to a vendor. It opens at once whatever the number of records; what can't is left to be asked for."""

    ordering = ORDER
    sortable_by = ()
    show_facets = admin.ShowFacets.NEVER
    list_display = ("created_at", "admin_name", "asked", "outcome", "units", "price_paid", "took")
    list_filter = (
        DateFilter,
        "state",
        "cost_state",
        ProviderFilter,
        CapabilityFilter,
        KeySourceFilter,
        AdminFilter,
        ModelFilter,
        BudgetTokenFilter,
    )
    search_fields = ("request_id",)
    search_help_text = _("A request id, or a part of an admin's name or of a model id.")
    readonly_fields = (
        "outcome",
        "whose_key",
        "request",
        "paid",
        "held",
        "prices",
        "took",
        "first_chunk",
        "accounting_month",
        "prompt",
        "reply",
    )
    empty_text = _("No calls yet. Each call to a provider is listed here from the moment before it is made.")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return RecordList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[UsageRecord], search_term: str
    ) -> tuple[QuerySet[UsageRecord], bool]:
        term = search_term.strip()
        return (usage_reports.find_records(queryset, term) if term else queryset), False

    def get_urls(self) -> list[URLPattern]:
        export = self.admin_site.admin_view(self.export_view)
        return [path("export/", export, name="ai_usagerecord_export"), *super().get_urls()]

    def export_view(self, request: HttpRequest) -> HttpResponse | StreamingHttpResponse | HttpResponseRedirect:
        """The records of the list as CSV, sent while they are read."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            records = self.get_changelist_instance(request).queryset
        except IncorrectLookupParameters:
            return HttpResponseRedirect(reverse("admin:ai_usagerecord_changelist"))
        # Django would gather a synchronous iterator whole before it sends it by ASGI, and the other way round.
        pieces = usage_csv.alines(records) if isinstance(request, ASGIRequest) else usage_csv.lines(records)
        name = f"usage-{timezone.localdate()}.csv"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return StreamingHttpResponse(pieces, content_type="text/csv; charset=utf-8", headers=headers)

    def get_fieldsets(self, request: HttpRequest, obj: UsageRecord | None = None) -> Any:
        fieldsets: list[tuple[Any, dict[str, Any]]] = [
            (None, {"fields": ["created_at", "outcome", "admin_name", "whose_key", "token", "request"]}),
            (_("What was asked"), {"fields": ["provider_slug", "model_name", "capability", "operation", "streamed"]}),
            (_("Cost"), {"fields": ["paid", "prices", "held", "requests", "accounting_month"]}),
            (
                _("Units"),
                {
                    "fields": [
                        ("input_tokens", "cache_read_tokens"),
                        ("output_tokens", "reasoning_tokens"),
                        ("images", "characters", "audio_seconds"),
                    ]
                },
            ),
            (_("Answer"), {"fields": ["took", "first_chunk", "finish_reason", "response_id"]}),
            (_("On the books"), {"fields": ["id", "settled_at", "lease_expires_at"]}),
        ]
        if obj and request.user.has_perm("ai.view_usagetext") and _text_of(obj):
            fieldsets.append((_("Texts"), {"fields": ["prompt", "reply"]}))
        return fieldsets

    # -- columns ---------------------------------------------------------------------------------------------------

    @admin.display(description=_("model"))
    def asked(self, record: UsageRecord) -> SafeString:
        return model_of(record)

    @admin.display(description=_("state"))
    def outcome(self, record: UsageRecord) -> SafeString:
        return state_of(record)

    @admin.display(description=_("tokens, in / out"))
    def units(self, record: UsageRecord) -> SafeString:
        return units_of(record)

    @admin.display(description=_("cost"))
    def price_paid(self, record: UsageRecord) -> SafeString:
        return cost_of(record, money(record.cost))

    @admin.display(description=_("time"))
    def took(self, record: UsageRecord) -> SafeString:
        return duration(record.latency_ms)

    # -- fields of the page ----------------------------------------------------------------------------------------

    @admin.display(description=_("whose key"))
    def whose_key(self, record: UsageRecord) -> str:
        return str(KEY_SOURCES[KeySource(record.key_source)])

    @admin.display(description=_("request id"))
    def request(self, record: UsageRecord) -> SafeString:
        if not record.request_id:
            return muted(NOTHING)
        url = f"{reverse('admin:ai_usagerecord_changelist')}?{urlencode({'q': record.request_id})}"
        link = format_html('<a href="{}">{}</a>', url, gettext("All calls of this request"))
        return below(code(record.request_id), link)

    @admin.display(description=_("cost"))
    def paid(self, record: UsageRecord) -> SafeString:
        return cost_of(record, exact_money(record.cost))

    @admin.display(description=_("held for it"))
    def held(self, record: UsageRecord) -> SafeString:
        return exact_money(record.held_cost)

    @admin.display(description=_("$ per 1M tokens, in / out"))
    def prices(self, record: UsageRecord) -> SafeString:
        return format_html("{} / {}", price(record.price_input), price(record.price_output))

    @admin.display(description=_("first chunk after"))
    def first_chunk(self, record: UsageRecord) -> SafeString:
        return duration(record.first_chunk_ms)

    @admin.display(description=_("month"))
    def accounting_month(self, record: UsageRecord) -> str:
        return month_name(record.month)

    @admin.display(description=_("prompt"))
    def prompt(self, record: UsageRecord) -> SafeString:
        return _revealed(record, "prompt")

    @admin.display(description=_("reply"))
    def reply(self, record: UsageRecord) -> SafeString:
        return _revealed(record, "reply")


def model_of(record: UsageRecord) -> SafeString:
    """What was asked of whom."""
    about = format_html("<bdi>{}</bdi> · <bdi>{}</bdi>", record.provider_slug, record.capability)
    return below(code(record.model_name), about)


def state_of(record: UsageRecord) -> SafeString:
    """The state, and what went wrong."""
    state = UsageState(record.state)
    badge = badges([state.label], BADGES.get(state, "ai-off"))
    return below(badge, code(record.error_code)) if record.error_code else badge


def units_of(record: UsageRecord) -> SafeString:
    """What the vendor counted."""
    if record.images:
        text = ngettext("%(count)d image", "%(count)d images", record.images) % {"count": record.images}
        return format_html("<bdi>{}</bdi>", text)
    if record.characters:
        count = {"count": record.characters}
        text = ngettext("%(count)d character", "%(count)d characters", record.characters) % count
        return format_html("<bdi>{}</bdi>", text)
    if record.input_tokens is None and record.output_tokens is None:
        return muted(NOTHING)
    return format_html("{} / {}", number(record.input_tokens), number(record.output_tokens))


def cost_of(record: UsageRecord, shown: SafeString) -> SafeString:
    """The cost with how sure it is; of a call under way, what is held for it."""
    if record.state == UsageState.RESERVED:
        return with_held(muted(NOTHING), record.held_cost)
    return below(shown, gettext("estimated")) if record.cost_state == CostState.ESTIMATED else shown


def _text_of(record: UsageRecord) -> UsageText | None:
    """What is kept of the call's texts; asked for once."""
    if not hasattr(record, "kept_text"):
        record.kept_text = UsageText.objects.filter(pk=record.pk).first()  # type: ignore[attr-defined]
    return cast("UsageText | None", record.kept_text)  # type: ignore[attr-defined]


def _revealed(record: UsageRecord, name: str) -> SafeString:
    kept = _text_of(record)
    if kept is None:
        return muted(NOTHING)
    field = cast(EncryptedTextField, UsageText._meta.get_field(name))
    try:
        return format_html('<div class="ai-text" dir="auto">{}</div>', field.reveal(kept))
    except Undecryptable:
        return warning(_("can't be decrypted"))
