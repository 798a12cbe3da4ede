"""`manage.py sync_ai_models`, against vendors that answer over HTTP on loopback."""

from __future__ import annotations

import contextlib
import os
import pty
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from src.ai.models import AIModel, AIProvider, ModelCapability
from src.ai.providers.base import BaseProvider
from src.ai.results import ModelInfo
from src.ai.services.catalogue import Catalogue
from src.ai.services.model_sync import sync_models
from src.core.bulk import insert_missing, update_rows
from tests.commands.conftest import Run, Vendor

pytestmark = pytest.mark.django_db

MakeVendor = Callable[..., Vendor]
RunCommand = Callable[..., Run]

FULL = {
    "model_id": "big-1",
    "display_name": "Big One",
    "description": "The first big one.",
    "capabilities": ["chat", "content"],
    "pricing_input": "0.79",
    "pricing_output": "3.5",
    "context_window": 131072,
    "max_tokens": 8192,
}


def snapshot() -> list[dict[str, Any]]:
    return list(AIModel.objects.order_by("pk").values())


# -- new and updated -----------------------------------------------------------------------------------------------


def test_a_listed_model_becomes_an_inactive_row_with_all_that_is_known(vendor: MakeVendor, run: RunCommand) -> None:
    alpha = vendor()
    alpha.lists(FULL)
    result = run("sync_ai_models")
    row = alpha.model("big-1")
    assert result.error is None
    assert (row.name, row.display_name, row.description) == ("Big One", "Big One", "The first big one.")
    assert row.capabilities == ["chat", "content"]
    assert (row.pricing_input, row.pricing_output) == (Decimal("0.79"), Decimal("3.5"))
    assert (row.context_window, row.max_tokens) == (131072, 8192)
    assert (row.is_active, row.gone_since) == (False, None)
    assert row.created_at is not None
    assert sorted(row.capability_rows.values_list("capability", flat=True)) == ["chat", "content"]
    assert alpha.keys == ["Bearer key-of-alpha-0123456789"]


def test_free_and_unknown_prices_are_kept_apart(vendor: MakeVendor, run: RunCommand) -> None:
    alpha = vendor()
    free = {"model_id": "free", "pricing_input": "0", "pricing_output": "0.0"}
    tiny = {"model_id": "tiny", "pricing_input": "0.0000001", "pricing_output": "-1000000"}
    alpha.lists(free, "unknown", tiny)
    run("sync_ai_models")
    assert (alpha.model("free").pricing_input, alpha.model("free").is_free) == (Decimal(0), True)
    assert (alpha.model("unknown").pricing_input, alpha.model("unknown").is_free) == (None, False)
    assert (alpha.model("tiny").pricing_input, alpha.model("tiny").pricing_output) == (Decimal("0.000001"), None)


def test_what_the_vendor_changes_is_updated_and_the_rest_counted_as_unchanged(
    vendor: MakeVendor, run: RunCommand
) -> None:
    alpha = vendor()
    alpha.lists(FULL, "same")
    run("sync_ai_models")
    before = alpha.model("same").updated_at
    alpha.lists({**FULL, "pricing_input": "0.5", "capabilities": ["chat"], "description": "Cheaper."}, "same", "more")
    result = run("sync_ai_models")
    row = alpha.model("big-1")
    assert (row.pricing_input, row.capabilities, row.description) == (Decimal("0.5"), ["chat"], "Cheaper.")
    assert list(row.capability_rows.values_list("capability", flat=True)) == ["chat"]
    assert "alpha: 1 new, 1 updated, 1 unchanged, 0 gone upstream" in result.out
    assert alpha.model("same").updated_at == before
    assert row.updated_at > before


def test_capabilities_in_another_order_are_the_same(vendor: MakeVendor, run: RunCommand) -> None:
    alpha = vendor()
    alpha.lists(FULL)
    run("sync_ai_models")
    alpha.lists({**FULL, "capabilities": ["content", "chat"]})
    assert "0 new, 0 updated, 1 unchanged" in run("sync_ai_models").out


