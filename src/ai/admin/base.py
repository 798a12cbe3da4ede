"""What the pages of the AI section share: who may do what, and how a row is saved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, TypeVar

from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminTextareaWidget
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db import IntegrityError, models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.decorators import method_decorator
from django.utils.functional import Promise
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters

from src.ai.admin.display import moment, requests
from src.ai.admin.fields import PriceField, TextBlock
from src.ai.admin.generic import ModelAdmin, ModelForm
from src.ai.models.counted import Counted

M = TypeVar("M", bound=models.Model)

MOST_NAMES = 20  # in a message or on a confirmation page


class SectionAdmin(ModelAdmin[M]):
    """A page of the section. Every staff user may open it; a subclass says what they may do there."""

    show_full_result_count = False
    list_per_page = 50
    empty_text: ClassVar[Promise]  # shown in place of an empty list
    hidden_lookups: ClassVar[Sequence[str]] = ()  # fields that no query string may filter by
    formfield_overrides: ClassVar[dict[type[models.Field[Any, Any]], dict[str, Any]]] = {
        models.URLField: {"assume_scheme": "https"},
        models.DecimalField: {"form_class": PriceField},
        models.TextField: {"form_class": TextBlock, "widget": AdminTextareaWidget(attrs={"rows": 3})},
    }

    class Media:
        css: ClassVar = {"all": ["ai/admin.css"]}

    def has_module_permission(self, request: HttpRequest) -> bool:
        return is_staff(request.user)

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        return lookup.split("__")[0] not in self.hidden_lookups and super().lookup_allowed(lookup, value, request)

    @method_decorator(sensitive_post_parameters("new_api_key"))
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """The form; where another request got in between, a message instead of a server error."""
        try:
            return super().changeform_view(request, *args, **kwargs)
        except IntegrityError:
            self.message_user(
                request,
                gettext("Someone else changed this at the same moment, so nothing was saved. Please try again."),
                messages.ERROR,
            )
            return HttpResponseRedirect(request.get_full_path())

    def save_model(self, request: HttpRequest, obj: M, form: ModelForm[M], change: bool) -> None:
        """Write what the form can change: writing the counters back would undo the calls counted meanwhile."""
        obj.save(update_fields=_written_fields(obj) if change else None)

    def get_deleted_objects(
        self, objs: Iterable[M], request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """What deleting removes: names up to a number that can be read, and the count of everything."""
        rows = list(objs)
        counts = {str(self.opts.verbose_name_plural): len(rows), **self.count_dependents(rows)}
        names = [str(row) for row in rows[:MOST_NAMES]]
        if more := len(rows) - len(names):
            names.append(ngettext("and %(count)d more", "and %(count)d more", more) % {"count": more})
        permitted = all(self.has_delete_permission(request, row) for row in rows)
        return names, counts, set() if permitted else {str(self.opts.verbose_name)}, []

    def count_dependents(self, rows: Sequence[M]) -> dict[str, int]:
        """How many rows of other kinds go with these, by what to call them."""
        return {}


class ReferenceAdmin(SectionAdmin[M]):
    """Rows that every staff user reads and superusers write."""

    def has_view_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return is_staff(request.user)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return is_superuser(request.user)

    def has_change_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return is_superuser(request.user)

    def has_delete_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return is_superuser(request.user)


class CountedColumns:
    """Columns of rows whose calls the books count."""

    @admin.display(description=_("requests, last use"), ordering="total_requests")
    def requests(self, row: Counted) -> SafeString:
        return requests(row)

    @admin.display(description=_("last used at"))
    def last_used(self, row: Counted) -> SafeString:
        return moment(row.last_used_at)


class OwnedAdmin(SectionAdmin[M]):
    """Rows that belong to a user: the others do not see that they exist. Superusers see all."""

    owner_field: ClassVar[str]

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[M]:
        rows = super().get_queryset(request)
        return rows if is_superuser(request.user) else rows.filter(**{self.owner_field: request.user.pk})

    def has_view_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return self.may_touch(request, obj)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return is_staff(request.user)

    def has_change_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return self.may_touch(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return self.may_touch(request, obj)

    def may_touch(self, request: HttpRequest, obj: M | None) -> bool:
        """Whether the row is theirs, or they are a superuser."""
        if is_superuser(request.user) or obj is None:
            return is_staff(request.user)
        owner_id: object = getattr(obj, f"{self.owner_field}_id")
        return is_staff(request.user) and owner_id == request.user.pk


def is_staff(user: AbstractBaseUser | AnonymousUser) -> bool:
    return bool(user.is_active and getattr(user, "is_staff", False))


def is_superuser(user: AbstractBaseUser | AnonymousUser) -> bool:
    return is_staff(user) and bool(getattr(user, "is_superuser", False))


def join_names(names: Iterable[object]) -> str:
    """The names as one text, cut where it would get too long to read."""
    known = [str(name) for name in names]
    shown = known[:MOST_NAMES]
    if more := len(known) - len(shown):
        shown.append(ngettext("and %(count)d more", "and %(count)d more", more) % {"count": more})
    return gettext(", ").join(shown)


def _written_fields(row: models.Model) -> list[str]:
    fields = row._meta.concrete_fields
    return [f.name for f in fields if not f.primary_key and (f.editable or getattr(f, "auto_now", False))]
