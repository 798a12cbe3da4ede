"""The books in Django admin: who sees what, filters, totals, the CSV, and one's own page."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from asgiref.sync import sync_to_async
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.db import connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from src.ai.models import (
    AdminProviderSettings,
    AIModel,
    AIProvider,
    CostState,
    Period,
    UsagePeriod,
    UsageRecord,
    UsageState,
    UsageText,
)
from src.ai.services import usage_csv, usage_reports
from src.ai.services.ledger.upkeep import prune
from src.ai.services.unified_service import UnifiedAIService
from src.core.asgi import Handler
from src.core.ids import uuid7
from src.core.months import month_name, month_of
from tests import vendor_answers as answers
from tests.upstream.server import Upstream, whole

RECORDS, MONTHS, OWN = "/admin/ai/usagerecord/", "/admin/ai/usageperiod/", "/admin/ai/usage/"
EXPORT = f"{RECORDS}export/"
DAY = timedelta(days=1)


@pytest.fixture
def provider(make_provider: Callable[..., AIProvider], upstream: Upstream) -> AIProvider:
    upstream.on("POST", answers.CHAT, whole(200, answers.chat("Hello!")))
    key = "sk-shared-0123456789abcdef"
    return make_provider(api_base_url=f"{upstream.url}/v1", shared_api_key=key, allow_shared_for_normal_admins=True)


@pytest.fixture
def model(provider: AIProvider, make_model: Callable[..., AIModel]) -> AIModel:
    return make_model(provider, model_id="gpt-6-luna", pricing_input=Decimal("0.25"), pricing_output=Decimal("1"))


@pytest.fixture
def call(model: AIModel) -> Callable[[User], UsageRecord]:
    """A call to the vendor; its record. It costs $0.00000625."""

    def make(admin: User) -> UsageRecord:
        UnifiedAIService.chat("Hi", admin)
        return UsageRecord.objects.filter(admin=admin).latest("id")

    return make


@pytest.fixture
def write(provider: AIProvider, model: AIModel) -> Callable[..., UsageRecord]:
    """A record as it is stored; the periods know of it once `add_up` was called."""

    def make(admin: User, **facts: Any) -> UsageRecord:
        moment = facts.pop("created_at", timezone.now())
        of = facts.pop("model", model)
        facts = {
            "admin_name": admin.get_username(),
            "key_source": "shared",
            "capability": "chat",
            "operation": "chat",
            "state": UsageState.SETTLED,
            "requests": 1,
            "cost": Decimal("0.10"),
            "cost_state": CostState.EXACT,
            "input_tokens": 10,
            "output_tokens": 20,
            **facts,
        }
        return UsageRecord.objects.create(
            id=uuid7(),
            created_at=moment,
            month=month_of(moment).first,
            admin=admin,
            provider_id=of.provider_id,
            provider_slug=of.provider.slug,
            model_id=of.pk,
            model_name=of.model_id,
            lease_expires_at=moment,
            **facts,
        )

    return make


def add_up() -> None:
    call_command("ai_reconcile", "--fix", verbosity=0, stdout=StringIO())


def allow(user: User, *names: str) -> None:
    user.user_permissions.add(*Permission.objects.filter(content_type__app_label="ai", codename__in=names))


def rows_of(page: Any) -> list[UsageRecord]:
    return list(page.response.context["cl"].result_list)


def sums_of(page: Any) -> usage_reports.Totals:
    totals = page.response.context["cl"].totals
    assert totals is not None
    return totals  # type: ignore[no-any-return]


# -- who sees what -----------------------------------------------------------------------------------------------------


def test_nobody_changes_the_books(as_superuser: Any, superuser: User, call: Callable[..., UsageRecord]) -> None:
    record = call(superuser)
    period = UsagePeriod.objects.filter(scope="admin").get()
    for url, row in ((RECORDS, record), (MONTHS, period)):
        page = as_superuser.get(f"{url}{quote(row.pk)}/change/")
        assert "_save" not in page.html
        client = as_superuser.client
        assert client.post(f"{url}{quote(row.pk)}/change/", {"cost": "0", "state": "failed"}).status_code == 403
        assert client.post(f"{url}{quote(row.pk)}/delete/", {"post": "yes"}).status_code == 403
        assert client.get(f"{url}add/").status_code == 403
        as_superuser.act(url, "delete_selected", row, post="yes")
        row.refresh_from_db()
    assert record.state == UsageState.SETTLED


@pytest.mark.parametrize("url", [RECORDS, MONTHS, EXPORT])
def test_the_books_are_for_those_with_the_permission(
    url: str, as_editor: Any, editor: User, superuser: User, visitor: User, call: Callable[..., UsageRecord]
) -> None:
    record = call(superuser)
    assert as_editor.client.get(url).status_code == 403
    assert as_editor.client.get(f"{RECORDS}{record.pk}/change/").status_code == 403
    allow(editor, "view_usagerecord", "view_usageperiod")
    response = as_editor.client.get(url)
    assert response.status_code == 200
    assert "admin" in response.getvalue().decode()
    client = Client()
    client.force_login(visitor)
    assert client.get(url).status_code == 302


def test_the_front_page_leads_to_what_one_may_open(as_superuser: Any, as_editor: Any) -> None:
    pages = [RECORDS, MONTHS, OWN]
    front = as_superuser.get("/admin/").html
    assert [url for url in pages if f'href="{url}"' in front] == pages
    front = as_editor.get("/admin/").html
    assert [url for url in pages if f'href="{url}"' in front] == [OWN]
    assert f'href="{OWN}"' in as_editor.get("/admin/ai/adminprovidersettings/").html


# -- the list and the page of a record ---------------------------------------------------------------------------------


def test_a_call_is_listed_with_what_it_took(
    as_superuser: Any, superuser: User, call: Callable[..., UsageRecord]
) -> None:
    record = call(superuser)
    page = as_superuser.get(RECORDS)
    assert rows_of(page) == [record]
    for words in ("gpt-6-luna", "9 / 4", "$0.00000625", "settled"):
        assert words in page.text
    page = as_superuser.get(f"{RECORDS}{record.pk}/change/")
    for words in ("$0.00000625", "$0.25", "$1.00", "the shared one", record.request_id, month_name(record.month)):
        assert words in page.text


def test_an_unknown_cost_is_no_cost_of_zero(
    as_superuser: Any, superuser: User, write: Callable[..., UsageRecord]
) -> None:
    free = write(superuser, cost=Decimal(0))
    unknown = write(superuser, cost=None, cost_state=CostState.UNKNOWN)
    for record, shown in ((free, "$0.00"), (unknown, "unknown")):
        page = as_superuser.get(f"{RECORDS}{record.pk}/change/").html
        cost = page[page.index("field-paid") :]
        assert shown in cost[: cost.index("field-prices")]
    add_up()
    assert sums_of(as_superuser.get(RECORDS)).unpriced == 1
    assert rows_of(as_superuser.get(RECORDS, cost_state__exact="unknown")) == [unknown]


def test_calls_that_nobody_came_back_from_are_pointed_out(
    as_superuser: Any, superuser: User, write: Callable[..., UsageRecord]
) -> None:
    write(superuser)
    assert "nobody knows" not in as_superuser.get(RECORDS).text
    lost = [write(superuser, state=UsageState.UNKNOWN, error_code="lease_expired") for _ in range(2)]
    page = as_superuser.get(RECORDS)
    assert "2 calls of this month ended in a way that nobody knows." in " ".join(page.text.split())
    linked = dict(parse_qsl(page.response.context["cl"].unknown_url.lstrip("?")))
    assert {row.pk for row in rows_of(as_superuser.get(RECORDS, **linked))} == {row.pk for row in lost}


def test_texts_are_for_those_with_their_own_permission(
    as_superuser: Any, as_editor: Any, superuser: User, editor: User, call: Callable[..., UsageRecord]
) -> None:
    record = call(superuser)
    UsageText.objects.create(public_id=record.pk, prompt="Hi", reply="Hello!")
    url = f"{RECORDS}{record.pk}/change/"
    assert str(UsageText.objects.get().reply) != "Hello!"
    assert "Hello!" in as_superuser.get(url).text
    allow(editor, "view_usagerecord")
    assert "Hello!" not in as_editor.get(url).text
    for page in (RECORDS, EXPORT):
        assert b"Hello!" not in as_superuser.client.get(page).getvalue()
    allow(editor, "view_usagetext")
    assert "Hello!" in as_editor.get(url).text
    with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=[]):
        as_superuser.client.force_login(superuser)
        assert "can't be decrypted" in as_superuser.get(url).text


def test_a_record_without_texts_has_no_place_for_them(
    as_superuser: Any, superuser: User, call: Callable[..., UsageRecord]
) -> None:
    assert "field-reply" not in as_superuser.get(f"{RECORDS}{call(superuser).pk}/change/").html


# -- filters -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def various(
    superuser: User,
    editor: User,
    model: AIModel,
    make_provider: Callable[..., AIProvider],
    make_model: Callable[..., AIModel],
    write: Callable[..., UsageRecord],
) -> dict[str, UsageRecord]:
    other = make_model(make_provider("acme"), model_id="anvil-1")
    now = timezone.now()
    records = {
        "mine": write(superuser, request_id="request-1"),
        "theirs": write(editor, key_source="personal", cost=Decimal("1.25")),
        "painted": write(editor, model=other, capability="image", cost=Decimal("0.0000034"), images=1),
        "failed": write(superuser, model=other, state=UsageState.FAILED, requests=0, cost=Decimal(0)),
        "open": write(editor, state=UsageState.RESERVED, cost=None, cost_state="unknown", held_cost=Decimal("0.02")),
        "unpriced": write(superuser, cost=None, cost_state=CostState.UNKNOWN),
        "days ago": write(editor, created_at=now - 3 * DAY),
        "long ago": write(superuser, created_at=now - 70 * DAY, cost=Decimal("4.50")),
    }
    add_up()
    return records


def filters(editor: User, records: dict[str, UsageRecord]) -> dict[str, tuple[dict[str, Any], set[str]]]:
    """Query strings, and the records that they leave."""
    now, everything = timezone.now(), set(records)
    acme = records["painted"]
    day = (now - 3 * DAY).date()
    this_month = {name for name, row in records.items() if row.month == month_of().first}
    return {
        "nothing": ({}, everything),
        "today": ({"date": "today"}, everything - {"days ago", "long ago"}),
        "week": ({"date": "week"}, everything - {"long ago"}),
        "this month": ({"date": month_of().first}, this_month),
        "a month": ({"date": records["long ago"].month}, {"long ago"}),
        "range": ({"created_at__gte": day, "created_at__lt": day + DAY}, {"days ago"}),
        "since": ({"created_at__gte": (now - DAY).isoformat()}, everything - {"days ago", "long ago"}),
        "until": ({"created_at__lt": (now - 10 * DAY).strftime("%Y-%m-%d %H:%M")}, {"long ago"}),
        "state": ({"state__exact": "reserved"}, {"open"}),
        "provider": ({"provider": acme.provider_id}, {"painted", "failed"}),
        "admin": ({"admin": editor.pk}, {"theirs", "painted", "open", "days ago"}),
        "model": ({"model": acme.model_id}, {"painted", "failed"}),
        "provider of an admin": ({"provider": acme.provider_id, "admin": editor.pk}, {"painted"}),
        "model of an admin": ({"model": acme.model_id, "admin": editor.pk}, {"painted"}),
        "shared key": ({"key_source": "shared"}, everything - {"theirs"}),
        "shared key in a month": ({"key_source": "shared", "date": records["long ago"].month}, {"long ago"}),
        "shared key of an admin": ({"key_source": "shared", "admin": editor.pk}, {"painted", "open", "days ago"}),
        "own key": ({"key_source": "personal"}, {"theirs"}),
        "capability": ({"capability": "image"}, {"painted"}),
        "certainty": ({"cost_state__exact": "unknown"}, {"open", "unpriced"}),
        "request id": ({"q": " request-1 "}, {"mine"}),
        "part of a request id": ({"q": "request-"}, set()),
        "admin's name": ({"q": "EDIT"}, {"theirs", "painted", "open", "days ago"}),
        "model id": ({"q": "anvil"}, {"painted", "failed"}),
        "name and state": ({"q": "anvil", "state__exact": "failed"}, {"failed"}),
        "no name": ({"q": "nobody"}, set()),
    }


def test_filters_leave_what_they_say_with_its_totals_and_its_csv(
    as_superuser: Any, editor: User, various: dict[str, UsageRecord]
) -> None:
    for name, (query, left) in filters(editor, various).items():
        page = as_superuser.get(RECORDS, **query)
        assert {row.pk for row in rows_of(page)} == {various[one].pk for one in left}, name
        exported = as_superuser.client.get(f"{EXPORT}?{urlencode(query)}").getvalue().decode()
        assert {row["id"] for row in csv.DictReader(StringIO(exported))} == {str(various[one].pk) for one in left}, name
        chosen = [various[one] for one in left]
        settled = [row for row in chosen if row.state != UsageState.RESERVED]
        totals = sums_of(page)
        assert totals.cost == sum((row.cost or 0 for row in settled), Decimal(0)), name
        assert totals.held_cost == sum((row.held_cost for row in chosen if row not in settled), Decimal(0)), name
        assert totals.requests == sum(row.requests for row in settled), name
        assert totals.held_requests == sum(row.requests for row in chosen if row not in settled), name
        assert totals.unpriced == sum(row.cost is None for row in settled), name
        assert totals.input_tokens == sum(row.input_tokens or 0 for row in settled), name
        assert totals.output_tokens == sum(row.output_tokens or 0 for row in settled), name


def test_a_retry_after_midnight_belongs_to_the_month_of_its_call(
    as_superuser: Any, superuser: User, write: Callable[..., UsageRecord]
) -> None:
    this_month = month_of()
    before = month_of(timezone.now() - 40 * DAY)
    late = write(superuser, created_at=before.end + timedelta(seconds=30))
    UsageRecord.objects.update(month=before.first)
    add_up()
    assert rows_of(as_superuser.get(RECORDS, date=before.first)) == [late]
    assert sums_of(as_superuser.get(RECORDS, date=before.first)).requests == 1
    assert rows_of(as_superuser.get(RECORDS, date=month_of(before.end + DAY).first)) == []
    assert rows_of(as_superuser.get(RECORDS, date=this_month.first)) == []


@override_settings(AI_MONTH_CALENDAR="jalali")
def test_months_are_those_of_the_accounting_calendar(
    as_superuser: Any, superuser: User, write: Callable[..., UsageRecord]
) -> None:
    new_year = datetime(2026, 3, 21, 12, tzinfo=UTC)
    esfand, farvardin = (write(superuser, created_at=moment) for moment in (new_year - DAY, new_year))
    add_up()
    page = as_superuser.get(RECORDS)
    assert "فروردین 1405" in page.text
    assert rows_of(as_superuser.get(RECORDS, date="2026-03-21")) == [farvardin]
    assert rows_of(as_superuser.get(RECORDS, date=esfand.month)) == [esfand]
    assert "فروردین 1405" in as_superuser.get(MONTHS).text


def test_totals_come_out_of_the_periods_where_these_tell_them(
    as_superuser: Any, editor: User, various: dict[str, UsageRecord]
) -> None:
    told = {"nothing", "this month", "a month", "provider", "admin", "model", "provider of an admin", "shared key"}
    told |= {"shared key in a month"}
    for name, (query, left) in filters(editor, various).items():
        records = sums_of(as_superuser.get(RECORDS, **query)).records
        assert records == (None if name in told else len(left)), name


def test_totals_are_shown_to_the_cent(as_superuser: Any, various: dict[str, UsageRecord]) -> None:
    text = as_superuser.get(RECORDS).text
    assert 'title="$5.9500034">$5.95<' in text
    assert "$0.02</bdi> held" in text


def test_totals_are_those_of_the_records_that_there_are(
    as_superuser: Any, superuser: User, provider: AIProvider, various: dict[str, UsageRecord]
) -> None:
    provider.increment_usage()
    before = sums_of(as_superuser.get(RECORDS))
    assert before.requests == 6
    assert prune(30 * DAY) == 1
    after = sums_of(as_superuser.get(RECORDS))
    assert (before.cost - after.cost, before.requests - after.requests) == (Decimal("4.50"), 1)
    period = UsagePeriod.objects.get(scope="provider", provider=provider, month=various["long ago"].month)
    assert period.cost == Decimal("4.50")


def test_totals_of_very_many_records_are_left_to_be_asked_for(
    as_superuser: Any, various: dict[str, UsageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_reports.totals_of_records, "__kwdefaults__", {"most": 5})
    page = as_superuser.get(RECORDS, state__exact="settled")
    assert page.response.context["cl"].totals is None
    assert "Add them up" in page.text
    link = page.response.context["cl"].sum_url
    page = as_superuser.get(f"{RECORDS}{link}")
    assert sums_of(page).cost == Decimal("5.9500034")
    assert "sum=1" not in page.response.context["cl"].get_query_string({"admin": "1"})
    assert sums_of(as_superuser.get(RECORDS, capability="image")).records == 1


@pytest.mark.parametrize(
    "query",
    [
        {"date": "yesterday"},
        {"date": "2026-02-31"},
        {"created_at__gte": "soon"},
        {"provider": "acme"},
        {"provider": "9" * 30},
        {"p": "7"},
        {"p": "older.1.x"},
        {"p": "older.99999999999999999999999.0"},
        {"cost__gte": "cheap"},
    ],
)
def test_what_is_no_filter_leads_back_to_the_list(as_superuser: Any, query: dict[str, str]) -> None:
    if "p" not in query:
        assert as_superuser.client.get(EXPORT, query).status_code == 302
    response = as_superuser.client.get(RECORDS, query)
    assert (response.status_code, response["Location"]) == (302, f"{RECORDS}?e=1")


def test_no_query_string_reaches_into_other_tables(as_superuser: Any) -> None:
    assert as_superuser.client.get(RECORDS, {"admin__password__startswith": "a"}).status_code == 400


def test_those_who_are_gone_are_still_filtered_by(
    as_superuser: Any, editor: User, various: dict[str, UsageRecord]
) -> None:
    pk = editor.pk
    editor.delete()
    page = as_superuser.get(RECORDS, admin=pk)
    assert len(rows_of(page)) == 4
    assert ">editor</a>" in page.text
    assert as_superuser.get(f"{RECORDS}{various['theirs'].pk}/change/").status == 200


def test_filters_offer_a_number_that_can_be_read(
    as_superuser: Any, write: Callable[..., UsageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_reports, "MOST_NAMES", 3)
    users = [User.objects.create_user(f"user-{n}", is_staff=True) for n in range(6)]
    for user in users:
        write(user)
    add_up()
    UsagePeriod.objects.filter(scope="admin", admin__in=users[3:]).update(last_used_at=timezone.now())
    page = as_superuser.get(RECORDS, admin=users[0].pk)
    names = [
        choice
        for spec in page.response.context["cl"].filter_specs
        if spec.title == "admin"
        for choice in spec.lookup_choices
    ]
    assert [name for _pk, name in names] == ["user-0", "user-3", "user-4", "user-5"]


# -- pages -------------------------------------------------------------------------------------------------------------


def test_pages_lead_from_one_to_the_next_and_back(
    as_superuser: Any, superuser: User, editor: User, write: Callable[..., UsageRecord]
) -> None:
    moment = timezone.now().replace(microsecond=123456)
    for number in range(130):
        # Many of the same moment: only their ids tell them apart.
        write(superuser if number % 2 else editor, created_at=moment - timedelta(seconds=number // 40))
    for query, count in (({}, 130), ({"admin": superuser.pk}, 65)):
        expected = list(UsageRecord.objects.filter(**query).order_by("-created_at", "-id"))
        page = as_superuser.get(RECORDS, **query)
        assert page.response.context["cl"].newer_url == ""
        seen, pages = rows_of(page), [page]
        while url := pages[-1].response.context["cl"].older_url:
            pages.append(as_superuser.get(f"{RECORDS}{url}"))
            seen += rows_of(pages[-1])
        assert seen == expected
        assert len(seen) == count
        back = as_superuser.get(f"{RECORDS}{pages[-1].response.context['cl'].newer_url}")
        assert rows_of(back) == rows_of(pages[-2])
        assert rows_of(as_superuser.get(f"{RECORDS}{pages[-1].response.context['cl'].newest_url}")) == expected[:50]


def test_a_page_before_the_first_is_the_first(
    as_superuser: Any, superuser: User, write: Callable[..., UsageRecord]
) -> None:
    rows = [write(superuser) for _ in range(60)]
    last = as_superuser.get(f"{RECORDS}{as_superuser.get(RECORDS).response.context['cl'].older_url}")
    UsageRecord.objects.filter(pk__in=[row.pk for row in rows[40:]]).delete()
    page = as_superuser.get(f"{RECORDS}{last.response.context['cl'].newer_url}")
    assert len(rows_of(page)) == 40
    assert page.response.context["cl"].newer_url == ""


def test_the_list_takes_the_same_few_queries_for_any_number_of_records(
    as_superuser: Any, superuser: User, write: Callable[..., UsageRecord], django_assert_num_queries: Any
) -> None:
    def queries(**query: Any) -> list[str]:
        with CaptureQueriesContext(
            connection,
        ) as found:
            as_superuser.get(RECORDS, **query)
        return [one["sql"] for one in found]

    write(superuser)
    add_up()
    few = [len(queries()), len(queries(state__exact="settled"))]
    for _ in range(200):
        write(superuser)
    add_up()
    # Session, user; months, providers, admins, models; the page; two for the totals; unknown ones.
    assert [len(queries()), len(queries(state__exact="settled"))] == few == [10, 9]
    over_all = [sql for sql in queries() if '"ai_usagerecord"' in sql and "LIMIT" not in sql]
    assert over_all == []
    assert not any("JOIN" in sql for sql in queries() if '"ai_usagerecord"' in sql)


# -- CSV ---------------------------------------------------------------------------------------------------------------


def test_the_csv_has_every_field_in_plain_form(
    as_superuser: Any, superuser: User, write: Callable[..., UsageRecord]
) -> None:
    moment = datetime(2026, 3, 4, 5, 6, 7, 890, tzinfo=UTC)
    record = write(superuser, created_at=moment, cost=Decimal("0.000004"), audio_seconds=None, held_cost=Decimal(100))
    response = as_superuser.client.get(EXPORT)
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert response["Content-Disposition"].startswith('attachment; filename="usage-')
    (row,) = csv.DictReader(StringIO(response.getvalue().decode()))
    assert list(row) == [field.attname for field in UsageRecord._meta.concrete_fields]
    expected = {
        "id": str(record.pk),
        "created_at": "2026-03-04T05:06:07.000890+00:00",
        "month": "2026-03-01",
        "state": "settled",
        "admin_id": str(superuser.pk),
        "admin_name": "admin",
        "model_name": "gpt-6-luna",
        "input_tokens": "10",
        "audio_seconds": "",
        "cost": "0.000004",
        "held_cost": "100",
        "settled_at": "",
    }
    assert {name: row[name] for name in expected} == expected


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_no_cell_becomes_a_formula(
    as_superuser: Any, superuser: User, write: Callable[..., UsageRecord], text: str
) -> None:
    write(superuser, admin_name=text, finish_reason='a,"b"\n=c')
    content = as_superuser.client.get(EXPORT).getvalue().decode()
    (row,) = csv.DictReader(StringIO(content, newline=""))
    assert (row["admin_name"], row["finish_reason"]) == (f"'{text}", 'a,"b"\n=c')


def test_the_csv_is_read_in_pieces_while_it_is_sent(
    as_superuser: Any, superuser: User, write: Callable[..., UsageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_csv, "BATCH", 2)
    moment = timezone.now()
    rows = [write(superuser, created_at=moment) for _ in range(5)]
    response = as_superuser.client.get(EXPORT)
    assert response.streaming
    pieces = iter(response.streaming_content)
    with CaptureQueriesContext(connection) as queries:
        assert next(pieces).startswith(b"id,created_at,")
        assert len(queries) == 0
        lines = []
        for asked in (1, 2, 3):
            lines += next(pieces).decode().splitlines()
            assert len(queries) == asked
            assert "LIMIT 2" in queries[-1]["sql"]
            assert "OFFSET" not in queries[-1]["sql"]
        assert list(pieces) == []
    assert [line.split(",")[0] for line in lines] == sorted((str(row.pk) for row in rows), reverse=True)


@pytest.mark.django_db(transaction=True)
def test_no_connection_is_held_between_two_pieces(
    transactional_db: None,
    superuser: User,
    as_superuser: Any,
    write: Callable[..., UsageRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(usage_csv, "BATCH", 2)
    for _ in range(3):
        write(superuser)
    pieces = iter(as_superuser.client.get(EXPORT).streaming_content)
    next(pieces)
    assert next(pieces).count(b"\n") == 2
    assert connection.connection is None
    assert next(pieces).count(b"\n") == 1


@pytest.mark.django_db(transaction=True)
async def test_under_asgi_too_it_is_read_while_it_is_sent(
    transactional_db: None,
    superuser: User,
    as_superuser: Any,
    write: Callable[..., UsageRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moment = timezone.now()
    rows = await sync_to_async(lambda: [write(superuser, created_at=moment) for _ in range(5)])()
    monkeypatch.setattr(usage_csv, "BATCH", 2)
    messages = _request()
    events: list[str] = []
    body = b""
    read = usage_csv._batch

    def noted(*args: Any) -> Any:
        events.append("read")
        return read(*args)

    async def send(message: dict[str, Any]) -> None:
        nonlocal body
        if message["type"] == "http.response.start":
            events.append(str(message["status"]))
        elif message.get("body"):
            events.append("sent")
            body += message["body"]

    async def receive() -> dict[str, Any]:
        return await anext(messages)

    monkeypatch.setattr(usage_csv, "_batch", noted)
    cookie = "; ".join(f"{name}={morsel.value}" for name, morsel in as_superuser.client.cookies.items())
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": EXPORT,
        "query_string": b"",
        "headers": [(b"host", b"testserver"), (b"cookie", cookie.encode())],
        "server": ("testserver", 80),
    }
    await Handler()(scope, receive, send)
    assert events == ["200", "sent", "read", "sent", "read", "sent", "read", "sent"]
    ids = [row["id"] for row in csv.DictReader(StringIO(body.decode()))]
    assert ids == sorted((str(row.pk) for row in rows), reverse=True)


async def _request() -> AsyncIterator[dict[str, Any]]:
    """What a server passes on of a client that asks and then waits."""
    yield {"type": "http.request", "body": b"", "more_body": False}
    await asyncio.Event().wait()


# -- months ------------------------------------------------------------------------------------------------------------


def test_a_month_shows_what_it_came_to_and_what_is_left(
    as_superuser: Any, editor: User, provider: AIProvider, call: Callable[..., UsageRecord]
) -> None:
    AdminProviderSettings.objects.create(
        admin=editor, provider=provider, monthly_limit=5, monthly_budget=Decimal("0.01")
    )
    AIProvider.objects.update(shared_monthly_budget=Decimal(3))
    record = call(editor)
    assert record.cost == Decimal("0.00000625")
    page = as_superuser.get(MONTHS, scope__exact="admin")
    for words in (month_name(record.month), "editor", "4 of 5 requests left", "$0.009994", "$0.00000625"):
        assert words in page.text
    shared = as_superuser.get(MONTHS, scope__exact="shared_key").text
    assert "of <bdi" in shared
    assert "$3.00" in shared
    period = UsagePeriod.objects.get(scope="admin")
    page = as_superuser.get(f"{MONTHS}{quote(period.pk)}/change/")
    assert "4 of 5 requests left" in page.text
    UsagePeriod.objects.update(month=month_of(timezone.now() - 70 * DAY).first)
    assert "requests left" not in as_superuser.get(MONTHS, scope__exact="admin").text


def test_an_admin_without_settings_has_the_default_limit(
    as_superuser: Any, editor: User, provider: AIProvider, call: Callable[..., UsageRecord]
) -> None:
    AIProvider.objects.update(default_monthly_limit=9)
    call(editor)
    assert "8 of 9 requests left" in as_superuser.get(MONTHS).text
    AdminProviderSettings.objects.create(admin=editor, provider=provider)
    assert "requests left" not in as_superuser.get(MONTHS).text


def test_a_month_leads_to_its_records(
    as_superuser: Any, as_editor: Any, editor: User, various: dict[str, UsageRecord]
) -> None:
    for period in UsagePeriod.objects.all():
        page = as_superuser.get(f"{MONTHS}{quote(period.pk)}/change/").text
        query = page.split(f'href="{RECORDS}?')[1].split('"')[0]
        records = rows_of(as_superuser.get(RECORDS, **dict(parse_qsl(query))))
        assert sum(row.requests for row in records) == period.requests + period.held_requests, period.key
    allow(editor, "view_usageperiod")
    assert f"{RECORDS}?" not in as_editor.get(MONTHS).html


def test_months_are_filtered_and_take_the_same_queries(
    as_superuser: Any,
    editor: User,
    various: dict[str, UsageRecord],
    provider: AIProvider,
    django_assert_num_queries: Any,
) -> None:
    AdminProviderSettings.objects.create(admin=editor, provider=provider, monthly_limit=9)
    with django_assert_num_queries(9):
        as_superuser.get(MONTHS)
    month = month_of()
    for number in range(60):
        period = Period.of_admin(provider.pk, 1000 + number, provider.slug, f"user-{number}", month=month.first)
        UsagePeriod.objects.create(key=period.key, requests=1, **period.names)
    with django_assert_num_queries(9):
        as_superuser.get(MONTHS)
    old = various["long ago"].month
    assert {row.month for row in as_superuser.get(MONTHS, month=old).rows} == {old}
    assert {row.scope for row in as_superuser.get(MONTHS, scope__exact="model").rows} == {"model"}
    assert {row.admin_id for row in as_superuser.get(MONTHS, admin=editor.pk).rows} == {editor.pk}
    assert as_superuser.client.get(MONTHS, {"month": "2026-02-31"}).status_code == 302


# -- one's own page ----------------------------------------------------------------------------------------------------


def test_ones_own_page_says_what_is_used_and_left(
    as_editor: Any, editor: User, superuser: User, provider: AIProvider, call: Callable[..., UsageRecord]
) -> None:
    AdminProviderSettings.objects.create(admin=editor, provider=provider, monthly_limit=5, monthly_budget=Decimal(2))
    call(editor)
    call(superuser)
    UsageRecord.objects.filter(admin=superuser).update(model_name="a-secret-model")
    page = as_editor.get(OWN)
    for words in ("4 of 5", "Openai", "$0.00000625", "$2.00", "gpt-6-luna", month_name(month_of().first)):
        assert words in page.text
    assert "a-secret-model" not in page.text
    assert "limits start anew" in page.text


def test_ones_own_calls_are_filtered_and_paged(
    as_editor: Any, editor: User, superuser: User, provider: AIProvider, various: dict[str, UsageRecord], write: Any
) -> None:
    def listed(**query: Any) -> list[str]:
        table = as_editor.get(OWN, **query).response.context["calls"]
        return [str(row[1]) for row in table.rows]

    assert len(listed()) == 4
    acme = various["painted"].provider_id
    assert ["anvil-1" in one for one in listed(provider=acme)] == [True]
    assert len(listed(state="reserved")) == 1
    assert len(listed(state="no such state", provider="7777777")) == 4
    assert "Nothing matches" in as_editor.get(OWN, state="unknown").text
    assert as_editor.client.get(OWN, {"p": "nonsense"}).status_code == 302
    for _ in range(30):
        write(editor)
        write(superuser)
    first = as_editor.get(OWN, provider=provider.pk).response.context
    second = as_editor.get(OWN + first["older_url"]).response.context
    assert (len(first["calls"].rows), len(second["calls"].rows), second["older_url"]) == (25, 8, "")
    back = as_editor.get(OWN + second["newer_url"]).response.context
    assert back["calls"].rows == first["calls"].rows


def test_ones_months_before_are_told(as_editor: Any, editor: User, superuser: User, write: Any) -> None:
    write(editor, created_at=timezone.now() - 70 * DAY, cost=Decimal("3.21"))
    write(superuser, created_at=timezone.now() - 70 * DAY, cost=Decimal("9.87"))
    add_up()
    page = as_editor.get(OWN).text
    assert "Months before" in page
    assert "$3.21" in page
    assert "$9.87" not in page


def test_ones_own_page_takes_the_same_queries_for_any_number_of_calls(
    as_editor: Any, editor: User, write: Any, django_assert_num_queries: Any
) -> None:
    write(editor)
    add_up()
    with django_assert_num_queries(9):
        as_editor.get(OWN)
    for _ in range(60):
        write(editor)
    add_up()
    with django_assert_num_queries(9):
        as_editor.get(OWN)


def test_ones_own_page_is_for_staff(visitor: User, as_editor: Any) -> None:
    client = Client()
    client.force_login(visitor)
    assert client.get(OWN).status_code == 302
    assert as_editor.client.get(f"{OWN}add/").status_code == 404
    assert "There is no active provider." in as_editor.get(OWN).text


# -- limits on the pages of settings and providers ---------------------------------------------------------------------


def test_a_superuser_sets_a_budget_and_the_admin_sees_what_is_left(
    as_superuser: Any, as_editor: Any, editor: User, provider: AIProvider, call: Callable[..., UsageRecord]
) -> None:
    own = AdminProviderSettings.objects.create(admin=editor, provider=provider)
    url = f"/admin/ai/adminprovidersettings/{own.pk}/change/"
    assert "no limit" in as_editor.get(url).text
    as_superuser.submit(url, monthly_budget="0.5")
    own.refresh_from_db()
    assert own.monthly_budget == Decimal("0.5")
    call(editor)
    page = as_editor.get(url)
    assert "monthly_budget" not in as_editor.fields(url)
    for words in ("$0.50", 'title="$0.49999375"', "$0.00000625", "set by a superuser"):
        assert words in page.text
    as_editor.submit(url, use_shared_api=None, forged={"monthly_budget": "1000"})
    own.refresh_from_db()
    assert (own.monthly_budget, own.use_shared_api) == (Decimal("0.5"), False)
    assert "$0.00000625" in as_editor.get("/admin/ai/adminprovidersettings/").text


def test_a_superuser_sets_the_limits_of_a_provider(
    as_superuser: Any, as_editor: Any, superuser: User, provider: AIProvider, call: Callable[..., UsageRecord]
) -> None:
    url = f"/admin/ai/aiprovider/{provider.pk}/change/"
    as_superuser.submit(url, default_monthly_limit="7", shared_monthly_budget="0.25")
    provider.refresh_from_db()
    assert (provider.default_monthly_limit, provider.shared_monthly_budget) == (7, Decimal("0.25"))
    call(superuser)
    page = as_superuser.get(url).text
    assert "$0.00000625" in page
    assert 'title="$0.24999375"' in page
    assert "$0.00000625" in as_superuser.get("/admin/ai/aiprovider/").text
    for shown in (url, "/admin/ai/aiprovider/"):
        assert "$0.00000625" not in as_editor.get(shown).text
    assert as_editor.client.post(url, {"default_monthly_limit": "1"}).status_code == 403