def test_a_price_the_vendor_withdraws_is_unknown_again(vendor: MakeVendor, run: RunCommand) -> None:
    alpha = vendor()
    alpha.lists(FULL)
    run("sync_ai_models")
    alpha.lists({**FULL, "pricing_input": None})
    run("sync_ai_models")
    assert alpha.model("big-1").pricing_input is None
    assert alpha.model("big-1").pricing_output == Decimal("3.5")


def test_what_the_vendor_does_not_say_comes_from_the_default_catalogue(vendor: MakeVendor, run: RunCommand) -> None:
    deepseek = vendor("deepseek")
    deepseek.lists({"model_id": "deepseek-v4-pro", "capabilities": ["chat", "content"], "max_tokens": 1000}, "new-one")
    run("sync_ai_models", provider="deepseek")
    row = deepseek.model("deepseek-v4-pro")
    assert (row.pricing_input, row.context_window, row.max_tokens) == (Decimal("0.66"), 1_048_576, 1000)
    assert deepseek.model("new-one").pricing_input is None


def test_an_id_listed_twice_is_one_model(vendor: MakeVendor, run: RunCommand) -> None:
    alpha = vendor()
    alpha.lists(
        {"model_id": "twice", "capabilities": ["chat"], "pricing_input": "0", "description": "First."},
        {"model_id": "twice", "capabilities": ["image", "chat"], "pricing_input": "5", "context_window": 8},
    )
    result = run("sync_ai_models")
    row = alpha.model("twice")
    assert result.error is None
    assert (row.capabilities, row.pricing_input, row.context_window) == (["chat", "image"], Decimal(0), 8)


def test_long_names_are_cut_and_unusable_values_do_no_harm(vendor: MakeVendor, run: RunCommand) -> None:
    alpha = vendor()
    alpha.lists(
        {
            "model_id": "odd",
            "display_name": "n" * 300,
            "description": "nul \x00 and half \ud800 a character",
            "capabilities": ["chat", "chat", "", "x" * 101],
            "pricing_input": "NaN",
            "pricing_output": "99999999999",
            "context_window": 2**40,
            "max_tokens": -1,
        },
        {"model_id": "i" * 201},
        {"model_id": ""},
    )
    result = run("sync_ai_models")
    row = alpha.model("odd")
    assert result.error is None
    assert row.name == row.display_name == "n" * 200
    assert row.description == "nul  and half  a character"
    assert row.capabilities == ["chat"]
    assert (row.pricing_input, row.pricing_output, row.context_window, row.max_tokens) == (None, None, None, None)
    assert alpha.ids() == {"odd"}
    assert "left out 2 whose id is empty or longer than 200 characters" in result.out


def test_a_synced_price_is_served_at_once_also_where_the_old_one_was_cached(
    vendor: MakeVendor, run: RunCommand
) -> None:
    alpha = vendor()
    alpha.lists(FULL)
    run("sync_ai_models")
    row = alpha.model("big-1")
    row.is_active = True
    row.save()
    assert Catalogue().active_model("alpha", "chat").pricing_input == Decimal("0.79")  # type: ignore[union-attr]
    alpha.lists({**FULL, "pricing_input": "0.5"})
    run("sync_ai_models")
    assert Catalogue().active_model("alpha", "chat").pricing_input == Decimal("0.5")  # type: ignore[union-attr]


# -- set by hand ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "mine"),
    [
        ("name", "Mine"),
        ("display_name", "Mine"),
        ("description", ""),
        ("capabilities", ["chat", "content", "poetry"]),
        ("pricing_input", Decimal("0")),
        ("pricing_output", None),
        ("context_window", 1),
        ("max_tokens", None),
        ("sort_order", -5),
        ("is_active", True),
        ("config", {"temperature": 0.2}),
    ],
)
def test_what_was_set_by_hand_survives_and_the_rest_still_follows(
    field: str, mine: Any, vendor: MakeVendor, run: RunCommand
) -> None:
    alpha = vendor()
    alpha.lists(FULL)
    run("sync_ai_models")
    row = alpha.model("big-1")
    setattr(row, field, mine)
    row.save()
    changed = {
        "model_id": "big-1",
        "display_name": "Big One, renamed",
        "description": "Changed.",
        "capabilities": ["chat", "vision"],
        "pricing_input": "7",
        "pricing_output": "8",
        "context_window": 9,
        "max_tokens": 10,
    }
    alpha.lists(changed)
    run("sync_ai_models")
    alpha.lists({**changed, "display_name": "Big One, again", "capabilities": ["vision"]})
    run("sync_ai_models")
    row.refresh_from_db()
    expected = {
        "name": "Big One, again",
        "display_name": "Big One, again",
        "description": "Changed.",
        "capabilities": ["vision"],
        "pricing_input": Decimal(7),
        "pricing_output": Decimal(8),
        "context_window": 9,
        "max_tokens": 10,
    }
    assert {name: getattr(row, name) for name in {**expected, field: mine}} == {**expected, field: mine}


