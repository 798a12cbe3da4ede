"""Browsers of the Django admin, and what a page of it says."""

from __future__ import annotations

from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.test import Client

from src.ai.providers.base import BaseProvider
from src.ai.providers.registry import AIProviderRegistry


class AcmeProvider(BaseProvider):
    """A registered vendor that is never asked anything."""

    @classmethod
    def get_provider_name(cls) -> str:
        return "acme"


@pytest.fixture(autouse=True)
def _acme_is_registered() -> Iterator[None]:
    AIProviderRegistry().register("acme", AcmeProvider)
    yield
    AIProviderRegistry().unregister("acme")


@pytest.fixture
def plain_key() -> str:
    """A key that no page may show, in no vendor's shape."""
    return "plain-key-of-nobody-0123456789-wxyz"


@pytest.fixture
def as_superuser(superuser: User) -> Browser:
    return Browser(superuser)


@pytest.fixture
def as_editor(editor: User) -> Browser:
    return Browser(editor)


@pytest.fixture
def as_other_editor(other_editor: User) -> Browser:
    return Browser(other_editor)


class Browser:
    """A logged-in user who opens pages, fills in their forms and runs actions on lists."""

    def __init__(self, user: User) -> None:
        self.client = Client()
        self.client.force_login(user)

    def get(self, url: str, **query: Any) -> Page:
        return Page(self.client.get(url, query))

    def post(self, url: str, **data: Any) -> Page:
        return Page(self.client.post(url, data, follow=True))

    def fields(self, url: str) -> dict[str, Any]:
        """What a form's fields hold when the page is opened."""
        form = _Fields()
        form.feed(self.get(url).text)
        return form.values

    def submit(self, url: str, *, forged: dict[str, Any] | None = None, **typed: Any) -> Page:
        """Open the form, type, save. A field that the page does not have can only be `forged`."""
        values = self.fields(url)
        if missing := typed.keys() - values.keys():
            raise LookupError(f"the form has no {sorted(missing)}, only {sorted(values)}")
        data = {**values, **typed, **(forged or {}), "_save": "1"}
        return self.post(url, **{name: value for name, value in data.items() if value is not None})

    def act(self, url: str, action: str, *rows: Any, **extra: Any) -> Page:
        """Tick the rows of a list and run an action on them."""
        return self.post(url, action=action, _selected_action=[row.pk for row in rows], **extra)


class Page:
    """What came back."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self.status: int = response.status_code

    @property
    def html(self) -> str:
        assert self.status == 200, f"status {self.status}"
        content: str = self.response.content.decode()
        return content

    @property
    def text(self) -> str:
        """The page with its entities read."""
        return unescape(self.html)

    @property
    def messages(self) -> list[str]:
        context = self.response.context
        return [
            str(message) for message in (context["messages"] if context else get_messages(self.response.wsgi_request))
        ]

    @property
    def errors(self) -> dict[str, list[str]]:
        """The errors of the form that was shown again."""
        assert not self.response.redirect_chain, "the form was accepted"
        return dict(self.response.context["adminform"].form.errors)

    @property
    def rows(self) -> list[Any]:
        """The rows of a list."""
        return list(self.response.context["cl"].result_list)


class _Fields(HTMLParser):
    """The values of a page's form fields, as a browser would send them; None: not sent."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Any] = {}
        self._select = self._textarea = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        own = dict(attributes)
        name = own.get("name") or ""
        if tag == "select" and name:
            self._select = name
            self.values[name] = [] if "multiple" in own else None
        elif tag == "option" and self._select and isinstance(self.values[self._select], list):
            if "selected" in own:
                self.values[self._select].append(own.get("value") or "")
        elif tag == "option" and self._select and ("selected" in own or self.values[self._select] is None):
            self.values[self._select] = own.get("value") or ""
        elif tag == "textarea":
            self._textarea = name
            self.values[name] = ""
        elif tag == "input" and name and own.get("type") not in ("submit", "button"):
            box = own.get("type") in ("checkbox", "radio")
            self.values[name] = None if box and "checked" not in own else own.get("value") or ("on" if box else "")

    def handle_data(self, data: str) -> None:
        if self._textarea:
            self.values[self._textarea] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""
        elif tag == "textarea":
            # A browser drops the line break that the page puts first.
            self.values[self._textarea] = self.values[self._textarea].removeprefix("\n").removeprefix("\r\n")
            self._textarea = ""
