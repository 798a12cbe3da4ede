"""The Django admin in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User

from src.ai.models import AIModel, AIProvider, APIToken

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

KEY = "sk-browser-0123456789-abcdefgh-wxyz"


@pytest.fixture
def provider(transactional_db: None, make_provider: Callable[..., AIProvider]) -> AIProvider:
    return make_provider("openai", name="OpenAI")


def test_a_superuser_activates_a_model_and_sets_a_key(
    transactional_db: None,
    superuser: User,
    provider: AIProvider,
    make_model: Callable[..., AIModel],
    log_in: Callable[..., Any],
    tmp_path: Path,
) -> None:
    old = make_model(provider, "chat", "content", model_id="gpt-old")
    new = make_model(provider, "chat", model_id="gpt-new", is_active=False)
    site = log_in(superuser, "admin-password")

    site.open("/admin/ai/aimodel/")
    site.act("activate", new)
    assert site.messages == [
        "'gpt-new' is now active.",
        "Deactivated: gpt-old.",
        "'OpenAI' now has no active model for: content.",
    ]
    site.photograph(tmp_path / "models.png")
    old.refresh_from_db()
    new.refresh_from_db()
    assert (old.is_active, new.is_active) == (False, True)

    form = f"/admin/ai/aiprovider/{provider.pk}/change/"
    site.open(form)
    site.type("new_api_key", KEY)
    site.press("[name=_continue]")
    assert "ends …wxyz" in site.text
    site.photograph(tmp_path / "provider.png")
    for page in (form, "/admin/ai/aiprovider/", "/admin/"):
        site.open(page)
        assert KEY not in site.browser.page_source
    provider.refresh_from_db()
    assert provider.get_shared_api_key() == KEY


def test_a_normal_admin_sets_their_own_key_and_makes_a_token(
    transactional_db: None, editor: User, provider: AIProvider, log_in: Callable[..., Any], tmp_path: Path
) -> None:
    site = log_in(editor, "editor-password")
    site.open("/admin/ai/adminprovidersettings/add/")
    site.browser.find_element("css selector", f"#id_provider option[value='{provider.pk}']").click()
    site.type("new_api_key", KEY)
    site.press("[name=_continue]")
    assert "ends …wxyz" in site.text
    assert KEY not in site.browser.page_source
    site.photograph(tmp_path / "settings.png")

    site.open("/admin/ai/apitoken/add/")
    site.type("name", "Laptop")
    site.press("[name=_save]")
    token = site.browser.find_element("id", "new-token").text
    assert token.startswith(APIToken.objects.get().token_key)
    site.open("/admin/ai/apitoken/")
    assert token not in site.browser.page_source


@pytest.mark.parametrize(
    "path",
    [
        "aimodel/",
        "aiprovider/",
        "aimodel/add/",
        "adminprovidersettings/",
        "apitoken/",
        "usagerecord/",
        "usageperiod/",
        "usage/",
    ],
)
def test_pages_read_from_right_to_left_in_persian(
    transactional_db: None,
    superuser: User,
    provider: AIProvider,
    make_model: Callable[..., AIModel],
    log_in: Callable[..., Any],
    tmp_path: Path,
    path: str,
) -> None:
    make_model(provider, "chat", "content", model_id="a-rather-long-name-of-a-model-2025-11-30")
    site = log_in(superuser, "admin-password", "fa")
    site.open(f"/admin/ai/{path}")
    assert site.browser.find_element("tag name", "html").get_attribute("dir") == "rtl"
    assert not site.overflows()
    site.photograph(tmp_path / "persian.png")