def test_my_price_stays_mine_when_the_vendor_happens_to_ask_the_same_for_a_while(
    vendor: MakeVendor, run: RunCommand
) -> None:
    alpha = vendor()
    alpha.lists({"model_id": "m", "pricing_input": "5"})
    run("sync_ai_models")
    AIModel.objects.update(pricing_input=Decimal(6))
    for theirs in ("6", "7"):
        alpha.lists({"model_id": "m", "pricing_input": theirs})
        run("sync_ai_models")
    assert alpha.model("m").pricing_input == Decimal(6)


def test_a_price_put_back_to_the_vendors_follows_the_vendor_again(vendor: MakeVendor, run: RunCommand) -> None:
    alpha = vendor()
    alpha.lists({"model_id": "m", "pricing_input": "5"})
    run("sync_ai_models")
    for mine in (6, 5):
        AIModel.objects.update(pricing_input=Decimal(mine))
    alpha.lists({"model_id": "m", "pricing_input": "7"})
    run("sync_ai_models")
    assert alpha.model("m").pricing_input == Decimal(7)


def test_a_row_added_by_hand_keeps_what_it_says_and_gets_what_it_lacks(vendor: MakeVendor, run: RunCommand) -> None:
    alpha = vendor()
    AIModel.objects.create(
        provider=alpha.row, model_id="big-1", name="Ours", capabilities=["chat"], pricing_input=1, sort_order=3
    )
    alpha.lists(FULL)
    run("sync_ai_models")
    row = alpha.model("big-1")
    assert (row.name, row.capabilities, row.pricing_input, row.sort_order) == ("Ours", ["chat"], Decimal(1), 3)
    assert (row.display_name, row.pricing_output, row.context_window) == ("Big One", Decimal("3.5"), 131072)
    alpha.lists({**FULL, "context_window": 1})
    run("sync_ai_models")
    assert alpha.model("big-1").context_window == 1


# -- gone, and back ------------------------------------------------------------------------------------------------


def test_a_model_no_longer_listed_is_marked_and_unmarked_when_it_returns(vendor: MakeVendor, run: RunCommand) -> None:
    alpha = vendor()
    alpha.lists("stays", "goes")
    run("sync_ai_models")
    alpha.lists("stays")
    result = run("sync_ai_models")
    gone_since = alpha.model("goes").gone_since
    assert gone_since is not None
    assert alpha.model("stays").gone_since is None
    assert "goes (no longer listed)" in result.out
    assert "1 gone upstream" in result.out
    assert result.error is None
    again = run("sync_ai_models")
    assert alpha.model("goes").gone_since == gone_since
    assert "1 gone upstream" in again.out
    alpha.lists("stays", "goes")
    run("sync_ai_models")
    assert alpha.model("goes").gone_since is None


def test_an_active_model_that_has_gone_is_reported_loudly_and_stays_active(vendor: MakeVendor, run: RunCommand) -> None:
    alpha = vendor()
    alpha.lists("stays", "goes")
    run("sync_ai_models")
    row = alpha.model("goes")
    row.is_active = True
    row.save()
    alpha.lists("stays")
    for _time in range(2):
        result = run("sync_ai_models", verbosity=0)
        assert "WARNING: alpha no longer lists 'goes', which is ACTIVE here" in result.err
    row.refresh_from_db()
    assert row.is_active
    assert row.gone_since is not None


