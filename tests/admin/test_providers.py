"""The pages of providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from src.ai.models import AIModel, AIProvider

URL = "/admin/ai/aiprovider/"


def test_a_provider_is_added_and_changed_by_form(as_superuser: Any) -> None:
    typed = {"name": "Acme", "slug": "acme", "config": '{"temperature": 0.5}', "api_base_url": "https://acme.test/v1"}
    as_superuser.submit(f"{URL}add/", **typed)
    provider = AIProvider.objects.get()
    assert (provider.slug, provider.config, provider.is_active) == ("acme", {"temperature": 0.5}, True)
    as_superuser.submit(f"{URL}{provider.pk}/change/", is_active=None, sort_order="3")
    provider.refresh_from_db()
    assert (provider.is_active, provider.sort_order, provider.config) == (False, 3, {"temperature": 0.5})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('{"temprature": 1}', "unknown key 'temprature'"),
        ('{"temperature": "hot"}', "'temperature' must be int or float, not str"),
        ("[1]", "Give a JSON object"),
        ("{", "Enter a valid JSON."),
        ('{"temperature": NaN}', "no JSON numbers"),
        ('{"chat_model": "\\u0000"}', "Null characters"),
    ],
)
def test_a_config_that_the_class_would_refuse_is_refused_by_the_form(
    as_superuser: Any, make_provider: Callable[..., AIProvider], config: str, words: str
) -> None:
    provider = make_provider("acme")
    answer = as_superuser.submit(f"{URL}{provider.pk}/change/", config=config)
    assert list(answer.errors) == ["config"]
    assert words in answer.errors["config"][0]


def test_an_emptied_config_is_an_empty_object(as_superuser: Any, make_provider: Callable[..., AIProvider]) -> None:
    provider = make_provider("acme", config={"temperature": 1})
    as_superuser.submit(f"{URL}{provider.pk}/change/", config="")
    provider.refresh_from_db()
    assert provider.config == {}


def test_a_slug_that_no_class_answers_to_is_pointed_out(
    as_superuser: Any, make_provider: Callable[..., AIProvider]
) -> None:
    good, bad = make_provider("acme"), make_provider("nobody", config={"anything": 1})
    assert as_superuser.get(URL).text.count("not registered") == 1
    assert "not registered" not in as_superuser.get(f"{URL}{good.pk}/change/").text
    page = as_superuser.get(f"{URL}{bad.pk}/change/").text
    assert "Provider 'nobody' is not registered in the system" in page
    assert "acme" in page
    as_superuser.submit(f"{URL}{bad.pk}/change/", name="Saved all the same")
    bad.refresh_from_db()
    assert bad.name == "Saved all the same"


def test_the_list_counts_models_and_leads_to_them(
    as_superuser: Any, make_provider: Callable[..., AIProvider], make_model: Callable[..., AIModel]
) -> None:
    provider, other = make_provider("acme"), make_provider("other")
    for number in range(3):
        make_model(provider, "chat", model_id=f"m{number}")
    make_model(other, "chat")
    make_provider("third")
    text = as_superuser.get(URL).text
    link = f"/admin/ai/aimodel/?provider__id__exact={provider.pk}"
    assert f'<a href="{link}">3 models</a>' in text
    assert "1 model<" in text
    assert "0 models<" in text
    assert {model.provider for model in as_superuser.get(link).rows} == {provider}


def test_a_providers_page_says_what_serves(
    as_editor: Any, make_provider: Callable[..., AIProvider], make_model: Callable[..., AIModel]
) -> None:
    provider = make_provider("acme")
    url = f"{URL}{provider.pk}/change/"
    assert "calls to this provider fail until a model is activated" in as_editor.get(url).text
    model = make_model(provider, "image", model_id="painter")
    assert f'<a href="/admin/ai/aimodel/{model.pk}/change/">painter</a>' in as_editor.get(url).text


def test_a_provider_is_deleted_with_its_models_after_their_number_is_told(
    as_superuser: Any, make_provider: Callable[..., AIProvider], make_model: Callable[..., AIModel]
) -> None:
    provider = make_provider("acme")
    for number in range(60):
        make_model(provider, "chat", model_id=f"m{number}", is_active=False)
    page = as_superuser.get(f"{URL}{provider.pk}/delete/").text
    assert "AI models: 60" in " ".join(page.split())
    assert "m59" not in page
    as_superuser.post(f"{URL}{provider.pk}/delete/", post="yes")
    assert not AIProvider.objects.exists()
    assert not AIModel.objects.exists()


def test_the_list_takes_the_same_number_of_queries_for_any_number_of_rows(
    as_superuser: Any, make_provider: Callable[..., AIProvider], django_assert_num_queries: Any
) -> None:
    make_provider("acme", shared_api_key="a-key-0123456789-abcd")
    with django_assert_num_queries(4):
        as_superuser.get(URL)
    for number in range(20):
        make_provider(f"p{number}", shared_api_key="a-key-0123456789-abcd")
    with django_assert_num_queries(4):
        assert len(as_superuser.get(URL).rows) == 21


def test_empty_lists_say_what_to_do(as_editor: Any) -> None:
    for name, words in {
        "aiprovider": "No providers yet",
        "aimodel": "sync_ai_models",
        "adminprovidersettings": "No settings yet",
        "apitoken": "No API tokens yet",
        "generatedmedia": "save_to_media",
    }.items():
        assert words in as_editor.get(f"/admin/ai/{name}/").text
    assert "Nothing matches" in as_editor.get("/admin/ai/aimodel/", q="zzz").text
