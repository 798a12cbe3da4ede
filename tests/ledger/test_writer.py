"""What nobody waits for costs no transaction of its own where others come."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection

from src.ai.models import UsageState
from src.ai.services.ledger.entries import CallFacts, Reserve, Settle
from src.ai.services.ledger.writer import writer
from src.core.ids import uuid7
from tests.ledger import books
from tests.ledger.processes import WAIT, until

pytestmark = [pytest.mark.django_db(transaction=True)]


def reserve(facts: CallFacts) -> Any:
    entry = Reserve(id=uuid7(), facts=facts, created_at=datetime.now(UTC))
    writer.submit([entry]).result(WAIT)
    return entry.id


def settle(facts: CallFacts, id_: Any) -> None:
    writer.leave([Settle(id=id_, facts=facts, state=UsageState.SETTLED, requests=1, cost=Decimal(0))])


def test_it_is_written_although_nothing_else_comes(facts: CallFacts) -> None:
    settle(facts, reserve(facts))
    until(lambda: books.states() == [UsageState.SETTLED])
    books.assert_true()


@pytest.mark.postgres
def test_it_goes_with_the_next_reservation(facts: CallFacts) -> None:
    """Unless that comes later than it can wait, as on a machine that is busy: then with one of those that follow."""

    def shared() -> bool:
        first = reserve(facts)
        settle(facts, first)
        second = reserve(facts)
        with connection.cursor() as cursor:
            cursor.execute("SELECT xmin::text FROM ai_usagerecord WHERE id IN (%s, %s)", [first, second])
            transactions = {row[0] for row in cursor.fetchall()}
        settle(facts, second)
        return len(transactions) == 1

    until(shared)
    books.assert_true()