def test_an_empty_list_is_a_failure_and_marks_nothing(vendor: MakeVendor, run: RunCommand) -> None:
    alpha = vendor()
    alpha.lists("one", "two")
    run("sync_ai_models")
    alpha.lists()
    before = snapshot()
    result = run("sync_ai_models")
    assert result.error is not None
    assert "its list of models is empty. Nothing was changed." in str(result.error)
    assert snapshot() == before


# -- capabilities and what is active -------------------------------------------------------------------------------


def test_an_active_model_does_not_take_a_capability_from_its_active_sibling(
    vendor: MakeVendor, run: RunCommand
) -> None:
    alpha = vendor()
    alpha.lists(
        {"model_id": "talker", "capabilities": ["chat", "content"]}, {"model_id": "painter", "capabilities": ["image"]}
    )
    run("sync_ai_models")
    for row in AIModel.objects.all():
        row.is_active = True
        row.save()
    listed = [
        {"model_id": "talker", "capabilities": ["chat", "image", "vision"], "pricing_input": "1"},
        {"model_id": "painter", "capabilities": ["image", "vision"]},
    ]
    alpha.lists(*listed)
    result = run("sync_ai_models")
    assert result.error is None
    assert alpha.model("talker").capabilities == ["chat", "vision"]
    assert alpha.model("painter").capabilities == ["image"]
    assert alpha.model("talker").pricing_input == Decimal(1)
    assert set(AIModel.objects.values_list("is_active", flat=True)) == {True}
    assert "talker can do 'image' too, but painter is the active model for it" in result.out
    assert "painter can do 'vision' too, but talker is the active model for it" in result.out
    AIModel.objects.filter(model_id="talker").update(is_active=False)
    run("sync_ai_models")
    assert alpha.model("talker").capabilities == ["chat", "image", "vision"]


def test_two_active_models_can_swap_a_capability_without_a_crash(vendor: MakeVendor, run: RunCommand) -> None:
    alpha = vendor()
    alpha.lists({"model_id": "a", "capabilities": ["chat", "vision"]}, {"model_id": "b", "capabilities": ["image"]})
    run("sync_ai_models")
    for row in AIModel.objects.all():
        row.is_active = True
        row.save()
    alpha.lists({"model_id": "a", "capabilities": ["chat"]}, {"model_id": "b", "capabilities": ["image", "vision"]})
    assert run("sync_ai_models").error is None
    assert alpha.model("a").capabilities == ["chat"]
    assert run("sync_ai_models").error is None
    assert alpha.model("b").capabilities == ["image", "vision"]
    assert ModelCapability.objects.get(capability="vision", is_active=True).model_id == alpha.model("b").pk


# -- what to sync --------------------------------------------------------------------------------------------------


def test_capability_limits_what_is_created_updated_and_marked(vendor: MakeVendor, run: RunCommand) -> None:
    alpha = vendor()
    picture = {"model_id": "picture", "capabilities": ["image"], "pricing_input": "1"}
    alpha.lists("chatter", "old-chatter", picture, {"model_id": "old-picture", "capabilities": ["image"]})
    run("sync_ai_models")
    talk = {"model_id": "chatter", "capabilities": ["chat"], "pricing_input": "9"}
    alpha.lists(talk, "new-chatter", {**picture, "pricing_input": "2"}, {**picture, "model_id": "new-picture"})
    result = run("sync_ai_models", capability="image")
    assert alpha.ids() == {"chatter", "old-chatter", "picture", "old-picture", "new-picture"}
    assert alpha.model("picture").pricing_input == Decimal(2)
    assert alpha.model("chatter").pricing_input is None
    assert alpha.model("old-picture").gone_since is not None
    assert alpha.model("old-chatter").gone_since is None
    assert "1 new, 1 updated, 0 unchanged, 1 gone upstream" in result.out


def test_a_capability_that_no_model_has_is_said(vendor: MakeVendor, run: RunCommand) -> None:
    vendor().lists("chatter")
    assert "No listed model has the capability 'imge'." in run("sync_ai_models", capability="imge").out


