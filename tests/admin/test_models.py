"""The pages of models: switching them, and finding them among thousands."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from time import monotonic
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry

from src.ai.admin import activation
from src.ai.models import AIModel, AIModelManager, AIProvider

URL = "/admin/ai/aimodel/"


@pytest.fixture
def provider(make_provider: Callable[..., AIProvider]) -> AIProvider:
    return make_provider("acme")


def active() -> set[str]:
    return set(AIModel.objects.filter(is_active=True).values_list("name", flat=True))


def test_the_action_activates_and_tells_what_made_room(
    as_superuser: Any, provider: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    make_model(provider, "chat", "image", model_id="old")
    new = make_model(provider, "chat", "content", model_id="new", is_active=False)
    answer = as_superuser.act(URL, "activate", new)
    assert active() == {"new"}
    assert answer.messages == [
        "'new' is now active.",
        "Deactivated: old.",
        "'Acme' now has no active model for: image.",
    ]


def test_of_several_that_conflict_the_last_stays_and_the_messages_say_so(
    as_superuser: Any, provider: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    make_model(provider, "chat", model_id="before", sort_order=9)
    rows = [
        make_model(provider, *names, model_id=model_id, is_active=False, sort_order=order)
        for order, (model_id, names) in enumerate({"a": ["chat"], "b": ["image"], "c": ["chat", "audio"]}.items())
    ]
    answer = as_superuser.act(URL, "activate", *rows)
    assert active() == {"b", "c"}
    assert answer.messages == [
        "Now active: b, c.",
        "Not active, as another of the selected models serves the same capability: a.",
        "Deactivated: before.",
    ]


def test_what_was_active_and_comes_last_stays(
    as_superuser: Any, provider: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    first = make_model(provider, "chat", model_id="first", is_active=False, sort_order=1)
    last = make_model(provider, "chat", model_id="last", sort_order=2)
    answer = as_superuser.act(URL, "activate", first, last)
    assert active() == {"last"}
    assert answer.messages == [
        "'last' is now active.",
        "Not active, as another of the selected models serves the same capability: first.",
    ]


def test_activating_what_is_active_changes_nothing(
    as_superuser: Any, provider: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    model = make_model(provider, "chat", model_id="on")
    assert as_superuser.act(URL, "activate", model).messages == ["'on' is now active."]
    assert active() == {"on"}
    assert not LogEntry.objects.exists()


def test_the_action_deactivates_and_tells_what_is_left_without(
    as_superuser: Any, provider: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    on, off = (
        make_model(provider, "chat", "image", model_id="on"),
        make_model(provider, model_id="off", is_active=False),
    )
    answer = as_superuser.act(URL, "deactivate", on, off)
    assert active() == set()
    assert answer.messages == ["'on' is no longer active.", "'Acme' now has no active model for: chat, image."]
    assert as_superuser.act(URL, "deactivate", on).messages == ["None of the selected models was active."]


def test_the_form_activates_and_tells_what_made_room(
    as_superuser: Any, provider: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    make_model(provider, "chat", "image", model_id="old")
    new = make_model(provider, "chat", model_id="new", is_active=False)
    answer = as_superuser.submit(f"{URL}{new.pk}/change/", is_active="on")
    assert active() == {"new"}
    assert answer.messages[:3] == [
        "'new' is now active.",
        "Deactivated: old.",
        "'Acme' now has no active model for: image.",
    ]


def test_the_form_tells_what_is_left_without_a_model_however_that_came(
    as_superuser: Any, provider: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    model = make_model(provider, "chat", "image", "audio", model_id="only")
    url = f"{URL}{model.pk}/change/"
    uncovered = "'Acme' now has no active model for: {}."
    assert as_superuser.submit(url, capabilities="chat, image").messages[0] == uncovered.format("audio")
    answer = as_superuser.submit(url, is_active=None)
    assert answer.messages[:2] == ["'only' is no longer active.", uncovered.format("chat, image")]
    as_superuser.submit(url, is_active="on")
    assert as_superuser.post(f"{URL}{model.pk}/delete/", post="yes").messages[0] == uncovered.format("chat, image")


def test_a_new_capability_makes_room_for_itself(
    as_superuser: Any, provider: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    make_model(provider, "image", model_id="painter")
    chat = make_model(provider, "chat", model_id="writer")
    answer = as_superuser.submit(f"{URL}{chat.pk}/change/", capabilities="chat, image")
    assert answer.messages[0] == "Deactivated: painter."
    assert active() == {"writer"}


def test_switching_is_in_the_history_of_each_model(
    as_superuser: Any, provider: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    old = make_model(provider, "chat", model_id="old")
    new = make_model(provider, "chat", model_id="new", is_active=False)
    for number, switch in enumerate(
        [
            lambda: as_superuser.act(URL, "activate", new),
            lambda: as_superuser.submit(f"{URL}{old.pk}/change/", is_active="on"),
            lambda: as_superuser.act(URL, "deactivate", old),
        ]
    ):
        switch()
        assert LogEntry.objects.filter(object_id=old.pk).count() == number + 1
    assert LogEntry.objects.filter(object_id=new.pk).count() == 2
    for model in (old, new):
        assert "Changed Active." in as_superuser.get(f"{URL}{model.pk}/history/").text


def test_a_change_that_came_in_between_is_a_message(
    as_superuser: Any, provider: AIProvider, make_model: Callable[..., AIModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(provider, "chat", model_id="old")
    new = make_model(provider, "chat", model_id="new", is_active=False)
    # What the lock would let through if another writer did not take it: the database still refuses two.
    monkeypatch.setattr(AIModelManager, "deactivate_other_models", lambda *args, **kwargs: [])
    assert "at the same moment" in as_superuser.act(URL, "activate", new).messages[0]
    assert "at the same moment" in as_superuser.submit(f"{URL}{new.pk}/change/", is_active="on").messages[0]
    assert active() == {"old"}


def test_activating_more_than_anyone_means_to_is_refused(
    as_superuser: Any, provider: AIProvider, make_model: Callable[..., AIModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activation, "MOST_AT_ONCE", 2)
    rows = [make_model(provider, f"c{n}", model_id=f"m{n}", is_active=False) for n in range(3)]
    assert as_superuser.act(URL, "activate", *rows).messages == ["At most 2 models can be activated at once."]
    assert active() == set()


def test_saving_a_form_changes_nothing_that_was_not_typed(
    as_superuser: Any, provider: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    """A value that differs from the synced one counts as set by hand, and would never follow the vendor again."""
    model = make_model(
        provider,
        "TTS",
        "chat",
        description="One line.\nAnd another.",
        config={"temperature": 0.5},
        pricing_input=Decimal("0.250000"),
        pricing_output=Decimal(100),
        context_window=128_000,
    )
    before = AIModel.objects.filter(pk=model.pk).values().get()
    url = f"{URL}{model.pk}/change/"
    typed = as_superuser.fields(url)
    assert (typed["pricing_input"], typed["pricing_output"]) == ("0.25", "100")
    answer = as_superuser.submit(url, description=typed["description"].replace("\n", "\r\n"))
    assert "successfully" in answer.messages[0]
    after = AIModel.objects.filter(pk=model.pk).values().get()
    assert {name for name in before if before[name] != after[name]} == {"updated_at"}
    assert LogEntry.objects.get().get_change_message() == "No fields changed."


def test_models_that_the_provider_lists_no_longer_are_marked_and_found(
    as_editor: Any, provider: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    make_model(provider, "chat")
    gone = make_model(provider, "image", model_id="gone", gone_since=datetime(2026, 1, 2, tzinfo=UTC))
    assert as_editor.get(URL).text.count("not listed since Jan. 2, 2026") == 1
    assert as_editor.get(URL, listed="no").rows == [gone]


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("chat, content", ["chat", "content"]),
        (" Chat ,chat,, vision ; x-ray", ["chat", "vision", "x-ray"]),
        ("chat، تصویر", ["chat", "تصویر"]),
    ],
)
def test_capabilities_are_typed_with_commas(
    as_superuser: Any, provider: AIProvider, make_model: Callable[..., AIModel], typed: str, stored: list[str]
) -> None:
    model = make_model(provider, "audio", is_active=False)
    url = f"{URL}{model.pk}/change/"
    assert as_superuser.fields(url)["capabilities"] == "audio"
    as_superuser.submit(url, capabilities=typed)
    model.refresh_from_db()
    assert model.capabilities == stored


@pytest.mark.parametrize("typed", ["", " , ", "x" * 101, "a\x00b"])
def test_capabilities_that_cannot_be_stored_are_refused(
    as_superuser: Any, provider: AIProvider, make_model: Callable[..., AIModel], typed: str
) -> None:
    model = make_model(provider, "chat")
    answer = as_superuser.submit(f"{URL}{model.pk}/change/", capabilities=typed)
    assert list(answer.errors) == ["capabilities"]


def test_a_model_is_added_by_form(as_superuser: Any, provider: AIProvider) -> None:
    typed = {"provider": provider.pk, "name": "New", "model_id": "new-1", "capabilities": "chat", "is_active": "on"}
    answer = as_superuser.submit(f"{URL}add/", **typed, pricing_input="0.075", config='{"max_tokens": 5}')
    assert answer.messages[0] == "'New' is now active."
    model = AIModel.objects.get()
    assert (model.pricing_input, model.pricing_output, model.config) == (Decimal("0.075"), None, {"max_tokens": 5})
    again = as_superuser.submit(f"{URL}add/", **typed)
    assert "already exists" in str(again.errors)


def test_a_models_config_is_checked_by_its_providers_class(
    as_superuser: Any, provider: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    model = make_model(provider, "chat")
    answer = as_superuser.submit(f"{URL}{model.pk}/change/", config='{"nonsense": 1}')
    assert "unknown key 'nonsense'" in answer.errors["config"][0]


def test_prices_that_are_free_unknown_and_paid_are_told_apart(
    as_editor: Any, provider: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    make_model(provider, "chat", pricing_input=Decimal("0.075"), pricing_output=Decimal(10))
    make_model(provider, "image", model_id="one", pricing_input=Decimal(0), pricing_output=None)
    text = as_editor.get(URL).text
    for shown in (">$0.075<", ">$10.00<", "<bdi>free</bdi> /", ">unknown<"):
        assert text.count(shown) == 1
    make_model(provider, "audio", model_id="two", pricing_input=Decimal(0), pricing_output=Decimal(0))
    assert as_editor.get(URL).text.count('field-prices"><bdi>free</bdi></td>') == 1


def test_the_list_says_what_each_model_serves_now(
    as_editor: Any, provider: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    make_model(provider, "chat", "image", model_id="on")
    make_model(provider, "audio", model_id="off", is_active=False)
    serving = '<bdi class="ai-badge ai-on">{}</bdi>'
    text = as_editor.get(URL).text
    assert [serving.format(name) in text for name in ("chat", "image", "audio")] == [True, True, False]
    AIProvider.objects.update(is_active=False)
    text = as_editor.get(URL).text
    assert serving.format("chat") not in text
    assert "nothing: the provider is inactive" in text


def test_filters_and_search_find_models(
    as_editor: Any,
    provider: AIProvider,
    make_provider: Callable[..., AIProvider],
    make_model: Callable[..., AIModel],
) -> None:
    chat = make_model(provider, "chat", model_id="gamma-chat")
    image = make_model(provider, "image", "vision", model_id="delta-image", is_active=False)
    other = make_model(make_provider("other"), "chat", model_id="epsilon")
    assert set(as_editor.get(URL, capability="chat").rows) == {chat, other}
    assert as_editor.get(URL, capability="vision").rows == [image]
    assert as_editor.get(URL, is_active__exact=0).rows == [image]
    assert as_editor.get(URL, provider__id__exact=other.provider_id).rows == [other]
    assert as_editor.get(URL, q="delta").rows == [image]
    assert as_editor.get(URL, capability="chat", provider__id__exact=provider.pk, is_active__exact=1).rows == [chat]


def test_ten_thousand_models_are_listed_fast_and_in_few_queries(
    as_superuser: Any, provider: AIProvider, make_model: Callable[..., AIModel], django_assert_num_queries: Any
) -> None:
    make_model(provider, "chat", model_id="first")
    with django_assert_num_queries(7):
        as_superuser.get(URL)
    AIModel.objects.bulk_create(
        AIModel(provider=provider, name=f"m{n}", model_id=f"m{n}", capabilities=["chat", "content", f"c{n % 9}"])
        for n in range(10_000)
    )
    for query in ({}, {"capability": "chat", "o": "-2"}, {"q": "m999"}):
        with django_assert_num_queries(7):
            start = monotonic()
            assert as_superuser.get(URL, **query).rows
            assert monotonic() - start < 2
    everything = {"action": "deactivate", "select_across": "1"}
    as_superuser.post(URL, **everything, _selected_action=[AIModel.objects.first().pk])  # type: ignore[union-attr]
    assert active() == set()
