"""Statements that are sent together: in the transaction they are sent in, up to the first that fails."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group
from django.db import IntegrityError, connection, transaction

from src.core import postgres
from src.core.postgres import SQL

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]

READ: SQL = ("SELECT name, id - id, NULL FROM auth_group ORDER BY name", ())


def insert(name: str) -> SQL:
    return "INSERT INTO auth_group (name) VALUES (%s)", (name,)


def names() -> list[str]:
    return list(Group.objects.order_by("name").values_list("name", flat=True))


def test_each_answers_with_its_rows() -> None:
    odd = "a'b\\c %s"
    assert postgres.send(connection, [insert("x"), insert(odd), READ]) == [[], [], [[odd, "0", None], ["x", "0", None]]]


def test_they_are_rolled_back_with_the_transaction_even_as_its_first() -> None:
    with transaction.atomic():
        postgres.send(connection, [insert("x")])
        transaction.set_rollback(True)
    assert names() == []


def test_one_that_fails_ends_those_after_it() -> None:
    twice = [("BEGIN", ()), insert("x"), ("COMMIT", ()), insert("x"), insert("y")]
    with pytest.raises(IntegrityError):
        postgres.send(connection, twice)
    assert names() == ["x"]


def test_those_that_a_session_keeps_answer_as_before() -> None:
    kept = postgres.prepare(connection, {"test": "SELECT %s || name FROM auth_group WHERE name = %s"})
    postgres.send(connection, [insert("x")])
    assert postgres.send(connection, [(kept["test"], ("is ", "x"))]) == [[["is x"]]]
    connection.close()