def test_provider_limits_the_sync_to_one(vendor: MakeVendor, run: RunCommand) -> None:
    alpha, beta = vendor("alpha"), vendor("beta")
    alpha.lists("one")
    beta.lists("two")
    assert run("sync_ai_models", provider="beta").error is None
    assert (alpha.ids(), beta.ids(), alpha.keys) == (set(), {"two"}, [])


def test_an_unknown_provider_is_an_error_that_lists_the_known_ones(vendor: MakeVendor, run: RunCommand) -> None:
    vendor("alpha", sort_order=1)
    vendor("beta", sort_order=2)
    error = run("sync_ai_models", provider="gamma").error
    assert str(error) == "There is no AI provider 'gamma'. Known: alpha, beta."


def test_a_provider_that_is_switched_off_is_not_asked(vendor: MakeVendor, run: RunCommand) -> None:
    alpha = vendor("alpha", is_active=False)
    alpha.lists("one")
    vendor("beta").lists("two")
    assert run("sync_ai_models").error is None
    assert "The provider 'alpha' is switched off." in str(run("sync_ai_models", provider="alpha").error)
    assert (alpha.keys, alpha.ids()) == ([], set())


def test_a_provider_without_a_class_or_a_list_is_left_out_or_named(vendor: MakeVendor, run: RunCommand) -> None:
    AIProvider.objects.create(slug="nobody", name="Nobody")
    vendor("mute", class_attributes={"get_available_models": BaseProvider.get_available_models})
    vendor("beta").lists("two")
    result = run("sync_ai_models")
    assert result.error is None
    assert "nobody" not in result.out
    assert "mute" not in result.out
    assert str(run("sync_ai_models", provider="nobody").error) == "Provider 'nobody' is not registered in the system"
    assert str(run("sync_ai_models", provider="mute").error) == (
        "Operation 'get_available_models' is not supported by provider 'mute'"
    )


def test_nothing_to_sync_is_an_error_that_says_what_to_do(run: RunCommand) -> None:
    assert "seed_ai_catalogue" in str(run("sync_ai_models").error)


# -- keys ----------------------------------------------------------------------------------------------------------


def test_a_missing_key_is_named_and_the_others_are_synced(vendor: MakeVendor, run: RunCommand) -> None:
    alpha = vendor("alpha", shared_api_key="")
    beta = vendor("beta")
    beta.lists("two")
    result = run("sync_ai_models")
    assert result.error is None
    assert "alpha: not synced: no key. Set the shared API key of 'alpha' in Django admin" in result.out
    assert (alpha.keys, beta.ids()) == ([], {"two"})
    assert "Set the shared API key of 'alpha'" in str(run("sync_ai_models", provider="alpha").error)
    AIProvider.objects.filter(slug="beta").delete()
    assert "Set the shared API key of 'alpha'" in str(run("sync_ai_models").error)


@pytest.mark.parametrize("attributes", [{"public_model_list": True}, {"requires_api_key": False}])
def test_a_public_list_needs_no_key(attributes: dict[str, Any], vendor: MakeVendor, run: RunCommand) -> None:
    alpha = vendor("alpha", shared_api_key="", class_attributes=attributes)
    alpha.lists("one")
    assert run("sync_ai_models").error is None
    assert (alpha.keys, alpha.ids()) == ([None], {"one"})


def test_an_unreadable_key_fails_its_provider_alone(vendor: MakeVendor, run: RunCommand) -> None:
    alpha, beta = vendor("alpha"), vendor("beta")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE ai_aiprovider SET shared_api_key = 'damaged' WHERE slug = 'alpha'")
    beta.lists("two")
    result = run("sync_ai_models")
    assert "alpha" in str(result.error)
    assert "can't be decrypted" in str(result.error)
    assert (alpha.keys, beta.ids()) == ([], {"two"})


# -- failures ------------------------------------------------------------------------------------------------------


def test_one_provider_failing_leaves_the_others_synced_and_the_exit_status_non_zero(
    vendor: MakeVendor, run: RunCommand
) -> None:
    alpha, beta = vendor("alpha"), vendor("beta")
    alpha.status = 500
    beta.lists("two")
    result = run("sync_ai_models")
    assert beta.ids() == {"two"}
    assert str(result.error).startswith("Error retrieving models list: alpha: The provider 'alpha' failed: HTTP 500")
    assert result.error is not None
    assert result.error.returncode == 1
    assert "key-of-alpha" not in result.out + result.err + str(result.error)


