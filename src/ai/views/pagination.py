"""How lists are cut into pages."""

from django.core.paginator import Paginator
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

    @cached_property
    def count(self) -> int:
        return Catalogue().count(self.object_list)  # type: ignore[arg-type]  # a view pages a queryset


class CataloguePagination(PageNumberPagination):
    """The same for lists of providers and models: turning a page counts nothing."""

    django_paginator_class = CataloguePaginator
