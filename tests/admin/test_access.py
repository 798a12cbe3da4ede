"""Who may open, write and delete what in the Django admin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from src.ai.models import AdminProviderSettings, AIModel, AIProvider, APIToken, GeneratedMedia

PAGES = ["aiprovider", "aimodel", "adminprovidersettings", "apitoken", "generatedmedia"]


@pytest.mark.parametrize("name", PAGES)
def test_staff_alone_come_in(name: str, as_editor: Any, visitor: User) -> None:
    assert as_editor.get(f"/admin/ai/{name}/").status == 200
    client = Client()
    assert client.get(f"/admin/ai/{name}/").status_code == 302
    client.force_login(visitor)
    assert client.get(f"/admin/ai/{name}/").status_code == 302


def test_the_front_page_leads_to_all_five(as_editor: Any) -> None:
    front = as_editor.get("/admin/").html
    assert [name for name in PAGES if f'href="/admin/ai/{name}/"' not in front] == []


@pytest.mark.parametrize("name", ["aiprovider", "aimodel"])
def test_a_normal_admin_reads_providers_and_models_and_writes_none(
    name: str, as_editor: Any, make_provider: Callable[..., AIProvider], make_model: Callable[..., AIModel]
) -> None:
    provider = make_provider("acme", config={"temperature": 0.5})
    row = {"aiprovider": provider, "aimodel": make_model(provider, "chat")}[name]
    url = f"/admin/ai/{name}/{row.pk}/"
    page = as_editor.get(f"{url}change/")
    assert str(row) in page.text
    assert "_save" not in page.html
    assert not {"name", "new_api_key", "remove_api_key", "is_active"} & as_editor.fields(f"{url}change/").keys()
    assert as_editor.client.post(f"{url}change/", {"name": "Mine"}).status_code == 403
    assert as_editor.client.get(f"/admin/ai/{name}/add/").status_code == 403
    assert as_editor.client.post(f"{url}delete/", {"post": "yes"}).status_code == 403
    row.refresh_from_db()
    assert row.name != "Mine"


def test_a_normal_admin_cannot_run_the_actions_of_models(
    as_editor: Any, make_provider: Callable[..., AIProvider], make_model: Callable[..., AIModel]
) -> None:
    model = make_model(make_provider("acme"), "chat", is_active=False)
    assert "action" not in as_editor.fields("/admin/ai/aimodel/")
    as_editor.act("/admin/ai/aimodel/", "activate", model)
    as_editor.act("/admin/ai/aimodel/", "delete_selected", model, post="yes")
    model.refresh_from_db()
    assert not model.is_active


def test_a_normal_admin_does_not_see_that_anothers_rows_exist(
    as_editor: Any, other_editor: User, make_provider: Callable[..., AIProvider]
) -> None:
    provider = make_provider("acme")
    token, _text = APIToken.objects.create(user=other_editor, name="theirs")
    rows = {
        "adminprovidersettings": AdminProviderSettings.objects.create(admin=other_editor, provider=provider),
        "apitoken": token,
        "generatedmedia": GeneratedMedia.objects.create(owner=other_editor, kind="image", file="a.png", size=1),
    }
    for name, row in rows.items():
        assert as_editor.get(f"/admin/ai/{name}/").rows == []
        for view in ("change", "delete", "history"):
            theirs = as_editor.get(f"/admin/ai/{name}/{row.pk}/{view}/")
            absent = as_editor.get(f"/admin/ai/{name}/9999/{view}/")
            assert theirs.status == absent.status == 302
            assert theirs.response["Location"] == absent.response["Location"]
        as_editor.act(f"/admin/ai/{name}/", "delete_selected", row, post="yes")
        as_editor.post(f"/admin/ai/{name}/{row.pk}/delete/", post="yes")
        assert type(row)._default_manager.filter(pk=row.pk).exists()


def test_a_superuser_sees_the_rows_of_all(
    as_superuser: Any, editor: User, make_provider: Callable[..., AIProvider]
) -> None:
    own = AdminProviderSettings.objects.create(admin=editor, provider=make_provider("acme"))
    token, _text = APIToken.objects.create(user=editor, name="theirs")
    assert as_superuser.get("/admin/ai/adminprovidersettings/").rows == [own]
    assert as_superuser.get("/admin/ai/apitoken/").rows == [token]