def test_a_provider_that_stands_still_is_given_up_and_the_others_are_synced(
    vendor: MakeVendor, run: RunCommand, settings: Any
) -> None:
    settings.AI_TIMEOUT_TOTAL = 2
    alpha, beta = vendor("alpha"), vendor("beta")
    let_go = threading.Event()
    alpha.before_answer = lambda: let_go.wait(20)
    beta.lists("two")
    result = run("sync_ai_models")
    let_go.set()
    assert "The provider 'alpha' did not answer within 2 seconds." in str(result.error)
    assert (alpha.ids(), beta.ids()) == (set(), {"two"})


def test_a_class_that_returns_something_else_fails_alone(vendor: MakeVendor, run: RunCommand) -> None:
    async def names(self: Any) -> list[str]:
        return ["a name"]

    vendor("alpha", class_attributes={"get_available_models": names})
    beta = vendor("beta")
    beta.lists("two")
    result = run("sync_ai_models")
    assert "str in it instead of ModelInfo" in str(result.error)
    assert beta.ids() == {"two"}


def test_a_list_that_can_not_be_stored_fails_alone(vendor: MakeVendor, run: RunCommand) -> None:
    async def broken(self: Any) -> list[ModelInfo]:
        return [ModelInfo(model_id="fine"), ModelInfo(model_id="broken", capabilities=None)]  # type: ignore[arg-type]

    alpha = vendor("alpha", class_attributes={"get_available_models": broken})
    beta = vendor("beta")
    beta.lists("two")
    result = run("sync_ai_models")
    assert "alpha: TypeError" in str(result.error)
    assert (alpha.ids(), beta.ids()) == (set(), {"two"})


def test_a_class_that_can_not_be_made_fails_alone(vendor: MakeVendor, run: RunCommand) -> None:
    def refuse(self: Any, api_key: str, config: Any) -> None:
        raise RuntimeError("a plug-in that is broken")

    vendor("alpha", class_attributes={"__init__": refuse})
    beta = vendor("beta")
    beta.lists("two")
    assert "alpha: RuntimeError: a plug-in that is broken" in str(run("sync_ai_models").error)
    assert beta.ids() == {"two"}


def test_a_wrong_configuration_fails_its_provider_alone(vendor: MakeVendor, run: RunCommand) -> None:
    vendor("alpha", config={"nonsense": 1})
    beta = vendor("beta")
    beta.lists("two")
    assert "unknown key 'nonsense'" in str(run("sync_ai_models").error)
    assert beta.ids() == {"two"}


def test_providers_are_asked_at_the_same_time(vendor: MakeVendor, run: RunCommand) -> None:
    together = threading.Barrier(3, timeout=10)
    vendors = [vendor(slug) for slug in ("alpha", "beta", "gamma")]
    for one in vendors:
        one.lists("model")
        one.before_answer = together.wait  # breaks unless all three requests are there at once
    assert run("sync_ai_models").error is None
    assert [one.ids() for one in vendors] == [{"model"}] * 3


def test_a_fast_provider_is_stored_while_a_slow_one_is_still_awaited(vendor: MakeVendor) -> None:
    alpha, beta = vendor("alpha"), vendor("beta")
    let_go = threading.Event()
    alpha.before_answer = lambda: let_go.wait(20)
    alpha.lists("one")
    beta.lists("two")
    reports = sync_models([alpha.row, beta.row])
    assert next(reports).provider == "beta"
    assert (alpha.ids(), beta.ids()) == (set(), {"two"})
    let_go.set()
    assert next(reports).provider == "alpha"
    assert alpha.ids() == {"one"}


# -- rehearsal and output ------------------------------------------------------------------------------------------


