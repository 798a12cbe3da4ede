"""At most one active model per provider and capability, whatever writes the rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, connections, transaction

from src.ai.models import AIModel, AIProvider, ModelCapability

MakeProvider = Callable[..., AIProvider]
MakeModel = Callable[..., AIModel]


def active_names(capability: str) -> list[str]:
    models = AIModel.objects.filter(is_active=True)
    return sorted(model.name for model in models if model.has_capability(capability))


@pytest.fixture
def provider(make_provider: MakeProvider) -> AIProvider:
    return make_provider()


def test_activating_a_model_deactivates_siblings_that_share_a_capability(
    provider: AIProvider, make_provider: MakeProvider, make_model: MakeModel
) -> None:
    writer = make_model(provider, "chat", "content", model_id="writer")
    painter = make_model(provider, "image", model_id="painter")
    elsewhere = make_model(make_provider("gemini"), "chat", model_id="elsewhere")

    talker = make_model(provider, "chat", model_id="talker")

    for model in (writer, painter, elsewhere):
        model.refresh_from_db()
    assert (writer.is_active, painter.is_active, elsewhere.is_active) == (False, True, True)
    assert AIModel.objects.get_active_model("openai", "chat") == talker


def test_activating_tells_what_it_deactivated_and_what_is_left_uncovered(
    provider: AIProvider, make_model: MakeModel
) -> None:
    writer = make_model(provider, "chat", "content", model_id="writer")
    talker = make_model(provider, "chat", model_id="talker")
    assert talker.activation.deactivated == (writer,)
    assert talker.activation.uncovered == ("content",)

    talker.name = "renamed"
    talker.save()
    assert talker.activation.deactivated == ()
    assert talker.activation.uncovered == ()


def test_saving_other_fields_of_a_stale_copy_activates_nothing(provider: AIProvider, make_model: MakeModel) -> None:
    stale = make_model(provider, "chat", model_id="stale")
    current = make_model(provider, "chat", model_id="current")
    stale.name = "renamed"
    stale.save(update_fields=["name"])
    assert AIModel.objects.get_active_model("openai", "chat") == current


def test_adding_a_capability_to_an_active_model_takes_it_from_its_sibling(
    provider: AIProvider, make_model: MakeModel
) -> None:
    writer = make_model(provider, "content", model_id="writer")
    talker = make_model(provider, "chat", model_id="talker")
    talker.capabilities = ["chat", "content"]
    talker.save()
    assert talker.activation.deactivated == (writer,)
    assert active_names("content") == ["talker"]


def test_an_inactive_provider_has_no_active_model(make_provider: MakeProvider, make_model: MakeModel) -> None:
    make_model(make_provider(is_active=False), "chat")
    assert AIModel.objects.get_active_model("openai", "chat") is None


def test_deactivate_other_models_returns_those_it_switched_off(provider: AIProvider, make_model: MakeModel) -> None:
    kept = make_model(provider, "chat", model_id="kept")
    assert AIModel.objects.deactivate_other_models(provider.pk, "chat", exclude_id=kept.pk) == []
    assert AIModel.objects.deactivate_other_models(provider.pk, "chat") == [kept]
    assert active_names("chat") == []


def raw(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def bulk_update() -> None:
    models = list(AIModel.objects.all())
    for model in models:
        model.is_active = True
    AIModel.objects.bulk_update(models, ["is_active"])


def bulk_create() -> None:
    provider = AIProvider.objects.get()
    AIModel.objects.bulk_create(
        [AIModel(provider=provider, name=n, model_id=n, capabilities=["chat"], is_active=True) for n in ("x", "y")]
    )


def bulk_create_ignoring_conflicts() -> None:
    provider = AIProvider.objects.get()
    models = [AIModel(provider=provider, name=n, model_id=n, capabilities=["chat"], is_active=True) for n in ("x", "y")]
    AIModel.objects.bulk_create(models, ignore_conflicts=True)


def change_capabilities() -> None:
    AIModel.objects.filter(name="off").update(capabilities=["image"])
    AIModel.objects.filter(name="off").update(is_active=True)
    AIModel.objects.filter(name="off").update(capabilities=["image", "chat"])


def raw_insert() -> None:
    """A copy of the active row under another id and name, by SQL alone."""
    columns = [str(field.column) for field in AIModel._meta.concrete_fields if field.name != "id"]
    other = {"model_id": "'copy'", "public_id": f"'{uuid4().hex}'"}
    if connection.vendor == "postgresql":
        other["public_id"] += "::uuid"
    values = [other.get(column, column) for column in columns]
    copy = f"SELECT {', '.join(values)} FROM ai_aimodel WHERE is_active"  # noqa: S608 - columns, no input
    raw(f"INSERT INTO ai_aimodel ({', '.join(columns)}) {copy}")


WAYS_ROUND = {
    "QuerySet.update": lambda: AIModel.objects.update(is_active=True),
    "bulk_update": bulk_update,
    "bulk_create": bulk_create,
    "bulk_create ignoring conflicts": bulk_create_ignoring_conflicts,
    "raw UPDATE": lambda: raw("UPDATE ai_aimodel SET is_active = (1 = 1)"),
    "raw INSERT": raw_insert,
    "another capability": change_capabilities,
}

if connection.vendor == "sqlite":  # its own clauses for what a conflict does
    WAYS_ROUND["UPDATE OR IGNORE"] = lambda: raw("UPDATE OR IGNORE ai_aimodel SET is_active = 1")
    WAYS_ROUND["UPDATE OR REPLACE"] = lambda: raw("UPDATE OR REPLACE ai_aimodel SET is_active = 1")


@pytest.mark.parametrize("way", WAYS_ROUND)
def test_no_write_gets_round_the_constraint(way: str, provider: AIProvider, make_model: MakeModel) -> None:
    make_model(provider, "chat", model_id="off")
    make_model(provider, "chat", model_id="on")
    with pytest.raises(IntegrityError, match="ai_one_active_model"), transaction.atomic():
        WAYS_ROUND[way]()
    assert active_names("chat") == ["on"]


def test_a_fixture_can_not_bring_two(provider: AIProvider, make_model: MakeModel, tmp_path: Path) -> None:
    make_model(provider, "chat", model_id="on")
    row = {
        "model": "ai.aimodel",
        "fields": {
            "provider": provider.pk,
            "name": "second",
            "model_id": "second",
            "capabilities": ["chat"],
            "is_active": True,
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
        },
    }
    fixture = tmp_path / "two.json"
    fixture.write_text(json.dumps([row]))
    with pytest.raises(IntegrityError), transaction.atomic():
        call_command("loaddata", str(fixture), verbosity=0)
    assert active_names("chat") == ["on"]


def test_rows_of_capabilities_follow_every_write(provider: AIProvider, make_model: MakeModel) -> None:
    model = make_model(provider, "chat", "content")
    AIModel.objects.update(capabilities=["image"], is_active=False)
    rows = ModelCapability.objects.values_list("model_id", "capability", "is_active")
    assert list(rows) == [(model.pk, "image", False)]
    raw("DELETE FROM ai_aimodel")
    assert not rows.all().exists()


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_sixteen_threads_that_activate_at_once_leave_one(provider: AIProvider, make_model: MakeModel) -> None:
    models = [
        make_model(provider, *(("chat", "content") if n % 2 else ("chat",)), model_id=f"model-{n}", is_active=False)
        for n in range(16)
    ]
    start = Barrier(16)

    def activate(model: AIModel) -> None:
        try:
            start.wait()
            for _ in range(5):
                model.is_active = True
                model.save()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(16) as pool:
        for outcome in [pool.submit(activate, model) for model in models]:
            outcome.result()  # no deadlock and no IntegrityError on the way either
    assert len(active_names("chat")) == 1
    assert len(active_names("content")) <= 1
