"""How lists are cut into pages."""

from typing import Any

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.utils.functional import cached_property
from rest_framework import pagination

from src.ai.services.catalogue import Catalogue


class PageNumberPagination(pagination.PageNumberPagination):
    """`?page=` and `?page_size=`: 50 rows, at most 500."""

    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 500


class CataloguePaginator(Paginator):  # type: ignore[type-arg]  # not subscriptable at run time
    """Pages of providers or models, which are counted once for each change of them."""

    object_list: QuerySet[Any]

    def __init__(self, rows: QuerySet[Any], *args: Any, **kwargs: Any) -> None:
        # Rows of one name, or of one price, have an order too: else a page may repeat what another has shown.
        ordering = rows.query.order_by
        super().__init__(rows.order_by(*ordering, "pk") if ordering else rows, *args, **kwargs)

    @cached_property
    def count(self) -> int:
        return Catalogue().count(self.object_list)

    def _get_page(self, rows: QuerySet[Any], *args: Any, **kwargs: Any) -> Page[Any]:
        # Thousands of rows are sorted by their keys alone, and only the page's are read: a third of the time.
        shown = self.object_list.filter(pk__in=rows.select_related(None).values("pk"))
        page: Page[Any] = super()._get_page(shown, *args, **kwargs)  # type: ignore[misc]  # the stubs lack this hook
        return page


class CataloguePagination(PageNumberPagination):
    """The same for lists of providers and models: turning a page counts nothing."""

    django_paginator_class = CataloguePaginator