def test_a_dry_run_says_all_and_writes_nothing(vendor: MakeVendor, run: RunCommand) -> None:
    alpha = vendor()
    alpha.lists(FULL, "goes")
    run("sync_ai_models")
    alpha.lists({**FULL, "pricing_input": "0.5"}, "comes")
    before = snapshot()
    with CaptureQueriesContext(connection) as queries:
        rehearsal = run("sync_ai_models", dry_run=True)
    assert snapshot() == before
    assert {query["sql"].split()[0] for query in queries} <= {"SELECT", "DECLARE"}
    assert "1 new, 1 updated, 0 unchanged, 1 gone upstream" in rehearsal.out
    assert "+ comes" in rehearsal.out
    assert "~ big-1 (pricing_input: 0.790000 -> 0.500000)" in rehearsal.out
    assert "- goes (no longer listed)" in rehearsal.out
    assert "Dry run: nothing was written" in rehearsal.out
    assert "1 new, 1 updated, 0 unchanged, 1 gone upstream" in run("sync_ai_models").out


def test_long_lists_are_cut_unless_all_is_asked_for(vendor: MakeVendor, run: RunCommand) -> None:
    vendor().lists(*(f"model-{number:02}" for number in range(25)))
    short = run("sync_ai_models", dry_run=True).out
    assert "+ model-19" in short
    assert "+ model-20" not in short
    assert "and 5 more" in short
    assert "+ model-24" in run("sync_ai_models", dry_run=True, verbosity=2).out


def test_without_a_terminal_the_output_is_plain_lines_and_a_table(vendor: MakeVendor, run: RunCommand) -> None:
    vendor("alpha").lists("one", "[bold]two :smile:")
    vendor("beta", shared_api_key="")
    vendor("gamma").status = 503
    out = run("sync_ai_models", verbosity=2).out
    assert "\x1b" not in out
    assert "\r" not in out
    assert "[bold]two :smile:" in out
    table = [line.split() for line in out.splitlines() if "│" in line or "┃" in line]
    words = [[word for word in row if word not in "│┃"] for row in table]
    assert words[0] == ["provider", "new", "updated", "unchanged", "gone", "upstream", "failed"]
    assert sorted(words[1:]) == [
        ["alpha", "2", "0", "0", "0"],
        ["beta", "-", "-", "-", "-", "no", "key"],
        ["gamma", "-", "-", "-", "-", "failed"],
    ]


def test_a_terminal_shows_a_progress_bar(vendor: MakeVendor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    vendor().lists("one")
    mine, theirs = pty.openpty()
    parts: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
            while part := os.read(mine, 4096):
                parts.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    with open(theirs, "w", encoding="utf-8") as terminal:
        call_command("sync_ai_models", stdout=terminal)
    reader.join(10)
    os.close(mine)
    shown = b"".join(parts).decode()
    assert "━" in shown
    assert "0/1" in shown
    assert "alpha: 1 new" in shown


# -- size ----------------------------------------------------------------------------------------------------------


def many(count: int, price: str = "1") -> list[dict[str, Any]]:
    return [
        {**FULL, "model_id": f"vendor/model-{number}", "display_name": f"Model {number}", "pricing_input": price}
        for number in range(count)
    ]


def test_the_number_of_queries_does_not_grow_with_the_number_of_models(vendor: MakeVendor, run: RunCommand) -> None:
    counts: dict[int, list[int]] = {}
    for count in (10, 2000):
        AIModel.objects.all().delete()
        AIProvider.objects.filter(slug="alpha").delete()
        alpha = vendor("alpha")
        counts[count] = []
        gone = many(1)
        for listed in (many(count), many(count), many(count, "2"), gone):
            alpha.lists(*listed)
            with CaptureQueriesContext(connection) as queries:
                assert run("sync_ai_models").error is None
            counts[count].append(len(queries))
        assert AIModel.objects.filter(gone_since__isnull=False).count() == count - 1
        assert alpha.model("vendor/model-1").pricing_input == Decimal(2)
    assert counts[10] == counts[2000]
    assert max(counts[2000]) < 12


@pytest.mark.django_db(transaction=True)
def test_syncs_and_activations_at_the_same_time_do_not_disturb_each_other(vendor: MakeVendor, run: RunCommand) -> None:
    alpha = vendor()
    alpha.lists(*many(50, "1"))
    run("sync_ai_models")
    results: list[Run] = []

    def sync() -> None:
        try:
            results.extend(run("sync_ai_models") for _time in range(4))
        finally:
            connection.close()

    def activate() -> None:
        try:
            for row in alpha.row.models.order_by("?")[:15]:
                row.is_active = True
                row.save(update_fields=["is_active"])
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for work in (sync, sync, activate, activate)]
    for thread in threads:
        thread.start()
    for price in ("2", "3", "4"):
        alpha.lists(*many(60, price))
        time.sleep(0.05)
    for thread in threads:
        thread.join(60)
    assert [result.error for result in results] == [None] * 8
    assert alpha.row.models.count() == 60
    assert alpha.row.models.filter(is_active=True).count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_price_that_is_being_set_by_hand_is_not_overwritten(vendor: MakeVendor, run: RunCommand) -> None:
    alpha = vendor()
    alpha.lists(*many(1, "1"))
    run("sync_ai_models")
    alpha.lists(*many(1, "2"))
    results: list[Run] = []

    def sync() -> None:
        try:
            results.append(run("sync_ai_models"))
        finally:
            connection.close()

    syncing = threading.Thread(target=sync)
    with transaction.atomic():
        AIModel.objects.update(pricing_input=Decimal(7))
        syncing.start()
        syncing.join(1)
        assert syncing.is_alive()
    syncing.join(20)
    assert results[0].error is None
    assert AIModel.objects.get().pricing_input == Decimal(7)


def test_a_row_added_meanwhile_is_left_as_it_is(vendor: MakeVendor) -> None:
    """Between reading the rows and inserting, another process may have added one of the listed models."""
    alpha = vendor()
    AIModel.objects.create(provider=alpha.row, model_id="race", name="Theirs")
    mine = [AIModel(provider=alpha.row, model_id=model_id, name="Mine") for model_id in ("race", "other")]
    insert_missing(AIModel, mine)
    assert (alpha.model("race").name, alpha.model("other").name) == ("Theirs", "Mine")


def test_bulk_writes_store_what_a_save_would(vendor: MakeVendor) -> None:
    alpha = vendor()
    fields: dict[str, Any] = {
        "name": "N'a\"me 'ن' 😀 %s {0}",
        "description": 'back\\slash "quote"\nline',
        "capabilities": ["chat", 'od"d'],
        "pricing_input": Decimal("12345678.123456"),
        "pricing_output": None,
        "context_window": 2**31 - 1,
        "config": {"nested": {"list": [1, 2.5, None, True, "متن"]}, "text": "null"},
        "gone_since": timezone.now(),
        "synced": {"pricing_input": "1.000000", "capabilities": []},
    }
    insert_missing(AIModel, [AIModel(provider=alpha.row, model_id="bulk", **fields)])
    AIModel.objects.create(provider=alpha.row, model_id="saved", **fields)
    bulk, saved = (AIModel.objects.values().get(model_id=model_id) for model_id in ("bulk", "saved"))
    own = ("id", "public_id", "model_id", "created_at", "updated_at")
    assert {**bulk, **dict.fromkeys(own)} == {**saved, **dict.fromkeys(own)}
    assert abs(bulk["created_at"] - saved["created_at"]).total_seconds() < 5
    assert raw_types("bulk") == raw_types("saved")
    row = alpha.model("bulk")
    for name, value in {"name": "other", "config": {}, "pricing_input": Decimal("0.1"), "max_tokens": 3}.items():
        setattr(row, name, value)
    update_rows(AIModel, [row], ["name", "config", "pricing_input"])
    after = AIModel.objects.values().get(model_id="bulk")
    assert after == {**bulk, "name": "other", "config": {}, "pricing_input": Decimal("0.1")}


def raw_types(model_id: str) -> list[str]:
    """The storage class of each column: what SQLite compares and sorts by."""
    if connection.vendor != "sqlite":
        return []
    columns = ", ".join(f"typeof({field.column})" for field in AIModel._meta.concrete_fields)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns} FROM ai_aimodel WHERE model_id = %s", [model_id])  # noqa: S608
        return list(cursor.fetchone())
